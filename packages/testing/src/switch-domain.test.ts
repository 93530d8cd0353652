/** Frames from function to function through the eswitch: delivery, flooding, filters, offloads, and who pays. */
import { LoopPort, REFUSALS_MAX, SinkPort, SourcePort, STATIONS_PER_PORT_MAX } from '@virtnet/engine-eswitch';
import { FRAME_BYTES_MAX, ReceiveQueue } from '@virtnet/engine-virtio-net';
import { type DeviceRing, GuestMemory, SplitRing } from '@virtnet/engine-virtqueue';
import {
  featureMask,
  GsoType,
  HashReport,
  HashType,
  NET_HEADER_HASH_AT,
  NET_HEADER_HASH_BYTES,
  NetFeature,
  QueueCounter,
  VirtioFeature,
  viewOf,
} from '@virtnet/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { checksumHeader, decodeHeader, fold, netHeader, shapeFrame, wordSum } from './net-fixture.js';
import type { UsedChain } from './ring-driver.js';
import type { SplitDriver } from './split-driver.js';
import { openSplitRing } from './split-ring-fixture.js';
import { SwitchedPair as Pair, PLAIN_WRAP, type SwitchedPair, switchFixture } from './switch-fixture.js';
import { windowRoom } from './window-room.js';

const { GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, GUEST_USO4, GUEST_USO6 } = NetFeature;
const { CSUM, HOST_TSO4, HOST_TSO6, HOST_USO } = NetFeature;
const BROADCAST = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
const HEADER = 12;
const HASH_KEY = '6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa';
const ARENA_BYTES = 1 << 22;
/** How often a driver makes available what it was given back: for ever, but the test has to end. */
const SHOWN_MAX = 50;

const macOf = (port: number): number[] => [2, 0, 0, 0, 0, port + 1];
/** A frame from one port to another (or to everybody), with a payload. */
function frame(from: number, to: number | null, payloadBytes = 100, seed = 1): Uint8Array {
  const { bytes } = shapeFrame({ destination: to === null ? BROADCAST : macOf(to), payloadBytes, seed });
  bytes.set(macOf(from), 6);
  return bytes;
}

const frames = (pair: SwitchedPair): Uint8Array[] =>
  pair.collect().map(({ written, lengthBytes }) => written.slice(HEADER, lengthBytes));

describe('eswitch between functions', () => {
  it('a broadcast reaches everybody else, an answer only whom it is for, and buffers are used one each', () => {
    const { pairs, turn, settled } = switchFixture({}, {}, {});
    const [a, b, c] = pairs as [SwitchedPair, SwitchedPair, SwitchedPair];
    for (const pair of pairs) pair.post(8, 2048);
    const hello = frame(0, null);
    a.send(hello);
    expect(turn(a)).toBe(1);
    expect(settled.map(({ slot }) => slot)).toEqual([1, 2]);
    expect([frames(a), frames(b), frames(c)]).toEqual([[], [hello], [hello]]);
    const answer = frame(1, 0, 700);
    b.send(answer);
    turn(b);
    expect([frames(a), frames(b), frames(c)]).toEqual([[answer], [], []]);
    expect(a.countTransmit(QueueCounter.FRAMES)).toBe(1);
    expect(a.countReceive(QueueCounter.BYTES)).toBe(answer.length);
    expect(c.countReceive(QueueCounter.COMPLETED_DESC)).toBe(1);
    expect(a.transmitter.collect()).toHaveLength(1);
  });

  it('whatever the framing of both sides, the header’s size and the memory, frames arrive whole and alone', () => {
    const sizes = fc.array(fc.integer({ min: 1, max: 700 }), { maxLength: 5 });
    const sides = fc.record({
      parts: sizes,
      room: sizes,
      payloadBytes: fc.oneof(fc.integer({ min: 0, max: 400 }), fc.integer({ min: 0, max: 8900 })),
      legacy: fc.tuple(fc.boolean(), fc.boolean()),
      place: fc.constantFrom('apart', 'in one arena', 'in a window'),
      seed: fc.nat(255),
    });
    const window = windowRoom(ARENA_BYTES);
    fc.assert(
      fc.property(sides, ({ parts, room, payloadBytes, legacy, place, seed }) => {
        const { buffer, byteOffset } =
          place === 'in a window' ? window : { buffer: new ArrayBuffer(ARENA_BYTES), byteOffset: 0 };
        new Uint8Array(buffer, byteOffset, ARENA_BYTES).fill(0);
        const memory = (at: number) =>
          place === 'apart' ? {} : { arena: buffer, arenaOffset: byteOffset + at };
        const { pairs, turn } = switchFixture(
          { mtu: 9000, legacy: legacy[0], ...memory(4096) },
          { mtu: 9000, legacy: legacy[1], ...memory(2 << 20) },
        );
        const [a, b] = pairs as [SwitchedPair, SwitchedPair];
        const sent = frame(0, 1, payloadBytes, seed);
        b.post(1, ...room, 9100);
        a.send(sent, netHeader({}).subarray(0, legacy[0] ? 10 : HEADER), parts);
        expect(turn(a)).toBe(1);
        const [used] = b.collect();
        const header = legacy[1] ? 10 : HEADER;
        expect(used!.lengthBytes).toBe(header + sent.length);
        expect(used!.written.subarray(header, used!.lengthBytes)).toEqual(sent);
        expect(used!.written.subarray(used!.lengthBytes).every((byte) => byte === 0xa5)).toBe(true);
        if (!legacy[1])
          expect(decodeHeader(used!.written)).toEqual(decodeHeader(netHeader({ numBuffers: 1 })));
      }),
      { numRuns: 150 },
    );
  });

  it('who takes hashes gets that of the frame in front of it, who does not no room for one', () => {
    const hash = { types: HashType.IPV4, key: [...Buffer.from(HASH_KEY, 'hex')] };
    const { pairs, turn } = switchFixture({}, { features: [NetFeature.HASH_REPORT], hash }, {});
    const [a, b, c] = pairs as [SwitchedPair, SwitchedPair, SwitchedPair];
    for (const pair of pairs) pair.post(1, 2048);
    const sent = frame(0, null);
    sent.set([66, 9, 149, 187, 161, 142, 100, 80], 26); // addresses with a published hash
    a.send(sent);
    turn(a);
    const [{ written, lengthBytes }] = b.collect() as [UsedChain];
    expect(lengthBytes).toBe(NET_HEADER_HASH_BYTES + sent.length);
    expect(written.subarray(NET_HEADER_HASH_BYTES, lengthBytes)).toEqual(sent);
    const view = viewOf(written);
    expect(view.getUint32(NET_HEADER_HASH_AT.value, true)).toBe(0x323e8fc2);
    expect(view.getUint16(NET_HEADER_HASH_AT.report, true)).toBe(HashReport.IPV4);
    expect(frames(c)).toEqual([sent]);
  });

  it('a receiver without buffers loses its copy, counted, and nobody waits for it', () => {
    const { pairs, turn } = switchFixture({}, {}, {});
    const [a, b, c] = pairs as [SwitchedPair, SwitchedPair, SwitchedPair];
    c.post(3, 2048);
    for (let i = 0; i < 3; i++) a.send(frame(0, null, 100, i));
    expect(turn(a)).toBe(3);
    expect(frames(c)).toHaveLength(3);
    expect(b.countReceive(QueueCounter.DROP_NO_DESC)).toBe(3);
    expect(a.countTransmit(QueueCounter.FRAMES)).toBe(3);
  });

  it('link, filter and buffer size are the receiver’s reasons, and its buffers stay', () => {
    const { pairs, turn } = switchFixture(
      {},
      { linkUp: false },
      { filter: { mac: macOf(2), noBroadcast: true } },
      {},
    );
    const [a, b, c, d] = pairs as [SwitchedPair, SwitchedPair, SwitchedPair, SwitchedPair];
    for (const pair of [b, c]) pair.post(2, 2048);
    d.post(2, 100);
    a.send(frame(0, null));
    turn(a);
    expect(b.countReceive(QueueCounter.DROP_LINK_DOWN)).toBe(1);
    expect(c.countReceive(QueueCounter.DROP_FILTER_MAC)).toBe(1);
    expect(d.countReceive(QueueCounter.DROP_NO_BUFFER)).toBe(1);
    for (const pair of [b, c, d]) expect(pair.countReceive(QueueCounter.COMPLETED_DESC)).toBe(0);
    a.send(frame(0, 2));
    turn(a);
    expect(frames(c), 'the chain that was kept back takes the next frame').toEqual([frame(0, 2)]);
  });

  it('a sender’s drops have the switch’s reasons', () => {
    const { pairs, turn } = switchFixture({}, { active: false });
    const [a] = pairs as [SwitchedPair, SwitchedPair];
    a.send(frame(0, null));
    const itself = frame(0, 0);
    a.send(itself);
    const reserved = frame(0, 1);
    reserved.set([1, 0x80, 0xc2, 0, 0, 0]);
    a.send(reserved);
    expect(turn(a)).toBe(3);
    expect(a.countTransmit(QueueCounter.DROP_NO_DESTINATION)).toBe(1);
    expect(a.countTransmit(QueueCounter.DROP_SAME_PORT)).toBe(1);
    expect(a.countTransmit(QueueCounter.DROP_NOT_SWITCHED)).toBe(1);
    expect(a.countTransmit(QueueCounter.COMPLETED_DESC)).toBe(3);
    expect(a.countTransmit(QueueCounter.FRAMES)).toBe(0);
  });

  it('a source that the switch cannot remember is counted at its sender, whichever way its frames go', () => {
    const { domain, pairs, turn } = switchFixture({}, {});
    const [a, b] = pairs as [SwitchedPair, SwitchedPair];
    b.send(frame(1, null));
    turn(b);
    b.post(8, 2048);
    for (let i = 0; i < STATIONS_PER_PORT_MAX; i++)
      domain.eswitch.decide(0, Uint8Array.of(...BROADCAST, 2, 1, 0, 0, i >> 8, i & 0xff, 8, 0, 0, 0, 0, 0));
    const sent = [frame(0, 1), frame(0, null), frame(0, 1)];
    a.send(sent[0]!);
    a.send(sent[1]!);
    a.send(sent[2]!, netHeader({}), [30, 20]); // the long way
    expect(turn(a)).toBe(3);
    expect(frames(b)).toEqual(sent);
    expect(a.countTransmit(QueueCounter.STATIONS_REFUSED)).toBe(3);
    expect(a.countTransmit(QueueCounter.FRAMES)).toBe(3);
    expect(b.countTransmit(QueueCounter.STATIONS_REFUSED)).toBe(0);
  });

  it('frames with the same addresses pass an odd buffer in their order, and those without one are lost', () => {
    const { pairs, turn } = switchFixture({}, {}, {});
    const [a, b] = pairs as [SwitchedPair, SwitchedPair];
    b.send(frame(1, null)); // from now on the switch knows where it is
    turn(b);
    b.post(1, 2048);
    b.post(1, 500, 1548); // for the long way
    b.post(2, 2048);
    const sent = Array.from({ length: 6 }, (_, seed) => frame(0, 1, 200, seed));
    for (const each of sent) a.send(each);
    expect(turn(a)).toBe(6);
    expect(frames(b)).toEqual(sent.slice(0, 4));
    expect(b.countReceive(QueueCounter.DROP_NO_DESC)).toBe(2);
    expect(b.countReceive(QueueCounter.FRAMES)).toBe(4);
    expect(a.countTransmit(QueueCounter.FRAMES)).toBe(6);
  });

  it('buffers that wait are walked once for all frames that are too large for them', () => {
    const { domain, pairs, turn } = switchFixture({}, { features: [NetFeature.MRG_RXBUF] });
    const [a, b] = pairs as [SwitchedPair, SwitchedPair];
    let walked = 0;
    b.open(domain, {
      ring: (ring) => {
        const extend = ring.extend.bind(ring);
        ring.extend = () => {
          walked++;
          return extend();
        };
        return ring;
      },
      block: (block) => block,
      memory: (regions) => new GuestMemory(regions),
    });
    b.post(3, 300);
    const sent = Array.from({ length: 4 }, (_, seed) => frame(0, 1, 1000, seed));
    for (const each of sent.slice(0, 3)) a.send(each);
    turn(a);
    expect([walked, b.countReceive(QueueCounter.DROP_NO_BUFFER)]).toEqual([3, 3]);
    b.post(1, 300);
    a.send(sent[3]!);
    turn(a);
    expect(Buffer.concat(b.collect().map(({ written }) => written)).subarray(HEADER, HEADER + 1054)).toEqual(
      Buffer.from(sent[3]!),
    );
  });

  it('a broken receive ring stops its own queue only', () => {
    const { pairs, turn, settled } = switchFixture({}, {}, {});
    const [a, b, c] = pairs as [SwitchedPair, SwitchedPair, SwitchedPair];
    c.post(4, 2048);
    b.memory.view.setUint16(b.memory.at(b.receiver.driverAddress) + 2, 1000, true);
    a.send(frame(0, null));
    a.send(frame(0, null));
    expect(turn(a)).toBe(2);
    expect(b.receive.fault).toMatchObject({ code: 'AVAILABLE_INDEX_JUMP' });
    expect(settled).toContain(b.receive);
    expect(frames(c)).toHaveLength(2);
    expect(b.countReceive(QueueCounter.DROP_NO_DESC)).toBe(2);
  });

  it('chains that hold no frame go back, and the frame takes the next', () => {
    const { pairs, turn } = switchFixture({}, {});
    const [a, b] = pairs as [SwitchedPair, SwitchedPair];
    b.post(1, 13);
    b.receiver.addOutside();
    b.post(1, 2048);
    a.send(frame(0, 1));
    turn(a);
    const used = b.collect();
    expect(used.map(({ lengthBytes }) => lengthBytes)).toEqual([0, 0, HEADER + frame(0, 1).length]);
    expect(b.countReceive(QueueCounter.DROP_BAD_CHAIN)).toBe(2);
  });

  it.each([
    ['that hold no frame', ({ receiver }: SwitchedPair) => receiver.add({ writable: [1] })],
    ['that are malformed', ({ receiver }: SwitchedPair) => receiver.addOutside()],
  ])(
    'chains %s, made available as fast as they go back, cost their driver its frames, and nobody else',
    (_, add) => {
      const { domain, pairs, turn } = switchFixture({}, { queueSize: 256 }, {});
      const [a, b, c] = pairs as [SwitchedPair, SwitchedPair, SwitchedPair];
      while (add(b) >= 0);
      b.receiver.publish();
      c.post(2, 2048);
      const { driverAddress, deviceAddress, queueSize } = b.receiver;
      const [available, used] = [b.memory.at(driverAddress) + 2, b.memory.at(deviceAddress) + 2];
      const { view } = b.memory;
      let shown = 0;
      const ring = (each: DeviceRing): DeviceRing => {
        const publish = each.publish.bind(each);
        each.publish = () => {
          const wanted = publish();
          if (++shown < SHOWN_MAX) view.setUint16(available, view.getUint16(used, true) + queueSize, true);
          return wanted;
        };
        return each;
      };
      domain.detach(1, 0);
      b.open(domain, { ...PLAIN_WRAP, ring: (each) => (each.queueSize === queueSize ? ring(each) : each) });
      for (let burst = 1; burst <= 2; burst++) {
        const before = shown;
        for (let i = 0; i < 2; i++) a.send(frame(0, null, 100, i));
        expect(turn(a)).toBe(2);
        expect(shown - before, 'at the end of the burst').toBe(1);
        expect(b.countReceive(QueueCounter.DROP_BAD_CHAIN)).toBe(burst * REFUSALS_MAX);
        expect(b.countReceive(QueueCounter.DROP_NO_DESC)).toBe(burst * 2);
      }
      expect(frames(c)).toHaveLength(2);
      expect(b.receive.fault).toBeNull();
    },
  );

  it('chains that hold no frame are paid for as copies are', () => {
    const { pairs, turn } = switchFixture(...Array.from({ length: 21 }, () => ({ queueSize: 16 })));
    const [a, ...others] = pairs as [SwitchedPair, ...SwitchedPair[]];
    for (const other of others) other.post(16, 1);
    for (let i = 0; i < 3; i++) a.send(frame(0, null));
    expect(turn(a), '20 copies and 320 chains').toBe(1);
    expect(turn(a)).toBe(2);
  });

  it('the transmit pair chooses the receive queue, among those steering may choose', () => {
    const { domain, turn } = switchFixture({});
    const receivers = [0, 1, 2].map((pair) => new Pair(1, { pair, active: pair < 2 }));
    const senders = [0, 1, 2, 3].map((pair) => new Pair(2, { pair }));
    for (const pair of [...receivers, ...senders]) pair.open(domain);
    for (const pair of receivers) pair.post(8, 2048);
    senders.forEach((sender, pair) => {
      sender.send(frame(2, 1, 100, pair));
      turn(sender);
    });
    expect(receivers.map((pair) => frames(pair).length)).toEqual([2, 2, 0]);
  });

  it('a burst ends when its copies are paid for, and goes on in the next turn', () => {
    const { pairs, turn } = switchFixture(...Array.from({ length: 101 }, () => ({ queueSize: 16 })));
    const [a] = pairs as [SwitchedPair];
    for (let i = 0; i < 8; i++) a.send(frame(0, null));
    expect(turn(a), '256 copies and those of the frame begun before').toBe(3);
    expect(turn(a)).toBe(3);
    expect(turn(a)).toBe(2);
    expect(pairs[100]!.countReceive(QueueCounter.DROP_NO_DESC)).toBe(8);
  });

  it('a queue that is replaced keeps its place, one that is removed leaves with what was heard there', () => {
    const { domain, pairs, turn } = switchFixture({}, {}, {});
    const [a, b, c] = pairs as [SwitchedPair, SwitchedPair, SwitchedPair];
    for (const pair of pairs) pair.post(8, 2048);
    b.send(frame(1, null));
    turn(b);
    for (const pair of [a, c]) pair.collect();
    domain.detach(1, 0);
    b.open(domain);
    a.send(frame(0, 1));
    turn(a);
    expect([frames(b).length, frames(c).length]).toEqual([1, 0]);
    domain.detach(1, 0);
    domain.remove(1);
    a.send(frame(0, 1));
    turn(a);
    expect([frames(b).length, frames(c).length], 'it is flooded to who is left').toEqual([0, 1]);
  });
});

describe('eswitch offloads', () => {
  const gso = shapeFrame({ destination: BROADCAST, payloadBytes: 4000 });
  const header = checksumHeader(gso, { gsoType: GsoType.TCPV4, gsoSize: 1448 });
  const sender = { features: [CSUM, HOST_TSO4] };

  it('a frame with GSO passes untouched to who takes it, and in segments to who does not, in one flood', () => {
    const { pairs, turn } = switchFixture(
      sender,
      { features: [GUEST_CSUM, GUEST_TSO4] },
      {},
      { features: [GUEST_CSUM] },
    );
    const [a, whole, plain, summed] = pairs as [SwitchedPair, SwitchedPair, SwitchedPair, SwitchedPair];
    for (const pair of pairs) pair.post(8, 4096 + 64);
    a.send(gso.bytes, header);
    expect(turn(a)).toBe(1);
    const [one, ...none] = whole.collect();
    expect(none).toEqual([]);
    const { gsoType, gsoSize, flags, numBuffers } = decodeHeader(one!.written);
    expect({ gsoType, gsoSize, flags, numBuffers }).toEqual({
      gsoType: 1,
      gsoSize: 1448,
      flags: 1,
      numBuffers: 1,
    });
    expect(one!.written.subarray(HEADER, one!.lengthBytes)).toEqual(gso.bytes);
    for (const [pair, expectedFlags] of [
      [plain, 0],
      [summed, 2],
    ] as const) {
      const used = pair.collect();
      expect(used.map(({ lengthBytes }) => lengthBytes - HEADER - gso.payload)).toEqual([1448, 1448, 1104]);
      for (const { written, lengthBytes } of used) {
        expect(decodeHeader(written)).toEqual(
          decodeHeader(netHeader({ flags: expectedFlags, numBuffers: 1 })),
        );
        const segment = written.subarray(HEADER, lengthBytes);
        const transport = segment.subarray(gso.transport);
        const addresses = segment.subarray(gso.network + 12, gso.network + 20);
        expect(fold(wordSum(addresses) + 6 + transport.length + wordSum(transport))).toBe(0xffff);
      }
    }
    expect(plain.countReceive(QueueCounter.FRAMES)).toBe(3);
  });

  it.each([4, 6] as const)(
    'datagrams over IPv%i in one frame pass whole to who takes them over that version, else one by one',
    (version) => {
      const { pairs, turn } = switchFixture(
        { features: [CSUM, HOST_USO] },
        { features: [GUEST_CSUM, GUEST_USO4] },
        { features: [GUEST_CSUM, GUEST_USO6] },
        { features: [GUEST_CSUM, GUEST_TSO4] },
        {},
      );
      const [a, four, six, ...others] = pairs as [SwitchedPair, SwitchedPair, SwitchedPair];
      for (const pair of pairs) pair.post(8, 4096 + 64);
      const sent = shapeFrame({ destination: BROADCAST, protocol: 'udp', version, payloadBytes: 2500 });
      a.send(sent.bytes, checksumHeader(sent, { gsoType: GsoType.UDP_L4, gsoSize: 1000 }));
      expect(turn(a)).toBe(1);
      const [takes, not] = version === 4 ? [four, six] : [six, four];
      const [one, ...none] = takes.collect();
      expect(none).toEqual([]);
      expect(decodeHeader(one!.written)).toMatchObject({ flags: 1, gsoType: 5, gsoSize: 1000 });
      expect(one!.written.subarray(HEADER, one!.lengthBytes)).toEqual(sent.bytes);
      for (const pair of [not, ...others]) {
        const datagrams = frames(pair);
        expect(datagrams.map(({ length }) => length - sent.payload)).toEqual([1000, 1000, 500]);
        expect(datagrams.flatMap((each) => [...each.subarray(sent.payload)])).toEqual([
          ...sent.bytes.subarray(sent.payload),
        ]);
        for (const datagram of datagrams) {
          const transport = datagram.subarray(sent.transport);
          const addresses = datagram.subarray(sent.network + (version === 4 ? 12 : 8), sent.transport);
          expect(viewOf(transport).getUint16(4), 'UDP length').toBe(transport.length);
          expect(fold(wordSum(addresses) + 17 + transport.length + wordSum(transport))).toBe(0xffff);
        }
      }
    },
  );

  it('F18 the largest frame, 64 KiB of IPv6 behind two tags, arrives whole, and all of it in segments', () => {
    const { pairs, turn } = switchFixture(
      { features: [CSUM, HOST_TSO6] },
      { features: [GUEST_CSUM, GUEST_TSO6] },
      {},
    );
    const [a, whole, plain] = pairs as [SwitchedPair, SwitchedPair, SwitchedPair];
    const payloadBytes = 65_535 - 20;
    const sent = shapeFrame({ destination: BROADCAST, version: 6, vlans: [5, 6], payloadBytes });
    expect(sent.bytes).toHaveLength(FRAME_BYTES_MAX);
    whole.post(1, HEADER + FRAME_BYTES_MAX);
    plain.post(50, 2048);
    a.send(sent.bytes, checksumHeader(sent, { gsoType: GsoType.TCPV6, gsoSize: 1400 }));
    expect(turn(a)).toBe(1);
    const [one] = whole.collect();
    expect(decodeHeader(one!.written)).toMatchObject({ gsoType: GsoType.TCPV6, gsoSize: 1400 });
    expect(Buffer.compare(one!.written.subarray(HEADER, one!.lengthBytes), sent.bytes)).toBe(0);
    const segments = frames(plain);
    expect(segments).toHaveLength(Math.ceil(payloadBytes / 1400));
    const payload = Buffer.concat(segments.map((segment) => segment.subarray(sent.payload)));
    expect(payload.equals(sent.bytes.subarray(sent.payload))).toBe(true);
    for (const segment of segments)
      expect([...segment.subarray(12, sent.network)]).toEqual([...sent.bytes.subarray(12, sent.network)]);
  });

  it('segments without a buffer are counted one by one, and what can not be segmented is the receiver’s drop', () => {
    const { pairs, turn } = switchFixture(sender, {}, { features: [GUEST_CSUM, GUEST_TSO4] });
    const [a, plain] = pairs as [SwitchedPair, SwitchedPair];
    plain.post(1, 2048);
    a.send(gso.bytes, header);
    turn(a);
    expect(plain.countReceive(QueueCounter.FRAMES)).toBe(1);
    expect(plain.countReceive(QueueCounter.DROP_NO_DESC)).toBe(2);
    a.send(gso.bytes, checksumHeader(gso, { gsoType: GsoType.TCPV4, gsoSize: 1 }));
    expect(turn(a)).toBe(1);
    expect(plain.countReceive(QueueCounter.DROP_HEADER)).toBe(1);
  });

  it('F15 an open checksum is completed for who can not, and stays open for who can', () => {
    const { pairs, turn } = switchFixture(sender, {}, { features: [GUEST_CSUM] });
    const [a, plain, able] = pairs as [SwitchedPair, SwitchedPair, SwitchedPair];
    for (const pair of pairs) pair.post(1, 2048);
    const open = shapeFrame({ destination: BROADCAST });
    a.send(open.bytes, checksumHeader(open));
    turn(a);
    const field = open.transport + open.checksumOffset;
    const [done] = frames(plain);
    const transport = done!.subarray(open.transport);
    const addresses = done!.subarray(open.network + 12, open.network + 20);
    expect(fold(wordSum(addresses) + 6 + transport.length + wordSum(transport))).toBe(0xffff);
    const [passed] = able.collect();
    expect(decodeHeader(passed!.written)).toMatchObject({ flags: 1, csumStart: open.transport });
    expect(passed!.written.subarray(HEADER + field, HEADER + field + 2)).toEqual(
      open.bytes.subarray(field, field + 2),
    );
  });
});

describe('diagnostic ports', () => {
  it('a loop gives a pair its own frames back', () => {
    const { domain, pairs, turn } = switchFixture({}, {});
    const [a, b] = pairs as [SwitchedPair, SwitchedPair];
    a.open(domain, undefined, (each) => new LoopPort(each, 0, 0));
    for (const pair of pairs) pair.post(8, 2048);
    const sent = [frame(0, 1, 60), frame(0, 0, 1000), frame(5, null, 300)];
    for (const each of sent) a.send(each);
    expect(turn(a)).toBe(3);
    expect(frames(a)).toEqual(sent);
    expect(frames(b)).toEqual([]);
  });

  it('a sink takes every frame, and a source gives frames of its size for as long as there are buffers', () => {
    const { domain, pairs, turn } = switchFixture({});
    const [a] = pairs as [SwitchedPair];
    const source = new SourcePort(300, new SinkPort());
    a.open(domain, undefined, () => source);
    for (let i = 0; i < 20; i++) a.send(frame(0, null, 1400, i));
    expect(turn(a)).toBe(20);
    expect(a.countTransmit(QueueCounter.FRAMES)).toBe(20);
    const ring = openSplitRing(a.receiver as SplitDriver, new GuestMemory([a.memory.region]), {
      position: 0,
    });
    if (!(ring instanceof SplitRing)) throw new Error('the ring does not open');
    const queue = new ReceiveQueue({
      ring,
      port: source,
      block: a.blocks[0],
      features: featureMask([VirtioFeature.VERSION_1]),
      mtu: 1500,
      linkUp: true,
      active: true,
      filter: null,
    });
    a.post(7, 2048);
    expect(queue.poll(64)).toBe(7);
    const got = frames(a);
    expect(got).toHaveLength(7);
    for (const each of got) expect([each.length, each[0], each[299]]).toEqual([300, 0xff, 299 & 0xff]);
  });
});
