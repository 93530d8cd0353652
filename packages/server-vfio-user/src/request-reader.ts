/**
 * request-reader.ts: whole requests, looked at in the socket and left there: host-linux's RequestPeeker for vfio-user.
 *
 * Limits  MESSAGE_BYTES_MAX; MESSAGE_FDS_MAX descriptors.
 */
import { type PeekedRequest, type RequestFormat, RequestPeeker } from '@virtnet/host-linux';
import { VfioUserHeader } from '@virtnet/wire';
import { MESSAGE_BYTES_MAX, MESSAGE_FDS_MAX } from './limits.js';
import { type HeaderFault, judgeHeader } from './message-reader.js';

export type Request = PeekedRequest;

const format: RequestFormat<HeaderFault> = {
  headerBytes: VfioUserHeader.sizeBytes,
  bytesMax: MESSAGE_BYTES_MAX,
  fdsMax: MESSAGE_FDS_MAX,
  measure(bytes) {
    const header = judgeHeader(bytes, MESSAGE_BYTES_MAX);
    return 'kind' in header ? header : header.sizeBytes;
  },
};

export class RequestReader extends RequestPeeker<HeaderFault> {
  constructor(fd: number) {
    super(fd, format);
  }
}
