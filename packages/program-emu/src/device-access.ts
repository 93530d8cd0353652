/**
 * device-access.ts: what the connected vfio-user client asks of a function.
 *
 * Theory
 *   The session has judged the message; here it is carried out. Whatever changes the function marks it as changed,
 *   and the connection's journal commits it, with the answer, before the answer is sent (device-endpoint.ts).
 *   vfio semantics of SET_IRQS: TRIGGER with eventfds assigns, with no descriptor or count 0 de-assigns, with NONE or
 *   BOOL fires; MASK and UNMASK are for INTx.
 *
 * Invariants
 *   I1  a promise resolves when the change is in force in every worker.
 *   I2  a descriptor is owned from the moment its method answers 0.
 *   I3  a descriptor that is replaced is closed only after every worker was told.
 *   I4  what is staged for the keeper before an await can be recorded without this request, by a control command or a
 *       fault; a successor then works the request again. So only what may be done twice is staged there.
 *
 * Limits  the function's vector and queue counts; device-memory.ts for regions.
 */
import { positionOfBase } from '@virtnet/engine-virtqueue';
import { close, closeAll } from '@virtnet/host-linux';
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
} from '@virtnet/server-vfio-user';
import { Errno, PCI_CONFIG_BYTES } from '@virtnet/wire';
import type { DeviceHost } from './device-host.js';
import { admitEventfd, IrqIndex } from './device-interrupts.js';
import { dmaRangeRecord } from './device-memory.js';
import { shelfNames } from './shelf-names.js';

/** VFIO_PCI_CONFIG_REGION_INDEX. */
const CONFIG_REGION = 7;
/** BARs, ROM, configuration space and VGA, as vfio numbers them. */
const REGIONS = 9;
const textEncoder = new TextEncoder();

export class DeviceAccess implements VfioUserDevice {
  readonly deviceInfo: DeviceInfo;
  readonly #host: DeviceHost;

  constructor(host: DeviceHost) {
    this.#host = host;
    this.deviceInfo = { regionCount: REGIONS, irqTypeCount: host.interrupts.counts.length, resettable: true };
  }

  regionInfo(index: number): RegionInfo {
    const sizeBytes = index === CONFIG_REGION ? PCI_CONFIG_BYTES : this.#host.fn.regionSize(index);
    return { sizeBytes, readable: sizeBytes > 0, writable: sizeBytes > 0 };
  }

  irqInfo(index: number): IrqInfo {
    const intx = index === IrqIndex.INTX;
    const count = this.#host.interrupts.counts[index] ?? 0;
    return { count, eventfd: true, maskable: intx, automasked: intx, noResize: false };
  }

  read(region: number, offset: number, count: number): Uint8Array {
    const { fn } = this.#host;
    return region === CONFIG_REGION ? fn.readConfig(offset, count) : fn.readRegion(region, offset, count);
  }

  write(region: number, offset: number, bytes: Uint8Array): MaybePromise<number> {
    const { fn } = this.#host;
    const config = region === CONFIG_REGION;
    const effects = config ? fn.writeConfig(offset, bytes) : fn.writeRegion(region, offset, bytes);
    const first = effects[0];
    if (effects.length === 1 && first?.kind === 'queue-notify') {
      this.#host.kick(first.queue); // the frequent case: nothing to record, nothing to wait for
      return 0;
    }
    this.#host.touch();
    return effects.length === 0 ? 0 : this.#host.carryOut(effects).then(() => 0);
  }

  async dmaMap(request: DmaMapRequest): Promise<number> {
    const { memory, vuid } = this.#host;
    const fd = request.fd ?? -1;
    const result = memory.add(request, fd);
    if (result < 0) return result;
    await this.#host.memoryChanged();
    const blob = textEncoder.encode(JSON.stringify(dmaRangeRecord(request)));
    this.#host.put(shelfNames.dma(vuid, request.iova), fd, blob); // I4: a range cannot be added twice
    return 0;
  }

  async dmaUnmap(request: DmaUnmapRequest): Promise<number> {
    const { memory, vuid } = this.#host;
    const one = request.all ? null : memory.remove(request.iova, request.sizeBytes);
    if (typeof one === 'number') return one;
    const regions = one === null ? memory.removeAll() : [one];
    await this.#host.memoryChanged();
    for (const region of regions) {
      this.#host.drop(shelfNames.dma(vuid, region.iova));
      memory.release(region);
    }
    return 0;
  }

  async setIrqs(request: IrqRequest): Promise<number> {
    const { interrupts } = this.#host;
    const { index, start, action, data } = request;
    const disable = action === 'trigger' && data === 'none' && request.count === 0;
    const count = disable ? (interrupts.counts[index] ?? 0) : request.count;
    if (start + count > (interrupts.counts[index] ?? 0)) return -Errno.EINVAL;
    const fds = request.fds ?? [];
    if (!fds.every(admitEventfd)) return -Errno.EINVAL;
    const assigns = disable || (data === 'eventfd' && action === 'trigger');
    const former: number[] = [];
    for (let i = 0; i < count; i++) {
      if (assigns) former.push(this.#assign(index, start + i, fds[i] ?? -1));
      else if (data !== 'bool' || request.values?.[i] === true) this.#act(action, index, start + i);
    }
    if (assigns) await this.#host.reconcile(false);
    closeAll(former.filter((fd) => fd >= 0));
    return 0;
  }

  async reset(): Promise<number> {
    this.#host.touch();
    await this.#host.carryOut(this.#host.fn.reset());
    return 0;
  }

  regionIoFds(): readonly RegionEventFd[] {
    return [];
  }

  async queueKick(queue: number, fd: number | null): Promise<number> {
    const { state, vuid } = this.#host;
    if (!this.#hasQueue(queue) || (fd !== null && !admitEventfd(fd))) return -Errno.EINVAL;
    const old = state.kicks.get(queue);
    const name = shelfNames.kick(vuid, queue);
    if (fd === null) {
      state.kicks.delete(queue);
      this.#host.drop(name);
    } else {
      state.kicks.set(queue, fd);
      this.#host.put(name, fd);
    }
    await this.#host.reconcile(false);
    if (old !== undefined) close(old);
    return 0;
  }

  queueBaseSet(queue: number, base: number): number {
    if (!this.#hasQueue(queue)) return -Errno.EINVAL;
    const position = positionOfBase(base, this.#host.state.packed);
    if (position === null) return -Errno.EINVAL;
    this.#host.state.bases.set(queue, position);
    this.#host.touch();
    return 0;
  }

  async queueBaseGet(queue: number): Promise<number> {
    if (!this.#hasQueue(queue)) return -Errno.EINVAL;
    this.#host.fn.disableQueue(queue);
    this.#host.touch();
    await this.#host.reconcile(false);
    return this.#host.state.position(queue);
  }

  async queueEnable(queue: number, enabled: boolean): Promise<number> {
    if (!this.#hasQueue(queue)) return -Errno.EINVAL;
    this.#host.state.ringEnables.set(queue, enabled);
    this.#host.touch();
    await this.#host.reconcile(false);
    return 0;
  }

  #hasQueue(queue: number): boolean {
    return queue < this.#host.fn.queues.length;
  }

  /** Returns the vector's former descriptor, or -1. */
  #assign(index: number, vector: number, fd: number): number {
    const { interrupts, vuid } = this.#host;
    const former = interrupts.replace(index, vector, fd);
    const name = shelfNames.irq(vuid, index, vector);
    if (fd >= 0) this.#host.put(name, fd);
    else if (former >= 0) this.#host.drop(name);
    return former;
  }

  #act(action: IrqRequest['action'], index: number, vector: number): void {
    const { interrupts, fn } = this.#host;
    if (action === 'mask') interrupts.mask(index, vector);
    else if (action === 'trigger') interrupts.fire(index, vector);
    else {
      interrupts.unmask(index, vector);
      // INTx is a level: whoever unmasks it while it is asserted has to hear of it again.
      if (index === IrqIndex.INTX && fn.intxAsserted) interrupts.fire(index, vector);
    }
  }
}
