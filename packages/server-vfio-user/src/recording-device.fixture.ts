/** recording-device.fixture.ts: a device that writes down what it is asked and answers what the test says. */
import { closeAll } from '@virtnet/host-linux';
import {
  Errno,
  VFIO_PCI_IRQ_TYPE_COUNT,
  VFIO_PCI_REGION_COUNT,
  VfioPciIrq,
  VfioPciRegion,
} from '@virtnet/wire';
import type {
  DeviceInfo,
  DmaMapRequest,
  DmaUnmapRequest,
  IrqInfo,
  IrqRequest,
  MaybePromise,
  RegionEventFd,
  RegionInfo,
  VfioUserDevice,
} from './device.js';

export const MSIX_VECTORS = 64;
export const BAR0_BYTES = 0x4000;
export const CONFIG_BYTES = 4096;

/** One call, as `name(arguments)`; descriptors appear as their number of them. */
export type Call = string;

const irqCounts: Partial<Record<number, number>> = {
  [VfioPciIrq.INTX]: 1,
  [VfioPciIrq.MSIX]: MSIX_VECTORS,
  [VfioPciIrq.ERR]: 1,
  [VfioPciIrq.REQ]: 1,
};

export class RecordingDevice implements VfioUserDevice {
  readonly calls: Call[] = [];
  /** Descriptors taken over and not given back, by what they are for. */
  readonly held = new Map<string, number>();
  /** When set, every call that changes something answers this. */
  refuseWith = 0;
  /** When set, a call that may be asynchronous waits for it. */
  gate: Promise<void> | null = null;
  deviceInfo: DeviceInfo = {
    regionCount: VFIO_PCI_REGION_COUNT,
    irqTypeCount: VFIO_PCI_IRQ_TYPE_COUNT,
    resettable: true,
  };
  readonly regions = new Map<number, Uint8Array>([
    [VfioPciRegion.BAR0, new Uint8Array(BAR0_BYTES)],
    [VfioPciRegion.CONFIG, new Uint8Array(CONFIG_BYTES)],
  ]);
  mmap: RegionInfo['mmap'];
  ioFds: readonly RegionEventFd[] = [];

  regionInfo(index: number): RegionInfo {
    const sizeBytes = this.regions.get(index)?.length ?? 0;
    const info = { sizeBytes, readable: sizeBytes > 0, writable: sizeBytes > 0 };
    return index === VfioPciRegion.BAR0 && this.mmap !== undefined ? { ...info, mmap: this.mmap } : info;
  }

  irqInfo(index: number): IrqInfo {
    const intx = index === VfioPciIrq.INTX;
    const noResize = index === VfioPciIrq.MSIX;
    return { count: irqCounts[index] ?? 0, eventfd: true, maskable: intx, automasked: intx, noResize };
  }

  read(region: number, offset: number, count: number): MaybePromise<Uint8Array | number> {
    this.calls.push(`read(${region}, ${offset}, ${count})`);
    return this.regions.get(region)?.slice(offset, offset + count) ?? -Errno.EINVAL;
  }

  write(region: number, offset: number, bytes: Uint8Array): MaybePromise<number> {
    return this.#change(`write(${region}, ${offset}, ${hex(bytes)})`, () => {
      this.regions.get(region)?.set(bytes, offset);
      return 0;
    });
  }

  dmaMap(request: DmaMapRequest): MaybePromise<number> {
    const { iova, sizeBytes, fdOffset, readable, writable, fd } = request;
    const rights = `${readable ? 'r' : ''}${writable ? 'w' : ''}`;
    const call = `dmaMap(0x${iova.toString(16)}, ${sizeBytes}, ${fd === null ? 'no fd' : `fd+${fdOffset}`}, ${rights})`;
    return this.#change(call, () => this.#hold(`dma/${iova}`, fd));
  }

  dmaUnmap({ iova, sizeBytes, all }: DmaUnmapRequest): MaybePromise<number> {
    const call = all ? 'dmaUnmap(all)' : `dmaUnmap(0x${iova.toString(16)}, ${sizeBytes})`;
    return this.#change(call, () => this.#drop(all ? 'dma/' : `dma/${iova}`, !all));
  }

  setIrqs({ index, start, count, action, data, values, fds }: IrqRequest): MaybePromise<number> {
    const extra =
      data === 'bool'
        ? `, ${values?.map(Number).join('')}`
        : data === 'eventfd'
          ? `, ${fds?.length} fds`
          : '';
    return this.#change(`setIrqs(${index}, ${start}, ${count}, ${action}, ${data}${extra})`, () => {
      if (data === 'none' && count === 0) return this.#drop(`irq/${index}/`);
      if (data !== 'eventfd') return 0;
      for (let i = 0; i < count; i++) this.#hold(`irq/${index}/${start + i}`, fds?.[i] ?? null);
      return 0;
    });
  }

  reset(): MaybePromise<number> {
    return this.#change('reset()', () => 0);
  }

  regionIoFds(): readonly RegionEventFd[] {
    return this.ioFds;
  }

  queueKick(queue: number, fd: number | null, flags: number): MaybePromise<number> {
    const call = `queueKick(${queue}, ${fd === null ? 'no fd' : 'fd'}, ${flags})`;
    return this.#change(call, () => this.#hold(`kick/${queue}`, fd));
  }

  queueBaseSet(queue: number, base: number): MaybePromise<number> {
    return this.#change(`queueBaseSet(${queue}, ${base})`, () => 0);
  }

  queueBaseGet(queue: number): MaybePromise<number> {
    return this.#change(`queueBaseGet(${queue})`, () => 0x1234);
  }

  queueEnable(queue: number, enabled: boolean): MaybePromise<number> {
    return this.#change(`queueEnable(${queue}, ${enabled})`, () => 0);
  }

  /** Closes what it holds. */
  release(): void {
    this.#drop('');
  }

  #change(call: Call, act: () => number): MaybePromise<number> {
    const run = () => {
      this.calls.push(call);
      return this.refuseWith !== 0 ? -this.refuseWith : act();
    };
    return this.gate === null ? run() : this.gate.then(run);
  }

  #hold(name: string, fd: number | null): number {
    this.#drop(name, true);
    if (fd !== null) this.held.set(name, fd);
    return 0;
  }

  #drop(prefix: string, exact = false): number {
    for (const [name, fd] of [...this.held]) {
      if (exact ? name !== prefix : !name.startsWith(prefix)) continue;
      closeAll([fd]);
      this.held.delete(name);
    }
    return 0;
  }
}

export function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
