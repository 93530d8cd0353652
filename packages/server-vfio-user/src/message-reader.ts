/**
 * message-reader.ts: whole messages out of a stream socket, for a client.
 *
 * Theory
 *   A header is read, then exactly as many bytes as it announces, in as many pieces as they come. Descriptors ride
 *   with the header's bytes. Never more is read than one message, because the bytes of the next may carry
 *   descriptors of their own. (A server must not take requests out of the socket yet: request-reader.ts.)
 *   A message that is all there is taken by one call, so that whoever takes the socket over from a process that was
 *   killed finds whole messages.
 *
 * Invariants
 *   I1  descriptors handed out belong to the caller; those of an unfinished message are closed by reset().
 *   I2  no memory is taken for a body before its length was judged.
 *
 * Limits  `messageBytesMax`; as many descriptors as `receiver` has room for, others are dropped by the kernel.
 */
import { closeAll, type Receiver, readableBytes } from '@virtnet/host-linux';
import { type Decoded, Errno, VfioUserHeader, viewOf } from '@virtnet/wire';
import type { CloseReason } from './outcome.js';

export type Header = Decoded<typeof VfioUserHeader>;

/** Why no whole message could be had. */
export type NoMessage =
  /** Nothing more is there now; `partial`: but part of a message is. */
  | { readonly kind: 'wait'; readonly partial: boolean }
  | { readonly kind: 'end' }
  | { readonly kind: 'error'; readonly errno: number }
  | HeaderFault;

/** The header makes no sense, so nothing behind it does. */
export interface HeaderFault {
  readonly kind: 'fault';
  readonly header: Header;
  readonly reason: CloseReason;
}

export interface Message {
  readonly kind: 'message';
  readonly message: Uint8Array;
  readonly fds: readonly number[];
}

/** The header at the start of `bytes`, or what is wrong with it. */
export function judgeHeader(bytes: Uint8Array, messageBytesMax: number): Header | HeaderFault {
  const header = VfioUserHeader.decode(viewOf(bytes));
  if (header.sizeBytes < VfioUserHeader.sizeBytes)
    return { kind: 'fault', header, reason: 'header-malformed' };
  if (header.sizeBytes > messageBytesMax) return { kind: 'fault', header, reason: 'message-too-long' };
  return header;
}

export class MessageReader {
  readonly #fd: number;
  readonly #receiver: Receiver;
  readonly #messageBytesMax: number;
  #message: Uint8Array = new Uint8Array(VfioUserHeader.sizeBytes);
  #have = 0;
  #fds: number[] = [];

  /** `receiver` may be shared by all readers of a thread. */
  constructor(fd: number, receiver: Receiver, messageBytesMax: number) {
    this.#fd = fd;
    this.#receiver = receiver;
    this.#messageBytesMax = messageBytesMax;
  }

  /** The next whole message, or why there is none. After 'message' the reader begins with the one behind it. */
  read(): Message | NoMessage {
    if (this.#have === 0) this.#makeRoom();
    for (;;) {
      const inHeader = this.#have < VfioUserHeader.sizeBytes;
      const wanted = this.#message.length - this.#have;
      if (wanted === 0) return this.#complete();
      const received = this.#receiver.receive(this.#fd, { maxBytes: wanted, keepFds: inHeader });
      if (typeof received === 'number') {
        if (received === -Errno.EAGAIN) return { kind: 'wait', partial: this.#have > 0 };
        return { kind: 'error', errno: -received };
      }
      this.#fds.push(...received.fds);
      if (received.bytes.length === 0) return { kind: 'end' };
      this.#message.set(received.bytes, this.#have);
      this.#have += received.bytes.length;
      if (inHeader && this.#have === VfioUserHeader.sizeBytes) {
        const header = judgeHeader(this.#message, this.#messageBytesMax);
        if ('kind' in header) return header;
        this.#openBody(header.sizeBytes);
      }
    }
  }

  /** Forgets an unfinished message and closes its descriptors. */
  reset(): void {
    closeAll(this.#fds);
    this.#begin();
  }

  /** Room for the whole message, if it is all there. */
  #makeRoom(): void {
    const options = { peek: true, maxBytes: VfioUserHeader.sizeBytes, keepFds: false };
    const peeked = this.#receiver.receive(this.#fd, options);
    if (typeof peeked === 'number' || peeked.bytes.length < VfioUserHeader.sizeBytes) return;
    const header = judgeHeader(peeked.bytes, this.#messageBytesMax);
    if (!('kind' in header) && readableBytes(this.#fd) >= header.sizeBytes)
      this.#message = new Uint8Array(header.sizeBytes);
  }

  #openBody(sizeBytes: number): void {
    const message = new Uint8Array(sizeBytes);
    message.set(this.#message);
    this.#message = message;
  }

  #complete(): Message {
    const message: Message = { kind: 'message', message: this.#message, fds: this.#fds };
    this.#begin();
    return message;
  }

  #begin(): void {
    this.#message = new Uint8Array(VfioUserHeader.sizeBytes);
    this.#have = 0;
    this.#fds = [];
  }
}
