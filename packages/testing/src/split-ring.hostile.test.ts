/** A split ring against a driver that lies: failure modes C1 to C13, and the obligations that go with them. */
import { GuestMemory, type MemorySlice, SplitRing } from '@virtnet/engine-virtqueue';
import { DescriptorFlag, DescriptorWord } from '@virtnet/wire';
import { describe, expect, it } from 'vitest';
import { DriverMemory } from './driver-memory.js';
import { type Descriptor, SplitDriver } from './split-driver.js';
import { openSplitRing, splitFixture } from './split-ring-fixture.js';
import { descriptor, expectBroken, expectSkipped, post, table } from './split-ring-hostile.js';

const { NEXT, WRITE, INDIRECT } = DescriptorFlag;

describe('split ring, hostile driver', () => {
  describe('C1 a chain that loops is cut after as many steps as its table has entries, and breaks the ring', () => {
    it('a descriptor that names itself', () => {
      const fixture = splitFixture();
      const buffer = fixture.memory.allocate(16);
      post(fixture, [descriptor(buffer, { flags: NEXT, next: 0 })]);
      expectBroken(fixture, 'CHAIN_LOOP');
    });

    it('two descriptors that name each other', () => {
      const fixture = splitFixture();
      const buffer = fixture.memory.allocate(16);
      post(fixture, [
        descriptor(buffer, { flags: NEXT, next: 1 }),
        descriptor(buffer, { flags: NEXT, next: 0 }),
      ]);
      expectBroken(fixture, 'CHAIN_LOOP');
    });

    it('a cycle inside an indirect table', () => {
      const fixture = splitFixture();
      const buffer = fixture.memory.allocate(16);
      const at = table(fixture, [
        descriptor(buffer, { flags: NEXT, next: 1 }),
        descriptor(buffer, { flags: NEXT, next: 0 }),
      ]);
      post(fixture, [descriptor(at, { flags: INDIRECT, lengthBytes: 32 })]);
      expectBroken(fixture, 'CHAIN_LOOP');
    });

    it('a loop of writable descriptors without a byte', () => {
      const fixture = splitFixture();
      post(fixture, [descriptor(0n, { flags: NEXT | WRITE, next: 0, lengthBytes: 0 })]);
      expectBroken(fixture, 'CHAIN_LOOP');
    });

    it('a loop in a ring that has more entries than a chain may have segments', () => {
      const fixture = splitFixture({ queueSize: 256, chainSegmentsMax: 8 });
      const buffer = fixture.memory.allocate(16);
      post(fixture, [
        descriptor(buffer, { flags: NEXT, next: 1 }),
        descriptor(buffer, { flags: NEXT, next: 0 }),
      ]);
      expectBroken(fixture, 'CHAIN_LOOP');
    });
  });

  it('C1 a chain through every descriptor of the ring, or of a table, is no loop', () => {
    const whole = splitFixture();
    const parts = Array.from({ length: 16 }, () => new Uint8Array(3));
    whole.driver.add({ readable: parts });
    whole.driver.publish();
    expect(whole.ring.take()).toBe(16);
    const indirect = splitFixture();
    indirect.driver.add({ readable: parts }, { indirectFrom: 0 });
    indirect.driver.publish();
    expect(indirect.ring.take()).toBe(16);
  });

  it('C2 next past the table breaks the ring', () => {
    for (const nextIndex of [16, 0xffff]) {
      const fixture = splitFixture();
      post(fixture, [descriptor(fixture.memory.allocate(16), { flags: NEXT, next: nextIndex })]);
      expectBroken(fixture, 'NEXT_OUT_OF_RANGE');
      expect(fixture.ring.fault).toMatchObject({ nextIndex, tableSize: 16 });
    }
  });

  it('C2 next past an indirect table breaks the ring', () => {
    const fixture = splitFixture();
    const at = table(fixture, [descriptor(fixture.memory.allocate(16), { flags: NEXT, next: 1 })]);
    post(fixture, [descriptor(at, { flags: INDIRECT, lengthBytes: 16 })]);
    expectBroken(fixture, 'NEXT_OUT_OF_RANGE');
  });

  it('C3 a head past the table breaks the ring', () => {
    for (const head of [16, 0xffff]) {
      const fixture = splitFixture();
      post(fixture, [], head);
      expectBroken(fixture, 'HEAD_OUT_OF_RANGE');
    }
  });

  it('C4 an available index more than the queue size ahead breaks the ring; exactly the queue size does not', () => {
    const full = splitFixture();
    const buffer = full.memory.allocate(16);
    for (let i = 0; i < 16; i++) full.driver.writeDescriptor(i, descriptor(buffer));
    full.driver.setAvailableIndex(16);
    expect(full.ring.take()).toBe(1);

    for (const ahead of [17, 0x8000, 0xffff]) {
      const fixture = splitFixture();
      fixture.driver.setAvailableIndex(ahead);
      expect(fixture.ring.available()).toBe(16);
      expectBroken(fixture, 'AVAILABLE_INDEX_JUMP');
    }
  });

  it('C5 the same head posted twice is worked twice, within the bound of the ring', () => {
    const fixture = splitFixture();
    fixture.driver.writeDescriptor(3, descriptor(fixture.memory.allocate(16)));
    fixture.driver.offer(3);
    fixture.driver.offer(3);
    fixture.driver.publish();
    const { ring } = fixture;
    for (let i = 0; i < 2; i++) {
      expect(ring.take()).toBe(1);
      expect(ring.head).toBe(3);
      ring.give(0);
    }
    expect(ring.take()).toBe(0);
    ring.publish();
    expect(fixture.driver.usedIndex).toBe(2);
  });

  it('C6 a chain of 257 descriptors through an indirect table of 1024 is refused, 256 are taken', () => {
    for (const [count, taken] of [
      [256, 256],
      [257, -1],
    ] as const) {
      const fixture = splitFixture({ queueSize: 256, chainSegmentsMax: 256 });
      const buffer = fixture.memory.allocate(16);
      const entries = Array.from({ length: 1024 }, (_, i) =>
        descriptor(buffer, i < count - 1 ? { flags: NEXT, next: i + 1 } : {}),
      );
      const at = table(fixture, entries);
      post(fixture, [descriptor(at, { flags: INDIRECT, lengthBytes: 1024 * 16 })]);
      expect(fixture.ring.take()).toBe(taken);
      expect(fixture.ring.faultCode).toBe(taken === -1 ? 'CHAIN_TOO_LONG' : null);
    }
  });

  it('C6 a direct chain longer than the device takes costs that chain only', () => {
    const fixture = splitFixture({ queueSize: 64, chainSegmentsMax: 8 });
    const buffer = fixture.memory.allocate(16);
    const chain = Array.from({ length: 20 }, (_, i) =>
      descriptor(buffer, i < 19 ? { flags: NEXT, next: i + 1 } : {}),
    );
    post(fixture, chain);
    expectSkipped(fixture, 'CHAIN_TOO_LONG');
  });

  it('C8 an address whose end passes 2^64 is outside memory, even with memory at both ends', () => {
    const top = new DriverMemory({ sizeBytes: 4096, iova: (1n << 64n) - 4096n });
    const bottom = new DriverMemory({ sizeBytes: 4096, iova: 0n });
    for (const address of [(1n << 64n) - 8n, (1n << 64n) - 1n]) {
      const fixture = splitFixture({ otherRegions: [top.region, bottom.region] });
      post(fixture, [descriptor(address, { lengthBytes: 16 })]);
      expectSkipped(fixture, 'BUFFER_OUTSIDE_MEMORY');
      expect(fixture.ring.fault).toMatchObject({ address, lengthBytes: 16 });
    }
    const exact = splitFixture({ otherRegions: [top.region] });
    post(exact, [descriptor((1n << 64n) - 16n, { lengthBytes: 16 })]);
    expect(exact.ring.take()).toBe(1);
  });

  it('C8 a length of 4 GiB - 1 is outside memory and costs no walk', () => {
    const fixture = splitFixture();
    post(fixture, [descriptor(fixture.memory.iova, { lengthBytes: 0xffff_ffff })]);
    expectSkipped(fixture, 'BUFFER_OUTSIDE_MEMORY');
  });

  describe('C9 a malformed indirect table is refused with its reason, and costs that chain only', () => {
    const entries = 2;
    const cases: [string, Partial<Descriptor>, boolean][] = [
      ['length-not-multiple-of-16', { lengthBytes: 17 }, true],
      ['length-not-multiple-of-16', { lengthBytes: 15 }, true],
      ['empty', { lengthBytes: 0 }, true],
      ['too-many-entries', { lengthBytes: 4097 * 16 }, true],
      ['next-flag-set', { flags: INDIRECT | NEXT, next: 1, lengthBytes: 32 }, true],
      ['not-negotiated', { lengthBytes: 32 }, false],
    ];
    for (const [defect, fields, indirect] of cases) {
      it(`${defect}, ${fields.lengthBytes} bytes`, () => {
        const fixture = splitFixture({ indirect, queueSize: 64 });
        const buffer = fixture.memory.allocate(16);
        const at = table(
          fixture,
          Array.from({ length: entries }, () => descriptor(buffer)),
        );
        post(fixture, [descriptor(at, { flags: INDIRECT, ...fields }), descriptor(buffer)]);
        expectSkipped(fixture, 'INDIRECT_MALFORMED');
        expect(fixture.ring.fault).toMatchObject({ defect });
      });
    }

    it('nested', () => {
      const fixture = splitFixture();
      const inner = table(fixture, [descriptor(fixture.memory.allocate(16))]);
      const at = table(fixture, [descriptor(inner, { flags: INDIRECT })]);
      post(fixture, [descriptor(at, { flags: INDIRECT, lengthBytes: 16 })]);
      expectSkipped(fixture, 'INDIRECT_MALFORMED');
      expect(fixture.ring.fault).toMatchObject({ defect: 'nested' });
    });

    it('4096 entries are still taken', () => {
      const fixture = splitFixture();
      const entries = Array.from({ length: 4096 }, () => descriptor(fixture.memory.iova));
      const at = table(fixture, entries);
      post(fixture, [descriptor(at, { flags: INDIRECT, lengthBytes: 4096 * 16 })]);
      expect(fixture.ring.take()).toBe(1);
    });
  });

  it('SR-3 WRITE on a descriptor that refers to an indirect table is ignored', () => {
    const fixture = splitFixture();
    const at = table(fixture, [descriptor(fixture.memory.allocate(16), { lengthBytes: 10 })]);
    post(fixture, [descriptor(at, { flags: INDIRECT | WRITE, lengthBytes: 16 })]);
    expect(fixture.ring.take()).toBe(1);
    expect([fixture.ring.readableBytes, fixture.ring.writableBytes]).toEqual([10, 0]);
  });

  it('SR-3 C10 direct descriptors followed by one indirect table make one chain', () => {
    const fixture = splitFixture();
    const { ring, driver } = fixture;
    const readable = [Uint8Array.of(1, 2), Uint8Array.of(3), Uint8Array.of(4, 5)];
    driver.add({ readable, writable: [6] }, { indirectFrom: 2 });
    driver.publish();
    expect(ring.take()).toBe(4);
    const target = new Uint8Array(5);
    ring.gather(0, target, 0, 5);
    expect([...target]).toEqual([1, 2, 3, 4, 5]);
  });

  it('C10 after an indirect chain, a direct one is bounded by the ring again and not by the former table', () => {
    const fixture = splitFixture();
    const buffer = fixture.memory.allocate(16);
    const at = table(fixture, [descriptor(buffer)]);
    post(fixture, [descriptor(at, { flags: INDIRECT, lengthBytes: 16 })]);
    expect(fixture.ring.take()).toBe(1);
    fixture.ring.give(0);
    post(fixture, [
      descriptor(buffer, { flags: NEXT, next: 1 }),
      descriptor(buffer, { flags: NEXT, next: 15 }),
    ]);
    fixture.driver.writeDescriptor(15, descriptor(buffer));
    expect(fixture.ring.take()).toBe(3);
  });

  it('SR-2 C12 readable buffers, descriptors and the available ring are never written', () => {
    const fixture = splitFixture();
    const { memory, driver, ring } = fixture;
    driver.add({ readable: [new Uint8Array(64).fill(7)] });
    driver.publish();
    const before = memory.bytes.slice();
    expect(ring.take()).toBe(1);
    expect(ring.scatter(0, new Uint8Array(64).fill(9), 0, 64), 'no writable byte').toBe(0);
    ring.give(0);
    ring.publish();
    const device = memory.at(driver.deviceAddress);
    const changed = [...before.keys()].filter((i) => before[i] !== memory.bytes[i]);
    expect(changed.length).toBeGreaterThan(0);
    expect(changed.every((i) => i >= device && i < device + 4 + 16 * 8 + 2)).toBe(true);
  });

  it('a readable buffer after a writable one costs the chain', () => {
    const fixture = splitFixture();
    const buffer = fixture.memory.allocate(16);
    post(fixture, [descriptor(buffer, { flags: NEXT | WRITE, next: 1 }), descriptor(buffer)]);
    expectSkipped(fixture, 'CHAIN_ORDER');
  });

  it('a writable buffer in memory the device may only read costs the chain; a readable one there is taken', () => {
    const rom = new DriverMemory({ sizeBytes: 4096, iova: 0xf000_0000n, writable: false });
    const readOnly = splitFixture({ otherRegions: [rom.region] });
    post(readOnly, [descriptor(rom.iova, { flags: WRITE })]);
    expectSkipped(readOnly, 'BUFFER_READ_ONLY');
    const read = splitFixture({ otherRegions: [rom.region] });
    post(read, [descriptor(rom.iova)]);
    expect(read.ring.take()).toBe(1);
  });

  it('a chain without a byte is refused, one empty descriptor among others adds nothing', () => {
    const empty = splitFixture();
    post(empty, [descriptor(empty.memory.iova, { lengthBytes: 0 })]);
    expectSkipped(empty, 'ZERO_LENGTH');
    const mixed = splitFixture();
    const buffer = mixed.memory.allocate(16);
    post(mixed, [
      descriptor(buffer, { flags: NEXT, next: 1, lengthBytes: 0 }),
      descriptor(buffer, { lengthBytes: 5 }),
    ]);
    expect(mixed.ring.take()).toBe(1);
    expect(mixed.ring.readableBytes).toBe(5);
  });

  it('C13 every word of a descriptor is read at most once for a chain', () => {
    const memory = new DriverMemory({ sizeBytes: 1 << 16 });
    const driver = new SplitDriver({ memory, queueSize: 16 });
    const reads = new Map<number, number>();
    const counting = (words: Int32Array): Int32Array =>
      new Proxy(words, {
        get(target, key) {
          const index = Number(key);
          if (Number.isInteger(index)) reads.set(index, (reads.get(index) ?? 0) + 1);
          return Reflect.get(target, key);
        },
      });
    class WatchedMemory extends GuestMemory {
      override slice(iova: bigint, lengthBytes: number, alignBytes?: number): MemorySlice | null {
        const slice = super.slice(iova, lengthBytes, alignBytes);
        if (slice !== null && iova === driver.descriptorAddress) {
          Object.defineProperty(slice, 'i32', { value: counting(slice.i32) });
        }
        return slice;
      }
    }
    const ring = openSplitRing(driver, new WatchedMemory([memory.region]), { position: 0 });
    if (!(ring instanceof SplitRing)) throw new Error(ring.code);
    driver.add({ readable: [new Uint8Array(10), new Uint8Array(20)], writable: [30] });
    driver.publish();
    expect(ring.take()).toBe(3);
    const target = new Uint8Array(30);
    ring.gather(0, target, 0, 30);
    ring.scatter(0, target, 0, 30);
    ring.give(30);
    expect(reads.size).toBe(3 * (DescriptorWord.FLAGS_NEXT + 1));
    expect([...reads.values()].every((count) => count === 1)).toBe(true);
  });
});
