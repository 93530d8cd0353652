/** outcome.ts: what comes of one message, and the bytes of replies. */
import { VfioUserFlags, VfioUserHeader, viewOf } from '@virtnet/wire';

/** Why a session ends its connection. */
export type CloseReason = 'header-malformed' | 'message-too-long' | 'version-refused' | 'version-missing';

export interface Outcome {
  /** null: the message wanted none. */
  readonly reply: Uint8Array | null;
  /** Descriptors to send with the reply; they stay the device's. */
  readonly replyFds: readonly number[];
  /** Descriptors of the message that the device took over; the caller closes the others. */
  readonly takenFds: readonly number[];
  /** 0, or the errno that was answered, or would have been. */
  readonly errno: number;
  /** false: the message cannot have changed anything, so answering it once more does no harm. */
  readonly changes: boolean;
  readonly close: CloseReason | null;
}

/** What a command's handler answers: a negative errno, 0 for a bare header, or a body. */
export type Answer = number | { readonly body: Uint8Array; readonly fds?: readonly number[] };

export interface RequestHeader {
  readonly messageId: number;
  readonly command: number;
  readonly flags: number;
}

/** The bytes of a reply to `request`; `errno` 0 for success. An error has no body. */
export function replyBytes(request: RequestHeader, errno: number, body?: Uint8Array): Uint8Array {
  const bodyBytes = errno === 0 && body !== undefined ? body.length : 0;
  const reply = new Uint8Array(VfioUserHeader.sizeBytes + bodyBytes);
  VfioUserHeader.encode(viewOf(reply), 0, {
    messageId: request.messageId,
    command: request.command,
    sizeBytes: reply.length,
    flags: VfioUserFlags.TYPE_REPLY | (errno === 0 ? 0 : VfioUserFlags.ERROR),
    errno,
  });
  if (bodyBytes > 0 && body !== undefined) reply.set(body, VfioUserHeader.sizeBytes);
  return reply;
}

/** An outcome in which nothing happened but an error. */
export function refusal(request: RequestHeader, errno: number, close: CloseReason | null = null): Outcome {
  const posted = (request.flags & VfioUserFlags.NO_REPLY) !== 0;
  return {
    reply: posted ? null : replyBytes(request, errno),
    replyFds: [],
    takenFds: [],
    errno,
    changes: false,
    close,
  };
}

export function isPromise<T>(value: T | Promise<T>): value is Promise<T> {
  return value instanceof Promise;
}

/** Applies `next` now or when the promise is fulfilled, so that what is synchronous stays synchronous. */
export function andThen<T, U>(value: T | Promise<T>, next: (value: T) => U | Promise<U>): U | Promise<U> {
  return isPromise(value) ? value.then(next) : next(value);
}
