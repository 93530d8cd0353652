/** The header of frames from the driver: NET-4, NET-13, failure modes F3, F8 to F11 and F16. */
import {
  GSO_ECN,
  GsoType,
  NET_HEADER_HASH_BYTES,
  NET_HEADER_LEGACY_BYTES,
  NetFeature,
  NetHeader,
  NetHeaderFlag,
  QueueCounter,
} from '@virtnet/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  checksumHeader,
  decodeHeader,
  type HeaderFields,
  netHeader,
  OFFLOADS_TRANSMIT,
  type ShapedFrame,
  shapeFrame,
  type TransmitFixture,
  transmitFixture,
} from './net-fixture.js';

const { NEEDS_CSUM, DATA_VALID, RSC_INFO } = NetHeaderFlag;
const BUDGET = 64;

function expectDropped(fixture: TransmitFixture, reason: QueueCounter): void {
  expect(fixture.queue.poll(BUDGET)).toBe(1);
  expect(fixture.port.sent).toEqual([]);
  expect([fixture.count(reason), fixture.drops()]).toEqual([1, 1]);
  expect(fixture.driver.collect().map(({ lengthBytes }) => lengthBytes)).toEqual([0]);
  // Other traffic goes on.
  const frame = shapeFrame({ seed: 99 }).bytes;
  fixture.transmit(frame);
  fixture.queue.poll(BUDGET);
  expect(fixture.port.sent.map((sent) => sent.frame)).toEqual([frame]);
}

/** Sends one frame under a header; the header the port saw. */
function sentHeader(fixture: TransmitFixture, frame: ShapedFrame, header: Uint8Array): HeaderFields {
  fixture.transmit(frame.bytes, header);
  expect(fixture.queue.poll(BUDGET)).toBe(1);
  const sent = fixture.port.sent.at(-1);
  expect(sent?.frame).toEqual(frame.bytes);
  fixture.driver.collect();
  return decodeHeader(sent!.header);
}

describe('transmit header', () => {
  it('F3 NET-13 where the frame begins follows from the features: 12 bytes, 10 for legacy, 20 with a hash', () => {
    const cases: [number, boolean, number[]][] = [
      [NetHeader.sizeBytes, false, []],
      [NetHeader.sizeBytes, true, [NetFeature.MRG_RXBUF]],
      [NET_HEADER_LEGACY_BYTES, true, []],
      [NET_HEADER_HASH_BYTES, false, [NetFeature.HASH_REPORT]],
    ];
    for (const [headerBytes, legacy, features] of cases) {
      const fixture = transmitFixture({ legacy, features: [...features, ...OFFLOADS_TRANSMIT] });
      const frame = shapeFrame();
      const header = checksumHeader(frame);
      const wide = new Uint8Array(headerBytes).fill(0xee, NetHeader.sizeBytes);
      wide.set(header.subarray(0, Math.min(headerBytes, header.length)));
      fixture.transmit(frame.bytes, wide);
      fixture.queue.poll(BUDGET);
      expect(fixture.port.sent).toEqual([{ header, frame: frame.bytes }]);
    }
  });

  it('a frame shorter than an Ethernet header, or no whole header, is dropped under the header’s counter', () => {
    for (const bytes of [1, 11, 12, 25]) {
      const fixture = transmitFixture();
      fixture.driver.add({ readable: [new Uint8Array(bytes)] });
      fixture.driver.publish();
      expectDropped(fixture, QueueCounter.DROP_HEADER);
    }
  });

  describe('NET-4 what the driver was not asked for is ignored', () => {
    it('flag bits other than NEEDS_CSUM', () => {
      const fixture = transmitFixture({ features: OFFLOADS_TRANSMIT });
      const frame = shapeFrame();
      const seen = sentHeader(fixture, frame, netHeader({ flags: 0xfe }));
      expect(seen).toEqual(decodeHeader(netHeader({})));
      const open = sentHeader(
        fixture,
        frame,
        checksumHeader(frame, { flags: NEEDS_CSUM | DATA_VALID | RSC_INFO }),
      );
      expect(open).toEqual(decodeHeader(checksumHeader(frame)));
    });

    it('csum_start and csum_offset without NEEDS_CSUM, however wrong', () => {
      const fixture = transmitFixture({ features: OFFLOADS_TRANSMIT });
      const header = netHeader({ csumStart: 65_535, csumOffset: 65_535 });
      expect(sentHeader(fixture, shapeFrame(), header)).toEqual(decodeHeader(netHeader({})));
    });

    it('gso_size, hdr_len and num_buffers without GSO', () => {
      const fixture = transmitFixture({ features: OFFLOADS_TRANSMIT });
      const frame = shapeFrame();
      const header = checksumHeader(frame, { gsoSize: 77, hdrLen: 65_535, numBuffers: 9 });
      expect(sentHeader(fixture, frame, header)).toEqual(decodeHeader(checksumHeader(frame)));
    });
  });

  it('F11 NET-4 hdr_len 0, 1, right or 65535 gives the port the same header', () => {
    const fixture = transmitFixture({ features: OFFLOADS_TRANSMIT });
    const frame = shapeFrame({ payloadBytes: 4000, dataOffset: 8 });
    for (const hdrLen of [0, 1, frame.payload, 65_535]) {
      const header = checksumHeader(frame, { gsoType: GsoType.TCPV4, gsoSize: 1448, hdrLen });
      expect(sentHeader(fixture, frame, header).hdrLen).toBe(frame.payload);
    }
  });

  describe('F8 a checksum outside the frame is dropped', () => {
    const frame = shapeFrame();
    const length = frame.bytes.length;
    it.each([
      ['start past the frame', 65_535, 16],
      ['offset past the frame', frame.transport, 65_535],
      ['both at their largest', 65_535, 65_535],
      ['one byte too far', length - 17, 16],
      ['inside the Ethernet header', 13, 16],
    ])('%s', (_, csumStart, csumOffset) => {
      const fixture = transmitFixture({ features: OFFLOADS_TRANSMIT });
      fixture.transmit(frame.bytes, netHeader({ flags: NEEDS_CSUM, csumStart, csumOffset }));
      expectDropped(fixture, QueueCounter.DROP_HEADER);
    });

    it('the last place inside the frame is accepted', () => {
      const fixture = transmitFixture({ features: OFFLOADS_TRANSMIT });
      const header = netHeader({ flags: NEEDS_CSUM, csumStart: length - 18, csumOffset: 16 });
      expect(sentHeader(fixture, frame, header)).toEqual(decodeHeader(header));
    });
  });

  it('F10 NEEDS_CSUM without CSUM negotiated is dropped', () => {
    const fixture = transmitFixture();
    const frame = shapeFrame();
    fixture.transmit(frame.bytes, checksumHeader(frame));
    expectDropped(fixture, QueueCounter.DROP_HEADER);
  });

  describe('GSO', () => {
    const tcp4 = shapeFrame({ payloadBytes: 4000 });
    const tcp6 = shapeFrame({ payloadBytes: 4000, version: 6 });
    const udp4 = shapeFrame({ payloadBytes: 4000, protocol: 'udp' });
    const udp6 = shapeFrame({ payloadBytes: 4000, protocol: 'udp', version: 6 });
    const tagged = shapeFrame({ payloadBytes: 4000, vlans: [7, 8] });
    const gso = (frame: ShapedFrame, gsoType: number, fields: Partial<HeaderFields> = {}) =>
      checksumHeader(frame, { gsoType, gsoSize: 1400, ...fields });
    const kinds: [string, ShapedFrame, number, number][] = [
      ['TCPV4', tcp4, GsoType.TCPV4, NetFeature.HOST_TSO4],
      ['TCPV4 with ECN', tcp4, GsoType.TCPV4 | GSO_ECN, NetFeature.HOST_ECN],
      ['TCPV4 behind two tags', tagged, GsoType.TCPV4, NetFeature.HOST_TSO4],
      ['TCPV6', tcp6, GsoType.TCPV6, NetFeature.HOST_TSO6],
      ['UDP_L4 over IPv4', udp4, GsoType.UDP_L4, NetFeature.HOST_USO],
      ['UDP_L4 over IPv6', udp6, GsoType.UDP_L4, NetFeature.HOST_USO],
      ['UDP fragments', udp4, GsoType.UDP, NetFeature.HOST_UFO],
    ];

    it.each(kinds)(
      '%s, negotiated: sent, larger than the MTU, with the header length worked out',
      (_, frame, type) => {
        const fixture = transmitFixture({ features: OFFLOADS_TRANSMIT });
        const seen = sentHeader(fixture, frame, gso(frame, type));
        expect(seen).toEqual(decodeHeader(gso(frame, type, { hdrLen: frame.payload })));
      },
    );

    it.each(kinds)('F10 %s, not negotiated: dropped', (_, frame, type, feature) => {
      const features = OFFLOADS_TRANSMIT.filter((bit) => bit !== feature);
      const fixture = transmitFixture({ features });
      fixture.transmit(frame.bytes, gso(frame, type));
      expectDropped(fixture, QueueCounter.DROP_HEADER);
    });

    const short = shapeFrame({ payloadBytes: 0 });
    const wrongOffset = shapeFrame({ payloadBytes: 4000, dataOffset: 4 });
    const overlong = shapeFrame({ payloadBytes: 0 });
    overlong.bytes[overlong.transport + 12] = 0xf0;
    // Read from byte 20 on, this one has a TCP header of 20 bytes; but byte 20 is in the IP header.
    const early = shapeFrame({ payloadBytes: 4000 });
    early.bytes[20 + 12] = 0x50;
    it.each([
      ['gso_size 0', tcp4, gso(tcp4, GsoType.TCPV4, { gsoSize: 0 })],
      ['unknown type 2', tcp4, gso(tcp4, 2)],
      ['unknown type 6', tcp4, gso(tcp4, 6)],
      ['unknown type 0x7f', tcp4, gso(tcp4, 0x7f)],
      ['ECN alone', tcp4, gso(tcp4, GSO_ECN)],
      ['ECN with UDP', udp4, gso(udp4, GsoType.UDP_L4 | GSO_ECN)],
      ['without NEEDS_CSUM', tcp4, netHeader({ gsoType: GsoType.TCPV4, gsoSize: 1400 })],
      ['TCPV4 on an IPv6 frame', tcp6, gso(tcp6, GsoType.TCPV4)],
      ['TCPV6 on an IPv4 frame', tcp4, gso(tcp4, GsoType.TCPV6)],
      ['TCPV4 on a UDP frame', udp4, gso(udp4, GsoType.TCPV4, { csumOffset: 16 })],
      ['UDP_L4 on a TCP frame', tcp4, gso(tcp4, GsoType.UDP_L4, { csumOffset: 6 })],
      ['checksum where no TCP checksum is', tcp4, gso(tcp4, GsoType.TCPV4, { csumOffset: 6 })],
      ['transport inside the IP header', early, gso(early, GsoType.TCPV4, { csumStart: 20 })],
      ['TCP header shorter than 20 bytes', wrongOffset, gso(wrongOffset, GsoType.TCPV4)],
      ['TCP header longer than the frame', overlong, gso(overlong, GsoType.TCPV4)],
      [
        'checksum at the end of the frame',
        short,
        gso(short, GsoType.TCPV4, { csumStart: short.bytes.length - 18 }),
      ],
    ])('F9 %s: dropped', (_, frame, header) => {
      const fixture = transmitFixture({ features: OFFLOADS_TRANSMIT });
      fixture.transmit(frame.bytes, header);
      expectDropped(fixture, QueueCounter.DROP_HEADER);
    });

    it('a frame of 64 KiB with two tags passes, one byte more than the largest is dropped', () => {
      const largest = 65_535 + 40 + 14 + 8;
      for (const [bytes, passes] of [
        [largest, true],
        [largest + 1, false],
      ] as const) {
        const fixture = transmitFixture({ features: OFFLOADS_TRANSMIT });
        const shape = { version: 6, vlans: [1, 2] } as const;
        const frame = shapeFrame({
          ...shape,
          payloadBytes: bytes - shapeFrame({ ...shape, payloadBytes: 0 }).bytes.length,
        });
        expect(frame.bytes.length).toBe(bytes);
        fixture.transmit(frame.bytes, gso(frame, GsoType.TCPV6));
        fixture.queue.poll(BUDGET);
        expect(fixture.port.sent.length).toBe(passes ? 1 : 0);
        expect(fixture.count(QueueCounter.DROP_HEADER)).toBe(passes ? 0 : 1);
      }
    });

    it('NET-4 F9 any header at all is either refused or sent with fields that lie inside the frame', () => {
      const fixture = transmitFixture({ features: OFFLOADS_TRANSMIT, mtu: 0 });
      const frames = [tcp4, tcp6, udp4, tagged, short];
      const near = (frame: ShapedFrame) =>
        fc.record({
          flags: fc.constantFrom(0, 1, 1, 1, 3, 0xff),
          gsoType: fc.constantFrom(0, 0, 0, 1, 1, 3, 4, 5, 0x81, 0x84, 0x80, 2, 0xff),
          hdrLen: fc.nat(0xffff),
          gsoSize: fc.constantFrom(0, 1, 1400, 0xffff),
          csumStart: fc.oneof({ weight: 3, arbitrary: fc.constant(frame.transport) }, fc.nat(0xffff)),
          csumOffset: fc.oneof({ weight: 3, arbitrary: fc.constantFrom(6, 16) }, fc.nat(0xffff)),
          numBuffers: fc.nat(0xffff),
        });
      const pairs = fc.constantFrom(...frames).chain((frame) => fc.tuple(fc.constant(frame), near(frame)));
      let sent = 0;
      fc.assert(
        fc.property(pairs, ([frame, fields]) => {
          const before = fixture.count(QueueCounter.FRAMES) + fixture.drops();
          fixture.transmit(frame.bytes, netHeader(fields));
          fixture.queue.poll(BUDGET);
          fixture.driver.collect();
          expect(fixture.count(QueueCounter.FRAMES) + fixture.drops()).toBe(before + 1);
          const out = fixture.port.sent.pop();
          if (out === undefined) return;
          sent++;
          const header = decodeHeader(out.header);
          expect(header.hdrLen).toBeLessThanOrEqual(frame.bytes.length);
          if (header.flags === NEEDS_CSUM) {
            expect(header.csumStart + header.csumOffset + 2).toBeLessThanOrEqual(frame.bytes.length);
          } else expect(header).toEqual(decodeHeader(netHeader({})));
        }),
        { numRuns: 1500 },
      );
      expect(sent).toBeGreaterThan(50);
    });
  });

  describe('F16 the MTU', () => {
    const sized = (frameBytes: number, vlans: number[]) =>
      shapeFrame({ vlans, payloadBytes: frameBytes - 54 - vlans.length * 4 }).bytes;
    it.each([
      [1514, [], true],
      [1515, [], false],
      [1518, [5], true],
      [1519, [5], false],
      [1522, [5, 6], true],
      [1523, [5, 6], false],
      [9014, [], false],
    ])('a frame of %i bytes with tags %j on a 1500-byte device: passes %s', (frameBytes, vlans, passes) => {
      const fixture = transmitFixture({ mtu: 1500 });
      const frame = sized(frameBytes, vlans);
      expect(frame.length).toBe(frameBytes);
      fixture.transmit(frame);
      if (passes) {
        fixture.queue.poll(BUDGET);
        expect(fixture.port.sent.length).toBe(1);
      } else expectDropped(fixture, QueueCounter.DROP_MTU);
    });

    it('holds for a frame with an open checksum too', () => {
      const fixture = transmitFixture({ mtu: 1500, features: OFFLOADS_TRANSMIT });
      const frame = shapeFrame({ payloadBytes: 8000 });
      fixture.transmit(frame.bytes, checksumHeader(frame));
      expectDropped(fixture, QueueCounter.DROP_MTU);
    });
  });
});
