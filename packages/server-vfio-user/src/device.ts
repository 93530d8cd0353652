/**
 * device.ts: what a device must offer to be served over vfio-user.
 *
 * Theory
 *   The session turns messages into calls of this interface, one at a time and in order: a call that returns a
 *   promise holds back everything behind it. Arguments were checked against the protocol, against deviceInfo,
 *   regionInfo and irqInfo, and against each other; what they mean is the device's business.
 *
 * Invariants
 *   I1  a call answers 0 (or a value) for success, or a negative errno; it throws only for our own faults, and
 *       such an exception is not caught.
 *   I2  descriptors in an argument belong to the device when the answer is 0, and to the caller otherwise.
 *
 * Limits  sizes and counts: limits.ts.
 */

export type MaybePromise<T> = T | Promise<T>;

export interface DeviceInfo {
  /** Regions the device has, at least VFIO_PCI_REGION_COUNT for a PCI device. */
  readonly regionCount: number;
  /** Interrupt types the device has. */
  readonly irqTypeCount: number;
  /** Whether DEVICE_RESET is offered. */
  readonly resettable: boolean;
}

export interface RegionInfo {
  /** 0: the region does not exist. */
  readonly sizeBytes: number;
  readonly readable: boolean;
  readonly writable: boolean;
  /** Parts a client may map. Offering any makes QEMU wait for every write. */
  readonly mmap?: {
    readonly fd: number;
    readonly fdOffset: number;
    readonly areas: readonly { readonly offset: number; readonly sizeBytes: number }[];
  };
}

export interface IrqInfo {
  readonly count: number;
  readonly eventfd: boolean;
  readonly maskable: boolean;
  readonly automasked: boolean;
  readonly noResize: boolean;
}

export interface DmaRange {
  readonly iova: bigint;
  readonly sizeBytes: number;
}

export interface DmaMapRequest extends DmaRange {
  readonly fdOffset: number;
  readonly readable: boolean;
  readonly writable: boolean;
  /** null: memory that cannot be shared. */
  readonly fd: number | null;
}

export interface DmaUnmapRequest extends DmaRange {
  /** Everything; the range is empty then. */
  readonly all: boolean;
}

export type IrqAction = 'mask' | 'unmask' | 'trigger';

export interface IrqRequest {
  readonly index: number;
  readonly start: number;
  /** With start 0, action trigger and data none: 0 disables the whole index. */
  readonly count: number;
  readonly action: IrqAction;
  readonly data: 'none' | 'bool' | 'eventfd';
  /** With data bool: one per vector. */
  readonly values?: readonly boolean[];
  /** With data eventfd: one per vector, or none at all to take them away. */
  readonly fds?: readonly number[];
}

/** An eventfd that a client may signal instead of writing to a region. */
export interface RegionEventFd {
  readonly offset: number;
  /** Width of the write in bytes; 0: any. */
  readonly sizeBytes: number;
  readonly fd: number;
  /** The value that must be written; null: any. */
  readonly dataMatch: bigint | null;
}

export interface VfioUserDevice {
  readonly deviceInfo: DeviceInfo;
  regionInfo(index: number): RegionInfo;
  irqInfo(index: number): IrqInfo;
  /** As many bytes as asked for, or a negative errno. */
  read(region: number, offset: number, count: number): MaybePromise<Uint8Array | number>;
  /** `bytes` belongs to the session and is gone after the answer. */
  write(region: number, offset: number, bytes: Uint8Array): MaybePromise<number>;
  /** The range overlaps none that is mapped. */
  dmaMap(request: DmaMapRequest): MaybePromise<number>;
  /** The range is one that was mapped, exactly. Answers after nothing touches it any more. */
  dmaUnmap(request: DmaUnmapRequest): MaybePromise<number>;
  setIrqs(request: IrqRequest): MaybePromise<number>;
  reset(): MaybePromise<number>;
  regionIoFds(region: number): readonly RegionEventFd[];
  /** Private. null withdraws the eventfd. */
  queueKick(queue: number, fd: number | null, flags: number): MaybePromise<number>;
  /** Private. Position to take first when the queue is enabled next. */
  queueBaseSet(queue: number, base: number): MaybePromise<number>;
  /** Private. Stops the queue, waits for its worker to let go, answers its position or a negative errno. */
  queueBaseGet(queue: number): MaybePromise<number>;
  /** Private. Whether the queue may be given frames. */
  queueEnable(queue: number, enabled: boolean): MaybePromise<number>;
}
