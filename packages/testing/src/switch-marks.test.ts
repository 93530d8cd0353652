/** Whose mark is set while the switch works: what a crash leaves behind names the receiver whose ring it was in. */
import type { DeviceRing } from '@virtnet/engine-virtqueue';
import { NetFeature, QueueWord, WorkMark } from '@virtnet/wire';
import { describe, expect, it } from 'vitest';
import { netHeader, shapeFrame } from './net-fixture.js';
import type { AddOptions } from './ring-driver.js';
import { PLAIN_WRAP, type SwitchedPair, switchFixture } from './switch-fixture.js';

const { UNDER_WORK } = QueueWord;
const CALLS = ['take', 'extend', 'scan', 'scanFrames', 'give', 'giveFilled', 'advance', 'publish'] as const;
const BROADCAST = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
const macOf = (port: number): number[] => [2, 0, 0, 0, 0, port + 1];
const NOBODY = [0, 0, 0];

function frame(from: number, to: number | null, seed = 1): Uint8Array {
  const { bytes } = shapeFrame({ destination: to === null ? BROADCAST : macOf(to), payloadBytes: 100, seed });
  bytes.set(macOf(from), 6);
  return bytes;
}

interface Call {
  readonly call: (typeof CALLS)[number];
  /** Marks of all receive queues during it. */
  readonly marks: readonly number[];
}

/** Three functions, each with what was called of its rings. */
function setup(features: readonly number[] = []) {
  const fixture = switchFixture({ features }, { features }, { features });
  const { domain, pairs } = fixture;
  const marks = () => pairs.map(({ blocks }) => blocks[0].words[UNDER_WORK]!);
  const spied = (ring: DeviceRing, calls: Call[]): DeviceRing => {
    for (const call of CALLS) {
      const original = ring[call].bind(ring) as (...values: unknown[]) => unknown;
      Reflect.set(ring, call, (...values: unknown[]) => {
        calls.push({ call, marks: marks() });
        return original(...values);
      });
    }
    return ring;
  };
  const called = pairs.map((pair) => {
    const ends: Call[][] = [];
    const ring = (each: DeviceRing) => {
      ends.push([]);
      return spied(each, ends.at(-1)!);
    };
    domain.detach(pair.port, 0);
    pair.open(domain, { ...PLAIN_WRAP, ring });
    return { receive: ends[0]!, transmit: ends[1]! };
  });
  for (const calls of called) for (const end of [calls.receive, calls.transmit]) end.length = 0;
  const [a, b] = pairs as [SwitchedPair, SwitchedPair];
  /** The switch hears where the second function is. */
  const hear = () => {
    b.send(frame(1, null));
    fixture.turn(b);
  };
  return { ...fixture, called, marks, a, b, hear };
}

type Setup = ReturnType<typeof setup>;
interface Way {
  readonly name: string;
  readonly features?: readonly number[];
  /** Buffers of receivers. */
  readonly buffer: number;
  readonly known: boolean;
  readonly parts?: readonly number[];
  readonly options?: AddOptions;
  readonly before?: (made: Setup) => void;
}
const WAYS: readonly Way[] = [
  { name: 'flooded, the short way', buffer: 2048, known: false },
  { name: 'flooded, the long way', buffer: 2048, known: false, parts: [30, 20] },
  { name: 'in a burst to one that is known', buffer: 2048, known: true },
  {
    name: 'in tables, to mergeable buffers of one that is known',
    ...{
      features: [NetFeature.MRG_RXBUF],
      buffer: 60,
      known: true,
      parts: [30],
      options: { indirectFrom: 0 },
    },
  },
  {
    name: 'behind chains that hold none',
    ...{ buffer: 2048, known: true, before: ({ b }: Setup) => b.post(3, 1) },
  },
];

describe('marks of receivers', () => {
  it.each(WAYS)('frames $name: whose ring is worked is marked, nobody beside it, and nobody after', (way) => {
    const made = setup(way.features);
    const { pairs, turn, called, marks, a, hear } = made;
    if (way.known) hear();
    way.before?.(made);
    for (const pair of pairs) pair.post(16, way.buffer);
    for (let i = 0; i < 4; i++)
      a.send(frame(0, way.known ? 1 : null, i), netHeader({}), way.parts ?? [], way.options);
    expect(turn(a)).toBe(4);
    const receivers = way.known ? [1] : [1, 2];
    for (const port of receivers) {
      const expected = NOBODY.map((_, i) => (i === port ? WorkMark.SOMEBODY : 0));
      const { receive } = called[port]!;
      expect(receive.map(({ call }) => call)).toContain('publish');
      for (const each of receive) expect(each).toEqual({ call: each.call, marks: expected });
      expect(
        pairs[port]!.collect().filter(({ lengthBytes }) => lengthBytes > 0).length,
      ).toBeGreaterThanOrEqual(4);
    }
    const { transmit } = called[0]!;
    expect(transmit.map(({ call }) => call)).toContain('publish');
    for (const each of transmit)
      expect(each, 'its ring is the sender’s').toEqual({ call: each.call, marks: NOBODY });
    expect(marks()).toEqual(NOBODY);
  });

  it('a mark that was there, of the reader of the function’s own TAP, is there again', () => {
    const { domain, pairs, turn, marks, a, b } = setup();
    for (const pair of pairs) pair.post(4, 2048);
    b.blocks[0].words[UNDER_WORK] = WorkMark.LANE;
    a.send(frame(0, null));
    a.send(frame(0, null), netHeader({}), [30]);
    turn(a);
    domain.flush();
    expect(marks()).toEqual([0, WorkMark.LANE, 0]);
  });
});
