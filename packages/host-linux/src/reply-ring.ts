/**
 * reply-ring.ts: answer a request and drop it from the socket, both or neither, whenever SIGKILL comes.
 *
 * Theory
 *   A server peeks at a request and leaves it in the socket, so that a successor which takes the socket over finds
 *   it again if the server dies at work. When the work is done the reply must be sent and the request dropped. With
 *   two system calls a death in between makes the successor answer twice. Here one io_uring_enter carries both: the
 *   kernel runs a SEND and then RECVs into memory nobody reads, in order, and looks at signals only on its
 *   way back. They are not linked: a linked operation is put off to task work, which a dying process does not run.
 *
 * Parties
 *   this thread   owns the ring.   peer   may have sent further requests behind this one; they are not touched.
 *
 * Invariants
 *   I1  the RECVs add up to at most the request's size, so bytes behind it are never taken.
 *   I2  nothing is done when the socket has no room, or when the kernel refuses the call.
 *   I3  descriptors that came with the request are not installed again: a RECV has no room for them.
 *
 * Limits
 *   The kernel ends a RECV behind a segment that carried descriptors. A request that goes on behind such a segment
 *   is dropped in one piece only when the caller names its parts (where its peeks were cut); otherwise the rest is
 *   dropped by a second call. RING_ENTRIES operations, each RECV of SCRATCH_BYTES at most; what is beyond likewise.
 */
import { Errno, MessageFlag, SCM_RIGHTS_MAX, UringOperation } from '@virtnet/wire';
import { addressOf, NativeBuffer } from './libc.js';
import { isWritable } from './socket.js';
import { discard, MessageBlock, send } from './socket-message.js';
import { Uring } from './uring.js';

/** Operations in one call: the reply and the parts of the request. */
const RING_ENTRIES = 64;
/** Largest part dropped by one operation; 63 of them are just under 4 MiB. */
const SCRATCH_BYTES = 65536;
const SEND_FLAGS = MessageFlag.NOSIGNAL | MessageFlag.DONTWAIT;

/** A way to answer. */
export interface ReplySender {
  /**
   * Sends `reply` (with `fds`, at most 253, which stay open here) and drops `requestBytes` from the same socket.
   * `requestBytes` is the request's size, or the sizes of its parts when peeks were cut behind descriptors.
   *
   * Returns 0 when all was done. -EAGAIN: the socket has no room, nothing was done. A positive number: the request
   * was dropped, but so many bytes at the end of the reply found no room and are the caller's to send (with the
   * descriptors only if that is all of it). Another -errno: the connection is broken (-EPIPE, -ECONNRESET).
   */
  sendThenDiscard(
    fd: number,
    reply: Uint8Array,
    requestBytes: number | readonly number[],
    fds?: readonly number[],
  ): number;
}

export class ReplyRing implements ReplySender {
  readonly #uring: Uring;
  readonly #scratch = new NativeBuffer(SCRATCH_BYTES);
  readonly #message = new MessageBlock(SCM_RIGHTS_MAX);

  private constructor(uring: Uring) {
    this.#uring = uring;
  }

  /** A ring for the calling thread, or null when this machine allows no io_uring; then `plainReplies` serves. */
  static create(): ReplyRing | null {
    const uring = Uring.create(RING_ENTRIES);
    return typeof uring === 'number' ? null : new ReplyRing(uring);
  }

  /** See ReplySender. */
  sendThenDiscard(
    fd: number,
    reply: Uint8Array,
    requestBytes: number | readonly number[],
    fds: readonly number[] = [],
  ): number {
    if (fds.length > SCM_RIGHTS_MAX || reply.length === 0) return -Errno.EINVAL;
    if (!isWritable(fd)) return -Errno.EAGAIN;
    this.#addSend(fd, reply, fds);
    const requestTotal = this.#addDiscards(fd, requestBytes);
    const count = this.#uring.run();
    if (count < 0) return count;
    // `reply` is named once more behind the call, which keeps its memory (libc.ts, I2).
    return this.#conclude(fd, reply.length, requestTotal, count);
  }

  /** Frees the ring. */
  close(): void {
    this.#uring.close();
  }

  #addSend(fd: number, reply: Uint8Array, fds: readonly number[]): void {
    const address = addressOf(reply);
    if (fds.length === 0) {
      const length = reply.length;
      this.#uring.add({ opcode: UringOperation.SEND, fd, address, length, operationFlags: SEND_FLAGS });
      return;
    }
    this.#message.setFds(fds);
    this.#message.setData(address, reply.length);
    const header = this.#message.address;
    this.#uring.add({
      opcode: UringOperation.SENDMSG,
      fd,
      address: header,
      length: 1,
      operationFlags: SEND_FLAGS,
    });
  }

  /** Queues the RECVs, as far as there is room; returns the size of the whole request. */
  #addDiscards(fd: number, requestBytes: number | readonly number[]): number {
    const parts = typeof requestBytes === 'number' ? [requestBytes] : requestBytes;
    const { address } = this.#scratch;
    let total = 0;
    for (const part of parts) {
      total += part;
      for (let left = part; left > 0 && this.#uring.room > 0; left -= SCRATCH_BYTES) {
        this.#uring.add({
          opcode: UringOperation.RECV,
          fd,
          address,
          length: Math.min(left, SCRATCH_BYTES),
          operationFlags: MessageFlag.DONTWAIT,
        });
      }
    }
    return total;
  }

  #conclude(fd: number, replyBytes: number, requestBytes: number, count: number): number {
    const { results } = this.#uring;
    let dropped = 0;
    for (let i = 1; i < count; i++) dropped += Math.max(results[i]!, 0);
    if (dropped < requestBytes) discard(fd, requestBytes - dropped);
    const sent = results[0]!;
    if (sent < 0 && sent !== -Errno.EAGAIN) return sent;
    return replyBytes - Math.max(sent, 0);
  }
}

/** The same in two system calls, for machines without io_uring: a death in between repeats the reply. */
export const plainReplies: ReplySender = {
  sendThenDiscard(fd, reply, requestBytes, fds = []) {
    if (fds.length > SCM_RIGHTS_MAX || reply.length === 0) return -Errno.EINVAL;
    if (!isWritable(fd)) return -Errno.EAGAIN;
    const sent = send(fd, reply, fds);
    if (sent < 0 && sent !== -Errno.EAGAIN) return sent;
    discard(fd, typeof requestBytes === 'number' ? requestBytes : requestBytes.reduce((a, b) => a + b, 0));
    return reply.length - Math.max(sent, 0);
  },
};
