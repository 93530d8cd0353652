import { GuestMemory, SplitRing } from '@virtnet/engine-virtqueue';
import { DescriptorFlag, deviceAreaBytes, RingWord, VirtqDescriptor } from '@virtnet/wire';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { DriverRing, NOTHING_USED, planRing, RING_FAULT } from './driver-ring.js';

const IOVA = 0x1_0000_0000n;
const SIZE = 8;
const SLOT_BYTES = 100;

/** A ring and the device's engine over the same memory. */
function pair({ eventIdx, writable }: { eventIdx: boolean; writable: boolean }) {
  const plan = planRing(SIZE, SLOT_BYTES, 0);
  const buffer = new ArrayBuffer(plan.end);
  const ring = new DriverRing({ buffer, iova: IOVA, plan, eventIdx, writable });
  const region = {
    iova: IOVA,
    sizeBytes: plan.end,
    buffer,
    byteOffset: 0,
    address: 0x7f00_0000_0000,
    writable: true,
  };
  const device = SplitRing.open({
    queueSize: SIZE,
    memory: new GuestMemory([region]),
    descriptorAddress: IOVA + BigInt(plan.descriptorAt),
    driverAddress: IOVA + BigInt(plan.driverAt),
    deviceAddress: IOVA + BigInt(plan.deviceAt),
    indirect: false,
    eventIdx,
    position: 0,
    chainSegmentsMax: 4,
  });
  if (!(device instanceof SplitRing)) throw new Error(device.code);
  const bytes = new Uint8Array(buffer);
  const used = new Uint16Array(buffer, plan.deviceAt, deviceAreaBytes(SIZE) >>> 1);
  const usedWords = new Uint32Array(buffer, plan.deviceAt, deviceAreaBytes(SIZE) >>> 2);
  return { ring, device, plan, bytes, used, usedWords, buffer };
}

describe('a ring of slots', () => {
  test('parts and slots do not overlap, and lie where they may', () => {
    const { descriptorAt, driverAt, deviceAt, slotsAt, slotBytes, end } = planRing(256, 65_569, 4097);
    expect([descriptorAt, driverAt, deviceAt, slotsAt].every((at) => at % 4096 === 0)).toBe(true);
    expect(descriptorAt).toBe(8192);
    expect(driverAt - descriptorAt).toBeGreaterThanOrEqual(256 * VirtqDescriptor.sizeBytes);
    expect(slotBytes).toBeGreaterThanOrEqual(65_569);
    expect(end).toBeGreaterThanOrEqual(slotsAt + 256 * slotBytes);
    expect(deviceAt).toBeGreaterThan(driverAt);
  });

  test.each([true, false])('the device reads what was offered, in order (EVENT_IDX %s)', (eventIdx) => {
    const { ring, device, bytes } = pair({ eventIdx, writable: false });
    for (let frame = 0; frame < 5 * SIZE; frame++) {
      const slot = ring.take();
      bytes.fill(frame, ring.slotAt(slot), ring.slotAt(slot) + 60);
      ring.offer(slot, 60);
      ring.publish();
      expect(device.take()).toBe(1);
      const read = new Uint8Array(device.readableBytes);
      device.gather(0, read, 0, read.length);
      expect(read).toEqual(new Uint8Array(60).fill(frame));
      device.give(0);
      device.publish();
      expect(ring.collect()).toBe(slot);
      ring.release(slot);
      expect(ring.collect()).toBe(NOTHING_USED);
    }
    expect(ring.held).toBe(0);
  });

  test.each([true, false])('the device writes into slots, and says how much (EVENT_IDX %s)', (eventIdx) => {
    const { ring, device, bytes, plan } = pair({ eventIdx, writable: true });
    for (let slot = ring.take(); slot >= 0; slot = ring.take()) ring.offer(slot, plan.slotBytes);
    expect(ring.held).toBe(SIZE);
    expect(ring.take()).toBe(-1);
    ring.publish();
    for (let frame = 1; frame <= 4 * SIZE; frame++) {
      expect(device.take()).toBe(1);
      expect(device.writableBytes).toBe(plan.slotBytes);
      device.scatter(0, new Uint8Array(frame).fill(frame), 0, frame);
      device.give(frame);
      device.publish();
      const slot = ring.collect();
      expect(ring.usedBytes).toBe(frame);
      expect(bytes.slice(ring.slotAt(slot), ring.slotAt(slot) + frame)).toEqual(
        new Uint8Array(frame).fill(frame),
      );
      ring.offer(slot, plan.slotBytes);
      ring.publish();
    }
  });

  test('a device that sleeps is kicked, one that works is not; a driver that sleeps is told, whatever the lengths of bursts', () => {
    fc.assert(
      fc.property(
        fc.boolean(),
        fc.array(fc.record({ burst: fc.integer({ min: 1, max: SIZE }), sleeps: fc.boolean() }), {
          maxLength: 60,
        }),
        (eventIdx, turns) => {
          const { ring, device } = pair({ eventIdx, writable: false });
          for (const { burst, sleeps } of turns) {
            if (sleeps) expect(device.armKicks()).toBe(false);
            for (let i = 0; i < burst; i++) ring.offer(ring.take(), 20);
            const kicked = ring.publish();
            if (sleeps) expect(kicked).toBe(true);
            expect(ring.interruptsOn(burst)).toBe(false);
            let told = false;
            for (let i = 0; i < burst; i++) {
              expect(device.take()).toBe(1);
              device.give(0);
              const tells = device.publish();
              if (i < burst - 1 && eventIdx) expect(tells).toBe(false);
              told ||= tells;
            }
            expect(told).toBe(true);
            expect(ring.interruptsOn(burst)).toBe(true);
            ring.interruptsOff();
            for (let slot = ring.collect(); slot >= 0; slot = ring.collect()) ring.release(slot);
          }
        },
      ),
      { numRuns: 60 },
    );
  });

  test.each([
    ['a slot it never had', (words: Uint32Array) => words.set([3, 0], 1)],
    ['a slot that is none', (words: Uint32Array) => words.set([SIZE, 0], 1)],
    ['more than the slot has room for', (words: Uint32Array) => words.set([0, 4096], 1)],
  ] as const)('a device that gives back %s has broken the ring', (_, write) => {
    const { ring, usedWords, used, plan } = pair({ eventIdx: false, writable: true });
    expect(ring.take()).toBe(0);
    ring.offer(0, plan.slotBytes);
    ring.publish();
    write(usedWords);
    used[RingWord.INDEX] = 1;
    expect(ring.collect()).toBe(RING_FAULT);
    expect(ring.held).toBe(1);
  });

  test('the same slot twice has broken the ring', () => {
    const { ring, usedWords, used } = pair({ eventIdx: false, writable: false });
    ring.offer(ring.take(), 20);
    ring.publish();
    usedWords.set([0, 0, 0, 0], 1);
    used[RingWord.INDEX] = 2;
    expect(ring.collect()).toBe(0);
    expect(ring.collect()).toBe(RING_FAULT);
  });

  test('descriptors say which direction', () => {
    for (const writable of [true, false]) {
      const { plan, buffer } = pair({ eventIdx: false, writable });
      const { address, flags } = VirtqDescriptor.decode(new DataView(buffer), plan.descriptorAt + 16 * 3);
      expect(address).toBe(IOVA + BigInt(plan.slotsAt + 3 * plan.slotBytes));
      expect(flags).toBe(writable ? DescriptorFlag.WRITE : 0);
    }
  });
});
