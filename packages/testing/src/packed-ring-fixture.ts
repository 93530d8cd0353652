/** packed-ring-fixture.ts: a packed ring with its driver over private memory, for tests. */
import { GuestMemory, type MemoryRegion, PackedRing, type RingFault } from '@virtnet/engine-virtqueue';
import { JOURNAL_ENTRY_WORDS, QUEUE_JOURNAL_ENTRIES } from '@virtnet/wire';
import { DriverMemory } from './driver-memory.js';
import { PackedDriver } from './packed-driver.js';
import type { RingOptions, RingUnderTest } from './ring-contract.js';

export interface PackedFixtureOptions extends Partial<RingOptions> {
  readonly memoryBytes?: number;
  readonly indirect?: boolean;
  readonly readsOnly?: boolean;
  readonly startPosition?: number;
  /** Memory beside the driver's own. */
  readonly otherRegions?: readonly MemoryRegion[];
  readonly buffer?: ArrayBufferLike;
  readonly journalEntries?: number;
}

export interface PackedFixture extends RingUnderTest {
  readonly driver: PackedDriver;
  readonly ring: PackedRing;
  readonly journal: Uint32Array;
  open(position: number | null): PackedRing;
}

/** Both sides at `index` under `wrap`. */
export const packedPosition = (index: number, wrap: number): number => {
  const half = (wrap << 15) | index;
  return ((half << 16) | half) >>> 0;
};

export const newJournal = (entries: number = QUEUE_JOURNAL_ENTRIES): Uint32Array =>
  new Uint32Array(entries * JOURNAL_ENTRY_WORDS);

export function openPackedRing(
  driver: PackedDriver,
  memory: GuestMemory,
  options: {
    position: number | null;
    journal: Uint32Array;
    indirect?: boolean;
    readsOnly?: boolean;
    chainSegmentsMax?: number;
  },
): PackedRing | RingFault {
  return PackedRing.open({
    queueSize: driver.queueSize,
    memory,
    descriptorAddress: driver.descriptorAddress,
    driverAddress: driver.driverAddress,
    deviceAddress: driver.deviceAddress,
    eventIdx: driver.eventIdx,
    indirect: options.indirect ?? true,
    readsOnly: options.readsOnly === true,
    position: options.position,
    chainSegmentsMax: options.chainSegmentsMax ?? 64,
    journal: options.journal,
  });
}

export function packedFixture(options: PackedFixtureOptions = {}): PackedFixture {
  const { queueSize = 16, eventIdx = false, memoryBytes = 1 << 20, nearWrap = false } = options;
  const startPosition = options.startPosition ?? packedPosition(nearWrap ? queueSize - 3 : 0, 1);
  const memory = new DriverMemory({
    sizeBytes: memoryBytes,
    ...(options.buffer === undefined ? {} : { buffer: options.buffer }),
  });
  const driver = new PackedDriver({ memory, queueSize, eventIdx, startPosition });
  const guest = new GuestMemory([memory.region, ...(options.otherRegions ?? [])]);
  const journal = newJournal(options.journalEntries);
  const open = (position: number | null): PackedRing => {
    const { indirect, readsOnly, chainSegmentsMax } = options;
    const opened = openPackedRing(driver, guest, {
      position,
      journal,
      ...(indirect === undefined ? {} : { indirect }),
      ...(readsOnly === undefined ? {} : { readsOnly }),
      ...(chainSegmentsMax === undefined ? {} : { chainSegmentsMax }),
    });
    if (!(opened instanceof PackedRing)) throw new Error(`the ring does not open: ${opened.code}`);
    return opened;
  };
  return { driver, memory, journal, ring: open(startPosition), open };
}
