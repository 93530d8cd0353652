/** The switch against a naive one: a list of stations, searched from front to back. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Eswitch, SWITCHED_HEAD_BYTES, Verdict } from './eswitch.js';
import { PORTS_MAX } from './limits.js';

const AGEING = 10;
const STATIONS = 12;
const PER_PORT = 5;

const station = (number: number): number[] => [2, 0, 0, 0, number >> 8, number & 0xff];
const BROADCAST = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
const MULTICAST = [1, 0, 0x5e, 0, 0, 1];

function head(destination: readonly number[], source: readonly number[], vlan: number | null): Uint8Array {
  const bytes = new Uint8Array(SWITCHED_HEAD_BYTES);
  bytes.set(destination);
  bytes.set(source, 6);
  if (vlan !== null) bytes.set([0x81, 0, 0x60 | (vlan >> 8), vlan & 0xff], 12);
  return bytes;
}

/** What the switch should do, as one would write it down first. */
class NaiveSwitch {
  readonly ports = new Set<number>();
  stations: { key: string; port: number; heard: number }[] = [];
  now = 0;

  tick(now: number): void {
    this.now = now;
    this.stations = this.stations.filter(({ heard }) => heard >= now - AGEING);
  }

  remove(port: number): void {
    this.ports.delete(port);
    this.stations = this.stations.filter((entry) => entry.port !== port);
  }

  decide(port: number, destination: readonly number[], source: readonly number[], vlan: number): number {
    this.#hear(port, `${source}/${vlan}`);
    const group = (destination[0]! & 1) === 1;
    const found = this.stations.find(({ key }) => key === `${destination}/${vlan}`);
    if (!group && found !== undefined) return found.port === port ? Verdict.SAME_PORT : found.port;
    return this.ports.size > 1 ? Verdict.FLOOD : Verdict.NO_DESTINATION;
  }

  #hear(port: number, key: string): void {
    const known = this.stations.find((entry) => entry.key === key);
    if (known?.port === port) {
      known.heard = this.now;
      return;
    }
    const others = this.stations.filter((entry) => entry.key !== key);
    const full = others.filter((entry) => entry.port === port).length >= PER_PORT;
    if (full) this.stations = others;
    else if (known !== undefined) this.stations = [...others, { key, port, heard: this.now }];
    else if (others.length < STATIONS) this.stations.push({ key, port, heard: this.now });
  }
}

const ports = fc.integer({ min: 0, max: 5 });
const vlans = fc.constantFrom(null, 0, 1, 4094);
const steps = fc.oneof(
  {
    weight: 20,
    arbitrary: fc.record({
      kind: fc.constant('frame' as const),
      port: ports,
      vlan: vlans,
      source: fc.integer({ min: 1, max: 12 }),
      destination: fc.integer({ min: 0, max: 14 }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('add' as const), port: ports }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('remove' as const), port: ports }) },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant('wait' as const), seconds: fc.integer({ min: 1, max: 14 }) }),
  },
);

const destinationOf = (number: number): number[] =>
  number === 0 ? BROADCAST : number === 1 ? MULTICAST : station(number - 1);

describe('eswitch', () => {
  it('decides as the naive switch does: learning, moves, ageing, limits, ports that come and go', () => {
    const seeds = fc.integer();
    let floods = 0;
    let unicasts = 0;
    let refusals = 0;
    fc.assert(
      fc.property(seeds, fc.array(steps, { minLength: 1, maxLength: 120, size: 'max' }), (seed, sequence) => {
        const options = { seed, stations: STATIONS, stationsPerPort: PER_PORT, ageingSeconds: AGEING };
        const eswitch = new Eswitch(options);
        const model = new NaiveSwitch();
        for (const port of [0, 1, 2]) {
          eswitch.add(port);
          model.ports.add(port);
        }
        let now = 0;
        for (const step of sequence) {
          if (step.kind === 'wait') {
            now += step.seconds;
            eswitch.tick(now);
            model.tick(now);
          } else if (step.kind === 'add') {
            expect(eswitch.add(step.port)).toBe(!model.ports.has(step.port));
            model.ports.add(step.port);
          } else if (step.kind === 'remove') {
            eswitch.remove(step.port);
            model.remove(step.port);
          } else if (model.ports.has(step.port)) {
            const destination = destinationOf(step.destination);
            const source = station(step.source);
            const verdict = eswitch.decide(step.port, head(destination, source, step.vlan));
            expect(verdict).toBe(model.decide(step.port, destination, source, step.vlan ?? 0));
            if (verdict === Verdict.FLOOD) floods++;
            if (verdict >= 0) unicasts++;
            if (eswitch.refused) refusals++;
          }
          expect(eswitch.stations).toBe(model.stations.length);
          expect([...eswitch.ports].sort()).toEqual([...model.ports].sort());
        }
      }),
      { numRuns: 400 },
    );
    for (const count of [floods, unicasts, refusals])
      expect(count, 'every kind occurred').toBeGreaterThan(100);
  });

  it('a group address floods, and a frame to its own port is kept back', () => {
    const eswitch = new Eswitch({ seed: 1 });
    for (const port of [0, 1, 2]) eswitch.add(port);
    expect(eswitch.decide(0, head(BROADCAST, station(1), null))).toBe(Verdict.FLOOD);
    expect(eswitch.decide(1, head(MULTICAST, station(2), null))).toBe(Verdict.FLOOD);
    expect(eswitch.decide(2, head(station(1), station(3), null))).toBe(0);
    expect(eswitch.decide(0, head(station(1), station(4), null))).toBe(Verdict.SAME_PORT);
  });

  it('VLANs are learned apart; priority tags belong to no VLAN', () => {
    const eswitch = new Eswitch({ seed: 2 });
    for (const port of [0, 1, 2]) eswitch.add(port);
    eswitch.decide(0, head(BROADCAST, station(1), 10));
    eswitch.decide(1, head(BROADCAST, station(1), 20));
    expect(eswitch.decide(2, head(station(1), station(3), 10))).toBe(0);
    expect(eswitch.decide(2, head(station(1), station(3), 20))).toBe(1);
    expect(eswitch.decide(2, head(station(1), station(3), null))).toBe(Verdict.FLOOD);
    eswitch.decide(0, head(BROADCAST, station(1), 0));
    expect(eswitch.decide(2, head(station(1), station(3), null))).toBe(0);
  });

  it('a service tag counts as the VLAN', () => {
    const eswitch = new Eswitch({ seed: 2 });
    for (const port of [0, 1]) eswitch.add(port);
    const tagged = head(BROADCAST, station(1), 7);
    tagged.set([0x88, 0xa8], 12);
    eswitch.decide(0, tagged);
    expect(eswitch.decide(1, head(station(1), station(2), 7))).toBe(0);
    expect(eswitch.decide(1, head(station(1), station(2), null))).toBe(Verdict.FLOOD);
  });

  it('addresses no station can have are not learned, and reserved groups are not forwarded', () => {
    const eswitch = new Eswitch({ seed: 3 });
    for (const port of [0, 1]) eswitch.add(port);
    expect(eswitch.decide(0, head(station(2), MULTICAST, null))).toBe(Verdict.BAD_SOURCE);
    expect(eswitch.decide(0, head(station(2), [0, 0, 0, 0, 0, 0], null))).toBe(Verdict.BAD_SOURCE);
    expect(eswitch.decide(0, head([1, 0x80, 0xc2, 0, 0, 0x0e], station(1), null))).toBe(Verdict.RESERVED);
    expect(eswitch.decide(0, head([1, 0x80, 0xc2, 0, 0, 0x10], station(1), null))).toBe(Verdict.FLOOD);
    expect(eswitch.stations).toBe(1);
  });

  it('a switch with one port has nowhere to send', () => {
    const eswitch = new Eswitch({ seed: 4 });
    eswitch.add(9);
    expect(eswitch.decide(9, head(BROADCAST, station(1), null))).toBe(Verdict.NO_DESTINATION);
    expect(eswitch.decide(9, head(station(5), station(1), null))).toBe(Verdict.NO_DESTINATION);
  });

  it('a port that makes addresses up fills its share, counts the refusals, and costs the others nothing', () => {
    const eswitch = new Eswitch({ seed: 5 });
    for (const port of [0, 1]) eswitch.add(port);
    eswitch.decide(1, head(BROADCAST, station(60_000), null));
    for (let i = 1; i <= 5000; i++) eswitch.decide(0, head(BROADCAST, station(i), null));
    expect(eswitch.stations).toBe(1024 + 1);
    expect(eswitch.counters.refusedPortFull).toBe(5000 - 1024);
    expect(eswitch.decide(0, head(station(60_000), station(1), null))).toBe(1);
  });

  it('a station that stays silent is forgotten after the ageing time, one that speaks is not', () => {
    const eswitch = new Eswitch({ seed: 6, ageingSeconds: 300 });
    for (const port of [0, 1]) eswitch.add(port);
    eswitch.tick(1000);
    eswitch.decide(0, head(BROADCAST, station(1), null));
    eswitch.decide(0, head(BROADCAST, station(2), null));
    eswitch.tick(1200);
    eswitch.decide(0, head(BROADCAST, station(2), null));
    eswitch.tick(1301);
    expect(eswitch.counters.expired).toBe(1);
    expect(eswitch.decide(1, head(station(1), station(9), null))).toBe(Verdict.FLOOD);
    expect(eswitch.decide(1, head(station(2), station(9), null))).toBe(0);
  });

  it('refuses ports that exist or can not', () => {
    const eswitch = new Eswitch({ seed: 7 });
    expect(eswitch.add(0)).toBe(true);
    expect(eswitch.add(PORTS_MAX - 1)).toBe(true);
    for (const port of [0, -1, 0.5, PORTS_MAX]) expect(eswitch.add(port), `port ${port}`).toBe(false);
  });
});
