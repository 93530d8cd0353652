/** Where a packed ring goes on: failure modes C14, D1, D2, D5, D6, D10, and rings that cannot be opened. */
import { GuestMemory, PackedRing, positionOfBase } from '@virtnet/engine-virtqueue';
import { PACKED_QUEUE_SIZE_MAX } from '@virtnet/wire';
import { describe, expect, it } from 'vitest';
import { DriverMemory } from './driver-memory.js';
import { newJournal, packedFixture, packedPosition } from './packed-ring-fixture.js';

const MEMORY_AT = 0x10_0000n;

describe('packed ring, positions', () => {
  it('D2 a position is what it was opened with, for both wrap counters and both ends of the ring', () => {
    for (const queueSize of [1, 7, 16, 1000]) {
      for (const wrap of [0, 1]) {
        for (const index of [0, queueSize - 1]) {
          const startPosition = packedPosition(index, wrap);
          const { ring, open } = packedFixture({ queueSize, startPosition });
          expect(ring.position >>> 0).toBe(startPosition);
          expect(open(ring.position).position >>> 0).toBe(startPosition);
          expect(positionOfBase(ring.position >>> 0, true)).toBe(startPosition);
        }
      }
    }
  });

  it('D2 of a base with two halves the one of the answers counts: what was taken elsewhere is worked again', () => {
    expect(positionOfBase(0x8003_0005, true)).toBe(0x8003_8003);
    expect(positionOfBase(0x0003_8005, true)).toBe(0x0003_0003);
    expect(positionOfBase(0x0000_8000, true), 'DPDK tells the lower half only').toBe(0x8000_8000);
    expect(positionOfBase(0xffff, false)).toBe(0xffff);
    expect(positionOfBase(0x1_0000, false)).toBe(null);
  });

  it('a position that is in no ring of this size is refused', () => {
    const { driver, memory } = packedFixture({ queueSize: 16 });
    const open = (position: number | null) =>
      PackedRing.open({
        queueSize: 16,
        memory: new GuestMemory([memory.region]),
        descriptorAddress: driver.descriptorAddress,
        driverAddress: driver.driverAddress,
        deviceAddress: driver.deviceAddress,
        indirect: true,
        eventIdx: true,
        chainSegmentsMax: 8,
        journal: newJournal(),
        position,
      });
    for (const position of [0x0010_0010, 0x8000_8010, 0x7fff_8000, 0xffff_ffff, 0x0004_8005]) {
      expect(open(position)).toEqual({ code: 'BAD_POSITION', position, queueSize: 16 });
    }
    const later = open(null);
    expect(later instanceof PackedRing && later.resumeAt(0x0010_0010)).toEqual({
      code: 'BAD_POSITION',
      position: 0x0010_0010,
      queueSize: 16,
    });
    // Three entries behind, of which the journal knows nothing.
    expect(open(0x8000_8003)).toMatchObject({ code: 'BAD_POSITION' });
  });

  it('D1 PR-5 every size works for three laps and more, chains of every length included', () => {
    for (const queueSize of [1, 2, 3, 5, 100, 255, 1000]) {
      const { ring, driver } = packedFixture({ queueSize });
      let done = 0;
      for (let slots = 0; slots < 3 * queueSize + 7; ) {
        const parts = 1 + (done % Math.min(queueSize, 4));
        const id = driver.add({ readable: Array.from({ length: parts }, () => Uint8Array.of(done)) });
        expect(id).toBeGreaterThanOrEqual(0);
        driver.publish();
        expect(ring.take()).toBe(parts);
        ring.give(0);
        ring.publish();
        expect(driver.collect().map((used) => used.id)).toEqual([id]);
        expect(ring.position & 0x7fff).toBe(driver.collectedPlace.index);
        slots += parts;
        done++;
      }
    }
  });

  it('D6 the largest ring works across its middle and its end', () => {
    const queueSize = PACKED_QUEUE_SIZE_MAX;
    for (const index of [16_383, queueSize - 2]) {
      const fixture = packedFixture({
        queueSize,
        memoryBytes: 1 << 21,
        startPosition: packedPosition(index, 0),
      });
      for (let round = 0; round < 4; round++) {
        const id = fixture.driver.add({ writable: [3, 4] });
        fixture.driver.publish();
        expect(fixture.ring.take()).toBe(2);
        fixture.ring.give(7);
        fixture.ring.publish();
        expect(fixture.driver.collect()).toMatchObject([{ id, lengthBytes: 7 }]);
      }
    }
  });

  describe('D10 a ring whose device vanished', () => {
    const setUp = () => {
      const fixture = packedFixture({ queueSize: 5, startPosition: packedPosition(3, 1) });
      const ids = [1, 2, 3].map((size) => fixture.driver.add({ writable: [size] }));
      fixture.driver.publish();
      for (const size of [1, 2, 3]) {
        fixture.ring.take();
        fixture.ring.scatter(0, new Uint8Array(size), 0, size);
        fixture.ring.give(size);
      }
      return { ...fixture, ids };
    };

    it('after giving and before publishing: the successor publishes the same answers', () => {
      const { ring, driver, open, ids } = setUp();
      const successor = open(ring.position);
      expect(driver.collect()).toEqual([]);
      expect(successor.publish()).toBe(true);
      expect(driver.collect().map(({ id, lengthBytes }) => [id, lengthBytes])).toEqual(
        ids.map((id, i) => [id, i + 1]),
      );
      expect(successor.publish()).toBe(false);
    });

    it('after publishing and before saying so: what the driver put there since is left alone', () => {
      const { ring, driver, open, ids } = setUp();
      const told = ring.position;
      ring.publish();
      expect(driver.collect().map(({ id }) => id)).toEqual(ids);
      const next = [4, 5, 6, 7, 8].map((size) => driver.add({ writable: [size] }));
      driver.publish();
      const successor = open(told);
      expect(successor.publish(), 'its interrupt may be missing').toBe(true);
      for (const size of [4, 5, 6, 7, 8]) {
        expect(successor.take()).toBe(1);
        expect(successor.writableBytes).toBe(size);
        successor.give(size);
      }
      successor.publish();
      expect(driver.collect().map(({ id }) => id)).toEqual(next);
    });

    it('a whole lap given and not published is published whole', () => {
      const fixture = packedFixture({ queueSize: 5 });
      const ids = [1, 2, 3, 4, 5].map((size) => fixture.driver.add({ writable: [size] }));
      fixture.driver.publish();
      while (fixture.ring.take() > 0) fixture.ring.give(1);
      const successor = fixture.open(fixture.ring.position);
      successor.publish();
      expect(fixture.driver.collect().map(({ id }) => id)).toEqual(ids);
    });

    it('a journal that does not fit the position is refused, not believed', () => {
      for (const damage of [0, 3 << 16, 0x8000_0000]) {
        const { ring, open, journal } = setUp();
        journal[2] = damage;
        expect(() => open(ring.position)).toThrow('BAD_POSITION');
      }
    });
  });

  it('D5 a burst that ends exactly at the wrap, and a journal that is full before the burst ends', () => {
    const { ring, driver } = packedFixture({ queueSize: 8, journalEntries: 3 });
    driver.wantInterrupts(true);
    for (let lap = 0; lap < 5; lap++) {
      const ids = Array.from({ length: 8 }, () => driver.add({ writable: [4] }));
      driver.publish();
      while (ring.take() > 0) ring.give(4);
      expect(driver.collect(), 'what the journal had no room for is visible early').toHaveLength(6);
      expect(ring.publish()).toBe(true);
      expect(driver.collect().map(({ id }) => id)).toEqual(ids.slice(6));
      expect(ring.position >>> 0).toBe(packedPosition(0, lap % 2));
    }
  });

  describe('C14 ring parts the device cannot work with are refused at open', () => {
    const memory = () => new DriverMemory({ sizeBytes: 1 << 20, iova: MEMORY_AT });
    const good = {
      queueSize: 100,
      descriptorAddress: 0x10_0000n,
      driverAddress: 0x10_2000n,
      deviceAddress: 0x10_3000n,
      indirect: true,
      eventIdx: true,
      position: 0x8000_8000,
      chainSegmentsMax: 64,
      journal: newJournal(),
    };
    const open = (fields: Partial<typeof good>, region = memory().region) =>
      PackedRing.open({ ...good, memory: new GuestMemory([region]), ...fields });

    it('the layout these cases depart from opens', () => {
      expect(open({})).toBeInstanceOf(PackedRing);
    });

    it.each([
      ['descriptor', 'unaligned', { descriptorAddress: 0x10_0008n }],
      ['driver', 'unaligned', { driverAddress: 0x10_2002n }],
      ['device', 'unaligned', { deviceAddress: 0x10_3002n }],
      ['descriptor', 'outside-memory', { descriptorAddress: 0x1f_fa00n }],
      ['driver', 'outside-memory', { driverAddress: 0x20_0000n }],
      ['device', 'outside-memory', { deviceAddress: (1n << 64n) - 16n }],
      ['driver', 'overlap', { driverAddress: 0x10_063cn }],
      ['device', 'overlap', { deviceAddress: 0x10_2000n }],
    ] as const)('%s %s', (part, defect, fields) => {
      expect(open(fields)).toMatchObject({ code: 'BAD_RING_ADDRESS', part, defect });
    });

    it('read-only memory: the device answers in the descriptors, too', () => {
      const rom = new DriverMemory({ sizeBytes: 1 << 20, iova: MEMORY_AT, writable: false });
      expect(open({}, rom.region)).toMatchObject({ code: 'BAD_RING_ADDRESS', defect: 'read-only' });
    });

    it('a ring that ends with its memory opens, and sizes 0 and past the largest do not', () => {
      expect(open({ descriptorAddress: 0x20_0000n - 1600n })).toBeInstanceOf(PackedRing);
      for (const queueSize of [0, -1, 32_769, 65_536])
        expect(open({ queueSize })).toEqual({ code: 'BAD_QUEUE_SIZE', queueSize });
    });
  });
});
