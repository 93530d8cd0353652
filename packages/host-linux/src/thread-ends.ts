/**
 * thread-ends.ts: told when every thread of another process that has a lane has ended.
 *
 * Theory
 *   From then on the process executes nothing of its program any more, though it is not gone: its memory is freed and
 *   its descriptors are closed after that, which takes long. Whoever succeeds it need not wait for it. One thread after
 *   the other is waited for with io_uring's FUTEX_WAIT, so that no thread of ours has to block.
 *
 * Invariants
 *   I1  `onEnded` is called at most once, never inside watch(), and only when every lane in use was seen ended, the main thread's first:
 *       whatever starts later is started by nobody.
 *   I2  it may never be called (a kernel before 6.7, a process that does not tie its lanes): pidfd tells as well.
 */
import { Errno, FUTEX_BITSET_MATCH_ANY, FUTEX2_SIZE_U32, LaneWord, UringOperation } from '@virtnet/wire';
import type { Poller, Watch } from './poller.js';
import { ProgressPage } from './progress.js';
import { announceWaiter } from './robust-futex.js';
import { Uring } from './uring.js';

export class ThreadEnds {
  readonly #page: ProgressPage;
  readonly #ring: Uring;
  readonly #onEnded: () => void;
  #watch: Watch | null = null;
  #closed = false;

  private constructor(page: ProgressPage, ring: Uring, onEnded: () => void) {
    this.#page = page;
    this.#ring = ring;
    this.#onEnded = onEnded;
  }

  /** Watches process `pid`, whose progress page is its descriptor `pageFd`; null where that cannot be. */
  static watch(pid: number, pageFd: number, poller: Poller, onEnded: () => void): ThreadEnds | null {
    const page = ProgressPage.ofProcess(pid, pageFd);
    if (page === null) return null;
    const ring = page.living() === null ? -1 : Uring.create(1);
    if (typeof ring === 'number') {
      page.close();
      return null;
    }
    const ends = new ThreadEnds(page, ring, onEnded);
    const watch = poller.watch(ring.fd, { readable: true }, () => ends.#woken());
    if (typeof watch !== 'number') {
      ends.#watch = watch;
      if (ends.#wait()) return ends;
    }
    ends.close(); // pidfd tells of a process that has ended meanwhile
    return null;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#watch?.close();
    this.#ring.close();
    this.#page.close();
  }

  #woken(): void {
    if (this.#closed || this.#ring.taken() === 0) return;
    const result = this.#ring.results[0]!;
    const again = result === 0 || result === -Errno.EAGAIN || result === -Errno.EINTR;
    if (again && this.#wait()) return;
    const ended = again && this.#page.living() === null;
    this.close();
    if (ended) this.#onEnded();
  }

  /** Waits for the next thread that has not ended; false when there is none, or no way. */
  #wait(): boolean {
    for (let living = this.#page.living(); living !== null; living = this.#page.living()) {
      const word = announceWaiter(living.words);
      if (word === null) continue;
      this.#ring.add({
        opcode: UringOperation.FUTEX_WAIT,
        fd: FUTEX2_SIZE_U32,
        address: Number(living.address) + 4 * LaneWord.THREAD,
        length: 0,
        operationFlags: 0,
        offset: BigInt(word),
        address3: FUTEX_BITSET_MATCH_ANY,
      });
      return this.#ring.submit() === 1;
    }
    return false;
  }
}
