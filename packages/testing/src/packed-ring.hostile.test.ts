/** A packed ring against a driver that lies: failure modes C1, C6, C8, C9, C12, C13, D11 and D12. */
import { GuestMemory, type MemorySlice, PackedRing } from '@virtnet/engine-virtqueue';
import { DescriptorFlag, PackedDescriptor, PackedWord } from '@virtnet/wire';
import { describe, expect, it } from 'vitest';
import { DriverMemory } from './driver-memory.js';
import { PackedDriver, type PackedEntry, placeOf } from './packed-driver.js';
import { newJournal, openPackedRing, type PackedFixture, packedFixture } from './packed-ring-fixture.js';

const { NEXT, WRITE, INDIRECT } = DescriptorFlag;

const entry = (address: bigint, fields: Partial<PackedEntry> = {}): PackedEntry => ({
  address,
  lengthBytes: 16,
  id: 0,
  flags: 0,
  ...fields,
});

/** Makes raw descriptors available from the ring's place on. */
function post({ driver, ring }: PackedFixture, entries: readonly PackedEntry[]): void {
  let place = placeOf(ring.position & 0xffff);
  for (const each of entries) {
    driver.writeDescriptor(place.index, { ...each, flags: each.flags | driver.availableFlags(place) });
    place = driver.step(place, 1);
  }
}

function table({ memory, driver }: PackedFixture, entries: readonly PackedEntry[]): bigint {
  const at = memory.allocate(entries.length * PackedDescriptor.sizeBytes);
  entries.forEach((each, i) => {
    driver.writeEntry(at, i, each);
  });
  return at;
}

function expectBroken({ ring }: PackedFixture, code: string): void {
  const { position } = ring;
  expect(ring.take()).toBe(-1);
  expect(ring.fault?.code).toBe(code);
  expect(ring.take(), 'a broken ring is not asked again').toBe(-1);
  expect(ring.available()).toBe(0);
  expect(ring.position).toBe(position);
}

/** One chain is refused for `code`, and the ring goes on `slots` further. */
function expectSkipped({ ring, driver }: PackedFixture, code: string, slots = 1): void {
  const before = placeOf(ring.position & 0xffff);
  expect(ring.take()).toBe(-1);
  expect(ring.fault?.code).toBe(code);
  expect([ring.readableCount, ring.writableCount]).toEqual([0, 0]);
  ring.give(0);
  ring.publish();
  expect(placeOf(ring.position & 0xffff)).toEqual(driver.step(before, slots));
  expect(ring.take(), 'nothing else waits, and the ring still works').toBe(0);
}

describe('packed ring, hostile driver', () => {
  it('C1 a chain without an end is cut after as many steps as the ring has entries, and breaks it', () => {
    for (const flags of [NEXT, NEXT | WRITE]) {
      for (const [chainSegmentsMax, lengthBytes] of [
        [64, 16],
        [4, 16],
        [64, 0],
      ] as const) {
        const fixture = packedFixture({ chainSegmentsMax });
        const buffer = fixture.memory.allocate(16);
        post(
          fixture,
          Array.from({ length: 16 }, () => entry(buffer, { flags, lengthBytes })),
        );
        expectBroken(fixture, 'CHAIN_LOOP');
      }
    }
  });

  it('C1 a chain through every descriptor of the ring is no loop', () => {
    const { driver, ring } = packedFixture({ nearWrap: true });
    driver.add({ readable: Array.from({ length: 16 }, () => new Uint8Array(3)) });
    driver.publish();
    expect(ring.take()).toBe(16);
    ring.give(0);
    ring.publish();
    expect(driver.collect()).toHaveLength(1);
  });

  it('PR-3 D11 a chain of three across the end of the ring: one answer, id of the last, three slots further', () => {
    for (const queueSize of [16, 17]) {
      const fixture = packedFixture({
        queueSize,
        startPosition: (((queueSize - 1) | 0x8000) * 0x1_0001) >>> 0,
      });
      const { driver, ring, memory } = fixture;
      const buffer = memory.allocate(16);
      post(fixture, [
        entry(buffer, { flags: NEXT, id: 900 }),
        entry(buffer, { flags: NEXT, id: 901 }),
        entry(buffer, { flags: WRITE, id: 902 }),
      ]);
      expect(ring.take()).toBe(3);
      expect(ring.head).toBe(902);
      ring.give(7);
      ring.publish();
      const used = PackedDescriptor.decode(
        memory.view,
        memory.at(driver.descriptorAddress) + (queueSize - 1) * 16,
      );
      expect(used).toMatchObject({ id: 902, lengthBytes: 7, flags: 0x8080 | WRITE });
      expect(placeOf(ring.position & 0xffff)).toEqual({ index: 2, wrap: 0 });
    }
  });

  it('C6 a chain longer than the device takes costs that chain only, all its slots', () => {
    const fixture = packedFixture({ queueSize: 64, chainSegmentsMax: 8 });
    const buffer = fixture.memory.allocate(16);
    post(
      fixture,
      Array.from({ length: 20 }, (_, i) => entry(buffer, { flags: i < 19 ? NEXT : 0, id: 5 })),
    );
    expectSkipped(fixture, 'CHAIN_TOO_LONG', 20);
  });

  it('C6 a table of 257 entries is refused, 256 are taken', () => {
    for (const [count, taken] of [
      [256, 256],
      [257, -1],
    ] as const) {
      const fixture = packedFixture({ chainSegmentsMax: 256 });
      const buffer = fixture.memory.allocate(16);
      const at = table(
        fixture,
        Array.from({ length: count }, () => entry(buffer)),
      );
      post(fixture, [entry(at, { flags: INDIRECT, lengthBytes: count * 16 })]);
      expect(fixture.ring.take()).toBe(taken);
    }
  });

  it('C8 an address whose end passes 2^64 is outside memory, even with memory at both ends', () => {
    const top = new DriverMemory({ sizeBytes: 4096, iova: (1n << 64n) - 4096n });
    const bottom = new DriverMemory({ sizeBytes: 4096, iova: 0n });
    const fixture = packedFixture({ otherRegions: [top.region, bottom.region] });
    post(fixture, [entry((1n << 64n) - 8n)]);
    expectSkipped(fixture, 'BUFFER_OUTSIDE_MEMORY');
    expect(fixture.ring.fault).toMatchObject({ address: (1n << 64n) - 8n, lengthBytes: 16 });
  });

  describe('C9 a malformed table is refused with its reason, and costs that chain only', () => {
    const cases: [string, Partial<PackedEntry>, boolean, number][] = [
      ['length-not-multiple-of-16', { lengthBytes: 17 }, true, 1],
      ['empty', { lengthBytes: 0 }, true, 1],
      ['too-many-entries', { lengthBytes: 4097 * 16 }, true, 1],
      ['next-flag-set', { flags: INDIRECT | NEXT, lengthBytes: 32 }, true, 2],
      ['not-negotiated', { lengthBytes: 32 }, false, 1],
    ];
    for (const [defect, fields, indirect, slots] of cases) {
      it(`${defect}, ${fields.lengthBytes} bytes`, () => {
        const fixture = packedFixture({ indirect });
        const buffer = fixture.memory.allocate(16);
        const at = table(fixture, [entry(buffer), entry(buffer)]);
        const linked = slots === 2 ? [entry(buffer)] : [];
        post(fixture, [entry(at, { flags: INDIRECT, ...fields }), ...linked]);
        expectSkipped(fixture, 'INDIRECT_MALFORMED', slots);
        expect(fixture.ring.fault).toMatchObject({ defect });
      });
    }

    it('behind a direct descriptor, which only a split ring permits', () => {
      const fixture = packedFixture();
      const buffer = fixture.memory.allocate(16);
      const at = table(fixture, [entry(buffer)]);
      post(fixture, [entry(buffer, { flags: NEXT }), entry(at, { flags: INDIRECT })]);
      expectSkipped(fixture, 'INDIRECT_MALFORMED', 2);
    });

    it('nested', () => {
      const fixture = packedFixture();
      const inner = table(fixture, [entry(fixture.memory.allocate(16))]);
      post(fixture, [entry(table(fixture, [entry(inner, { flags: INDIRECT })]), { flags: INDIRECT })]);
      expectSkipped(fixture, 'INDIRECT_MALFORMED');
      expect(fixture.ring.fault).toMatchObject({ defect: 'nested' });
    });
  });

  it('a table of a queue that only reads: WRITE is ignored, which DPDK’s driver sets for its headers', () => {
    for (const readsOnly of [true, false]) {
      const fixture = packedFixture({ readsOnly });
      const buffer = fixture.memory.allocate(16);
      const at = table(fixture, [entry(buffer, { flags: DescriptorFlag.WRITE }), entry(buffer)]);
      post(fixture, [entry(at, { flags: INDIRECT, lengthBytes: 32 })]);
      expect(fixture.ring.take()).toBe(readsOnly ? 2 : -1);
      expect([fixture.ring.readableCount, fixture.ring.writableCount]).toEqual([readsOnly ? 2 : 0, 0]);
    }
  });

  it('PR-6 D12 the entries of a table are taken one after the other, whatever their links and ids', () => {
    const fixture = packedFixture();
    const { ring, memory } = fixture;
    const buffer = memory.allocate(64);
    memory.slice(buffer, 6).set([1, 2, 3, 4, 5, 6]);
    const at = table(fixture, [
      entry(buffer, { lengthBytes: 2, flags: NEXT, id: 77 }),
      entry(buffer + 2n, { lengthBytes: 3, id: 0xffff }),
      entry(buffer + 5n, { lengthBytes: 1, flags: NEXT }),
      entry(buffer + 16n, { lengthBytes: 9, flags: WRITE }),
    ]);
    post(fixture, [entry(at, { flags: INDIRECT | WRITE, lengthBytes: 64, id: 42 })]);
    expect(ring.take()).toBe(4);
    expect([ring.readableBytes, ring.writableBytes, ring.head]).toEqual([6, 9, 42]);
    const target = new Uint8Array(6);
    ring.gather(0, target, 0, 6);
    expect([...target]).toEqual([1, 2, 3, 4, 5, 6]);
  });

  it('a table over two adjoining regions is read across the seam; one that runs into a hole is refused', () => {
    const low = new DriverMemory({ sizeBytes: 4096, iova: 0x8000_0000n, address: 0x10_0000 });
    const high = new DriverMemory({ sizeBytes: 4096, iova: 0x8000_1000n, address: 0x90_0000 });
    for (const [start, regions] of [
      [0x8000_0ff0n, [low, high]],
      [0x8000_0ff8n, [low, high]],
      [0x8000_0ff0n, [low]],
    ] as const) {
      const fixture = packedFixture({ otherRegions: regions.map(({ region }) => region) });
      const buffer = fixture.memory.allocate(32);
      const both = new GuestMemory([low.region, high.region]);
      [entry(buffer, { lengthBytes: 3 }), entry(buffer, { flags: WRITE, lengthBytes: 9 })].forEach(
        (each, i) => {
          both.copyIn(start + BigInt(i * 16), PackedDescriptor.bytes(each));
        },
      );
      post(fixture, [entry(start, { flags: INDIRECT, lengthBytes: 32 })]);
      if (regions.length === 1) expectSkipped(fixture, 'BUFFER_OUTSIDE_MEMORY');
      else {
        expect(fixture.ring.take()).toBe(2);
        expect([fixture.ring.readableBytes, fixture.ring.writableBytes]).toEqual([3, 9]);
      }
    }
  });

  it('a readable buffer after a writable one, a chain without a byte, a writable buffer in read-only memory', () => {
    const rom = new DriverMemory({ sizeBytes: 4096, iova: 0xf000_0000n, writable: false });
    const fixture = packedFixture({ otherRegions: [rom.region] });
    const buffer = fixture.memory.allocate(16);
    post(fixture, [entry(buffer, { flags: NEXT | WRITE }), entry(buffer)]);
    expectSkipped(fixture, 'CHAIN_ORDER', 2);
    post(fixture, [entry(buffer, { lengthBytes: 0 })]);
    expectSkipped(fixture, 'ZERO_LENGTH');
    post(fixture, [entry(rom.iova, { flags: WRITE })]);
    expectSkipped(fixture, 'BUFFER_READ_ONLY');
  });

  it('a driver that links more descriptors while the device works gets no more than the ring holds', () => {
    const fixture = packedFixture({ queueSize: 8 });
    const { ring, driver, memory } = fixture;
    const buffer = memory.allocate(16);
    post(
      fixture,
      Array.from({ length: 8 }, (_, id) => entry(buffer, { id })),
    );
    expect(ring.available()).toBe(8);
    for (let i = 0; i < 4; i++) {
      expect(ring.take()).toBe(1);
      ring.give(0);
    }
    // Now all eight are linked: the chain at slot 4 would run over the four that are answered and not yet visible.
    for (let i = 0; i < 8; i++) driver.writeDescriptor(i, entry(buffer, { flags: NEXT | 0x80 }));
    expectBroken(fixture, 'CHAIN_LOOP');
  });

  it('SR-2 C12 nothing but used descriptors and the event structure is written', () => {
    const fixture = packedFixture();
    const { memory, driver, ring } = fixture;
    driver.add({ readable: [new Uint8Array(64).fill(7), new Uint8Array(8)] });
    driver.publish();
    const before = memory.bytes.slice();
    expect(ring.take()).toBe(2);
    expect(ring.scatter(0, new Uint8Array(64).fill(9), 0, 64), 'no writable byte').toBe(0);
    ring.give(0);
    expect(
      memory.bytes.every((byte, i) => byte === before[i]),
      'nothing before publish',
    ).toBe(true);
    ring.publish();
    const first = memory.at(driver.descriptorAddress);
    const changed = [...before.keys()].filter((i) => before[i] !== memory.bytes[i]);
    expect(changed.length).toBeGreaterThan(0);
    expect(changed.every((i) => i >= first + 8 && i < first + 16)).toBe(true);
  });

  it('C13 D7 of a chain, address and length are read once, its flags once to see it and once to use it', () => {
    const memory = new DriverMemory({ sizeBytes: 1 << 16 });
    const driver = new PackedDriver({ memory, queueSize: 16 });
    const reads = new Map<number, number>();
    const note = (index: number) => reads.set(index, (reads.get(index) ?? 0) + 1);
    let plain: Int32Array | null = null;
    class WatchedMemory extends GuestMemory {
      override slice(iova: bigint, lengthBytes: number, alignBytes?: number): MemorySlice | null {
        const slice = super.slice(iova, lengthBytes, alignBytes);
        if (slice === null || iova !== driver.descriptorAddress) return slice;
        plain = slice.i32;
        const watched = new Proxy(plain, {
          get(target, key) {
            const index = Number(key);
            if (Number.isInteger(index)) note(index);
            return Reflect.get(target, key);
          },
        });
        Object.defineProperty(slice, 'i32', { value: watched });
        return slice;
      }
    }
    const { load } = Atomics;
    try {
      Atomics.load = ((words: Int32Array, index: number) => {
        const isTable = words.length === plain?.length;
        if (isTable) note(index);
        return load(isTable ? plain! : words, index);
      }) as typeof load;
      const ring = openPackedRing(driver, new WatchedMemory([memory.region]), {
        position: 0x8000_8000,
        journal: newJournal(),
      });
      if (!(ring instanceof PackedRing)) throw new Error(ring.code);
      reads.clear();
      driver.add({ readable: [new Uint8Array(10), new Uint8Array(20)], writable: [30] });
      driver.publish();
      expect(ring.take()).toBe(3);
      const target = new Uint8Array(30);
      ring.gather(0, target, 0, 30);
      ring.scatter(0, target, 0, 30);
      ring.give(30);
    } finally {
      Atomics.load = load;
    }
    const most = (word: number) => (word % 4 === PackedWord.ID_FLAGS ? 2 : 1);
    for (const [word, count] of reads) if (word < 12) expect(count, `word ${word}`).toBe(most(word));
    expect([...reads.keys()].filter((word) => word < 12)).toHaveLength(12);
  });

  it('descriptors that are linked after they were seen, and parted again, give no more answers than there are slots', () => {
    const fixture = packedFixture({ queueSize: 4 });
    const { ring, driver, memory } = fixture;
    const buffer = memory.allocate(16);
    post(
      fixture,
      Array.from({ length: 4 }, () => entry(buffer)),
    );
    expect(ring.available()).toBe(4);
    const flags = driver.availableFlags(placeOf(ring.position & 0xffff));
    for (const index of [0, 1]) driver.writeDescriptor(index, entry(buffer, { flags: flags | NEXT }));
    expect(ring.take()).toBe(3);
    for (const index of [0, 1]) driver.writeDescriptor(index, entry(buffer, { flags }));
    ring.give(0);
    const chains = ring.scan(8, false);
    expect(chains, 'three of the four slots have an answer already').toBeLessThanOrEqual(1);
    for (let i = 0; i < chains; i++) ring.plain.answer(i, 0);
    ring.advance(chains);
    expect(fixture.open(ring.position).position).toBe(ring.position);
    ring.publish();
    expect(fixture.open(ring.position).position).toBe(ring.position);
  });
});
