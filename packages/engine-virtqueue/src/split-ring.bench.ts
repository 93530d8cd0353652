/**
 * split-ring.bench.ts: nanoseconds a frame costs the device's end of a split ring, driver included, on one core in
 * cache. After a build: `scripts/node packages/engine-virtqueue/dist/split-ring.bench.js [milliseconds per case]`.
 *
 * The driver does the least a driver can: descriptors and available entries are written once, and a burst is one store
 * of the index. So the figure is the device's. Processor time is measured, not time on the wall, rounds are short, and
 * the fastest is printed beside the median, because a shared machine has slow spells.
 */
import {
  DescriptorFlag,
  descriptorAreaBytes,
  deviceAreaBytes,
  driverAreaBytes,
  RingWord,
  VirtqDescriptor,
} from '@virtnet/wire';
import { GuestMemory, type MemoryRegion } from './guest-memory.js';
import { SplitRing } from './split-ring.js';

const QUEUE_SIZE = 1024;
const BURST = 64;
const ROUND_FRAMES = 200_000;
const REGION_BYTES = 16 * 2 ** 20;
const IOVA = 0x1_0000_0000n;
const HEADER_BYTES = 12;
const { NEXT, WRITE, INDIRECT } = DescriptorFlag;

const DRIVER_AT = descriptorAreaBytes(QUEUE_SIZE);
const DEVICE_AT = Math.ceil((DRIVER_AT + driverAreaBytes(QUEUE_SIZE)) / 4) * 4;
const TABLES_AT = Math.ceil((DEVICE_AT + deviceAreaBytes(QUEUE_SIZE)) / 4096) * 4096;
const BUFFERS_AT = TABLES_AT + QUEUE_SIZE * 2 * VirtqDescriptor.sizeBytes;

interface Case {
  readonly name: string;
  /** Bytes of the buffer; with `split`, the header has a descriptor of its own. */
  readonly frameBytes: number;
  readonly split?: boolean;
  readonly indirect?: boolean;
  readonly write?: boolean;
  readonly regions?: number;
  readonly eventIdx?: boolean;
  /** What is done with each chain; a number, because a function would cost a call of unknown target. */
  readonly work: (typeof Work)[keyof typeof Work];
}

const Work = {
  NOTHING: 0,
  READ_HEADER: 1,
  WRITE_HEADER: 2,
  READ_FRAME: 3,
  READ_WORDS: 4,
  WRITE_WORDS: 5,
} as const;

const header = new Uint8Array(HEADER_BYTES);
const headerWords = new Int32Array(HEADER_BYTES / 4);
const frame = new Uint8Array(65_536);
const CASES: readonly Case[] = [
  { name: 'take, give', frameBytes: 64, work: Work.NOTHING },
  { name: 'take, give, EVENT_IDX', frameBytes: 64, eventIdx: true, work: Work.NOTHING },
  { name: 'two descriptors', frameBytes: 64, split: true, work: Work.NOTHING },
  { name: 'indirect table of two', frameBytes: 64, split: true, indirect: true, work: Work.NOTHING },
  { name: 'buffers over 8 regions', frameBytes: 64, regions: 8, work: Work.NOTHING },
  { name: 'read a 12-byte header', frameBytes: 64, work: Work.READ_HEADER },
  { name: 'write a 12-byte header', frameBytes: 64, write: true, work: Work.WRITE_HEADER },
  { name: 'read it as words', frameBytes: 64, work: Work.READ_WORDS },
  { name: 'write it as words', frameBytes: 64, write: true, work: Work.WRITE_WORDS },
  { name: 'copy 64 bytes out', frameBytes: 64, work: Work.READ_FRAME },
  { name: 'copy 1500 bytes out', frameBytes: 1500, work: Work.READ_FRAME },
];

/** Lays the ring out so that entry i of the available ring always names descriptor i. */
function setUp(test: Case): { ring: SplitRing; available: Uint16Array } {
  const regionCount = test.regions ?? 1;
  const regions = Array.from({ length: regionCount }, (_, i): MemoryRegion => {
    const iova = IOVA + BigInt(i * REGION_BYTES * 2);
    const buffer = new ArrayBuffer(REGION_BYTES);
    return {
      iova,
      sizeBytes: REGION_BYTES,
      buffer,
      byteOffset: 0,
      address: 0x7f00_0000_0000,
      writable: true,
    };
  });
  const view = new DataView(regions[0]!.buffer);
  const available = new Uint16Array(regions[0]!.buffer, DRIVER_AT, driverAreaBytes(QUEUE_SIZE) >>> 1);
  const flags = test.write === true ? WRITE : 0;
  for (let i = 0; i < QUEUE_SIZE; i++) {
    available[RingWord.FIRST_ENTRY + i] =
      test.split === true && test.indirect !== true ? (i * 2) % QUEUE_SIZE : i;
    const address = regions[i % regionCount]!.iova + BigInt(BUFFERS_AT + (i >> 3) * 2048);
    const whole = { address, lengthBytes: test.frameBytes, flags, next: 0 };
    const parts = [
      { address, lengthBytes: HEADER_BYTES, flags: flags | NEXT, next: 0 },
      { address: address + BigInt(HEADER_BYTES), lengthBytes: test.frameBytes, flags, next: 0 },
    ] as const;
    const table = TABLES_AT + i * parts.length * VirtqDescriptor.sizeBytes;
    const at = i * VirtqDescriptor.sizeBytes;
    if (test.indirect === true) {
      VirtqDescriptor.encode(view, table, { ...parts[0], next: 1 });
      VirtqDescriptor.encode(view, table + VirtqDescriptor.sizeBytes, parts[1]);
      const lengthBytes = parts.length * VirtqDescriptor.sizeBytes;
      VirtqDescriptor.encode(view, at, {
        address: IOVA + BigInt(table),
        lengthBytes,
        flags: INDIRECT,
        next: 0,
      });
    } else if (test.split === true) {
      VirtqDescriptor.encode(view, at, i % 2 === 0 ? { ...parts[0], next: i + 1 } : parts[1]);
    } else VirtqDescriptor.encode(view, at, whole);
  }
  const ring = SplitRing.open({
    queueSize: QUEUE_SIZE,
    memory: new GuestMemory(regions),
    descriptorAddress: IOVA,
    driverAddress: IOVA + BigInt(DRIVER_AT),
    deviceAddress: IOVA + BigInt(DEVICE_AT),
    indirect: true,
    eventIdx: test.eventIdx === true,
    position: 0,
    chainSegmentsMax: 64,
  });
  if (!(ring instanceof SplitRing)) throw new RangeError(ring.code);
  return { ring, available };
}

function round(ring: SplitRing, available: Uint16Array, work: Case['work']): number {
  const began = process.cpuUsage().user;
  let index = ring.position;
  for (let done = 0; done < ROUND_FRAMES; done += BURST) {
    index = (index + BURST) & 0xffff;
    Atomics.store(available, RingWord.INDEX, index);
    while (ring.take() > 0) {
      if (work === Work.READ_HEADER) ring.gather(0, header, 0, HEADER_BYTES);
      else if (work === Work.WRITE_HEADER) ring.scatter(0, header, 0, HEADER_BYTES);
      else if (work === Work.READ_WORDS) ring.readWords(headerWords, headerWords.length);
      else if (work === Work.WRITE_WORDS) ring.writeWords(headerWords, headerWords.length);
      else if (work === Work.READ_FRAME) ring.gather(0, frame, 0, ring.readableBytes);
      ring.give(0);
    }
    ring.publish();
  }
  if (ring.faultCode !== null) throw new RangeError(ring.faultCode);
  return ((process.cpuUsage().user - began) * 1e3) / ROUND_FRAMES;
}

const caseMs = Number(process.argv[2] ?? 500);
const contexts = CASES.map((test) => ({ test, ...setUp(test), rounds: [] as number[] }));
for (const { ring, available, test } of contexts) round(ring, available, test.work); // compiles
// Round by round through all cases, so that a slow spell meets all of them.
for (const end = performance.now() + caseMs * CASES.length; performance.now() < end; ) {
  for (const { ring, available, test, rounds } of contexts) rounds.push(round(ring, available, test.work));
}
console.log('ns a frame           median   fastest   (burst 64, ring 1024, one core, in cache)');
for (const { test, rounds } of contexts) {
  rounds.sort((a, b) => a - b);
  const median = rounds[rounds.length >> 1]!;
  console.log(
    `${test.name.padEnd(24)} ${median.toFixed(1).padStart(6)}   ${rounds[0]!.toFixed(1).padStart(6)}`,
  );
}
