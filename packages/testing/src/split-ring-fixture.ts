/** split-ring-fixture.ts: a split ring with its driver over private memory, for tests. */
import { GuestMemory, type MemoryRegion, type RingFault, SplitRing } from '@virtnet/engine-virtqueue';
import { DriverMemory } from './driver-memory.js';
import type { RingOptions, RingUnderTest } from './ring-contract.js';
import { SplitDriver } from './split-driver.js';

/** A few laps of a 16-entry ring before both indices wrap. */
const START_NEAR_WRAP = 65_530;

export interface SplitFixtureOptions extends Partial<RingOptions> {
  readonly memoryBytes?: number;
  readonly indirect?: boolean;
  readonly startIndex?: number;
  /** Memory beside the driver's own. */
  readonly otherRegions?: readonly MemoryRegion[];
  readonly buffer?: ArrayBufferLike;
}

export interface SplitFixture extends RingUnderTest {
  readonly driver: SplitDriver;
  readonly ring: SplitRing;
  open(position: number | null): SplitRing;
}

export function openSplitRing(
  driver: SplitDriver,
  memory: GuestMemory,
  options: { position: number | null; indirect?: boolean; chainSegmentsMax?: number },
): SplitRing | RingFault {
  return SplitRing.open({
    queueSize: driver.queueSize,
    memory,
    descriptorAddress: driver.descriptorAddress,
    driverAddress: driver.driverAddress,
    deviceAddress: driver.deviceAddress,
    eventIdx: driver.eventIdx,
    indirect: options.indirect ?? true,
    position: options.position,
    chainSegmentsMax: options.chainSegmentsMax ?? 64,
  });
}

export function splitFixture(options: SplitFixtureOptions = {}): SplitFixture {
  const { queueSize = 16, eventIdx = false, memoryBytes = 1 << 20 } = options;
  const startIndex = options.startIndex ?? (options.nearWrap === true ? START_NEAR_WRAP : 0);
  const memory = new DriverMemory({
    sizeBytes: memoryBytes,
    ...(options.buffer === undefined ? {} : { buffer: options.buffer }),
  });
  const driver = new SplitDriver({ memory, queueSize, eventIdx, startIndex });
  const guest = new GuestMemory([memory.region, ...(options.otherRegions ?? [])]);
  const open = (position: number | null): SplitRing => {
    const { indirect, chainSegmentsMax } = options;
    const opened = openSplitRing(driver, guest, {
      position,
      ...(indirect === undefined ? {} : { indirect }),
      ...(chainSegmentsMax === undefined ? {} : { chainSegmentsMax }),
    });
    if (!(opened instanceof SplitRing)) throw new Error(`the ring does not open: ${opened.code}`);
    return opened;
  };
  return { driver, memory, ring: open(startIndex), open };
}
