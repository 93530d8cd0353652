/**
 * owners.ts: who works devices now, as a process sees it that may have to succeed them.
 *
 * Theory
 *   One process holds the lease; during a handover a second one borrows devices from it. Of each two things are known:
 *   whether it is dead (the kernel's word, by pidfd), and whether everything it ever said was told (the keeper's word,
 *   LEASE_LOST). Only with both may its devices be touched. When one of two owners is gone in both senses the handover
 *   has failed: the other one is killed, so that all devices have one successor and not each its own. An owner that
 *   ends after it had handed everything over is never reported lost by the keeper, and harms nobody.
 *
 * Invariants
 *   I1  `onAlone` is called only while there was an owner and all are dead and told of.
 *   I2  nobody is killed before arm().
 *
 * Limits  two owners; more borrowers than one are followed as well.
 */
import { close, type Poller, pidfdOpen, pidfdSendSignal, type Watch } from '@virtnet/host-linux';

interface Owner {
  readonly pidfd: number;
  readonly watch: Watch;
  deadAt: number | null;
  told: boolean;
  fenced: boolean;
}

const SIGKILL = 9;

export class Owners {
  readonly #poller: Poller;
  /** `deadAt`: when the first of them was seen dead, on performance.now()'s clock. */
  readonly #onAlone: (deadAt: number) => void;
  readonly #owners = new Map<number, Owner>();
  #holder: number | null = null;
  #armed = false;
  #closed = false;

  constructor(poller: Poller, onAlone: (deadAt: number) => void) {
    this.#poller = poller;
    this.#onAlone = onAlone;
  }

  /** From now on this process is the one that takes over. */
  arm(): void {
    this.#armed = true;
    this.#look();
  }

  /** Process `pid` holds the lease. One that borrowed before holds everything now. */
  hold(pid: number): void {
    if (this.#closed || this.#holder === pid) return;
    const had = this.#holder;
    const wasBorrower = this.#owners.has(pid);
    this.#holder = pid;
    for (const [other] of [...this.#owners])
      if (other === had || (wasBorrower && other !== pid)) this.#forget(other);
    this.#follow(pid);
  }

  /** Process `pid` was lent a device. */
  borrow(pid: number): void {
    if (this.#closed) return;
    this.#follow(pid);
    const owner = this.#owners.get(pid);
    if (owner !== undefined) owner.told = false;
  }

  /** The connection of `pid` ended, and all it said was told. */
  lost(pid: number): void {
    const owner = this.#owners.get(pid);
    if (owner === undefined) return;
    owner.told = true;
    this.#look();
  }

  close(): void {
    this.#closed = true;
    for (const pid of [...this.#owners.keys()]) this.#forget(pid);
  }

  #follow(pid: number): void {
    if (pid === process.pid || this.#owners.has(pid)) return;
    const pidfd = pidfdOpen(pid);
    if (pidfd < 0) return; // dead before we could look: the controller promotes us
    const watch = this.#poller.watch(pidfd, { readable: true }, () => this.#died(pid));
    if (typeof watch === 'number') {
      close(pidfd);
      return;
    }
    this.#owners.set(pid, { pidfd, watch, deadAt: null, told: false, fenced: false });
  }

  #forget(pid: number): void {
    const owner = this.#owners.get(pid);
    if (owner === undefined) return;
    this.#owners.delete(pid);
    owner.watch.close();
    close(owner.pidfd);
  }

  #died(pid: number): void {
    const owner = this.#owners.get(pid);
    if (owner === undefined) return;
    owner.deadAt ??= performance.now();
    owner.watch.close();
    this.#look();
  }

  #look(): void {
    if (!this.#armed || this.#closed || this.#owners.size === 0) return;
    const owners = [...this.#owners.values()];
    const gone = owners.filter(({ deadAt, told }) => deadAt !== null && told);
    if (gone.length === owners.length) {
      this.#onAlone(Math.min(...gone.map(({ deadAt }) => deadAt ?? 0)));
      return;
    }
    if (gone.length === 0) return;
    for (const owner of owners) {
      if (owner.fenced || owner.deadAt !== null) continue;
      owner.fenced = true;
      pidfdSendSignal(owner.pidfd, SIGKILL);
    }
  }
}
