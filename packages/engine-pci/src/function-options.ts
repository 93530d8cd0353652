/** What a function is made of: the device, its ids, its vectors. */
import {
  QUEUE_COUNT_MAX,
  QUEUE_SIZE_MAX,
  VIRTIO_PCI_DEVICE_ID_BASE,
  VIRTIO_PCI_VENDOR_ID,
} from '@virtnet/wire';
import type { FunctionIdentity } from './capabilities.js';
import type { SriovRole } from './extended.js';
import { VECTORS_MAX, VECTORS_MIN } from './limits.js';
import { isQueueSize } from './queue-registers.js';
import type { CellPort, VirtioDevice } from './virtio-device.js';

export interface FunctionOptions {
  readonly device: VirtioDevice;
  /** Base class, subclass and programming interface, 8 bits each. */
  readonly classCode: number;
  /** MSI-X vectors: 0 (INTx only), or VECTORS_MIN to VECTORS_MAX. */
  readonly msixVectors: number;
  /** Default 1, the least a modern function may have (4.1.2.1). */
  readonly revision?: number;
  /** Defaults: the modern virtio ids of the device's type; the subsystem has the same. */
  readonly vendorId?: number;
  readonly deviceId?: number;
  readonly subsystemVendorId?: number;
  readonly subsystemId?: number;
  /** What the function is on an SR-IOV adapter; absent: not on one. A VF has no INTx. */
  readonly sriov?: SriovRole;
  /** Where the ISR status is kept; a private cell by default. */
  readonly isr?: CellPort;
  /** Where the configuration generation is kept; a private cell by default. */
  readonly generation?: CellPort;
}

const REVISION_MODERN = 1;
/** A cell no one else sees. */
export function privateCell(): CellPort {
  let cell = 0;
  return {
    get: () => cell,
    set: (value) => {
      cell = value;
    },
  };
}

/** Refuses a configuration no function can have; this is the program's mistake, so it throws. */
export function checkOptions({ device, msixVectors }: FunctionOptions): void {
  if (msixVectors !== 0 && !(msixVectors >= VECTORS_MIN && msixVectors <= VECTORS_MAX))
    throw new RangeError(`${msixVectors} MSI-X vectors`);
  if (!(device.queueCount >= 0 && device.queueCount <= QUEUE_COUNT_MAX))
    throw new RangeError(`${device.queueCount} queues`);
  if (!isQueueSize(device.queueSizeMax, QUEUE_SIZE_MAX, false))
    throw new RangeError(`queue size ${device.queueSizeMax}`);
}

/** The ids, defaults filled in. */
export function identityOf(options: FunctionOptions): FunctionIdentity {
  const vendorId = options.vendorId ?? VIRTIO_PCI_VENDOR_ID;
  const deviceId = options.deviceId ?? VIRTIO_PCI_DEVICE_ID_BASE + options.device.deviceType;
  return {
    vendorId,
    deviceId,
    subsystemVendorId: options.subsystemVendorId ?? vendorId,
    subsystemId: options.subsystemId ?? deviceId,
    classCode: options.classCode,
    revision: options.revision ?? REVISION_MODERN,
    hasIntx: options.sriov?.kind !== 'vf',
  };
}
