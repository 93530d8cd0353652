/**
 * ring-contract.ts: what every device ring must do, as a suite over a factory.
 *
 * Theory
 *   A ring and its driver are made by the factory; the suite only knows DeviceRing and RingDriver, so split and
 *   packed rings pass the same tests. `open` makes a second device ring over the same memory, which is what a
 *   successor does after a crash.
 *
 * Limits  short runs: the suite takes about a second.
 */
import assert from 'node:assert/strict';
import type { DeviceRing } from '@virtnet/engine-virtqueue';
import fc from 'fast-check';
import type { DriverMemory } from './driver-memory.js';
import { POISON, type RingDriver } from './ring-driver.js';

/** The two functions of a test runner the suite needs, so that this package depends on none. */
export interface TestApi {
  describe(name: string, body: () => void): void;
  it(name: string, body: () => void): void;
}

export interface RingOptions {
  readonly queueSize: number;
  readonly eventIdx: boolean;
  /** First position, for wrap-around: as close to the end as the ring has one. */
  readonly nearWrap: boolean;
  readonly chainSegmentsMax: number;
}

export interface RingUnderTest {
  readonly driver: RingDriver;
  readonly memory: DriverMemory;
  readonly ring: DeviceRing;
  /** A new device ring over the same memory at `position`; null: it is told later. */
  open(position: number | null): DeviceRing;
}

export type RingFactory = (options: RingOptions) => RingUnderTest;

const DEFAULTS: RingOptions = { queueSize: 16, eventIdx: false, nearWrap: false, chainSegmentsMax: 64 };
const RUNS = 64;

const bytes = (...values: number[]): Uint8Array => Uint8Array.from(values);

/** Cuts `content` into parts at random places, empty parts included. */
export function framings(content: Uint8Array, partsMax: number): fc.Arbitrary<Uint8Array[]> {
  return fc
    .array(fc.integer({ min: 0, max: content.length }), { maxLength: partsMax - 1 })
    .map((cuts) => [0, ...cuts.sort((a, b) => a - b), content.length])
    .map((at) => at.slice(1).map((end, i) => content.subarray(at[i], end)));
}

function gatherAll(ring: DeviceRing): Uint8Array {
  const target = new Uint8Array(ring.readableBytes);
  assert.equal(ring.gather(0, target, 0, target.length), target.length);
  return target;
}

export function ringContract({ describe, it }: TestApi, name: string, make: RingFactory): void {
  const setUp = (options: Partial<RingOptions> = {}) => make({ ...DEFAULTS, ...options });

  describe(`ring contract (${name})`, () => {
    it('an empty ring has nothing to take, and taking changes nothing', () => {
      const { ring } = setUp();
      const before = ring.position;
      assert.equal(ring.take(), 0);
      assert.equal(ring.available(), 0);
      assert.equal(ring.position, before);
      assert.equal(ring.fault, null);
    });

    it('a chain added but not published is not taken', () => {
      const { ring, driver } = setUp();
      driver.add({ readable: [bytes(1)] });
      assert.equal(ring.take(), 0);
      driver.publish();
      assert.equal(ring.take(), 1);
    });

    it('PR-1 chains are taken in the order they were made available', () => {
      const { ring, driver } = setUp();
      for (let i = 0; i < 10; i++) driver.add({ readable: [bytes(i)] });
      driver.publish();
      for (let i = 0; i < 10; i++) {
        assert.equal(ring.take(), 1);
        assert.deepEqual(gatherAll(ring), bytes(i));
        ring.give(0);
      }
      assert.equal(ring.take(), 0);
    });

    it('SR-1 any framing of the same bytes, direct or indirect, reads as the same bytes', () => {
      const content = Uint8Array.from({ length: 150 }, (_, i) => i);
      const { ring, driver } = setUp({ queueSize: 32 });
      fc.assert(
        fc.property(framings(content, 12), fc.option(fc.integer({ min: 0, max: 12 })), (parts, indirect) => {
          const options = indirect === null ? {} : { indirectFrom: indirect };
          assert.notEqual(driver.add({ readable: parts, writable: [3, 4] }, options), -1);
          driver.publish();
          assert.ok(ring.take() > 0);
          assert.equal(ring.writableBytes, 7);
          assert.deepEqual(gatherAll(ring), content);
          ring.give(0);
          ring.publish();
          assert.equal(driver.collect()[0]!.readableIntact, true);
        }),
        { numRuns: RUNS },
      );
    });

    it('scatter over any framing writes exactly what it says, and nothing behind it', () => {
      const content = Uint8Array.from({ length: 200 }, (_, i) => i + 1);
      const { ring, driver } = setUp({ queueSize: 32 });
      const sizes = fc.array(fc.integer({ min: 0, max: 90 }), { minLength: 1, maxLength: 8 });
      fc.assert(
        fc.property(sizes, fc.integer({ min: 0, max: 60 }), (writable, offset) => {
          const room = writable.reduce((a, b) => a + b, 0);
          fc.pre(room > offset);
          driver.add({ readable: [bytes(9, 9)], writable });
          driver.publish();
          assert.ok(ring.take() > 0);
          const count = ring.scatter(offset, content, 0, content.length);
          assert.equal(count, Math.min(content.length, room - offset));
          const back = new Uint8Array(count);
          assert.equal(ring.readBack(offset, back, 0, count), count);
          assert.deepEqual(back, content.slice(0, count));
          ring.give(offset + count);
          ring.publish();
          const [used] = driver.collect();
          assert.equal(used!.lengthBytes, offset + count);
          assert.equal(used!.readableIntact, true);
          used!.written.forEach((byte, i) => {
            const inside = i >= offset && i < offset + count;
            assert.equal(byte, inside ? content[i - offset] : POISON);
          });
        }),
        { numRuns: RUNS },
      );
    });

    it('gather and scatter stop at the end of the chain and say how far they came', () => {
      const { ring, driver } = setUp();
      driver.add({ readable: [bytes(1, 2, 3)], writable: [2] });
      driver.publish();
      ring.take();
      const target = new Uint8Array(8);
      assert.equal(ring.gather(2, target, 1, 7), 1);
      assert.deepEqual(target, bytes(0, 3, 0, 0, 0, 0, 0, 0));
      assert.equal(ring.gather(3, target, 0, 8), 0);
      assert.equal(ring.scatter(1, target, 0, 8), 1);
      assert.equal(ring.scatter(2, target, 0, 8), 0);
    });

    it('words are read and written where one segment holds them all, and nothing is touched where it does not', () => {
      const { ring, driver } = setUp();
      driver.add({ readable: [bytes(1, 0, 0, 0, 2, 0, 0, 0x80, 9)], writable: [8, 4] });
      driver.publish();
      ring.take();
      const words = new Int32Array(3);
      assert.equal(ring.readWords(words, 3), false);
      assert.deepEqual([...words], [0, 0, 0]);
      assert.equal(ring.readWords(words, 2), true);
      assert.deepEqual([...words], [1, -0x7ffffffe, 0]);
      assert.equal(ring.writeWords(words, 3), false);
      assert.equal(ring.writeWords(words, 2), true);
      ring.give(8);
      ring.publish();
      const [used] = driver.collect();
      assert.deepEqual(used!.written, bytes(1, 0, 0, 0, 2, 0, 0, 0x80, POISON, POISON, POISON, POISON));
    });

    it('words of a chain without readable or without writable buffers are refused', () => {
      const { ring, driver } = setUp();
      driver.add({ readable: [new Uint8Array(16)] });
      driver.add({ writable: [16] });
      driver.publish();
      const words = new Int32Array(1);
      ring.take();
      assert.deepEqual([ring.readWords(words, 1), ring.writeWords(words, 1)], [true, false]);
      ring.give(0);
      ring.take();
      assert.deepEqual([ring.readWords(words, 1), ring.writeWords(words, 1)], [false, true]);
    });

    it('an untaken chain comes back at the next take', () => {
      const { ring, driver } = setUp();
      driver.add({ readable: [bytes(7)] });
      driver.publish();
      const before = ring.position;
      for (let i = 0; i < 3; i++) {
        assert.equal(ring.take(), 1);
        assert.deepEqual(gatherAll(ring), bytes(7));
        ring.untake();
      }
      assert.equal(ring.position, before);
    });

    it('PR-1 given chains become visible with publish, all together, in the order they were given', () => {
      const { ring, driver } = setUp();
      const ids = [1, 2, 3].map((size) => driver.add({ writable: [size] }));
      driver.publish();
      for (let i = 0; i < 3; i++) {
        ring.take();
        ring.give(0);
        assert.deepEqual(driver.collect(), []);
      }
      ring.publish();
      const used = driver.collect().map(({ id }) => id);
      assert.deepEqual(used, ids);
    });

    for (const eventIdx of [false, true]) {
      const mode = eventIdx ? 'with EVENT_IDX' : 'without EVENT_IDX';

      it(`${mode}, publish reports an interrupt exactly when the driver wants one`, () => {
        const { ring, driver } = setUp({ eventIdx });
        const turn = (): boolean => {
          driver.add({ writable: [1] });
          driver.publish();
          ring.take();
          ring.give(0);
          const interrupt = ring.publish();
          driver.collect();
          return interrupt;
        };
        driver.wantInterrupts(false);
        assert.equal(turn(), false);
        driver.wantInterrupts(true);
        assert.equal(turn(), true);
        driver.wantInterrupts(false);
        assert.equal(turn(), false);
        assert.equal(ring.publish(), false, 'nothing new, no interrupt');
      });

      it(`${mode}, armed kicks come for the next chain and suppressed ones do not`, () => {
        const { ring, driver } = setUp({ eventIdx });
        assert.equal(ring.armKicks(), false);
        driver.add({ writable: [1] });
        assert.equal(driver.publish(), true);
        ring.suppressKicks();
        ring.take();
        ring.give(0);
        ring.publish();
        driver.add({ writable: [1] });
        assert.equal(driver.publish(), false);
      });

      it(`${mode}, arming reports chains that came before the driver could see the wish`, () => {
        const { ring, driver } = setUp({ eventIdx });
        ring.suppressKicks();
        driver.add({ writable: [1] });
        driver.publish();
        assert.equal(ring.armKicks(), true);
      });

      it(`${mode}, a ring opened at another one's position continues at the same chain`, () => {
        const { ring, driver, open } = setUp({ eventIdx, nearWrap: true, queueSize: 32 });
        for (let i = 0; i < 12; i++) driver.add({ readable: [bytes(i)], writable: [1] });
        driver.publish();
        let device = ring;
        for (let i = 0; i < 12; i++) {
          assert.ok(device.take() > 0);
          assert.deepEqual(gatherAll(device).subarray(0, 1), bytes(i));
          device.give(0);
          device = open(device.position); // the former one vanishes, its last chains unpublished
          device.publish();
          assert.equal(driver.collect().length, 1);
        }
      });

      it(`${mode}, SR-8 nothing changes where indices wrap, over many laps`, () => {
        const { ring, driver } = setUp({ eventIdx, nearWrap: true, queueSize: 16 });
        let next = 0;
        let expected = 0;
        for (let lap = 0; lap < 60; lap++) {
          const burst = 1 + (lap % 8);
          for (let i = 0; i < burst; i++) driver.add({ readable: [bytes(next++ & 0xff)], writable: [2] });
          driver.publish();
          assert.equal(ring.available(), burst);
          for (let i = 0; i < burst; i++) {
            assert.equal(ring.take(), 2);
            assert.deepEqual(gatherAll(ring), bytes(expected++ & 0xff));
            ring.give(2);
          }
          ring.publish();
          assert.equal(driver.collect().length, burst);
        }
      });
    }

    it('a full ring is worked through and can be filled again', () => {
      const { ring, driver } = setUp();
      for (let round = 0; round < 3; round++) {
        while (driver.add({ writable: [1] }) >= 0);
        driver.publish();
        assert.equal(ring.available(), driver.queueSize);
        while (ring.take() > 0) ring.give(0);
        ring.publish();
        assert.equal(driver.collect().length, driver.queueSize);
      }
    });

    it('a buffer outside memory costs its chain only: it goes back empty and the next one is taken', () => {
      const { ring, driver } = setUp();
      const bad = driver.addOutside();
      const good = driver.add({ readable: [bytes(5)] });
      driver.publish();
      assert.equal(ring.take(), -1);
      assert.equal(ring.faultCode, 'BUFFER_OUTSIDE_MEMORY');
      ring.give(0);
      assert.equal(ring.take(), 1);
      assert.deepEqual(gatherAll(ring), bytes(5));
      ring.give(0);
      ring.publish();
      const used = driver.collect().map(({ id, lengthBytes }) => ({ id, lengthBytes }));
      assert.deepEqual(used, [
        { id: bad, lengthBytes: 0 },
        { id: good, lengthBytes: 0 },
      ]);
    });

    it('a chain at the segment limit is taken, one past it is refused alone', () => {
      const { ring, driver } = setUp({ chainSegmentsMax: 4 });
      const parts = (count: number) => Array.from({ length: count }, () => bytes(1));
      driver.add({ readable: parts(4) });
      driver.add({ readable: parts(5) });
      driver.add({ readable: parts(1) });
      driver.publish();
      assert.equal(ring.take(), 4);
      ring.give(0);
      assert.equal(ring.take(), -1);
      assert.equal(ring.faultCode, 'CHAIN_TOO_LONG');
      ring.give(0);
      assert.equal(ring.take(), 1);
    });

    it('a descriptor without a byte counts as a segment, in the ring or in a table', () => {
      for (const options of [{}, { indirectFrom: 0 }]) {
        const { ring, driver } = setUp({ chainSegmentsMax: 4 });
        const parts = (empties: number) => [
          new Uint8Array(0),
          bytes(7),
          ...Array.from({ length: empties }, () => new Uint8Array(0)),
        ];
        assert.notEqual(driver.add({ readable: parts(2) }, options), -1);
        assert.notEqual(driver.add({ readable: parts(3) }, options), -1);
        assert.notEqual(driver.add({ readable: parts(0), writable: [0, 0] }, options), -1);
        driver.publish();
        assert.equal(ring.take(), 1);
        assert.deepEqual(gatherAll(ring), bytes(7));
        ring.give(0);
        assert.equal(ring.take(), -1);
        assert.equal(ring.faultCode, 'CHAIN_TOO_LONG');
        ring.give(0);
        assert.equal(ring.take(), 1);
      }
    });

    describe('several current chains', () => {
      it('descriptors without a byte count over all of them', () => {
        for (const options of [{}, { indirectFrom: 0 }]) {
          const { ring, driver } = setUp({ chainSegmentsMax: 8 });
          for (let i = 0; i < 3; i++) driver.add({ writable: [5, 0, 0] }, options);
          driver.publish();
          for (let round = 0; round < 2; round++) {
            assert.equal(ring.take(), 1);
            assert.deepEqual([ring.extend(), ring.extend(), ring.extend()], [true, false, false]);
            assert.deepEqual([ring.chainCount, ring.writableCount, ring.writableBytes], [2, 2, 10]);
            ring.untake();
          }
        }
      });

      it('extending lays the next chains out behind the first; giving hands back those that were filled, in order', () => {
        const { ring, driver } = setUp();
        const ids = [5, 3, 4, 2].map((size) => driver.add({ writable: [size] }));
        driver.publish();
        assert.equal(ring.take(), 1);
        assert.deepEqual(
          [ring.extend(), ring.extend(), ring.extend(), ring.extend()],
          [true, true, true, false],
        );
        assert.deepEqual([ring.chainCount, ring.writableBytes, ring.writableCount], [4, 14, 4]);
        assert.deepEqual(
          [0, 1, 5, 6, 8, 9, 12, 13, 14].map((count) => ring.chainsFor(count)),
          [1, 1, 1, 2, 2, 3, 3, 4, 4],
        );
        assert.equal(ring.scatter(0, bytes(1, 2, 3, 4, 5, 6, 7, 8, 9, 10), 0, 10), 10);
        assert.equal(ring.giveFilled(10), 3);
        assert.deepEqual(driver.collect(), []);
        ring.publish();
        const used = driver.collect();
        assert.deepEqual(
          used.map(({ id, lengthBytes }) => [id, lengthBytes]),
          [
            [ids[0], 5],
            [ids[1], 3],
            [ids[2], 2],
          ],
        );
        assert.deepEqual(used[2]!.written, bytes(9, 10, POISON, POISON));
        assert.equal(ring.take(), 1);
        assert.equal(ring.writableBytes, 2, 'the one that was not needed is next');
      });

      it('untaken, all of them come back', () => {
        const { ring, driver } = setUp({ nearWrap: true });
        for (const size of [5, 6, 7, 8]) driver.add({ writable: [size] });
        driver.publish();
        const before = ring.position;
        for (let round = 0; round < 2; round++) {
          ring.take();
          assert.equal(ring.extend() && ring.extend(), true);
          assert.equal(ring.writableBytes, 18);
          ring.untake();
        }
        assert.equal(ring.position, before);
        assert.equal(ring.available(), 4);
      });

      it('a chain that cannot be added stays, changes nothing, and is judged when it is taken itself', () => {
        for (const bad of ['outside', 'readable', 'long'] as const) {
          const { ring, driver } = setUp({ chainSegmentsMax: 4 });
          driver.add({ writable: [5] });
          if (bad === 'outside') driver.addOutside();
          else if (bad === 'readable') driver.add({ readable: [bytes(1)], writable: [2] });
          else driver.add({ writable: [1, 1, 1, 1] });
          driver.publish();
          ring.take();
          assert.equal(ring.extend(), false);
          assert.deepEqual([ring.chainCount, ring.writableCount, ring.writableBytes], [1, 1, 5]);
          assert.equal(ring.fault, null);
          assert.equal(ring.giveFilled(5), 1);
          assert.equal(ring.take(), bad === 'outside' ? -1 : bad === 'readable' ? 2 : 4);
        }
      });

      it('frames of any sizes over buffers of any sizes: used lengths say exactly what was written, for many laps', () => {
        const { ring, driver } = setUp({ nearWrap: true, queueSize: 32 });
        const round = fc.record({
          sizes: fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 20 }),
          frame: fc.integer({ min: 1, max: 300 }),
        });
        fc.assert(
          fc.property(round, ({ sizes, frame }) => {
            for (const size of sizes) driver.add({ writable: [size] });
            driver.publish();
            while (ring.take() > 0) {
              while (ring.writableBytes < frame && ring.extend());
              const count = Math.min(frame, ring.writableBytes);
              const content = Uint8Array.from({ length: count }, (_, i) => i + 1);
              ring.scatter(0, content, 0, count);
              const chains = ring.giveFilled(count);
              ring.publish();
              const used = driver.collect();
              assert.equal(used.length, chains);
              const got = used.flatMap(({ written, lengthBytes }) => [...written.subarray(0, lengthBytes)]);
              assert.deepEqual(got, [...content]);
              for (const { written, lengthBytes } of used.slice(0, -1))
                assert.equal(lengthBytes, written.length);
            }
          }),
          { numRuns: RUNS },
        );
      });
    });

    describe('scan, answer and advance', () => {
      const answer = (ring: DeviceRing, chain: number, writtenBytes: number): number => {
        const position = ring.plain.answer(chain, writtenBytes);
        ring.advance(1);
        assert.equal(ring.position, position);
        return position;
      };
      const laidOut = (ring: DeviceRing, chain: number): Uint8Array => {
        const { pieces, offsets, lengths } = ring.plain;
        const at = offsets[chain]!;
        return ring.memory.pieces[pieces[chain]!]!.u8.slice(at, at + lengths[chain]!);
      };

      it('lays out what is one buffer, in order, and changes nothing', () => {
        const { ring, driver } = setUp();
        for (let i = 0; i < 6; i++) driver.add({ readable: [bytes(i, i + 1)] });
        assert.equal(ring.scan(64, false), 0, 'nothing is available yet');
        driver.publish();
        const before = ring.position;
        assert.equal(ring.scan(4, false), 4);
        assert.equal(ring.scan(64, false), 6);
        for (let i = 0; i < 6; i++) assert.deepEqual(laidOut(ring, i), bytes(i, i + 1));
        assert.equal(ring.position, before);
        assert.equal(ring.take(), 1);
        assert.deepEqual(gatherAll(ring), bytes(0, 1));
      });

      it('ends in front of anything else, which take() then judges', () => {
        for (const what of ['two buffers', 'table', 'other direction', 'outside'] as const)
          for (const writable of [false, true]) {
            const { ring, driver } = setUp();
            const chain = writable ? { writable: [3] } : { readable: [bytes(1, 2, 3)] };
            driver.add(chain);
            if (what === 'two buffers')
              driver.add(writable ? { writable: [3, 3] } : { readable: [bytes(1), bytes(2)] });
            else if (what === 'table') driver.add(chain, { indirectFrom: 0 });
            else if (what === 'outside') driver.addOutside();
            else driver.add(writable ? { readable: [bytes(1)] } : { writable: [3] });
            driver.add(chain);
            driver.publish();
            assert.equal(ring.scan(64, writable), 1, what);
            answer(ring, 0, 0);
            assert.equal(ring.scan(64, writable), 0, what);
            assert.equal(ring.fault, null);
            assert.equal(ring.take(), what === 'outside' ? -1 : what === 'two buffers' ? 2 : 1, what);
            ring.give(0);
            assert.equal(ring.scan(64, writable), 1, what);
          }
      });

      it('any mix of ways, for many laps: every chain comes back once, with what was written into it', () => {
        const { ring, driver } = setUp({ nearWrap: true, queueSize: 32 });
        const chain = fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 2 });
        const round = fc.record({
          chains: fc.array(chain, { minLength: 1, maxLength: 14 }),
          most: fc.integer({ min: 1, max: 5 }),
          together: fc.integer({ min: 1, max: 3 }),
          publishes: fc.boolean(),
        });
        fc.assert(
          fc.property(round, ({ chains, most, together, publishes }) => {
            const ids = chains.map((writable) => driver.add({ writable }));
            driver.publish();
            const wanted: number[] = [];
            for (;;) {
              const count = ring.scan(most, true);
              for (let at = 0; at < count; ) {
                const some = Math.min(together, count - at);
                let position = ring.position;
                for (let i = at; i < at + some; i++) {
                  const { pieces, offsets, lengths } = ring.plain;
                  wanted.push(lengths[i]!);
                  ring.memory.pieces[pieces[i]!]!.u8.fill(7, offsets[i]!, offsets[i]! + lengths[i]!);
                  position = ring.plain.answer(i, lengths[i]!);
                }
                ring.advance(some);
                assert.equal(ring.position, position);
                if (publishes) ring.publish();
                at += some;
              }
              if (ring.take() === 0) break;
              const content = new Uint8Array(ring.writableBytes).fill(7);
              wanted.push(ring.scatter(0, content, 0, content.length));
              ring.give(content.length);
            }
            ring.publish();
            const used = driver.collect();
            assert.deepEqual(
              used.map(({ id }) => id),
              ids,
            );
            assert.deepEqual(
              used.map(({ lengthBytes }) => lengthBytes),
              wanted,
            );
            for (const { written, lengthBytes } of used)
              assert.ok(lengthBytes === written.length && written.every((byte) => byte === 7));
          }),
          { numRuns: RUNS },
        );
      });

      it('what is answered is visible with publish(), and a successor goes on at the position of any answer', () => {
        for (const ahead of [false, true]) goesOn(ahead);
      });

      /** `ahead`: the successor's ring was opened before, and is told where to go on. */
      function goesOn(ahead: boolean): void {
        const { ring, driver, open } = setUp({ nearWrap: true });
        const early = open(null);
        for (const size of [5, 6, 7, 8]) driver.add({ writable: [size] });
        driver.publish();
        assert.equal(ring.scan(64, true), 4);
        answer(ring, 0, 5);
        assert.deepEqual(driver.collect(), []);
        ring.publish();
        assert.equal(driver.collect().length, 1);
        const position = [1, 2].map((chain) => ring.plain.answer(chain, 3))[1]!;
        const successor = ahead ? early : open(position); // of one that died before it could advance
        if (ahead) assert.equal(successor.resumeAt(position), null);
        assert.equal(successor.position, position);
        successor.publish();
        assert.deepEqual(
          driver.collect().map(({ lengthBytes }) => lengthBytes),
          [3, 3],
        );
        assert.equal(successor.scan(64, true), 1);
        assert.equal(successor.plain.lengths[0], 8);
      }
    });
  });
}
