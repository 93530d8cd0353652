/** Where the three parts of a split ring lie, and whether they may lie there (virtio 1.3, 2.7; failure C14). */
import { descriptorAreaBytes, deviceAreaBytes, driverAreaBytes, SplitAlignment } from '@virtnet/wire';
import type { RingAddressDefect, RingFault, RingPart } from './fault.js';
import type { GuestMemory, MemorySlice } from './guest-memory.js';

export interface SplitPartsConfig {
  readonly queueSize: number;
  readonly memory: GuestMemory;
  readonly descriptorAddress: bigint;
  readonly driverAddress: bigint;
  readonly deviceAddress: bigint;
}

export interface SplitParts {
  readonly descriptor: MemorySlice;
  readonly driver: MemorySlice;
  readonly device: MemorySlice;
}

interface Extent {
  readonly part: RingPart;
  readonly address: bigint;
  readonly sizeBytes: number;
  readonly alignBytes: number;
}

const refuse = ({ part, address }: Extent, defect: RingAddressDefect): RingFault => ({
  code: 'BAD_RING_ADDRESS',
  part,
  address,
  defect,
});

const overlap = (a: Extent, b: Extent): boolean =>
  a.address < b.address + BigInt(b.sizeBytes) && b.address < a.address + BigInt(a.sizeBytes);

/** Views over the parts, or the first thing wrong with them. */
export function openParts(config: SplitPartsConfig): SplitParts | RingFault {
  const { queueSize, memory } = config;
  const descriptor: Extent = {
    part: 'descriptor',
    address: config.descriptorAddress,
    sizeBytes: descriptorAreaBytes(queueSize),
    alignBytes: SplitAlignment.DESCRIPTOR,
  };
  const driver: Extent = {
    part: 'driver',
    address: config.driverAddress,
    sizeBytes: driverAreaBytes(queueSize),
    alignBytes: SplitAlignment.DRIVER,
  };
  const device: Extent = {
    part: 'device',
    address: config.deviceAddress,
    sizeBytes: deviceAreaBytes(queueSize),
    alignBytes: SplitAlignment.DEVICE,
  };
  for (const extent of [descriptor, driver, device]) {
    if (extent.address % BigInt(extent.alignBytes) !== 0n) return refuse(extent, 'unaligned');
  }
  const descriptorSlice = open(memory, descriptor);
  if (descriptorSlice === null) return refuse(descriptor, 'outside-memory');
  const driverSlice = open(memory, driver);
  if (driverSlice === null) return refuse(driver, 'outside-memory');
  const deviceSlice = open(memory, device);
  if (deviceSlice === null) return refuse(device, 'outside-memory');
  if (!deviceSlice.writable) return refuse(device, 'read-only');
  if (overlap(driver, descriptor)) return refuse(driver, 'overlap');
  if (overlap(device, descriptor) || overlap(device, driver)) return refuse(device, 'overlap');
  return { descriptor: descriptorSlice, driver: driverSlice, device: deviceSlice };
}

const open = (memory: GuestMemory, { address, sizeBytes, alignBytes }: Extent): MemorySlice | null =>
  memory.slice(address, sizeBytes, alignBytes);
