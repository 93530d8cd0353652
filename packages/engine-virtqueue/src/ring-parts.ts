/** Where the three parts of a ring lie, and whether they may lie there (virtio 1.3, 2.7 and 2.8; failure C14). */
import {
  descriptorAreaBytes,
  deviceAreaBytes,
  driverAreaBytes,
  PackedAlignment,
  PackedEvent,
  packedDescriptorAreaBytes,
  SplitAlignment,
} from '@virtnet/wire';
import type { RingAddressDefect, RingFault, RingPart } from './fault.js';
import type { GuestMemory, MemorySlice } from './guest-memory.js';

/** Where a driver put its ring. */
export interface RingPlace {
  readonly queueSize: number;
  readonly descriptorAddress: bigint;
  readonly driverAddress: bigint;
  readonly deviceAddress: bigint;
}

export interface RingPartsConfig extends RingPlace {
  readonly memory: GuestMemory;
}

export interface RingParts {
  readonly descriptor: MemorySlice;
  readonly driver: MemorySlice;
  readonly device: MemorySlice;
}

/** A part of a ring in the driver's memory. */
export interface RingExtent {
  readonly part: RingPart;
  readonly address: bigint;
  readonly sizeBytes: number;
  readonly alignBytes: number;
}

const refuse = ({ part, address }: RingExtent, defect: RingAddressDefect): RingFault => ({
  code: 'BAD_RING_ADDRESS',
  part,
  address,
  defect,
});

const overlap = (a: RingExtent, b: RingExtent): boolean =>
  a.address < b.address + BigInt(b.sizeBytes) && b.address < a.address + BigInt(a.sizeBytes);

/** The descriptor, driver and device area (packed: the two event structures); nothing of it is checked. */
export function ringExtents(
  config: RingPlace,
  packed: boolean,
): readonly [RingExtent, RingExtent, RingExtent] {
  const { queueSize } = config;
  const descriptor = { part: 'descriptor', address: config.descriptorAddress } as const;
  const driver = { part: 'driver', address: config.driverAddress } as const;
  const device = { part: 'device', address: config.deviceAddress } as const;
  const { sizeBytes } = PackedEvent;
  if (packed) {
    return [
      {
        ...descriptor,
        sizeBytes: packedDescriptorAreaBytes(queueSize),
        alignBytes: PackedAlignment.DESCRIPTOR,
      },
      { ...driver, sizeBytes, alignBytes: PackedAlignment.DRIVER },
      { ...device, sizeBytes, alignBytes: PackedAlignment.DEVICE },
    ];
  }
  return [
    { ...descriptor, sizeBytes: descriptorAreaBytes(queueSize), alignBytes: SplitAlignment.DESCRIPTOR },
    { ...driver, sizeBytes: driverAreaBytes(queueSize), alignBytes: SplitAlignment.DRIVER },
    { ...device, sizeBytes: deviceAreaBytes(queueSize), alignBytes: SplitAlignment.DEVICE },
  ];
}

/** Views over the parts, or the first thing wrong with them. */
export function openParts(config: RingPartsConfig, packed: boolean): RingParts | RingFault {
  const { memory } = config;
  const all = ringExtents(config, packed);
  const [descriptor, driver, device] = all;
  for (const extent of all) {
    if (extent.address % BigInt(extent.alignBytes) !== 0n) return refuse(extent, 'unaligned');
  }
  const descriptorSlice = open(memory, descriptor);
  if (descriptorSlice === null) return refuse(descriptor, 'outside-memory');
  const driverSlice = open(memory, driver);
  if (driverSlice === null) return refuse(driver, 'outside-memory');
  const deviceSlice = open(memory, device);
  if (deviceSlice === null) return refuse(device, 'outside-memory');
  if (!deviceSlice.writable) return refuse(device, 'read-only');
  // The device answers in the descriptors of a packed ring.
  if (packed && !descriptorSlice.writable) return refuse(descriptor, 'read-only');
  if (overlap(driver, descriptor)) return refuse(driver, 'overlap');
  if (overlap(device, descriptor) || overlap(device, driver)) return refuse(device, 'overlap');
  return { descriptor: descriptorSlice, driver: driverSlice, device: deviceSlice };
}

const open = (memory: GuestMemory, { address, sizeBytes, alignBytes }: RingExtent): MemorySlice | null =>
  memory.slice(address, sizeBytes, alignBytes);
