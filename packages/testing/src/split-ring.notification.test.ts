/** Notification of a split ring, both ways: SR-4 to SR-7, failure modes C15, C16 and C18. */
import { AvailableFlag, UsedFlag } from '@virtnet/wire';
import { describe, expect, it } from 'vitest';
import { type SplitFixture, splitFixture } from './split-ring-fixture.js';

/** Adds and gives back `count` chains; what publish said. */
function burst({ driver, ring }: SplitFixture, count: number): boolean {
  for (let i = 0; i < count; i++) driver.add({ writable: [1] });
  driver.publish();
  while (ring.take() > 0) ring.give(0);
  return ring.publish();
}

/** Runs `other` before the `step`-th Atomics access of `body`, or behind its end; whether `body` had so many. */
function interleave(step: number, other: () => void, body: () => void): boolean {
  const { load, store } = Atomics;
  let steps = 0;
  let ran = false;
  const meet = () => {
    if (ran || steps++ !== step) return;
    ran = true;
    other();
  };
  Atomics.load = ((...words: Parameters<typeof load>) => {
    meet();
    return load(...words);
  }) as typeof load;
  Atomics.store = ((...words: Parameters<typeof store>) => {
    meet();
    return store(...words);
  }) as typeof store;
  try {
    body();
  } finally {
    Object.assign(Atomics, { load, store });
  }
  if (ran) return true;
  other();
  return false;
}

describe('split ring, notification', () => {
  for (const eventIdx of [false, true]) {
    const mode = eventIdx ? 'with EVENT_IDX' : 'without EVENT_IDX';

    it(`C17 ${mode}, wherever arming and adding interleave, the device finds the chain or is kicked`, () => {
      for (const deviceLast of [false, true]) {
        let within = 0;
        for (let step = 0, more = true; more; step++) {
          // Away from 0, where an avail_event nobody wrote would be the right one by chance.
          const { driver, ring } = splitFixture({ eventIdx, startIndex: 100 });
          ring.suppressKicks();
          let found = false;
          let kicked = false;
          const arm = () => {
            found = ring.armKicks();
          };
          const add = () => {
            driver.add({ writable: [1] });
            kicked = driver.publish();
          };
          more = deviceLast ? interleave(step, arm, add) : interleave(step, add, arm);
          if (more) within++;
          expect(found || kicked, `step ${step}`).toBe(true);
        }
        expect(within).toBe(2);
      }
    });

    it(`C17 ${mode}, wherever publishing and asking interleave, the driver finds the chain or is interrupted`, () => {
      for (const deviceLast of [false, true]) {
        let within = 0;
        for (let step = 0, more = true; more; step++) {
          const { driver, ring } = splitFixture({ eventIdx, startIndex: 100 });
          driver.wantInterrupts(false);
          driver.add({ writable: [1] });
          driver.publish();
          ring.take();
          ring.give(0);
          let found = false;
          let interrupted = false;
          const publish = () => {
            interrupted = ring.publish();
          };
          const ask = () => {
            driver.wantInterrupts(true);
            found = driver.usedIndex === 101;
          };
          more = deviceLast ? interleave(step, publish, ask) : interleave(step, ask, publish);
          if (more) within++;
          expect(found || interrupted, `step ${step}`).toBe(true);
        }
        expect(within).toBe(2);
      }
    });
  }

  it('SR-5 without EVENT_IDX, interrupts follow the flag and used_event is ignored', () => {
    for (const usedEvent of [0, 1, 0xffff]) {
      const fixture = splitFixture();
      fixture.driver.setUsedEvent(usedEvent);
      expect(burst(fixture, 1)).toBe(true);
      fixture.driver.setAvailableFlags(AvailableFlag.NO_INTERRUPT);
      expect(burst(fixture, 1)).toBe(false);
      fixture.driver.setAvailableFlags(0);
      expect(burst(fixture, 3)).toBe(true);
    }
  });

  it('SR-5 without EVENT_IDX, the device sets its flag to 1 while it polls and to 0 when it sleeps', () => {
    const { driver, ring } = splitFixture();
    ring.suppressKicks();
    expect(driver.usedFlags).toBe(UsedFlag.NO_NOTIFY);
    ring.armKicks();
    expect(driver.usedFlags).toBe(0);
    ring.suppressKicks();
    expect(driver.usedFlags).toBe(UsedFlag.NO_NOTIFY);
  });

  it('SR-6 with EVENT_IDX, the flag of the driver is ignored and that of the device stays 0', () => {
    const fixture = splitFixture({ eventIdx: true });
    fixture.driver.setAvailableFlags(AvailableFlag.NO_INTERRUPT);
    expect(burst(fixture, 1)).toBe(true);
    fixture.ring.suppressKicks();
    expect(fixture.driver.usedFlags).toBe(0);
    fixture.ring.armKicks();
    expect(fixture.driver.usedFlags).toBe(0);
  });

  it('SR-6 C16 with EVENT_IDX, publish interrupts iff the used index passes used_event, for every case', () => {
    const fixture = splitFixture({ eventIdx: true, startIndex: 0xffe8 });
    const { driver } = fixture;
    const around = Array.from({ length: 64 }, (_, i) => (0xffe0 + i) & 0xffff);
    // One chain that every entry of the available ring names, so that any start has work.
    driver.writeDescriptor(0, { address: fixture.memory.iova, lengthBytes: 1, flags: 0, next: 0 });
    for (let i = 0; i < 16; i++) driver.offer(0);
    let checked = 0;
    for (let start = 0xffe8; start !== 0x0018; start = (start + 1) & 0xffff) {
      for (let count = 0; count <= 16; count++) {
        driver.setAvailableIndex(start + count);
        for (const event of around) {
          driver.setUsedEvent(event);
          const ring = fixture.open(start);
          while (ring.take() > 0) ring.give(0);
          const after = (start + count) & 0xffff;
          if (ring.publish() !== driver.expectsInterrupt(start, after)) {
            expect.fail(`start=${start} count=${count} event=${event}`);
          }
          checked++;
        }
      }
    }
    expect(checked).toBe(48 * 17 * 64);
  });

  it('SR-6 C16 with EVENT_IDX, the driver kicks exactly for the chain the device armed for, at every position', () => {
    const fixture = splitFixture({ eventIdx: true, startIndex: 0xfff0 });
    const { driver, ring } = fixture;
    for (let i = 0; i < 64; i++) {
      expect(ring.armKicks()).toBe(false);
      expect(driver.availableEvent).toBe(ring.position);
      driver.add({ writable: [1] });
      expect(driver.publish(), `position ${ring.position}`).toBe(true);
      driver.add({ writable: [1] });
      expect(driver.publish(), 'one kick is enough').toBe(false);
      while (ring.take() > 0) ring.give(0);
      ring.publish();
      driver.collect();
    }
  });

  it('without EVENT_IDX, an interrupt that waits is wanted as long as the flag says so', () => {
    const fixture = splitFixture();
    const { driver, ring } = fixture;
    expect(burst(fixture, 1)).toBe(true);
    for (const flags of [AvailableFlag.NO_INTERRUPT, 0]) {
      driver.setAvailableFlags(flags);
      for (let i = 0; i < 2; i++) expect(ring.wantsInterrupt()).toBe(flags === 0);
    }
  });

  it('SR-6 with EVENT_IDX, it is wanted while used_event is among what was published since it was asked for', () => {
    for (let start = 0xfff8; start !== 8; start = (start + 1) & 0xffff) {
      const fixture = splitFixture({ eventIdx: true, startIndex: start });
      const { driver, ring } = fixture;
      driver.setUsedEvent(start + 1);
      expect([1, 2, 1].map((count) => burst(fixture, count))).toEqual([false, true, false]);
      for (let offset = -3; offset < 8; offset++) {
        driver.setUsedEvent(start + offset);
        expect(ring.wantsInterrupt(), `${start} ${offset}`).toBe(offset >= 1 && offset < 4);
      }
    }
  });

  it('SR-4 C15 the used element is in memory before the used index, and the used index only at publish', () => {
    const fixture = splitFixture({ startIndex: 65_535 });
    const { driver, ring } = fixture;
    const head = driver.add({ writable: [32] });
    driver.publish();
    ring.take();
    ring.scatter(0, new Uint8Array(20).fill(1), 0, 20);
    ring.give(20);
    expect(driver.usedIndex).toBe(65_535);
    ring.publish();
    expect(driver.usedIndex).toBe(0);
    const [used] = driver.collect();
    expect(used).toMatchObject({ id: head, lengthBytes: 20 });
    expect(used!.written.subarray(0, 20).every((byte) => byte === 1)).toBe(true);
  });

  it('SR-7 C18 a million looks at an empty ring find nothing, change nothing and break nothing', () => {
    const { driver, ring, memory } = splitFixture();
    const before = memory.bytes.slice();
    let found = 0;
    for (let i = 0; i < 1_000_000; i++) if (ring.take() !== 0 || ring.available() !== 0) found++;
    expect(found).toBe(0);
    expect(ring.fault).toBe(null);
    expect(memory.bytes.every((byte, i) => byte === before[i])).toBe(true);
    driver.add({ writable: [1] });
    driver.publish();
    expect(ring.take()).toBe(1);
  });
});
