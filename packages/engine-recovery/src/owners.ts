/**
 * owners.ts: who works devices now, as a process sees it that may have to succeed them.
 *
 * Theory
 *   One process holds the lease; during a handover a second one borrows devices from it. Of each two things are known:
 *   whether it is dead (the kernel's word: it executes nothing any more, whether or not it is gone), and whether
 *   everything it ever said was told (the keeper's word, LEASE_LOST). The keeper is asked for that word once the process
 *   is dead: the end of its connection may come much later, and a word from before may be about a connection that it
 *   had made anew since. Only with both may its devices be touched. When one of two owners is gone in both senses the
 *   handover has failed: the other one is killed, so that all devices have one successor and not each its own. An owner
 *   that ends after it had handed everything over is never reported lost by the keeper, and harms nobody.
 *
 * Invariants
 *   I1  `onAlone` is called only while there was an owner and all are dead and told of.
 *   I2  nobody is killed before arm().
 *   I3  what an owner said on its last connection was told before it counts as gone.
 *
 * Limits  two owners; more borrowers than one are followed as well.
 */
/** A process as the kernel shows it. */
export interface WatchedProcess {
  /** SIGKILL. */
  kill(): void;
  /** Its death is not asked about any more. */
  close(): void;
}

export interface OwnersPorts {
  readonly ownPid: number;
  /** Calls `onDied` once when `pid` is dead, never inside the call; null when it is dead already. */
  watch(pid: number, onDied: () => void): WatchedProcess | null;
  /**
   * Asks the keeper to take what dead process `pid` left, and to tell that it is lost. `alone`: as soon as that is told
   * `onAlone` is called, unless it turns out that somebody else is an owner.
   */
  bury(pid: number, alone: boolean): void;
  nowMs(): number;
  /** `deadAt`: when the first of the owners was seen dead. */
  onAlone(deadAt: number): void;
}

interface Owner {
  readonly process: WatchedProcess;
  deadAt: number | null;
  told: boolean;
  fenced: boolean;
}

export class Owners {
  readonly #ports: OwnersPorts;
  readonly #owners = new Map<number, Owner>();
  #holder: number | null = null;
  #armed = false;
  #closed = false;

  constructor(ports: OwnersPorts) {
    this.#ports = ports;
  }

  /** From now on this process is the one that takes over. */
  arm(): void {
    this.#armed = true;
    this.#look();
  }

  /** Process `pid` holds the lease. One that borrowed before holds everything now. */
  hold(pid: number): void {
    if (this.#closed) return;
    const known = this.#owners.get(pid);
    // It has a connection again, on which it says more than what was told before.
    if (known !== undefined) known.told = false;
    if (this.#holder === pid) return;
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

  /** The keeper has told everything it knows; `pid` holds the lease, null when nobody does. */
  synced(pid: number | null): void {
    if (pid !== null) {
      this.hold(pid);
      return;
    }
    for (const owner of this.#owners.values()) owner.told = true;
    this.#look();
  }

  /** Nobody tells any more what the owners say, until the next `synced`. */
  unheard(): void {
    for (const owner of this.#owners.values()) if (owner.deadAt === null) owner.told = false;
  }

  close(): void {
    this.#closed = true;
    for (const pid of [...this.#owners.keys()]) this.#forget(pid);
  }

  #follow(pid: number): void {
    if (pid === this.#ports.ownPid || this.#owners.has(pid)) return;
    const watched = this.#ports.watch(pid, () => this.#died(pid));
    if (watched === null) return; // dead before we could look: the controller promotes us
    this.#owners.set(pid, { process: watched, deadAt: null, told: false, fenced: false });
  }

  #forget(pid: number): void {
    const owner = this.#owners.get(pid);
    if (owner === undefined) return;
    this.#owners.delete(pid);
    owner.process.close();
  }

  #died(pid: number): void {
    const owner = this.#owners.get(pid);
    if (owner === undefined || owner.deadAt !== null) return;
    owner.deadAt = this.#ports.nowMs();
    owner.told = false; // of a connection before its last, perhaps
    this.#ports.bury(pid, this.#armed && this.#owners.size === 1);
    this.#look();
  }

  #look(): void {
    if (!this.#armed || this.#closed || this.#owners.size === 0) return;
    const owners = [...this.#owners.values()];
    const gone = owners.filter(({ deadAt, told }) => deadAt !== null && told);
    if (gone.length === owners.length) {
      this.#ports.onAlone(Math.min(...gone.map(({ deadAt }) => deadAt ?? 0)));
      return;
    }
    if (gone.length === 0) return;
    for (const owner of owners) {
      if (owner.fenced || owner.deadAt !== null) continue;
      owner.fenced = true;
      owner.process.kill();
    }
  }
}
