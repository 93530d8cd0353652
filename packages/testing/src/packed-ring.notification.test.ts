/** Notification of a packed ring, both ways: PR-2, PR-4, failure modes C16, C18 and D4. */
import { PackedEventFlag } from '@virtnet/wire';
import { describe, expect, it } from 'vitest';
import { placeOf } from './packed-driver.js';
import { type PackedFixture, packedFixture, packedPosition } from './packed-ring-fixture.js';

const { ENABLE, DISABLE, DESCRIPTOR } = PackedEventFlag;

/** Adds and gives back `count` chains; what publish said. */
function burst({ driver, ring }: PackedFixture, count: number): boolean {
  for (let i = 0; i < count; i++) driver.add({ writable: [1] });
  driver.publish();
  while (ring.take() > 0) ring.give(0);
  const interrupt = ring.publish();
  driver.collect();
  return interrupt;
}

describe('packed ring, notification', () => {
  it('PR-4 C16 with EVENT_IDX, publish interrupts iff the named slot is among those passed, for every case', () => {
    let checked = 0;
    for (const queueSize of [1, 3, 4]) {
      for (const wrap of [0, 1]) {
        for (let index = 0; index < queueSize; index++) {
          for (let count = 0; count <= queueSize; count++) {
            for (let event = 0; event < 2 * queueSize; event++) {
              const fixture = packedFixture({
                queueSize,
                eventIdx: true,
                memoryBytes: 4096,
                startPosition: packedPosition(index, wrap),
              });
              const { driver, ring } = fixture;
              driver.setDriverEvent(DESCRIPTOR, {
                index: event % queueSize,
                wrap: event < queueSize ? 0 : 1,
              });
              for (let i = 0; i < count; i++) driver.add({ writable: [1] });
              driver.publish();
              while (ring.take() > 0) ring.give(0);
              const before = { index, wrap };
              const expected = driver.expectsInterrupt(before, driver.step(before, count));
              if (ring.publish() !== expected) {
                expect.fail(`size=${queueSize} at=${index}/${wrap} count=${count} event=${event}`);
              }
              checked++;
            }
          }
        }
      }
    }
    expect(checked).toBe(2 * (1 * 2 * 2 + 3 * 4 * 6 + 4 * 5 * 8));
  });

  it('without EVENT_IDX, a wish for a slot counts as a wish for all', () => {
    const fixture = packedFixture();
    fixture.driver.setDriverEvent(DESCRIPTOR, { index: 9, wrap: 0 });
    expect(burst(fixture, 1)).toBe(true);
  });

  it('a slot outside the ring is answered with an interrupt rather than with silence', () => {
    const fixture = packedFixture({ eventIdx: true });
    fixture.driver.setDriverEvent(DESCRIPTOR, { index: 300, wrap: 1 });
    expect(burst(fixture, 1)).toBe(true);
  });

  it('D4 suppressed for two and a half laps, then asked for: the next used chain interrupts', () => {
    for (const eventIdx of [false, true]) {
      const fixture = packedFixture({ queueSize: 6, eventIdx });
      fixture.driver.wantInterrupts(false);
      for (let i = 0; i < 15; i++) expect(burst(fixture, 1)).toBe(false);
      fixture.driver.wantInterrupts(true);
      expect(burst(fixture, 1)).toBe(true);
    }
  });

  it('PR-4 C16 with EVENT_IDX, the driver kicks exactly for the chain the device armed for, at every place', () => {
    const fixture = packedFixture({ queueSize: 5, eventIdx: true });
    const { driver, ring } = fixture;
    for (let i = 0; i < 23; i++) {
      expect(ring.armKicks()).toBe(false);
      expect(driver.deviceEvent).toEqual({ flags: DESCRIPTOR, place: placeOf(ring.position & 0xffff) });
      driver.add({ writable: [1] });
      expect(driver.publish(), `round ${i}`).toBe(true);
      driver.add({ writable: [1] });
      expect(driver.publish(), 'one kick is enough').toBe(false);
      while (ring.take() > 0) ring.give(0);
      ring.publish();
      driver.collect();
    }
  });

  it('an interrupt that waits is wanted until the driver suppresses them all', () => {
    for (const eventIdx of [false, true]) {
      const fixture = packedFixture({ eventIdx });
      const { driver, ring } = fixture;
      expect(burst(fixture, 1)).toBe(true);
      for (const flags of [DISABLE, ENABLE]) {
        driver.setDriverEvent(flags);
        for (let i = 0; i < 2; i++) expect(ring.wantsInterrupt()).toBe(flags === ENABLE);
      }
    }
  });

  it('PR-4 with EVENT_IDX, it is wanted while the named slot is among those passed since it was asked for', () => {
    const queueSize = 5;
    for (const wrap of [0, 1]) {
      for (let index = 0; index < queueSize; index++) {
        const startPosition = packedPosition(index, wrap);
        const fixture = packedFixture({ queueSize, eventIdx: true, startPosition });
        const { driver, ring } = fixture;
        const places = [{ index, wrap }];
        while (places.length < 2 * queueSize) places.push(driver.step(places.at(-1)!, 1));
        driver.setDriverEvent(DESCRIPTOR, places[1]!);
        expect([1, 2, 1].map((count) => burst(fixture, count))).toEqual([false, true, false]);
        for (const [offset, place] of places.entries()) {
          driver.setDriverEvent(DESCRIPTOR, place);
          expect(ring.wantsInterrupt(), `${index}/${wrap} ${offset}`).toBe(offset >= 1 && offset < 4);
        }
      }
    }
  });

  it('without EVENT_IDX, kicks are switched on and off', () => {
    const { driver, ring } = packedFixture();
    expect(driver.deviceEvent.flags).toBe(ENABLE);
    ring.suppressKicks();
    expect(driver.deviceEvent.flags).toBe(DISABLE);
    ring.armKicks();
    expect(driver.deviceEvent.flags).toBe(ENABLE);
  });

  it('PR-2 D7 a descriptor is not looked at before it is available, and not touched after it was given back', () => {
    const { driver, ring, memory } = packedFixture();
    driver.add({ writable: [4, 4] });
    expect([ring.available(), ring.take()]).toEqual([0, 0]);
    driver.publish();
    expect(ring.take()).toBe(2);
    ring.give(8);
    ring.publish();
    const after = memory.bytes.slice();
    ring.publish();
    ring.take();
    ring.available();
    expect(memory.bytes.every((byte, i) => byte === after[i])).toBe(true);
  });

  it('C18 a million looks at an empty ring find nothing, change nothing and break nothing', () => {
    const { driver, ring, memory } = packedFixture();
    const before = memory.bytes.slice();
    let found = 0;
    for (let i = 0; i < 1_000_000; i++) if (ring.take() !== 0 || ring.available() !== 0) found++;
    expect([found, ring.fault]).toEqual([0, null]);
    expect(memory.bytes.every((byte, i) => byte === before[i])).toBe(true);
    driver.add({ writable: [1] });
    driver.publish();
    expect(ring.take()).toBe(1);
  });
});
