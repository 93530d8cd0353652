/** Where a split ring and its buffers may lie: failure modes A20 and C14. */
import { GuestMemory, SplitRing } from '@virtnet/engine-virtqueue';
import { DescriptorFlag, SPLIT_QUEUE_SIZE_MAX, VirtqDescriptor } from '@virtnet/wire';
import { describe, expect, it } from 'vitest';
import { DriverMemory } from './driver-memory.js';
import { SplitDriver } from './split-driver.js';
import { openSplitRing, splitFixture } from './split-ring-fixture.js';
import { descriptor, expectSkipped, post } from './split-ring-hostile.js';

const { NEXT, WRITE, INDIRECT } = DescriptorFlag;

describe('split ring, memory', () => {
  describe('A20 memory with holes and seams', () => {
    const low = () => new DriverMemory({ sizeBytes: 4096, iova: 0x8000_0000n, address: 0x10_0000 });
    const high = () => new DriverMemory({ sizeBytes: 4096, iova: 0x8000_1000n, address: 0x90_0000 });

    it('a buffer that runs from a region into a hole is refused', () => {
      const fixture = splitFixture({ otherRegions: [low().region] });
      post(fixture, [descriptor(0x8000_0ff8n, { lengthBytes: 16 })]);
      expectSkipped(fixture, 'BUFFER_OUTSIDE_MEMORY');
    });

    it('a buffer over two adjoining regions becomes two segments, each inside its region', () => {
      const [a, b] = [low(), high()];
      a.bytes.fill(1, 4090);
      b.bytes.fill(2, 0, 10);
      const fixture = splitFixture({ otherRegions: [a.region, b.region] });
      const { ring } = fixture;
      post(fixture, [descriptor(0x8000_0ffan, { lengthBytes: 16 })]);
      expect(ring.take()).toBe(2);
      expect([...ring.segmentLength.subarray(0, 2)]).toEqual([6, 10]);
      expect([...ring.segmentAddress.subarray(0, 2)]).toEqual([0x10_0ffa, 0x90_0000]);
      const target = new Uint8Array(16);
      expect(ring.gather(0, target, 0, 16)).toBe(16);
      expect([...target]).toEqual([1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]);
    });

    it('an indirect table over two adjoining regions is read across the seam, inside an entry too', () => {
      for (const start of [0x8000_0ff0n, 0x8000_0ff8n]) {
        const [a, b] = [low(), high()];
        const fixture = splitFixture({ otherRegions: [a.region, b.region] });
        const buffer = fixture.memory.allocate(32);
        const both = new GuestMemory([a.region, b.region]);
        [
          descriptor(buffer, { flags: NEXT, next: 1, lengthBytes: 3 }),
          descriptor(buffer + 16n, { flags: WRITE, lengthBytes: 9 }),
        ].forEach((entry, i) => {
          both.copyIn(start + BigInt(i * 16), VirtqDescriptor.bytes(entry));
        });
        post(fixture, [descriptor(start, { flags: INDIRECT, lengthBytes: 32 })]);
        expect(fixture.ring.take()).toBe(2);
        expect([fixture.ring.readableBytes, fixture.ring.writableBytes]).toEqual([3, 9]);
      }
    });

    it('an indirect table that runs into a hole is refused when an entry there is needed', () => {
      const a = low();
      const seamed = splitFixture({ otherRegions: [a.region] });
      const entry = descriptor(seamed.memory.iova, { flags: NEXT, next: 1 });
      a.slice(0x8000_0ff0n, 16).set(VirtqDescriptor.bytes(entry));
      post(seamed, [descriptor(0x8000_0ff0n, { flags: INDIRECT, lengthBytes: 32 })]);
      expectSkipped(seamed, 'BUFFER_OUTSIDE_MEMORY');
    });
  });

  describe('C14 ring parts the device cannot work with are refused at open', () => {
    const memory = () => new DriverMemory({ sizeBytes: 1 << 20, iova: 0x10_0000n });
    const good = {
      queueSize: 256,
      descriptorAddress: 0x10_0000n,
      driverAddress: 0x10_2000n,
      deviceAddress: 0x10_3000n,
      indirect: true,
      eventIdx: true,
      position: 0,
      chainSegmentsMax: 64,
    };
    const open = (fields: Partial<typeof good>, region = memory().region) =>
      SplitRing.open({ ...good, memory: new GuestMemory([region]), ...fields });

    it('the layout these cases depart from opens', () => {
      expect(open({})).toBeInstanceOf(SplitRing);
    });

    it.each([
      ['descriptor', 'unaligned', { descriptorAddress: 0x10_0008n }],
      ['driver', 'unaligned', { driverAddress: 0x10_2001n }],
      ['device', 'unaligned', { deviceAddress: 0x10_3002n }],
      ['descriptor', 'outside-memory', { descriptorAddress: 0x1f_f800n }],
      ['driver', 'outside-memory', { driverAddress: 0x1f_ff00n }],
      ['device', 'outside-memory', { deviceAddress: 0x1f_f800n }],
      ['device', 'outside-memory', { deviceAddress: 0n }],
      ['device', 'outside-memory', { deviceAddress: (1n << 64n) - 16n }],
      ['driver', 'overlap', { driverAddress: 0x10_0ffen }],
      ['device', 'overlap', { deviceAddress: 0x10_2200n }],
      ['device', 'overlap', { deviceAddress: 0x10_0ffcn }],
    ] as const)('%s %s', (part, defect, fields) => {
      expect(open(fields)).toMatchObject({ code: 'BAD_RING_ADDRESS', part, defect });
    });

    it('device read-only', () => {
      const rom = new DriverMemory({ sizeBytes: 1 << 20, iova: 0x10_0000n, writable: false });
      const refused = { code: 'BAD_RING_ADDRESS', part: 'device', defect: 'read-only' };
      expect(open({}, rom.region)).toMatchObject(refused);
    });

    it('a used ring that ends with its memory opens, one 4 bytes further does not', () => {
      const sizeBytes = 4 + 256 * 8 + 2;
      const last = BigInt(0x20_0000 - Math.ceil(sizeBytes / 4) * 4);
      expect(open({ deviceAddress: last })).toBeInstanceOf(SplitRing);
      expect(open({ deviceAddress: last + 4n })).toMatchObject({ defect: 'outside-memory' });
    });

    it('a size that is 0, negative, no power of two or past the largest', () => {
      for (const queueSize of [0, -4, 3, 100, 32_769, 65_536]) {
        expect(open({ queueSize })).toEqual({ code: 'BAD_QUEUE_SIZE', queueSize });
      }
      const large = new DriverMemory({ sizeBytes: 1 << 21, iova: 0x10_0000n });
      const addresses = {
        descriptorAddress: 0x10_0000n,
        driverAddress: 0x20_0000n,
        deviceAddress: 0x22_0000n,
      };
      const largest = open({ queueSize: SPLIT_QUEUE_SIZE_MAX, ...addresses }, large.region);
      expect(largest).toBeInstanceOf(SplitRing);
      const single = open({ queueSize: 1 });
      expect(single).toBeInstanceOf(SplitRing);
    });
  });

  it('a ring that crosses the seam of two pieces of one region works', () => {
    // A region from just below 1 GiB to just above it, whose descriptor table lies across the line.
    const memory = new DriverMemory({ sizeBytes: 1 << 16, iova: (1n << 30n) - 128n });
    const driver = new SplitDriver({ memory, queueSize: 16 });
    const guest = new GuestMemory([memory.region]);
    expect(guest.pieces.length).toBe(2);
    const ring = openSplitRing(driver, guest, { position: 0 });
    if (!(ring instanceof SplitRing)) throw new Error(ring.code);
    for (let i = 0; i < 16; i++) driver.add({ writable: [4] });
    driver.publish();
    while (ring.take() > 0) {
      ring.scatter(0, Uint8Array.of(1, 2, 3, 4), 0, 4);
      ring.give(4);
    }
    ring.publish();
    const used = driver.collect();
    expect(used.length).toBe(16);
    expect(used.every(({ written }) => written.join() === '1,2,3,4')).toBe(true);
  });
});
