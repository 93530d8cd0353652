/**
 * test-function.ts: a virtio-net PCI function for tests.
 *
 * Registers behave as far as this package uses them; rings are not worked. What it was told can be read, and what it
 * answers can be changed.
 */
import { close } from '@virtnet/host-linux';
import type {
  DeviceInfo,
  DmaMapRequest,
  DmaUnmapRequest,
  IrqInfo,
  IrqRequest,
  RegionInfo,
  VfioUserDevice,
} from '@virtnet/server-vfio-user';
import {
  DeviceStatus,
  Errno,
  featureMask,
  MsixControl,
  NetConfig,
  NetFeature,
  NO_VECTOR,
  PCI_CONFIG_BYTES,
  PciCommand,
  PciHeader,
  PciMsix,
  VfioPciIrq,
  VfioPciRegion,
  VirtioFeature,
  VirtioPciCommon,
  viewOf,
} from '@virtnet/wire';
import { DEVICE_AT, MSIX_CAP_AT, testConfigSpace } from './test-config-space.js';

const N = NetFeature;
const V = VirtioFeature;
export const TEST_FEATURES = featureMask([
  N.CSUM,
  N.GUEST_CSUM,
  N.MTU,
  N.MAC,
  N.HOST_TSO4,
  N.GUEST_TSO4,
  N.STATUS,
  N.CTRL_VQ,
  N.CTRL_RX,
  N.MQ,
  V.INDIRECT_DESC,
  V.EVENT_IDX,
  V.VERSION_1,
  V.RING_RESET,
]);

const BAR_BYTES = 0x4000;
const REGIONS = 9;
const IRQ_TYPES = 5;

export interface TestQueue {
  size: number;
  vector: number;
  enabled: boolean;
  addresses: bigint[];
  base: number;
  kickFd: number | null;
  ringEnabled: boolean | undefined;
}

export interface TestFunctionOptions {
  features?: bigint;
  pairs?: number;
  vectors?: number;
  queueSize?: number;
}

export class TestFunction implements VfioUserDevice {
  readonly deviceInfo: DeviceInfo = { regionCount: REGIONS, irqTypeCount: IRQ_TYPES, resettable: true };
  readonly config: Uint8Array;
  readonly features: bigint;
  readonly vectors: number;
  readonly queueSize: number;
  readonly queues: TestQueue[];
  readonly dma = new Map<bigint, { sizeBytes: number; fd: number; fdOffset: number }>();
  readonly irqFds = new Map<number, number>();
  /** What was done to it, in words. */
  readonly log: string[] = [];
  /** Positions that QUEUE_BASE_GET answers; the base otherwise. */
  readonly positions = new Map<number, number>();
  driverFeatures = 0n;
  status = 0;
  configVector: number = NO_VECTOR;
  resets = 0;
  /** FEATURES_OK does not stick. */
  refuseFeatures = false;
  /** queue_enable does not stick. */
  refuseQueues = false;
  /** DMA_MAP answers this. */
  mapErrno = 0;
  /** Awaited before every answer to a write or a reset. */
  gate: Promise<void> = Promise.resolve();
  /** Awaited before every answer to a read. */
  readGate: Promise<void> = Promise.resolve();
  /** Reads that were asked for. */
  reads = 0;
  #queueSelect = 0;
  #deviceSelect = 0;
  #driverSelect = 0;

  constructor({
    features = TEST_FEATURES,
    pairs = 2,
    vectors = pairs * 2 + 2,
    queueSize = 256,
  }: TestFunctionOptions = {}) {
    this.features = features;
    this.vectors = vectors;
    this.queueSize = queueSize;
    this.config = testConfigSpace(vectors);
    this.queues = Array.from({ length: pairs * 2 + 1 }, () => this.#newQueue());
  }

  get pairs(): number {
    return this.queues.length >> 1;
  }

  get msixEnabled(): boolean {
    return (viewOf(this.config).getUint16(MSIX_CAP_AT + PciMsix.at.control, true) & MsixControl.ENABLE) !== 0;
  }

  get busMaster(): boolean {
    return (viewOf(this.config).getUint16(PciHeader.at.command, true) & PciCommand.BUS_MASTER) !== 0;
  }

  /** Descriptors it holds. */
  get heldFds(): number {
    return this.dma.size + this.irqFds.size + this.queues.filter((queue) => queue.kickFd !== null).length;
  }

  regionInfo(index: number): RegionInfo {
    const sizeBytes =
      index === VfioPciRegion.BAR0 ? BAR_BYTES : index === VfioPciRegion.CONFIG ? PCI_CONFIG_BYTES : 0;
    return { sizeBytes, readable: sizeBytes > 0, writable: sizeBytes > 0 };
  }

  irqInfo(index: number): IrqInfo {
    const count = index === VfioPciIrq.MSIX ? this.vectors : 0;
    return { count, eventfd: true, maskable: false, automasked: false, noResize: true };
  }

  async read(region: number, offset: number, count: number): Promise<Uint8Array> {
    this.reads++;
    await this.readGate;
    if (region === VfioPciRegion.CONFIG) return this.config.slice(offset, offset + count);
    const bytes = offset >= DEVICE_AT ? this.#deviceConfig() : this.#commonConfig();
    const at = offset >= DEVICE_AT ? offset - DEVICE_AT : offset;
    return bytes.slice(at, at + count);
  }

  async write(region: number, offset: number, bytes: Uint8Array): Promise<number> {
    const value = bytes.reduceRight((high, byte) => high * 256 + byte, 0);
    await this.gate;
    if (region === VfioPciRegion.CONFIG) {
      this.config.set(
        new Uint8Array([...Array(bytes.length).keys()].map((i) => Math.floor(value / 256 ** i) & 0xff)),
        offset,
      );
      return 0;
    }
    return this.#writeCommon(offset, value);
  }

  dmaMap({ iova, sizeBytes, fd, fdOffset }: DmaMapRequest): number {
    if (this.mapErrno !== 0) return -this.mapErrno;
    this.log.push(`map 0x${iova.toString(16)}`);
    if (fd === null) return -Errno.EINVAL;
    this.dma.set(iova, { sizeBytes, fd, fdOffset });
    return 0;
  }

  dmaUnmap({ iova, all }: DmaUnmapRequest): number {
    this.log.push(all ? 'unmap all' : `unmap 0x${iova.toString(16)}`);
    for (const [key, { fd }] of [...this.dma]) {
      if (!all && key !== iova) continue;
      close(fd);
      this.dma.delete(key);
    }
    return 0;
  }

  setIrqs({ start, count, data, fds = [] }: IrqRequest): number {
    const vectors =
      data === 'none' && count === 0
        ? [...this.irqFds.keys()]
        : [...Array(count).keys()].map((i) => start + i);
    for (const [i, vector] of vectors.entries()) {
      const old = this.irqFds.get(vector);
      if (old !== undefined) close(old);
      this.irqFds.delete(vector);
      if (fds[i] !== undefined) this.irqFds.set(vector, fds[i]);
    }
    this.log.push(`irq ${vectors.join(',')} ${fds.length > 0 ? 'fd' : 'none'}`);
    return 0;
  }

  async reset(): Promise<number> {
    await this.gate;
    this.resets++;
    this.log.push('reset');
    this.#virtioReset();
    viewOf(this.config).setUint16(PciHeader.at.command, 0, true);
    viewOf(this.config).setUint16(MSIX_CAP_AT + PciMsix.at.control, this.vectors - 1, true);
    return 0;
  }

  regionIoFds() {
    return [];
  }

  queueKick(queue: number, fd: number | null): number {
    const entry = this.queues[queue];
    if (entry === undefined) return -Errno.EINVAL;
    if (entry.kickFd !== null) close(entry.kickFd);
    entry.kickFd = fd;
    this.log.push(`kick ${queue} ${fd === null ? 'none' : 'fd'}`);
    return 0;
  }

  queueBaseSet(queue: number, base: number): number {
    const entry = this.queues[queue];
    if (entry === undefined) return -Errno.EINVAL;
    entry.base = base;
    this.log.push(`base ${queue} ${base}`);
    return 0;
  }

  queueBaseGet(queue: number): number {
    const entry = this.queues[queue];
    if (entry === undefined) return -Errno.EINVAL;
    entry.enabled = false;
    this.log.push(`stop ${queue}`);
    return this.positions.get(queue) ?? entry.base;
  }

  queueEnable(queue: number, enabled: boolean): number {
    const entry = this.queues[queue];
    if (entry === undefined) return -Errno.EINVAL;
    entry.ringEnabled = enabled;
    this.log.push(`ring ${queue} ${enabled ? 'on' : 'off'}`);
    return 0;
  }

  /** As when its process ends: every descriptor is gone. */
  destroy(): void {
    this.dmaUnmap({ iova: 0n, sizeBytes: 0, all: true });
    this.setIrqs({ index: VfioPciIrq.MSIX, start: 0, count: 0, action: 'trigger', data: 'none' });
    for (const index of this.queues.keys()) this.queueKick(index, null);
    this.#virtioReset();
  }

  #newQueue(): TestQueue {
    const addresses = [0n, 0n, 0n];
    return {
      size: this.queueSize,
      vector: NO_VECTOR,
      enabled: false,
      addresses,
      base: 0,
      kickFd: null,
      ringEnabled: undefined,
    };
  }

  #virtioReset(): void {
    this.status = 0;
    this.driverFeatures = 0n;
    this.configVector = NO_VECTOR;
    for (const queue of this.queues) Object.assign(queue, { ...this.#newQueue(), kickFd: queue.kickFd });
  }

  #commonConfig(): Uint8Array {
    const queue = this.queues[this.#queueSelect];
    const word = (mask: bigint, select: number) =>
      select > 1 ? 0 : Number((mask >> BigInt(select * 32)) & 0xffff_ffffn);
    return VirtioPciCommon.bytes({
      deviceFeatureSelect: this.#deviceSelect,
      deviceFeature: word(this.features, this.#deviceSelect),
      driverFeatureSelect: this.#driverSelect,
      driverFeature: word(this.driverFeatures, this.#driverSelect),
      configVector: this.configVector,
      queueCount: this.queues.length,
      deviceStatus: this.status,
      configGeneration: 0,
      queueSelect: this.#queueSelect,
      queueSize: queue?.size ?? 0,
      queueVector: queue?.vector ?? NO_VECTOR,
      queueEnable: queue?.enabled ? 1 : 0,
      queueNotifyOffset: this.#queueSelect,
      queueDescriptor: queue?.addresses[0] ?? 0n,
      queueDriver: queue?.addresses[1] ?? 0n,
      queueDevice: queue?.addresses[2] ?? 0n,
      queueNotifyData: 0,
      queueReset: 0,
      adminQueueIndex: 0,
      adminQueueCount: 0,
    });
  }

  #deviceConfig(): Uint8Array {
    return NetConfig.bytes({
      mac0: 0x0c,
      mac1: 0xc4,
      mac2: 0x7a,
      mac3: 0xff,
      mac4: 0x22,
      mac5: 0x93,
      status: 1,
      maxVirtqueuePairs: this.pairs,
      mtu: 1500,
      speed: 0,
      duplex: 0,
      rssMaxKeySize: 0,
      rssMaxIndirectionTableLength: 0,
      supportedHashTypes: 0,
      supportedTunnelTypes: 0,
    });
  }

  #writeCommon(offset: number, value: number): number {
    const { at } = VirtioPciCommon;
    const queue = this.queues[this.#queueSelect];
    switch (offset) {
      case at.deviceFeatureSelect:
        this.#deviceSelect = value;
        return 0;
      case at.driverFeatureSelect:
        this.#driverSelect = value;
        return 0;
      case at.driverFeature: {
        const shift = BigInt(this.#driverSelect * 32);
        this.driverFeatures = (this.driverFeatures & ~(0xffff_ffffn << shift)) | (BigInt(value) << shift);
        return 0;
      }
      case at.configVector:
        this.configVector = value < this.vectors ? value : NO_VECTOR;
        return 0;
      case at.deviceStatus:
        return this.#writeStatus(value);
      case at.queueSelect:
        this.#queueSelect = value;
        return 0;
    }
    if (queue === undefined) return 0;
    const part = [at.queueDescriptor, at.queueDriver, at.queueDevice].findIndex(
      (a) => offset === a || offset === a + 4,
    );
    if (part >= 0) {
      const high = offset % 8 === 4;
      const old = queue.addresses[part]!;
      queue.addresses[part] = high
        ? (old & 0xffff_ffffn) | (BigInt(value) << 32n)
        : (old & ~0xffff_ffffn) | BigInt(value);
    } else if (offset === at.queueSize) queue.size = value;
    else if (offset === at.queueVector) queue.vector = value < this.vectors ? value : NO_VECTOR;
    else if (offset === at.queueEnable && value === 1 && !this.refuseQueues) {
      queue.enabled = true;
      this.log.push(`enable ${this.#queueSelect}`);
    }
    return 0;
  }

  #writeStatus(value: number): number {
    if (value === 0) {
      this.log.push('status 0');
      this.#virtioReset();
      return 0;
    }
    const refused = this.refuseFeatures || (this.driverFeatures & ~this.features) !== 0n;
    const added = value & ~this.status;
    this.status = value & ~(refused ? DeviceStatus.FEATURES_OK : 0);
    if ((added & DeviceStatus.DRIVER_OK) !== 0) this.log.push('driver ok');
    return 0;
  }
}
