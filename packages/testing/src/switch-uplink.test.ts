/** Frames that the uplink of the eswitch does not take: each is counted at its sender, under what is true of it. */
import { STATIONS_PER_PORT_MAX, UPLINK_PORT } from '@virtnet/engine-eswitch';
import { PrivateMemory } from '@virtnet/engine-virtqueue';
import { Errno, QueueCounter, queueBlock, statePageSize } from '@virtnet/wire';
import { describe, expect, it } from 'vitest';
import { MemoryPort } from './memory-port.js';
import { netHeader, shapeFrame } from './net-fixture.js';
import { type FunctionOptions, type SwitchedPair, switchFixture } from './switch-fixture.js';

const { FRAMES, COMPLETED_DESC, DROP_TAP_AGAIN, DROP_TAP_ERROR, DROP_NO_DESTINATION } = QueueCounter;
const { DROP_NO_DESC, UPLINK_MISSED } = QueueCounter;
const BROADCAST = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
const OUTSIDE = [2, 0, 0, 0, 9, 9];
const HEADER = 12;
const ARRIVED = {
  frames: FRAMES,
  bytes: QueueCounter.BYTES,
  nowhere: DROP_NO_DESTINATION,
  samePort: QueueCounter.DROP_SAME_PORT,
  notSwitched: QueueCounter.DROP_NOT_SWITCHED,
  stationsRefused: QueueCounter.STATIONS_REFUSED,
} as const;

const macOf = (port: number): number[] => [2, 0, 0, 0, 0, port + 1];
function frame(source: readonly number[], destination: readonly number[], seed = 1): Uint8Array {
  const { bytes } = shapeFrame({ destination, payloadBytes: 100, seed });
  bytes.set(source, 6);
  return bytes;
}

/** Functions and an uplink behind which OUTSIDE was heard. */
function setup(...options: readonly FunctionOptions[]) {
  const fixture = switchFixture(...options);
  const { domain, pairs } = fixture;
  const uplink = new MemoryPort();
  domain.setUplink(uplink);
  const memory = new PrivateMemory(2048);
  const { counters } = queueBlock(new ArrayBuffer(statePageSize(1)), 0);
  /** Frames come in. */
  const arrive = (...frames: readonly Uint8Array[]) => {
    for (const each of frames) {
      memory.u8.set(each);
      domain.receive(memory, 0, each.length, netHeader({}), counters);
    }
    domain.flush();
  };
  arrive(frame(OUTSIDE, BROADCAST));
  for (const pair of pairs) pair.collect();
  counters.fill(0);
  /** What the uplink has counted, by the names below; anything else it may not count. */
  const arrived = () => {
    const counted = Object.entries(ARRIVED).map(([name, counter]) => [name, counters[counter]!] as const);
    const sum = counters.reduce((total, count) => total + count, 0);
    expect(sum).toBe(counted.reduce((total, [, count]) => total + count, 0));
    return Object.fromEntries(counted.filter(([, count]) => count > 0));
  };
  return { ...fixture, uplink, a: pairs[0]!, arrive, arrived };
}

/** What the sender's queue counted of UPLINK_MISSED, and under everything that ends a frame. */
function counted(pair: SwitchedPair) {
  const [frames, again, error, nowhere, completed, missed] = [
    ...[FRAMES, DROP_TAP_AGAIN, DROP_TAP_ERROR, DROP_NO_DESTINATION, COMPLETED_DESC, UPLINK_MISSED],
  ].map((counter) => pair.countTransmit(counter));
  expect(frames! + again! + error! + nowhere!, 'every chain ended once').toBe(completed);
  expect(pair.transmitter.collect(), 'and came back').toHaveLength(completed!);
  return { frames, again, error, nowhere, missed };
}
const NOTHING = { frames: 0, again: 0, error: 0, nowhere: 0, missed: 0 };

const full = (uplink: MemoryPort) => {
  uplink.fullFor = Number.POSITIVE_INFINITY;
};
const failing = (uplink: MemoryPort) => {
  uplink.refusal = Errno.EIO;
};
const STATES = [
  ['full', full, 'again'],
  ['failing', failing, 'error'],
] as const;

describe.each(STATES)('an uplink that is %s', (_, spoil, reason) => {
  it('loses a frame for a station behind it, which is a drop of its sender, and the next frame goes on', () => {
    const { turn, uplink, a, pairs } = setup({}, {});
    const b = pairs[1]!;
    b.post(8, 2048);
    spoil(uplink);
    for (let i = 0; i < 3; i++) a.send(frame(macOf(0), OUTSIDE, i));
    a.send(frame(macOf(0), BROADCAST));
    expect(turn(a)).toBe(4);
    expect(counted(a)).toEqual({ ...NOTHING, frames: 1, [reason]: 3, missed: 1 });
    expect(b.collect()).toHaveLength(1);
    expect(uplink.sent).toEqual([]);
  });

  it('loses a copy of a flooded frame that others get: a frame of its sender, and one missed by the uplink', () => {
    const { turn, uplink, a, pairs } = setup({}, {}, {});
    for (const pair of pairs) pair.post(8, 2048);
    spoil(uplink);
    const sent = [frame(macOf(0), BROADCAST), frame(macOf(0), [2, 0, 0, 0, 7, 7])];
    for (const each of sent) a.send(each);
    expect(turn(a)).toBe(2);
    expect(counted(a)).toEqual({ ...NOTHING, frames: 2, missed: 2 });
    for (const pair of pairs.slice(1))
      expect(pair.collect().map(({ written, lengthBytes }) => written.slice(HEADER, lengthBytes))).toEqual(
        sent,
      );
  });

  it('is the reason when nobody else was there to get a flooded frame', () => {
    const { turn, uplink, a } = setup({}, { active: false });
    spoil(uplink);
    a.send(frame(macOf(0), BROADCAST));
    expect(turn(a)).toBe(1);
    expect(counted(a)).toEqual({ ...NOTHING, [reason]: 1 });
  });

  it('and a receiver without buffers each count their copy: the frame is the sender’s all the same', () => {
    const { turn, uplink, a, pairs } = setup({}, {});
    const heard = pairs[1]!.countReceive(DROP_NO_DESC);
    spoil(uplink);
    a.send(frame(macOf(0), BROADCAST), netHeader({}), [30, 40]);
    expect(turn(a)).toBe(1);
    expect(counted(a)).toEqual({ ...NOTHING, frames: 1, missed: 1 });
    expect(pairs[1]!.countReceive(DROP_NO_DESC) - heard).toBe(1);
  });
});

describe('an uplink', () => {
  it('that takes everything misses nothing, and one that has room again neither', () => {
    const { turn, uplink, a, pairs } = setup({}, {});
    pairs[1]!.post(8, 2048);
    uplink.fullFor = 2;
    const sent = Array.from({ length: 4 }, (_, i) => frame(macOf(0), i % 2 === 0 ? OUTSIDE : BROADCAST, i));
    for (const each of sent) a.send(each);
    expect(turn(a)).toBe(4);
    expect(counted(a)).toEqual({ ...NOTHING, frames: 3, again: 1, missed: 1 });
    expect(uplink.sent.map(({ frame: bytes }) => bytes)).toEqual(sent.slice(2));
  });

  it('that is taken away is nobody’s: frames are flooded to who is left, or have no destination', () => {
    const { domain, turn, uplink, a, pairs } = setup({}, {});
    full(uplink);
    domain.setUplink(null);
    expect(domain.eswitch.ports).not.toContain(UPLINK_PORT);
    pairs[1]!.post(8, 2048);
    a.send(frame(macOf(0), OUTSIDE));
    turn(a);
    domain.remove(1);
    a.send(frame(macOf(0), OUTSIDE));
    turn(a);
    expect(counted(a)).toEqual({ ...NOTHING, frames: 1, nowhere: 1 });
  });
});

describe('frames that come in by the uplink', () => {
  const [BYTES_EACH] = [frame(OUTSIDE, BROADCAST).length];

  it('for a function, or for everybody: frames, also when no receiver has a buffer, which is the receiver’s to count', () => {
    const { a, pairs, turn, arrive, arrived } = setup({}, {});
    a.send(frame(macOf(0), BROADCAST));
    turn(a);
    pairs[0]!.post(1, 2048);
    const before = pairs.map((pair) => pair.countReceive(DROP_NO_DESC));
    arrive(frame(OUTSIDE, macOf(0)), frame(OUTSIDE, macOf(0)), frame(OUTSIDE, BROADCAST));
    expect(arrived()).toEqual({ frames: 3, bytes: 3 * BYTES_EACH });
    expect(pairs.map((pair, i) => pair.countReceive(DROP_NO_DESC) - before[i]!)).toEqual([2, 1]);
  });

  it('for a station that is behind the uplink itself, or of an address that bridges keep: drops under their reasons', () => {
    const { arrive, arrived } = setup({});
    arrive(frame([2, 0, 0, 0, 9, 8], OUTSIDE), frame(OUTSIDE, [1, 0x80, 0xc2, 0, 0, 0x0e]));
    arrive(frame(BROADCAST, macOf(0)));
    expect(arrived()).toEqual({ samePort: 1, notSwitched: 2 });
  });

  it('while nobody receives: drops without a destination, be there ports, a port that was learned, or none', () => {
    const { domain, a, turn, arrive, arrived } = setup({}, { active: false });
    a.send(frame(macOf(0), BROADCAST));
    turn(a);
    domain.detach(0, 0);
    arrive(frame(OUTSIDE, macOf(0)), frame(OUTSIDE, BROADCAST));
    expect(arrived()).toEqual({ nowhere: 2 });
    for (const port of [0, 1]) domain.remove(port);
    arrive(frame(OUTSIDE, BROADCAST), frame(OUTSIDE, macOf(0)));
    expect(arrived()).toEqual({ nowhere: 4 });
  });

  it('of stations that cannot be remembered any more: counted beside what became of the frames', () => {
    const { arrive, arrived } = setup({ active: false });
    const station = (i: number) => frame([2, 1, 0, i >> 16, i >> 8, i], BROADCAST);
    for (let i = 0; i < STATIONS_PER_PORT_MAX + 9; i++) arrive(station(i));
    expect(arrived()).toEqual({ nowhere: STATIONS_PER_PORT_MAX + 9, stationsRefused: 10 });
  });
});
