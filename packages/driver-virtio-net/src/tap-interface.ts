/**
 * tap-interface.ts: the network interface the host gets: a TAP with a queue for every queue pair.
 *
 * Theory
 *   The interface is known by its descriptors, not by its name: it may be renamed, and moved to another network
 *   namespace, where its name means nothing to us. So all queues are opened at once, and those not in use detached.
 *
 * Ownership
 *   The descriptors are closed by close(), and with them the interface goes.
 *
 * Limits  the MTU and the name are given once, at the beginning.
 */
import {
  closeAll,
  interfaceExists,
  openTap,
  setCarrier,
  setMtu,
  setOffload,
  setQueueAttached,
  setTapMac,
  tapName,
} from '@virtnet/host-linux';
import { Errno } from '@virtnet/wire';

export interface TapInterfaceOptions {
  readonly name: string;
  readonly mtuBytes: number;
  readonly queues: number;
}

export class TapInterface {
  readonly fds: readonly number[];
  #attached: number;

  private constructor(fds: readonly number[]) {
    this.fds = fds;
    this.#attached = fds.length;
  }

  /** Makes the interface, without a carrier. -EEXIST: there is one of that name; or another -errno. */
  static create({ name, mtuBytes, queues }: TapInterfaceOptions): TapInterface | number {
    if (interfaceExists(name)) return -Errno.EEXIST;
    const fds = openTap(name, { queues });
    if (typeof fds === 'number') return fds;
    setCarrier(fds[0]!, false);
    const errno = setMtu(name, mtuBytes);
    if (errno === 0) return new TapInterface(fds);
    closeAll(fds);
    return errno;
  }

  /** Its name now; null when the interface is gone. */
  get name(): string | null {
    const name = tapName(this.fds[0]!);
    return typeof name === 'string' ? name : null;
  }

  setMac(mac: Uint8Array): number {
    return setTapMac(this.fds[0]!, mac);
  }

  setOffloads(offloads: number): number {
    return setOffload(this.fds[0]!, offloads);
  }

  setCarrier(on: boolean): number {
    return setCarrier(this.fds[0]!, on);
  }

  /** Spreads what the host sends over the first `count` queues. Returns 0 or -errno. */
  use(count: number): number {
    for (; this.#attached > count; this.#attached--) {
      const errno = setQueueAttached(this.fds[this.#attached - 1]!, false);
      if (errno < 0) return errno;
    }
    for (; this.#attached < count; this.#attached++) {
      const errno = setQueueAttached(this.fds[this.#attached]!, true);
      if (errno < 0) return errno;
    }
    return 0;
  }

  close(): void {
    closeAll(this.fds);
  }
}
