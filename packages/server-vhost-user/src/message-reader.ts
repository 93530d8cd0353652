/**
 * message-reader.ts: whole messages from a stream socket.
 *
 * Theory
 *   A header is read alone, then exactly its payload, so that descriptors are never credited to the wrong message: the
 *   kernel hands them out with the first bytes they were sent with and cuts a read behind them. Either part may come
 *   in pieces.
 *
 * Ownership
 *   Descriptors of an unfinished message are the reader's; `dispose` closes them. Those of a returned message are the
 *   caller's.
 *
 * Invariants
 *   I1  a payload longer than PAYLOAD_BYTES_MAX is refused when its header has been read; nothing is allocated for it.
 *   I2  no message holds more than MESSAGE_FDS_MAX descriptors.
 */
import { closeAll, Receiver } from '@virtnet/host-linux';
import { Errno, VhostUserHeader, viewOf } from '@virtnet/wire';
import type { VhostUserFault } from './faults.js';
import { MESSAGE_FDS_MAX, PAYLOAD_BYTES_MAX } from './limits.js';
import type { VhostUserMessage } from './session.js';

const HEADER_BYTES = VhostUserHeader.sizeBytes;

/** What one look at the socket brought. */
export type ReadResult =
  | { readonly message: VhostUserMessage }
  | { readonly fault: VhostUserFault }
  /** Nothing more now. */
  | 'again'
  /** The peer has closed, or the socket is broken. */
  | 'end';

export class MessageReader {
  readonly #socket: number;
  readonly #receiver = new Receiver(PAYLOAD_BYTES_MAX, MESSAGE_FDS_MAX);
  readonly #bytes = new Uint8Array(HEADER_BYTES + PAYLOAD_BYTES_MAX);
  readonly #view = viewOf(this.#bytes);
  #have = 0;
  #fds: number[] = [];

  constructor(socket: number) {
    this.#socket = socket;
  }

  next(): ReadResult {
    for (;;) {
      let want = HEADER_BYTES;
      if (this.#have >= HEADER_BYTES) {
        const { request, sizeBytes } = VhostUserHeader.decode(this.#view);
        if (sizeBytes > PAYLOAD_BYTES_MAX) return { fault: { code: 'PAYLOAD_SIZE', request, sizeBytes } };
        want += sizeBytes;
        if (this.#have === want) return { message: this.#take(want) };
      }
      const received = this.#receiver.receive(this.#socket, { maxBytes: want - this.#have });
      if (typeof received === 'number') return received === -Errno.EAGAIN ? 'again' : 'end';
      this.#fds.push(...received.fds);
      if (received.fdsTruncated || this.#fds.length > MESSAGE_FDS_MAX) {
        const request = this.#have + received.bytes.length >= 4 ? this.#requestWith(received.bytes) : 0;
        return { fault: { code: 'DESCRIPTOR_COUNT', request, count: this.#fds.length } };
      }
      if (received.bytes.length === 0) return 'end';
      this.#bytes.set(received.bytes, this.#have);
      this.#have += received.bytes.length;
    }
  }

  /** Closes what an unfinished message brought. */
  dispose(): void {
    closeAll(this.#fds);
    this.#fds = [];
  }

  #requestWith(bytes: Uint8Array): number {
    this.#bytes.set(bytes, this.#have);
    return this.#view.getUint32(VhostUserHeader.at.request, true);
  }

  #take(lengthBytes: number): VhostUserMessage {
    const { request, flags } = VhostUserHeader.decode(this.#view);
    const message = { request, flags, payload: this.#bytes.slice(HEADER_BYTES, lengthBytes), fds: this.#fds };
    this.#have = 0;
    this.#fds = [];
    return message;
  }
}
