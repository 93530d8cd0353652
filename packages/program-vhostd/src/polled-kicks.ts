/**
 * polled-kicks.ts: kicks for rings whose driver gives none.
 *
 * A frontend may leave the kick eventfd out and expect the ring to be polled. The device sleeps until kicked, so such
 * a ring gets an eventfd of ours, signalled every POLLED_KICK_MS while there is any such ring.
 */
import { close, eventfd, eventfdSignal } from '@virtnet/host-linux';
import { POLLED_KICK_MS } from './limits.js';

export class PolledKicks {
  readonly #fds = new Map<number, number>(); // at most one per queue
  #timer: NodeJS.Timeout | undefined;

  /** The eventfd of ring `index`, made when there is none; or -errno. */
  fdOf(index: number): number {
    const known = this.#fds.get(index);
    if (known !== undefined) return known;
    const fd = eventfd();
    if (fd < 0) return fd;
    this.#fds.set(index, fd);
    this.#timer ??= setInterval(() => {
      for (const each of this.#fds.values()) eventfdSignal(each);
    }, POLLED_KICK_MS);
    return fd;
  }

  /** Ring `index` is not polled any more. */
  drop(index: number): void {
    const fd = this.#fds.get(index);
    if (fd === undefined) return;
    close(fd);
    this.#fds.delete(index);
    if (this.#fds.size > 0) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  dropAll(): void {
    for (const index of [...this.#fds.keys()]) this.drop(index);
  }
}
