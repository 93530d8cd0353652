/**
 * shelf-inheritance.ts: what the writer has said to a keeper that died before it had passed that on.
 *
 * Theory
 *   The kernel keeps a message for as long as somebody holds the end of the connection that it was sent to. Subscribers
 *   hold the keeper's end of the writer's connection beside the keeper, and read nothing of it while that lives. When
 *   the keeper is dead, whoever subscribed first ends the connection, so that the writer can say nothing more on it, and
 *   takes what is left: first, perhaps, a message that was passed on already, which does no harm.
 *
 * Ownership   the end is this object's from `hold` to `drop` or `take`.
 */
import type { ShelfMessage } from '@virtnet/engine-recovery';
import { close, closeAll, Receiver, shutdown } from '@virtnet/host-linux';
import { Errno, SHELF_MESSAGE_BYTES_MAX, ShelfMessageKind } from '@virtnet/wire';
import { decodeShelfMessage } from './shelf-codec.js';

let receiver: Receiver | null = null;

export class ShelfInheritance {
  #fd = -1;
  #writerPid = 0;

  /** Of whose connection the end is held; null: of nobody's. */
  get writerPid(): number | null {
    return this.#fd < 0 ? null : this.#writerPid;
  }

  /** `fd` is the keeper's end of the connection of writer `pid`, in place of any other. */
  hold(pid: number, fd: number): void {
    this.drop();
    this.#fd = fd;
    this.#writerPid = pid;
  }

  drop(): void {
    if (this.#fd >= 0) close(this.#fd);
    this.#fd = -1;
  }

  /** The keeper is dead: hands over the transactions that it left, whose descriptors are the callee's. */
  take(onTransaction: (message: ShelfMessage<number>) => void): void {
    if (this.#fd < 0) return;
    shutdown(this.#fd);
    receiver ??= new Receiver(SHELF_MESSAGE_BYTES_MAX);
    for (let reset = false; ; ) {
      const received = receiver.receive(this.#fd);
      if (received === -Errno.ECONNRESET && !reset) {
        reset = true; // said once, before the messages that are left
        continue;
      }
      if (typeof received === 'number') break;
      const { bytes, fds, truncated } = received;
      const message = bytes.byteLength === 0 || truncated ? null : decodeShelfMessage(bytes, fds);
      if (message !== null && typeof message !== 'string' && message.kind === ShelfMessageKind.TRANSACTION)
        onTransaction(message);
      else closeAll(fds);
      if (message === null) break;
    }
    this.drop();
  }
}
