/**
 * uplink-taps.ts: the TAPs behind which the eswitch reaches the host, as the main thread holds them.
 *
 * Theory
 *   Each TAP is opened by every emulator. A standby's queue of it is detached, so that the kernel gives it no frame; it
 *   is there so that interface, index and carrier outlive the active emulator. Whoever becomes active attaches its
 *   queue and hands it to the worker of the domain. A TAP that somebody made before us (persistent, multi_queue, ours
 *   to use) is used as it is, also without any privilege.
 *   What comes in through a TAP has no virtqueue to be counted in. Each TAP has a state page of one block for that, which
 *   lies with the state keeper, as those of functions do: it outlives its process, and ends with the service.
 *
 * Ownership
 *   A page belongs to this object from `serve` on, and is mapped until the workers have ended.
 *
 * Limits  one queue each, for all its frames are moved by one worker.
 */
import { type UplinkFacts, uplinksOf, type VirtnetConf } from '@virtnet/engine-control';
import { close, openTap, setOffload, setQueueAttached } from '@virtnet/host-linux';
import { Errno, QueueCounter, queueBlock, StatePageHeader, statePageSize, TunOffload } from '@virtnet/wire';
import { setBack, sinceMark } from './clearable-counters.js';
import type { Datapath } from './datapath.js';
import type { DeviceStore } from './device-store.js';
import { newPage, type PageMapping } from './page-mapping.js';
import { shelfNames } from './shelf-names.js';
import { statePageProblem } from './state-page-check.js';

type Log = (level: 'info' | 'error', message: string, facts: Record<string, unknown>) => void;

const { CSUM, TSO4, TSO6, TSO_ECN, USO4, USO6 } = TunOffload;
const OFFLOADS = CSUM | TSO4 | TSO6 | TSO_ECN;
const EMPTY = new Uint8Array(0);
/** What the kernel is asked. */
const KERNEL = { openTap, setOffload, setQueueAttached };

interface UplinkTap {
  readonly domain: number;
  readonly ibDevice: string;
  readonly name: string;
  readonly fd: number;
  /** null: it does not serve yet. */
  page: PageMapping | null;
}

export class UplinkTaps {
  readonly #taps: UplinkTap[] = [];
  readonly #store: DeviceStore;
  readonly #log: Log;
  readonly #kernel: typeof KERNEL;

  constructor(store: DeviceStore, log: Log, kernel = KERNEL) {
    this.#store = store;
    this.#log = log;
    this.#kernel = kernel;
  }

  /** Opens what the configuration names, detached. A TAP that can not be had is reported and left out. */
  open(conf: VirtnetConf): void {
    const names: Readonly<Record<string, string | null>> = conf.software.uplink_taps;
    for (const { ibDevice, port } of uplinksOf(conf)) {
      const name = names[ibDevice] ?? null;
      if (name === null) continue;
      const fds = this.#kernel.openTap(name, { queues: 1 });
      if (typeof fds === 'number') {
        this.#log('error', 'the uplink of the eswitch cannot be opened', { name, errno: -fds });
        continue;
      }
      const fd = fds[0]!;
      this.#kernel.setQueueAttached(fd, false);
      this.#taps.push({ domain: port, ibDevice, name, fd, page: null });
    }
  }

  /** This process is the active one: frames come in from now on. `pages`: what a predecessor left, by port, now ours. */
  serve(datapath: Pick<Datapath, 'uplink'>, pages: ReadonlyMap<number, PageMapping>): void {
    const left = new Map(pages);
    for (const tap of this.#taps) {
      const { domain, name, fd } = tap;
      tap.page = this.#pageOf(domain, left);
      const refused = tap.page === null ? -Errno.ENOMEM : this.#kernel.setQueueAttached(fd, true);
      if (tap.page === null || refused < 0) {
        this.#log('error', 'the uplink of the eswitch cannot be attached', { name, errno: -refused });
        continue;
      }
      // What a function does not take is cut or completed on its way there, so any offload is welcome.
      if (this.#kernel.setOffload(fd, OFFLOADS | USO4 | USO6) < 0) this.#kernel.setOffload(fd, OFFLOADS);
      const { address, buffer } = tap.page;
      datapath.uplink(domain, { fd, pageAddress: address, pageBytes: buffer.byteLength });
    }
    for (const [port, page] of left) {
      drop(page);
      this.#store.delete(this, shelfNames.uplinkPage(port));
    }
    this.#store.flush(this);
  }

  /** Another process is the active one: the kernel gives us no frame any more. */
  release(): void {
    for (const { fd } of this.#taps) this.#kernel.setQueueAttached(fd, false);
  }

  /** Puts everything on an empty shelf again. */
  upload(): void {
    for (const { domain, page } of this.#taps) if (page !== null) this.#put(domain, page);
    this.#store.flush(this);
  }

  /** The service ends: nobody goes on counting. */
  forget(): void {
    for (const { domain } of this.#taps) this.#store.delete(this, shelfNames.uplinkPage(domain));
    this.#store.flush(this);
  }

  /** What came in by the TAPs of these RDMA devices, or of all (null), since it was set back. */
  facts(ibDevices: ReadonlySet<string> | null): UplinkFacts[] {
    return this.#serving(ibDevices).map(({ ibDevice, name, counters }) => ({
      ibDevice,
      tap: name,
      debug: {
        frames: sinceMark(counters, QueueCounter.FRAMES),
        drop_no_destination: sinceMark(counters, QueueCounter.DROP_NO_DESTINATION),
        drop_same_port: sinceMark(counters, QueueCounter.DROP_SAME_PORT),
        drop_not_switched: sinceMark(counters, QueueCounter.DROP_NOT_SWITCHED),
        stations_refused: sinceMark(counters, QueueCounter.STATIONS_REFUSED),
      },
    }));
  }

  /** Sets these counters back. */
  clear(ibDevices: ReadonlySet<string> | null): void {
    for (const { counters } of this.#serving(ibDevices)) setBack(counters);
  }

  /** After the workers have ended. */
  close(): void {
    for (const { fd, page } of this.#taps.splice(0)) {
      close(fd);
      if (page !== null) drop(page);
    }
  }

  #serving(ibDevices: ReadonlySet<string> | null) {
    return this.#taps.flatMap(({ ibDevice, name, page }) =>
      page === null || ibDevices?.has(ibDevice) === false
        ? []
        : [{ ibDevice, name, counters: queueBlock(page.buffer, 0).counters }],
    );
  }

  /** The page that was left for `port`, if it can be gone on with, or a new one; null when there is no memory. */
  #pageOf(port: number, left: Map<number, PageMapping>): PageMapping | null {
    const former = left.get(port);
    if (former !== undefined && isUsable(former)) {
      left.delete(port);
      return former;
    }
    const page = newPage(1);
    if (typeof page === 'number') return null;
    if (former !== undefined) drop(former);
    left.delete(port);
    this.#put(port, page);
    return page;
  }

  #put(port: number, page: PageMapping): void {
    this.#store.put(this, shelfNames.uplinkPage(port), EMPTY, page.fd);
  }
}

function isUsable({ buffer }: PageMapping): boolean {
  const { queueCount } = StatePageHeader.decode(new DataView(buffer));
  return statePageProblem(buffer) === null && queueCount === 1 && buffer.byteLength >= statePageSize(1);
}

function drop(page: PageMapping): void {
  page.close();
  close(page.fd);
}
