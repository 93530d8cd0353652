/**
 * mirror.ts: what a standby holds of every device before it is needed.
 *
 * Theory
 *   The state keeper sends a subscriber its whole shelf and then every change. The mirror files each descriptor and
 *   record under its device and maps guest memory and state page at once, so that taking over later costs no system
 *   call per region. What a takeover needs of a device is made ahead, one device at a time when its owner says so
 *   (device-restore.ts), and taken back when anything of the device changes.
 *
 * Ownership
 *   Every descriptor received belongs to the mirror until `take` hands a device over or `close` drops it.
 *
 * Invariants
 *   I1  an entry that replaces another of its name closes the former's descriptor.
 *   I2  an entry that makes no sense is closed, counted in `refused`, and otherwise ignored: what the keeper holds is
 *       as untrusted as any saved state.
 *
 * Limits  DEVICES_MAX devices; the regions of each as device-memory.ts bounds them.
 */
import type { Arena } from '@virtnet/host-linux';
import { close } from '@virtnet/host-linux';
import { DeviceMemory, parseDmaRange } from './device-memory.js';
import { DEVICES_MAX } from './limits.js';
import { mapPage, type PageMapping } from './page-mapping.js';
import { parsePoolName, parseShelfName, parseUnplugged, parseUplinkPage } from './shelf-names.js';

/** Requests remembered of those that left no device. */
const UNPLUGGED_MAX = 256;

/** What somebody made of a device as it is. */
export interface MadeAhead {
  /** Takes back whatever it did; what it was made of may be let go of. */
  forsake(): void;
}

/** Everything held of one device. */
export class DeviceMirror {
  record: Uint8Array | null = null;
  page: PageMapping | null = null;
  listenerFd = -1;
  connectionFd = -1;
  readonly taps = new Map<number, number>();
  readonly kicks = new Map<number, number>();
  /** By `index/vector`. */
  readonly irqs = new Map<string, number>();
  readonly memory: DeviceMemory;
  readonly vuid: string;
  /** Made of what is held now; null: not made, or of what was held before. */
  prepared: MadeAhead | null = null;

  constructor(vuid: string, arena: Arena) {
    this.vuid = vuid;
    this.memory = new DeviceMemory(arena);
  }

  /** Files one entry; false when it is not understood (its descriptor is then closed by the caller). */
  put(part: string, blob: Uint8Array, fd: number): boolean {
    const [kind, first, second] = part.split('/');
    // Its owner says the record again before it hands the device over.
    if (kind === 'record' && this.record !== null && Buffer.from(this.record).equals(blob)) return fd < 0;
    this.forsake();
    switch (kind) {
      case 'record':
        this.record = blob.slice();
        return fd < 0;
      case 'page': {
        const page = fd < 0 ? null : mapPage(fd);
        if (page === null) return false;
        this.#dropPage();
        this.page = page;
        return true;
      }
      case 'listener':
        if (fd < 0) return false;
        if (this.listenerFd >= 0) close(this.listenerFd);
        this.listenerFd = fd;
        return true;
      case 'connection':
        if (fd < 0) return false;
        if (this.connectionFd >= 0) close(this.connectionFd);
        this.connectionFd = fd;
        return true;
      case 'tap':
        return isIndex(first) && putFd(this.taps, Number(first), fd);
      case 'kick':
        return isIndex(first) && putFd(this.kicks, Number(first), fd);
      case 'irq':
        return isIndex(first) && isIndex(second) && putFd(this.irqs, `${first}/${second}`, fd);
      case 'dma':
        return this.#putDma(blob, fd);
      default:
        return false;
    }
  }

  delete(part: string): void {
    const [kind, first, second] = part.split('/');
    this.forsake();
    switch (kind) {
      case 'record':
        this.record = null;
        break;
      case 'page':
        this.#dropPage();
        break;
      case 'listener':
        this.listenerFd = closed(this.listenerFd);
        break;
      case 'connection':
        this.connectionFd = closed(this.connectionFd);
        break;
      case 'tap':
        dropFd(this.taps, Number(first));
        break;
      case 'kick':
        dropFd(this.kicks, Number(first));
        break;
      case 'irq':
        dropFd(this.irqs, `${first}/${second}`);
        break;
      case 'dma':
        for (const region of this.memory.all()) {
          if (region.iova.toString(16) !== first) continue;
          this.memory.remove(region.iova, region.sizeBytes);
          this.memory.release(region);
          break;
        }
    }
  }

  /** What was made ahead is worth nothing any more. */
  forsake(): void {
    this.prepared?.forsake();
    this.prepared = null;
  }

  get isEmpty(): boolean {
    const tables = [this.taps, this.kicks, this.irqs];
    return (
      this.record === null &&
      this.page === null &&
      this.listenerFd < 0 &&
      this.connectionFd < 0 &&
      tables.every(({ size }) => size === 0) &&
      this.memory.all().next().done === true
    );
  }

  close(): void {
    for (const part of ['page', 'listener', 'connection']) this.delete(part);
    for (const table of [this.taps, this.kicks, this.irqs]) {
      for (const fd of table.values()) close(fd);
      table.clear();
    }
    for (const region of this.memory.removeAll()) this.memory.release(region);
  }

  #putDma(blob: Uint8Array, fd: number): boolean {
    let parsed: unknown;
    try {
      parsed = JSON.parse(new TextDecoder().decode(blob));
    } catch {
      return false;
    }
    const range = parseDmaRange(parsed);
    if (range === null) return false;
    this.delete(`dma/${range.iova.toString(16)}`);
    return this.memory.add(range, fd, { known: true }) === 0;
  }

  #dropPage(): void {
    if (this.page === null) return;
    this.page.close();
    close(this.page.fd);
    this.page = null;
  }
}

function closed(fd: number): number {
  if (fd >= 0) close(fd);
  return -1;
}

/** Whether a part of a name is a queue, pair or vector, in the one way they are written. */
function isIndex(text: string | undefined): boolean {
  return text !== undefined && /^(0|[1-9]\d{0,4})$/.test(text);
}

function putFd<K>(table: Map<K, number>, key: K, fd: number): boolean {
  if (fd < 0) return false;
  dropFd(table, key);
  table.set(key, fd);
  return true;
}

function dropFd<K>(table: Map<K, number>, key: K): void {
  const fd = table.get(key);
  if (fd === undefined) return;
  close(fd);
  table.delete(key);
}

export class Mirror {
  readonly #arena: Arena;
  readonly #devices = new Map<string, DeviceMirror>();
  /** Devices of which nothing is made ahead. */
  readonly #stale = new Set<DeviceMirror>();
  /** Requests to unplug a device that were carried out. Bounded by who puts them (unplugged.ts), and UNPLUGGED_MAX. */
  readonly unplugged = new Set<string>();
  /** Queues of the pool's representors, by name and pair. */
  readonly #pool = new Map<string, Map<number, number>>();
  /** In which the uplinks count, by port. */
  readonly #uplinkPages = new Map<number, PageMapping>();
  /** Entries that were not understood. */
  refused = 0;

  constructor(arena: Arena) {
    this.#arena = arena;
  }

  get size(): number {
    return this.#devices.size;
  }

  put(name: string, blob: Uint8Array, fd: number): void {
    const pooled = parsePoolName(name);
    if (pooled !== null) {
      this.#putPooled(pooled.representor, pooled.pair, fd);
      return;
    }
    const port = parseUplinkPage(name);
    if (port !== null) {
      this.#putUplinkPage(port, fd);
      return;
    }
    const place = parseShelfName(name);
    let device = place === null ? undefined : this.#devices.get(place.vuid);
    if (device === undefined && place !== null && this.#devices.size < DEVICES_MAX) {
      device = new DeviceMirror(place.vuid, this.#arena);
    }
    if (device !== undefined && place !== null && device.put(place.part, blob, fd)) {
      this.#devices.set(place.vuid, device);
      if (device.prepared === null) this.#stale.add(device);
      return;
    }
    const requestId = parseUnplugged(name);
    if (requestId !== null && fd < 0 && this.unplugged.size < UNPLUGGED_MAX) {
      this.unplugged.add(requestId);
      return;
    }
    this.refused++;
    if (fd >= 0) close(fd);
  }

  delete(name: string): void {
    const pooled = parsePoolName(name);
    if (pooled !== null) {
      const queues = this.#pool.get(pooled.representor);
      if (queues === undefined) return;
      dropFd(queues, pooled.pair);
      if (queues.size === 0) this.#pool.delete(pooled.representor);
      return;
    }
    const port = parseUplinkPage(name);
    if (port !== null) this.#dropUplinkPage(port);
    const place = parseShelfName(name);
    if (place === null) {
      this.unplugged.delete(parseUnplugged(name) ?? '');
      return;
    }
    const device = this.#devices.get(place.vuid);
    if (device === undefined) return;
    device.delete(place.part);
    this.#stale.add(device);
    // Without a record it is none; and of one whose telling broke off, nothing may be left but an empty shell.
    if (place.part === 'record' || device.isEmpty) {
      device.close();
      this.#devices.delete(place.vuid);
      this.#stale.delete(device);
    }
  }

  /** Has one device of which something is new made ahead; whether there are more of them. */
  prepareNext(make: (device: DeviceMirror) => MadeAhead | null): boolean {
    const [device] = this.#stale;
    if (device === undefined) return false;
    this.#stale.delete(device);
    device.prepared = make(device);
    return this.#stale.size > 0;
  }

  get(vuid: string): DeviceMirror | undefined {
    return this.#devices.get(vuid);
  }

  /** What it holds of every device; it stays the mirror's. */
  all(): IterableIterator<DeviceMirror> {
    return this.#devices.values();
  }

  /** Hands one device over; null when there is none. */
  takeOne(vuid: string): DeviceMirror | null {
    const device = this.#devices.get(vuid) ?? null;
    this.#devices.delete(vuid);
    if (device !== null) this.#stale.delete(device);
    return device;
  }

  /** Hands every device over; the mirror is empty afterwards. */
  take(): DeviceMirror[] {
    const devices = [...this.#devices.values()];
    this.#devices.clear();
    this.#stale.clear();
    return devices;
  }

  /** Hands the pool over; the mirror has none afterwards. */
  takePool(): ReadonlyMap<string, ReadonlyMap<number, number>> {
    const pool = new Map(this.#pool);
    this.#pool.clear();
    return pool;
  }

  /** Hands the uplinks' pages over; the mirror has none afterwards. */
  takeUplinkPages(): ReadonlyMap<number, PageMapping> {
    const pages = new Map(this.#uplinkPages);
    this.#uplinkPages.clear();
    return pages;
  }

  close(): void {
    for (const device of this.take()) device.close();
    for (const port of this.#uplinkPages.keys()) this.#dropUplinkPage(port);
    for (const queues of this.takePool().values()) for (const fd of queues.values()) close(fd);
  }

  #putUplinkPage(port: number, fd: number): void {
    const page = fd < 0 ? null : mapPage(fd);
    if (page === null) {
      this.refused++;
      if (fd >= 0) close(fd);
      return;
    }
    this.#dropUplinkPage(port);
    this.#uplinkPages.set(port, page);
  }

  #dropUplinkPage(port: number): void {
    const page = this.#uplinkPages.get(port);
    if (page === undefined) return;
    this.#uplinkPages.delete(port);
    page.close();
    close(page.fd);
  }

  #putPooled(representor: string, pair: number, fd: number): void {
    const queues = this.#pool.get(representor) ?? new Map<number, number>();
    if (this.#pool.size >= DEVICES_MAX || !putFd(queues, pair, fd)) {
      this.refused++;
      if (fd >= 0) close(fd);
      return;
    }
    this.#pool.set(representor, queues);
  }
}
