/**
 * request-reader.ts: whole requests, looked at in the socket and left there.
 *
 * Theory
 *   One peek from the start of the socket shows a usual request at once, and bytes of those behind it, which are
 *   ignored: they are peeked again when their turn comes. A long request is peeked a second time, with room for it.
 *
 *   A request that is not all there is followed with the socket's peek offset (SO_PEEK_OFF), which is off otherwise:
 *   Linux ends a peek behind a segment that carries descriptors, and behind the offset the end of the connection
 *   shows.
 *
 *   But Linux does not end a peek where the wanted bytes end: it goes on over segments of which it takes nothing, and
 *   hands out the descriptors of the first that has any (net/unix/af_unix.c, unix_stream_read_generic). So
 *   descriptors that came with a peek may be those of a later request. Therefore a peek always asks for at least one
 *   byte more than the request has: if it gets that byte, it was not stopped by a segment of this request, and the
 *   descriptors are not this request's.
 *
 * Invariants
 *   I1  descriptors handed out belong to the caller; those of an unfinished request are closed by reset().
 *   I2  between two requests the peek offset is off, and nothing of the socket has been taken.
 *   I3  no memory is taken for a request before its length was judged.
 *
 * Limits
 *   MESSAGE_BYTES_MAX; MESSAGE_FDS_MAX descriptors, more are dropped by the kernel and reported.
 *   A client that puts two requests into one segment with descriptors loses these; no client does.
 */
import { closeAll, Receiver, setPeekOffset } from '@virtnet/host-linux';
import { Errno, VfioUserHeader } from '@virtnet/wire';
import { MESSAGE_BYTES_MAX, MESSAGE_FDS_MAX } from './limits.js';
import { judgeHeader, type Message, type NoMessage } from './message-reader.js';

export interface Request extends Message {
  /** More descriptors came than could be taken. */
  readonly fdsLost: boolean;
  /** A read of the socket stops behind a segment with descriptors: into what pieces that cuts this request. */
  readonly pieces: readonly number[];
}

/** The start of a request; its descriptors came with the first piece. */
interface Begun {
  bytes: Uint8Array;
  readonly fds: readonly number[];
  readonly fdsLost: boolean;
  readonly firstPieceBytes: number;
}

/** Bytes of the first look: any request but long writes, and little to copy in vain. */
const FIRST_PEEK_BYTES = 256;
const PEEK_OFFSET_OFF = -1;

/** Results are copied at once, so one serves all connections of a thread. */
const receiver = new Receiver(MESSAGE_BYTES_MAX + 1, MESSAGE_FDS_MAX);

export class RequestReader {
  readonly #fd: number;
  #begun: Begun | null = null;

  constructor(fd: number) {
    this.#fd = fd;
  }

  /** Forgets what an earlier owner of the socket had peeked. Returns 0, or -errno for what is no UNIX socket. */
  static prepare(fd: number): number {
    return setPeekOffset(fd, PEEK_OFFSET_OFF);
  }

  /** The request at the start of the socket, or why there is none. The same again until it is dropped. */
  read(): Request | NoMessage {
    return this.#begun === null ? this.#look(FIRST_PEEK_BYTES) : this.#follow(this.#begun);
  }

  /** Forgets an unfinished request and closes its descriptors. */
  reset(): void {
    if (this.#begun === null) return;
    closeAll(this.#begun.fds);
    this.#begun = null;
    setPeekOffset(this.#fd, PEEK_OFFSET_OFF);
  }

  #look(maxBytes: number): Request | NoMessage {
    const peeked = receiver.receive(this.#fd, { peek: true, maxBytes });
    if (typeof peeked === 'number') return failure(peeked, false);
    const { bytes, fds, fdsTruncated: fdsLost } = peeked;
    if (bytes.length === 0) return { kind: 'end' };
    const header = bytes.length < VfioUserHeader.sizeBytes ? null : judgeHeader(bytes, MESSAGE_BYTES_MAX);
    if (header !== null && 'kind' in header) {
      closeAll(fds);
      return header;
    }
    const sizeBytes = header?.sizeBytes ?? 0;
    if (sizeBytes >= maxBytes) {
      closeAll(fds);
      return this.#look(sizeBytes + 1);
    }
    if (header !== null && bytes.length >= sizeBytes) {
      const message = bytes.slice(0, sizeBytes);
      if (bytes.length === sizeBytes) return { kind: 'message', message, fds, fdsLost, pieces: [sizeBytes] };
      closeAll(fds);
      return { kind: 'message', message, fds: [], fdsLost: false, pieces: [sizeBytes] };
    }
    this.#begun = { bytes: bytes.slice(), fds, fdsLost, firstPieceBytes: bytes.length };
    setPeekOffset(this.#fd, bytes.length);
    return this.#follow(this.#begun);
  }

  /** Peeks on behind what is there; descriptors that come later are not this request's. */
  #follow(begun: Begun): Request | NoMessage {
    for (;;) {
      const { bytes, fds, fdsLost, firstPieceBytes } = begun;
      const inHeader = bytes.length < VfioUserHeader.sizeBytes;
      const header = inHeader ? null : judgeHeader(bytes, MESSAGE_BYTES_MAX);
      if (header !== null && 'kind' in header) return header;
      const wanted = (header?.sizeBytes ?? VfioUserHeader.sizeBytes) - bytes.length;
      if (wanted === 0) {
        this.#begun = null;
        setPeekOffset(this.#fd, PEEK_OFFSET_OFF);
        const pieces = [firstPieceBytes, bytes.length - firstPieceBytes];
        return { kind: 'message', message: bytes, fds, fdsLost, pieces };
      }
      const peeked = receiver.receive(this.#fd, { peek: true, maxBytes: wanted, keepFds: false });
      if (typeof peeked === 'number') return failure(peeked, true);
      if (peeked.bytes.length === 0) return { kind: 'end' };
      begun.bytes = new Uint8Array(bytes.length + peeked.bytes.length);
      begun.bytes.set(bytes);
      begun.bytes.set(peeked.bytes, bytes.length);
    }
  }
}

function failure(result: number, partial: boolean): NoMessage {
  return result === -Errno.EAGAIN ? { kind: 'wait', partial } : { kind: 'error', errno: -result };
}
