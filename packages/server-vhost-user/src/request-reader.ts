/**
 * request-reader.ts: whole requests of a frontend, looked at in the socket and left there until they are answered, so
 * that whoever takes the socket over from a process that was killed finds what is still owed.
 *
 * Limits  PAYLOAD_BYTES_MAX; MESSAGE_FDS_MAX descriptors.
 */
import { type PeekedRequest, type RequestFormat, RequestPeeker } from '@virtnet/host-linux';
import { Errno, VhostUserHeader, viewOf } from '@virtnet/wire';
import type { VhostUserFault } from './faults.js';
import { MESSAGE_FDS_MAX, PAYLOAD_BYTES_MAX } from './limits.js';
import type { VhostUserMessage } from './session.js';

interface BadHeader {
  readonly kind: 'fault';
  readonly fault: VhostUserFault;
}

const format: RequestFormat<BadHeader> = {
  headerBytes: VhostUserHeader.sizeBytes,
  bytesMax: VhostUserHeader.sizeBytes + PAYLOAD_BYTES_MAX,
  fdsMax: MESSAGE_FDS_MAX,
  measure(bytes) {
    const { request, sizeBytes } = VhostUserHeader.decode(viewOf(bytes));
    if (sizeBytes > PAYLOAD_BYTES_MAX)
      return { kind: 'fault', fault: { code: 'PAYLOAD_SIZE', request, sizeBytes } };
    return VhostUserHeader.sizeBytes + sizeBytes;
  },
};

export class RequestReader extends RequestPeeker<BadHeader> {
  constructor(fd: number) {
    super(fd, format);
  }
}

/** The message in what was peeked; or a fault, when not all of its descriptors are there. */
export function messageOf(request: PeekedRequest): VhostUserMessage | VhostUserFault {
  const { message, fds, fdsLost } = request;
  const header = VhostUserHeader.decode(viewOf(message));
  // Fewer than fit a message: this process has none to spare.
  if (fdsLost && fds.length < MESSAGE_FDS_MAX)
    return { code: 'REFUSED', request: header.request, errno: Errno.EMFILE };
  if (fdsLost) return { code: 'DESCRIPTOR_COUNT', request: header.request, count: fds.length + 1 };
  return {
    request: header.request,
    flags: header.flags,
    payload: message.subarray(VhostUserHeader.sizeBytes),
    fds,
  };
}
