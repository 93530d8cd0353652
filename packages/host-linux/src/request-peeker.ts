/**
 * request-peeker.ts: whole requests of a stream protocol, looked at in the socket and left there.
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
 *   bytesMax and fdsMax of the format; more descriptors are dropped by the kernel and reported.
 *   A client that puts two requests into one segment with descriptors loses these, and so does one that sends
 *   descriptors with a later piece of a request; no client does either.
 */
import { Errno } from '@virtnet/wire';
import { closeAll, DESCRIPTORS_RESERVED_FROM_SERVED, descriptorsAreScarce } from './fd.js';
import { setPeekOffset } from './socket.js';
import { Receiver } from './socket-message.js';

/** A protocol whose requests begin with a header that says how long they are. */
export interface RequestFormat<Fault extends object> {
  readonly headerBytes: number;
  /** Longest request, header included. */
  readonly bytesMax: number;
  /** Most descriptors of a request. */
  readonly fdsMax: number;
  /** The size of the request that begins with these bytes, of which there are headerBytes or more; or what is wrong. */
  measure(bytes: Uint8Array): number | Fault;
}

export interface PeekedRequest {
  readonly kind: 'message';
  readonly message: Uint8Array;
  readonly fds: readonly number[];
  /** More descriptors came than could be taken, or than this process has to spare. */
  readonly fdsLost: boolean;
  /** A read of the socket stops behind a segment with descriptors: into what pieces that cuts this request. */
  readonly pieces: readonly number[];
}

/** Why there is no request. */
export type NoRequest =
  /** Nothing more is there now; `partial`: but part of a request is. */
  | { readonly kind: 'wait'; readonly partial: boolean }
  | { readonly kind: 'end' }
  | { readonly kind: 'error'; readonly errno: number };

/** The start of a request; its descriptors came with the first piece. */
interface Begun {
  bytes: Uint8Array;
  readonly fds: readonly number[];
  readonly fdsLost: boolean;
  readonly firstPieceBytes: number;
}

/** Bytes of the first look: any request but long ones, and little to copy in vain. */
const FIRST_PEEK_BYTES = 256;
const PEEK_OFFSET_OFF = -1;

/** Results are copied at once, so one serves all connections of a protocol and thread. */
const receivers = new WeakMap<RequestFormat<object>, Receiver>();

export class RequestPeeker<Fault extends object> {
  readonly #fd: number;
  readonly #format: RequestFormat<Fault>;
  readonly #receiver: Receiver;
  #begun: Begun | null = null;

  constructor(fd: number, format: RequestFormat<Fault>) {
    this.#fd = fd;
    this.#format = format;
    const known = receivers.get(format);
    this.#receiver = known ?? new Receiver(format.bytesMax + 1, format.fdsMax);
    if (known === undefined) receivers.set(format, this.#receiver);
  }

  /** Forgets what an earlier owner of the socket had peeked. Returns 0, or -errno for what is no UNIX socket. */
  static prepare(fd: number): number {
    return setPeekOffset(fd, PEEK_OFFSET_OFF);
  }

  /** The request at the start of the socket, or why there is none. The same again until it is dropped. */
  read(): PeekedRequest | NoRequest | Fault {
    return this.#begun === null ? this.#look(FIRST_PEEK_BYTES) : this.#follow(this.#begun);
  }

  /** Forgets an unfinished request and closes its descriptors. */
  reset(): void {
    if (this.#begun === null) return;
    closeAll(this.#begun.fds);
    this.#begun = null;
    setPeekOffset(this.#fd, PEEK_OFFSET_OFF);
  }

  #look(maxBytes: number): PeekedRequest | NoRequest | Fault {
    const { headerBytes } = this.#format;
    const peeked = this.#receiver.receive(this.#fd, { peek: true, maxBytes });
    if (typeof peeked === 'number') return failure(peeked, false);
    const { bytes } = peeked;
    const scarce = peeked.fds.length > 0 && descriptorsAreScarce(DESCRIPTORS_RESERVED_FROM_SERVED);
    if (scarce) closeAll(peeked.fds);
    const fds = scarce ? [] : peeked.fds;
    const fdsLost = peeked.fdsTruncated || scarce;
    if (bytes.length === 0) return { kind: 'end' };
    const sizeBytes = bytes.length < headerBytes ? null : this.#format.measure(bytes);
    if (typeof sizeBytes === 'object' && sizeBytes !== null) {
      closeAll(fds);
      return sizeBytes;
    }
    if (sizeBytes !== null && sizeBytes >= maxBytes) {
      closeAll(fds);
      return this.#look(sizeBytes + 1);
    }
    if (sizeBytes !== null && bytes.length >= sizeBytes) {
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
  #follow(begun: Begun): PeekedRequest | NoRequest | Fault {
    const { headerBytes } = this.#format;
    for (;;) {
      const { bytes, fds, fdsLost, firstPieceBytes } = begun;
      const sizeBytes = bytes.length < headerBytes ? headerBytes : this.#format.measure(bytes);
      if (typeof sizeBytes === 'object') return sizeBytes;
      const wanted = sizeBytes - bytes.length;
      if (wanted === 0 && bytes.length >= headerBytes) {
        this.#begun = null;
        setPeekOffset(this.#fd, PEEK_OFFSET_OFF);
        const pieces = [firstPieceBytes, bytes.length - firstPieceBytes];
        return { kind: 'message', message: bytes, fds, fdsLost, pieces };
      }
      const peeked = this.#receiver.receive(this.#fd, { peek: true, maxBytes: wanted, keepFds: false });
      if (typeof peeked === 'number') return failure(peeked, true);
      if (peeked.bytes.length === 0) return { kind: 'end' };
      begun.bytes = new Uint8Array(bytes.length + peeked.bytes.length);
      begun.bytes.set(bytes);
      begun.bytes.set(peeked.bytes, bytes.length);
    }
  }
}

function failure(result: number, partial: boolean): NoRequest {
  return result === -Errno.EAGAIN ? { kind: 'wait', partial } : { kind: 'error', errno: -result };
}
