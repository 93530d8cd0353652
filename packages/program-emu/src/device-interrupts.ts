/**
 * device-interrupts.ts: the eventfds a client gave with SET_IRQS, by vfio interrupt index and vector.
 *
 * Invariants
 *   I1  a descriptor held here is closed by `clear`, or handed back by `replace`, exactly once: a worker may signal a
 *       replaced one until it was told, and its number must not mean another file by then.
 *   I2  a masked vector is remembered as pending and fired once when unmasked.
 *   I3  signalling never blocks: descriptors come through `admitEventfd`.
 *
 * Theory
 *   vfio semantics: TRIGGER with eventfds assigns, with no descriptors or count 0 de-assigns, with NONE or BOOL fires;
 *   MASK and UNMASK apply to INTx.
 *
 * Limits  the vector counts the function declares.
 */
import { close, eventfdSignal, isEventfd, setNonBlocking } from '@virtnet/host-linux';

/** vfio interrupt indices of a PCI function. */
export const IrqIndex = {
  INTX: 0,
  MSI: 1,
  MSIX: 2,
  ERR: 3,
  REQ: 4,
} as const;
export type IrqIndex = (typeof IrqIndex)[keyof typeof IrqIndex];

/** Whether a peer's descriptor is an eventfd, and from now on one that no read or write of ours can block on. */
export function admitEventfd(fd: number): boolean {
  return isEventfd(fd) && setNonBlocking(fd) >= 0;
}

export class DeviceInterrupts {
  readonly counts: readonly number[];
  readonly #fds: number[][];
  readonly #masked: boolean[][];
  readonly #pending: boolean[][];

  /** `counts`: vectors per vfio index, five entries. */
  constructor(counts: readonly number[]) {
    this.counts = counts;
    this.#fds = counts.map((n) => new Array<number>(n).fill(-1));
    this.#masked = counts.map((n) => new Array<boolean>(n).fill(false));
    this.#pending = counts.map((n) => new Array<boolean>(n).fill(false));
  }

  /** Descriptor of a vector, or -1. */
  fd(index: number, vector: number): number {
    return this.#fds[index]?.[vector] ?? -1;
  }

  /** Whether some vector of the index has a descriptor. */
  assigned(index: number): boolean {
    return this.#fds[index]?.some((fd) => fd >= 0) ?? false;
  }

  /** Every held descriptor with its place. */
  *entries(): IterableIterator<{ index: number; vector: number; fd: number }> {
    for (let index = 0; index < this.#fds.length; index++) {
      const fds = this.#fds[index]!;
      for (let vector = 0; vector < fds.length; vector++) {
        if (fds[vector]! >= 0) yield { index, vector, fd: fds[vector]! };
      }
    }
  }

  /** Whether there is such a vector. */
  has(index: number, vector: number): boolean {
    return this.#fds[index]?.[vector] !== undefined;
  }

  /**
   * Gives a vector that exists a descriptor, which is owned from now on, or withdraws it with -1. Returns the one it
   * had, or -1: it is the caller's again, to be closed when no worker signals it any more (I1).
   */
  replace(index: number, vector: number, fd: number): number {
    const fds = this.#fds[index]!;
    const old = fds[vector]!;
    fds[vector] = fd;
    if (fd < 0) this.#pending[index]![vector] = false;
    return old;
  }

  /** Withdraws every vector of an index and closes its descriptors: no worker may know them any more. */
  clear(index: number): void {
    for (let vector = 0; vector < (this.counts[index] ?? 0); vector++) {
      const old = this.replace(index, vector, -1);
      if (old >= 0) close(old);
      this.#masked[index]![vector] = false;
    }
  }

  clearAll(): void {
    for (let index = 0; index < this.counts.length; index++) this.clear(index);
  }

  /** Fires a vector; true when an event was written or is remembered for the unmask. */
  fire(index: number, vector: number): boolean {
    const fd = this.fd(index, vector);
    if (fd < 0) return false;
    if (this.#masked[index]![vector]!) this.#pending[index]![vector] = true;
    else eventfdSignal(fd);
    return true;
  }

  mask(index: number, vector: number): void {
    const masked = this.#masked[index];
    if (masked !== undefined && vector < masked.length) masked[vector] = true;
  }

  /** Unmasks, and fires what was pending. */
  unmask(index: number, vector: number): void {
    const masked = this.#masked[index];
    if (masked === undefined || vector >= masked.length) return;
    masked[vector] = false;
    if (this.#pending[index]![vector]!) {
      this.#pending[index]![vector] = false;
      this.fire(index, vector);
    }
  }
}
