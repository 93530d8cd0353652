/** Which receive queue of a function the eswitch gives a frame to: by the driver’s table, by flow, by the sender’s pair. */
import { FLOW_AGEING_SECONDS, type SwitchDomain } from '@virtnet/engine-eswitch';
import { PrivateMemory } from '@virtnet/engine-virtqueue';
import { HashType, QueueCounter, queueBlock, statePageSize } from '@virtnet/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { netHeader, shapeFrame } from './net-fixture.js';
import {
  type FunctionOptions,
  SwitchedPair as Pair,
  type SwitchedPair,
  switchFixture,
} from './switch-fixture.js';

const BROADCAST = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
const HEADER = 12;
const HASH_KEY = '6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa';

const macOf = (port: number): number[] => [2, 0, 0, 0, 0, port + 1];
function frame(from: number, to: number | null, payloadBytes = 100, seed = 1): Uint8Array {
  const { bytes } = shapeFrame({ destination: to === null ? BROADCAST : macOf(to), payloadBytes, seed });
  bytes.set(macOf(from), 6);
  return bytes;
}
const frames = (pair: SwitchedPair): Uint8Array[] =>
  pair.collect().map(({ written, lengthBytes }) => written.slice(HEADER, lengthBytes));

describe('RSS-2 where the receiver’s driver steers', () => {
  const key = [...Buffer.from(HASH_KEY, 'hex')];
  const rss = { types: HashType.IPV4, key, table: [0, 1, 1, 0], unclassified: 1 };
  const setup = (options: FunctionOptions = {}) => {
    const fixture = switchFixture({}, { rss, ...options });
    const [a, first] = fixture.pairs as [SwitchedPair, SwitchedPair];
    const second = new Pair(1, { rss, pair: 1, ...options });
    second.open(fixture.domain);
    for (const pair of [first, second]) pair.post(8, 2048);
    return { ...fixture, a, first, second };
  };
  /** Published hashes of these addresses end in binary 10, 10, 10 and 01. */
  const FLOWS = [
    [66, 9, 149, 187, 161, 142, 100, 80],
    [199, 92, 111, 2, 65, 69, 140, 83],
    [38, 27, 205, 30, 209, 142, 163, 6],
    [153, 39, 163, 191, 202, 188, 127, 2],
  ];
  const flow = (addresses: readonly number[], seed: number): Uint8Array => {
    const bytes = frame(0, null, 100, seed);
    bytes.set([8, 0, 0x45], 12);
    bytes.set(addresses, 26);
    return bytes;
  };

  it('frames go where its table says, in bursts and one by one, whatever pair sends', () => {
    const table = [0, 0, 1, 0];
    const { a, first, second, turn } = setup({ rss: { ...rss, table, unclassified: 0 } });
    const sent = FLOWS.map(flow);
    for (const bytes of sent) a.send(bytes);
    turn(a);
    expect([frames(first), frames(second)]).toEqual([[sent[3]], sent.slice(0, 3)]);
    for (const bytes of sent) a.send(bytes, netHeader({}), [30, 20]);
    turn(a);
    expect([frames(first), frames(second)]).toEqual([[sent[3]], sent.slice(0, 3)]);
  });

  it('a frame without a hash goes to the queue for such frames', () => {
    const { a, first, second, turn } = setup();
    const bytes = flow(FLOWS[0]!, 1);
    bytes[12] = 9; // no IP
    a.send(bytes);
    turn(a);
    expect([frames(first), frames(second)]).toEqual([[], [bytes]]);
  });

  it('CVQ-7 a frame for a queue that is not worked is the sender’s drop', () => {
    const { a, first, domain, turn } = setup();
    domain.detach(1, 1);
    a.send(flow(FLOWS[0]!, 1));
    turn(a);
    expect(frames(first)).toEqual([]);
    expect(a.countTransmit(QueueCounter.DROP_NO_DESTINATION)).toBe(1);
  });

  it('the queue that was attached last says how; without a table the sender’s pair decides again', () => {
    const { a, first, second, domain, turn } = setup();
    const automatic = new Pair(1, { pair: 1 });
    automatic.open(domain);
    a.send(flow(FLOWS[0]!, 1));
    turn(a);
    expect([frames(first).length, frames(second).length]).toEqual([1, 0]);
  });

  it('any frame, of any length and any bytes, arrives in a queue that is named', () => {
    const { a, first, second, turn } = setup();
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 14, maxLength: 300 }), fc.boolean(), (bytes, apart) => {
        bytes.set([...BROADCAST, ...macOf(0)]);
        for (const pair of [first, second]) pair.post(1, 2048);
        a.send(bytes, netHeader({}), apart ? [bytes.length >> 1] : []);
        turn(a);
        expect([...frames(first), ...frames(second)]).toEqual([bytes]);
        a.transmitter.collect();
      }),
      { numRuns: 200 },
    );
  });
});

describe('where flows are followed', () => {
  /** A function at port 0 with four pairs, and another at port 1. */
  const setup = (options: FunctionOptions = { follows: true }) => {
    const { domain, turn } = switchFixture();
    const pairs = Array.from({ length: 4 }, (_, pair) => new Pair(0, { pair, ...options }));
    const peer = new Pair(1, {});
    for (const each of [...pairs, peer]) {
      each.open(domain);
      each.post(32, 2048);
    }
    return { domain, turn, pairs, peer };
  };
  /** To port 1 and back, of a UDP flow. */
  const flow = (number: number, back = false): Uint8Array => {
    const bytes = frame(back ? 1 : 0, back ? 0 : 1, 100, 3);
    const [mine, theirs] = [
      [10, 0, 0, 1],
      [10, 0, 1, number],
    ];
    bytes.set([8, 0, 0x45], 12);
    bytes[23] = 17;
    bytes.set(back ? [...theirs, ...mine] : [...mine, ...theirs], 26);
    bytes.set(back ? [0, 53, 1, number] : [1, number, 0, 53], 34);
    return bytes;
  };
  const receivedBy = (pairs: readonly SwitchedPair[]) => pairs.map((pair) => frames(pair).length);
  const memory = new PrivateMemory(2048);
  const uplinkCounters = queueBlock(new ArrayBuffer(statePageSize(1)), 0).counters;
  const comeThroughUplink = (domain: SwitchDomain, bytes: Uint8Array) => {
    memory.u8.set(bytes);
    domain.receive(memory, 0, bytes.length, netHeader({}), uplinkCounters);
    domain.flush();
  };

  it('the answer goes to the pair that sent last; flows that were not answered to the sender’s pair', () => {
    const { turn, pairs, peer } = setup();
    for (const [number, pair] of [2, 1, 3, 0].entries()) {
      pairs[pair]!.send(flow(number));
      turn(pairs[pair]!);
    }
    for (const [number, pair] of [2, 1, 3, 0].entries()) {
      peer.send(flow(number, true));
      peer.send(flow(number, true), netHeader({}), [30, 20]); // the long way
      turn(peer);
      expect(receivedBy(pairs)).toEqual([0, 1, 2, 3].map((each) => (each === pair ? 2 : 0)));
    }
    pairs[3]!.send(flow(0), netHeader({}), [40]);
    turn(pairs[3]!);
    peer.send(flow(0, true));
    peer.send(flow(77, true));
    turn(peer);
    expect(receivedBy(pairs)).toEqual([1, 0, 0, 1]);
  });

  it('UDP and TCP of the same ports are two flows, and frames of none are never followed', () => {
    const { turn, pairs, peer } = setup();
    pairs[2]!.send(flow(1));
    const none = flow(2);
    none[12] = 9;
    pairs[2]!.send(none);
    turn(pairs[2]!);
    const tcp = flow(1, true);
    tcp[23] = 6;
    const back = flow(2, true);
    back[12] = 9;
    for (const bytes of [tcp, back]) peer.send(bytes);
    turn(peer);
    expect(receivedBy(pairs)).toEqual([2, 0, 0, 0]);
  });

  it('a flow that is old, or whose pair may not receive any more, is not followed', () => {
    const { domain, turn, pairs, peer } = setup();
    domain.tick(1000);
    pairs[2]!.send(flow(1));
    turn(pairs[2]!);
    const answered = () => {
      peer.send(flow(1, true));
      turn(peer);
      return receivedBy(pairs);
    };
    domain.tick(1000 + FLOW_AGEING_SECONDS);
    expect(answered()).toEqual([0, 0, 1, 0]);
    domain.tick(1001 + FLOW_AGEING_SECONDS);
    expect(answered()).toEqual([1, 0, 0, 0]);
    pairs[2]!.send(flow(1));
    turn(pairs[2]!);
    expect(answered()).toEqual([0, 0, 1, 0]);
    domain.detach(0, 2);
    expect(answered()).toEqual([1, 0, 0, 0]);
  });

  it('switched off the sender’s pair decides, and nothing is remembered when it is switched on', () => {
    const { domain, turn, pairs, peer } = setup({ follows: false });
    const answered = () => {
      pairs[2]!.send(flow(1));
      turn(pairs[2]!);
      peer.send(flow(1, true));
      turn(peer);
      return receivedBy(pairs);
    };
    expect(answered()).toEqual([1, 0, 0, 0]);
    const reopened = pairs.map((each, pair) => new Pair(0, { ...each.options, pair, follows: true }));
    for (const each of reopened) {
      each.open(domain);
      each.post(4, 2048);
    }
    peer.send(flow(1, true));
    turn(peer);
    expect(receivedBy(reopened)).toEqual([1, 0, 0, 0]);
    reopened[2]!.send(flow(1));
    turn(reopened[2]!);
    peer.send(flow(1, true));
    turn(peer);
    expect(receivedBy(reopened)).toEqual([0, 0, 1, 0]);
  });

  it('what a driver says of its queues (RSS) goes before', () => {
    const rss = { types: HashType.IPV4, key: [1], table: [3], unclassified: 3 };
    const { turn, pairs, peer } = setup({ follows: true, rss });
    pairs[2]!.send(flow(1));
    turn(pairs[2]!);
    peer.send(flow(1, true));
    turn(peer);
    expect(receivedBy(pairs)).toEqual([0, 0, 0, 1]);
  });

  it.each([false, true])(
    'frames through the uplink are spread by flow, each flow in one queue (followed: %s)',
    (follows) => {
      const { domain, turn, pairs, peer } = setup({ follows });
      pairs[0]!.send(frame(0, null)); // so that it is known where it is
      turn(pairs[0]!);
      frames(peer);
      const places = Array.from({ length: 24 }, (_, number) => {
        const seen = [0, 1].map(() => {
          comeThroughUplink(domain, flow(number, true));
          return receivedBy(pairs).indexOf(1);
        });
        expect(seen[0]).toBe(seen[1]);
        return seen[0];
      });
      expect(new Set(places)).toEqual(new Set([0, 1, 2, 3]));
      pairs[3]!.send(flow(5));
      turn(pairs[3]!);
      comeThroughUplink(domain, flow(5, true));
      expect(receivedBy(pairs).indexOf(1)).toBe(follows ? 3 : places[5]);
    },
  );
});
