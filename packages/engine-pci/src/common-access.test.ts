import { VirtioPciCommon } from '@virtnet/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Bench, bytesOf, kinds, UP_TO_READY } from './test-device.fixture.js';

describe('common configuration: notifications', () => {
  const notify = (bench: Bench, offset: number, bytes: Uint8Array) =>
    bench.fn.writeRegion(0, bench.fn.layout.notify.offset + offset, bytes);

  it('a write to a queue’s register notifies that queue, whatever its width and value', () => {
    const bench = new Bench();
    bench.ready();
    for (const bytes of [bytesOf(1, 1), bytesOf(1, 2), bytesOf(0xffff_ffff, 4)])
      expect(notify(bench, 4, bytes)).toEqual([{ kind: 'queue-notify', queue: 1 }]);
    expect(notify(bench, 2, bytesOf(0, 4))).toEqual([
      { kind: 'queue-notify', queue: 0 },
      { kind: 'queue-notify', queue: 1 },
    ]);
  });

  it('G6 beyond the last queue a notification is ignored', () => {
    const bench = new Bench();
    bench.ready();
    expect(notify(bench, 12, bytesOf(3, 2))).toEqual([]);
    expect(notify(bench, 4095, bytesOf(0, 1))).toEqual([]);
  });

  it('BF-1 G16 before DRIVER_OK, after a reset, for a disabled queue and after a fault it is ignored', () => {
    const bench = new Bench();
    bench.agree();
    bench.enable(0);
    expect(notify(bench, 0, bytesOf(0, 2))).toEqual([]);
    bench.status(UP_TO_READY);
    expect(kinds(notify(bench, 0, bytesOf(0, 2)))).toEqual(['queue-notify']);
    expect(notify(bench, 4, bytesOf(1, 2))).toEqual([]);
    bench.fn.needsReset();
    expect(notify(bench, 0, bytesOf(0, 2))).toEqual([]);
    bench.status(0);
    expect(notify(bench, 0, bytesOf(0, 2))).toEqual([]);
  });
});

describe('common configuration: access widths', () => {
  it('G13 reading in any width at any offset gives the same bytes', () => {
    const bench = new Bench();
    bench.ready();
    bench.write('queueSelect', 2);
    const whole = bench.fn.readRegion(0, 0, VirtioPciCommon.sizeBytes);
    for (let width = 1; width <= 8; width++)
      for (let at = 0; at + width <= whole.length; at++)
        expect(bench.fn.readRegion(0, at, width)).toEqual(whole.slice(at, at + width));
  });

  it('G5 a vector that does not exist reads back NO_VECTOR; narrow writes add up', () => {
    const bench = new Bench();
    for (const register of ['configVector', 'queueVector'] as const) {
      bench.write(register, 3);
      expect(bench.read(register)).toBe(3);
      bench.write(register, 4);
      expect(bench.read(register)).toBe(0xffff);
      const at = VirtioPciCommon.at[register];
      bench.fn.writeRegion(0, at + 1, Uint8Array.of(0));
      bench.fn.writeRegion(0, at, Uint8Array.of(2));
      expect(bench.read(register)).toBe(2);
    }
  });

  it('a size written in two halves acts as one write', () => {
    const bench = new Bench();
    const at = VirtioPciCommon.at.queueSize;
    bench.fn.writeRegion(0, at, Uint8Array.of(0x80));
    expect(bench.read('queueSize')).toBe(256);
    bench.fn.writeRegion(0, at + 1, Uint8Array.of(0));
    expect(bench.read('queueSize')).toBe(128);
  });

  it('a half is forgotten when the register is written whole', () => {
    const bench = new Bench();
    const at = VirtioPciCommon.at.queueSize;
    bench.fn.writeRegion(0, at, Uint8Array.of(0x80));
    bench.write('queueSize', 64);
    bench.fn.writeRegion(0, at + 1, Uint8Array.of(0));
    expect(bench.read('queueSize')).toBe(64);
  });

  it('queue set-up cut into accesses of any width has the same outcome as one per register', () => {
    const image = new Uint8Array(VirtioPciCommon.sizeBytes);
    const view = new DataView(image.buffer);
    view.setUint16(VirtioPciCommon.at.queueSelect, 1, true);
    view.setUint16(VirtioPciCommon.at.queueSize, 64, true);
    view.setUint16(VirtioPciCommon.at.queueVector, 2, true);
    view.setBigUint64(VirtioPciCommon.at.queueDescriptor, 0x1_2345_6000n, true);
    view.setBigUint64(VirtioPciCommon.at.queueDriver, 0x2_3456_7000n, true);
    view.setBigUint64(VirtioPciCommon.at.queueDevice, 0x3_4567_8000n, true);
    const first = VirtioPciCommon.at.queueSelect;
    const end = VirtioPciCommon.at.queueNotifyData;
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 8 }), { minLength: 40, maxLength: 40 }), (widths) => {
        const bench = new Bench();
        bench.agree();
        let at = first;
        for (const width of widths) {
          if (at >= end) break;
          const count = Math.min(width, end - at);
          bench.fn.writeRegion(0, at, image.slice(at, at + count));
          at += count;
        }
        expect(bench.fn.queues[1]).toMatchObject({
          size: 64,
          vector: 2,
          descriptorAddress: 0x1_2345_6000n,
          driverAddress: 0x2_3456_7000n,
          deviceAddress: 0x3_4567_8000n,
        });
        expect(bench.fn.queues[0]!.size).toBe(256);
      }),
      { numRuns: 200 },
    );
  });
});
