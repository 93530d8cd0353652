import { MessageChannel } from 'node:worker_threads';
import type { RssSettings } from '@virtnet/engine-virtio-net';
import { Arena, close, eventfdDrain, laneAt, send } from '@virtnet/host-linux';
import { createControl, MailboxReceiver } from '@virtnet/host-workers';
import { featureMask, HashType, NetFeature, QueueCounter, VirtioFeature } from '@virtnet/wire';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { QueueConfig, WorkerMessage, WorkerReport } from './datapath-protocol.js';
import { IDLE_TURNS_MAX } from './limits.js';
import { SCRATCH_BYTES, Scratch } from './scratch.js';
import { openFds } from './test-support/holdings.js';
import { pairOfSockets } from './test-support/test-device.js';
import { HEADER_BYTES, RECEIVE, TRANSMIT, WorkerFixture } from './test-support/worker-fixture.js';
import { WorkerLoop } from './worker-loop.js';

const KEY = [
  ...Buffer.from('6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa', 'hex'),
];
/** Flows with a published hash of their addresses, and where it points in a table of four. */
const FLOWS: readonly (readonly [addresses: readonly number[], place: number])[] = [
  [[66, 9, 149, 187, 161, 142, 100, 80], 0x323e8fc2 & 3],
  [[199, 92, 111, 2, 65, 69, 140, 83], 0xd718262a & 3],
  [[38, 27, 205, 30, 209, 142, 163, 6], 0x82989176 & 3],
  [[153, 39, 163, 191, 202, 188, 127, 2], 0x5d1809c5 & 3],
];
/** By place: one of the flows belongs to pair 1, the others to pair 0. */
const TABLE = [1, 1, 0, 0];
const RSS: RssSettings = { types: HashType.IPV4, key: KEY, table: TABLE, unclassified: 1 };
const FEATURES = featureMask([VirtioFeature.VERSION_1, NetFeature.MQ, NetFeature.RSS]);
const SECOND_IOVA = 0x100_0000n;

const frameOf = (addresses: readonly number[], number: number, etherType = 8): Uint8Array => {
  const frame = new Uint8Array(60);
  frame.set([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, etherType, 0, 0x45]);
  frame.set(addresses, 26);
  frame[59] = number;
  return frame;
};

/** Two pairs of one function with two queues of a TAP; the loop is turned by hand. */
describe('a TAP whose driver steers', () => {
  let before: number;
  let pairs: readonly [WorkerFixture, WorkerFixture];
  let loop: WorkerLoop;
  let channel: MessageChannel;
  const reports: WorkerReport[] = [];

  beforeEach(() => {
    before = openFds();
    reports.length = 0;
    const arena = Arena.reserve(2 ** 26);
    pairs = [new WorkerFixture(arena), new WorkerFixture(arena, 0, SECOND_IOVA)];
    channel = new MessageChannel();
    const mailbox = new MailboxReceiver<WorkerMessage>(channel.port1, createControl());
    const scratch = new Scratch(arena.locate(arena.mapAnonymous(SCRATCH_BYTES)));
    const report = (each: WorkerReport) => reports.push(each);
    loop = new WorkerLoop(arena, mailbox, -1, report, laneAt(0n, 0), scratch);
    loop.handle({ kind: 'memory', device: 0, regions: pairs.flatMap(regionsOf) });
  });
  afterEach(() => {
    loop.close();
    channel.port1.close();
    for (const pair of pairs) pair.close();
    expect(openFds()).toBe(before);
  });

  const regionsOf = ({ memory: { iova, sizeBytes, arenaOffset } }: WorkerFixture) => [
    { iova, sizeBytes, arenaOffset, writable: true },
  ];
  const slotOf = (pair: number, queue: number) => 2 * pair + queue;
  const configure = (pair: number, queue: number, change: Partial<QueueConfig> | null) =>
    loop.handle({
      kind: 'queue',
      device: 0,
      slot: slotOf(pair, queue),
      config:
        change === null
          ? null
          : pairs[pair]!.config(queue, { features: FEATURES, queue: 2 * pair + queue, ...change }),
    });
  const configureAll = (change: Partial<QueueConfig>) => {
    for (const pair of [0, 1]) for (const queue of [RECEIVE, TRANSMIT]) configure(pair, queue, change);
  };
  const settle = () => {
    loop.takeEvents(0);
    for (let i = 0; i < 10 * IDLE_TURNS_MAX; i++) loop.turn();
  };
  const start = (rss: RssSettings | null = RSS) => {
    configureAll({ rss });
    for (const pair of pairs) pair.offerBuffers(16);
    settle();
    for (const pair of pairs) for (const fd of pair.interruptFds) eventfdDrain(fd);
  };
  const arrive = (tapQueue: number, frame: Uint8Array) =>
    send(pairs[tapQueue]!.network, Uint8Array.from([...new Uint8Array(HEADER_BYTES), ...frame]));
  /** Numbers of the frames that the driver got in each receive queue. */
  const received = () =>
    pairs.map(({ receive }) =>
      receive.collect().map(({ written, lengthBytes }) => written[lengthBytes - 1]!),
    );
  const count = (pair: number, queue: number, counter: QueueCounter) =>
    pairs[pair]!.block(2 * pair + queue).counters[counter]!;

  it('RSS-2 whichever queue of the TAP a frame is in, it goes where the table says, and interrupts there', () => {
    start();
    const expected: number[][] = [[], []];
    FLOWS.forEach(([addresses, place], number) => {
      arrive(number % 2, frameOf(addresses, number));
      arrive((number + 1) % 2, frameOf(addresses, number + 10));
      expected[TABLE[place]!]!.push(number, number + 10);
    });
    settle();
    expect(received().map((list) => list.toSorted((a, b) => a - b))).toEqual(
      expected.map((list) => list.toSorted((a, b) => a - b)),
    );
    expect(expected.every((list) => list.length > 0)).toBe(true);
    for (const pair of pairs) expect(eventfdDrain(pair.interruptFds[RECEIVE])).toBeGreaterThan(0);
    expect(loop.awake, 'asleep until the TAP is readable').toBe(false);
    arrive(1, frameOf([], 99, 9)); // no IP
    settle();
    expect(received()).toEqual([[], [99]]);
    expect(reports).toEqual([]);
  });

  it('another table is in force when it was told; without one each queue of the TAP is its pair’s again', () => {
    start();
    const [[addresses, place]] = FLOWS as [(typeof FLOWS)[number]];
    const other = { ...RSS, table: TABLE.map((pair) => 1 - pair) };
    configureAll({ rss: other });
    arrive(0, frameOf(addresses, 1));
    settle();
    expect(received()[1 - TABLE[place]!]).toEqual([1]);
    configureAll({ rss: null });
    for (const tapQueue of [0, 1]) {
      arrive(tapQueue, frameOf(addresses, 2));
      settle();
      expect(received()[tapQueue]).toEqual([2]);
    }
    configureAll({ rss: RSS });
    arrive(1 - TABLE[place]!, frameOf(addresses, 3));
    settle();
    expect(received()[TABLE[place]!]).toEqual([3]);
  });

  it('CVQ-7 frames for a queue that is being reset are dropped and counted, the others arrive', () => {
    start();
    configure(1, RECEIVE, null);
    for (const [number, [addresses]] of FLOWS.entries()) arrive(1, frameOf(addresses, number));
    settle();
    const mine = FLOWS.flatMap(([, place], number) => (TABLE[place] === 0 ? [number] : []));
    expect(received()).toEqual([mine, []]);
    const dropped = [0, 1].flatMap((pair) =>
      [RECEIVE, TRANSMIT].map((queue) => count(pair, queue, QueueCounter.DROP_NO_DESTINATION)),
    );
    expect(dropped.reduce((sum, frames) => sum + frames, 0)).toBe(FLOWS.length - mine.length);
    configure(1, RECEIVE, { rss: RSS });
    for (const [number, [addresses]] of FLOWS.entries()) arrive(0, frameOf(addresses, number));
    settle();
    expect(received().flat()).toHaveLength(FLOWS.length);
  });

  it('a queue without buffers loses its frames, counted, and keeps none of another’s', () => {
    configureAll({ rss: RSS });
    pairs[0].offerBuffers(8);
    for (const [number, [addresses]] of FLOWS.entries()) arrive(0, frameOf(addresses, number));
    settle();
    const mine = FLOWS.flatMap(([, place], number) => (TABLE[place] === 0 ? [number] : []));
    expect(received()[0]).toEqual(mine);
    expect(count(1, RECEIVE, QueueCounter.DROP_NO_DESC)).toBe(FLOWS.length - mine.length);
  });

  it('frames of the driver leave through the TAP’s queue of their pair', () => {
    start();
    pairs[1].offerFrames(7);
    loop.wake(slotOf(1, TRANSMIT));
    settle();
    expect([pairs[0].arrived().length, pairs[1].arrived().length]).toEqual([0, 1]);
  });

  it('nothing of a function that left is read any more', () => {
    start();
    for (const pair of [0, 1]) for (const queue of [RECEIVE, TRANSMIT]) configure(pair, queue, null);
    loop.handle({ kind: 'memory', device: 0, regions: null });
    arrive(0, frameOf(FLOWS[0]![0], 1));
    settle();
    expect(received()).toEqual([[], []]);
    loop.handle({ kind: 'memory', device: 0, regions: pairs.flatMap(regionsOf) });
    configureAll({ rss: RSS });
    settle();
    expect(received().flat(), 'it waited in the TAP').toEqual([1]);
  });

  it('is read when frames come while the thread sleeps', () => {
    start();
    const [ours, theirs] = pairOfSockets();
    configure(0, TRANSMIT, { rss: RSS, tapFd: ours });
    settle();
    expect(loop.awake).toBe(false);
    send(theirs, Uint8Array.from([...new Uint8Array(HEADER_BYTES), ...frameOf(FLOWS[0]![0], 5)]));
    loop.takeEvents(-1);
    expect(loop.awake).toBe(true);
    settle();
    expect(received().flat()).toEqual([5]);
    configure(0, TRANSMIT, null);
    close(ours);
    close(theirs);
  });
});
