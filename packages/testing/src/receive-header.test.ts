/** The header of frames to the driver: NET-7 to NET-11, failure mode F8. */
import { GSO_ECN, GsoType, NetFeature, NetHeaderFlag, QueueCounter } from '@virtnet/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  checksumHeader,
  decodeHeader,
  fold,
  netHeader,
  OFFLOADS_RECEIVE,
  receiveFixture,
  shapeFrame,
  wordSum,
} from './net-fixture.js';
import { expectDropped, HEADER, receiveOne } from './receive-expect.js';

const { NEEDS_CSUM, DATA_VALID, RSC_INFO } = NetHeaderFlag;
const BUDGET = 64;

describe('receive header', () => {
  describe('NET-7 without GUEST_CSUM', () => {
    const shapes = fc.record({
      version: fc.constantFrom(4 as const, 6 as const),
      protocol: fc.constantFrom('tcp' as const, 'udp' as const),
      payloadBytes: fc.integer({ min: 0, max: 5000 }),
      seed: fc.nat(255),
      vlans: fc.constantFrom([], [7]),
    });

    it('a frame with an open checksum arrives with flags 0 and the full checksum, whatever its framing', () => {
      const fixture = receiveFixture();
      const sizes = fc.array(fc.integer({ min: 1, max: 900 }), { maxLength: 6 });
      fc.assert(
        fc.property(shapes, sizes, (shape, parts) => {
          const frame = shapeFrame(shape);
          fixture.port.push(frame.bytes, checksumHeader(frame));
          fixture.driver.add({ writable: [...parts, 6000] });
          fixture.driver.publish();
          expect(fixture.queue.poll(BUDGET)).toBe(1);
          const [used] = fixture.driver.collect();
          expect(decodeHeader(used!.written.subarray(0, HEADER))).toEqual(
            decodeHeader(netHeader({ numBuffers: 1 })),
          );
          const got = used!.written.subarray(HEADER, used!.lengthBytes);
          // What a receiver computes: pseudo-header plus everything from the transport header on is all ones.
          const start = shape.version === 4 ? frame.network + 12 : frame.network + 8;
          const addresses = got.subarray(start, frame.transport);
          const transport = got.subarray(frame.transport);
          const protocol = shape.protocol === 'tcp' ? 6 : 17;
          expect(fold(wordSum(addresses) + protocol + transport.length + wordSum(transport))).toBe(0xffff);
          const field = frame.transport + frame.checksumOffset;
          got.set([0, 0], field);
          const open = frame.bytes.slice();
          open.set([0, 0], field);
          expect(got, 'nothing else changed').toEqual(open);
        }),
        { numRuns: 150 },
      );
    });

    it('a checksum that comes out as 0 is stored as 0xffff', () => {
      const fixture = receiveFixture();
      const frame = shapeFrame({ protocol: 'udp', payloadBytes: 2 });
      const view = new DataView(frame.bytes.buffer);
      const rest = frame.bytes.slice(frame.transport);
      rest.fill(0, rest.length - 2);
      view.setUint16(frame.bytes.length - 2, 0xffff - fold(wordSum(rest)));
      fixture.port.push(frame.bytes, checksumHeader(frame));
      const { frame: got } = receiveOne(fixture);
      expect([...got.subarray(frame.transport + 6, frame.transport + 8)]).toEqual([0xff, 0xff]);
    });

    it('DATA_VALID is not passed on', () => {
      const fixture = receiveFixture();
      fixture.port.push(shapeFrame().bytes, netHeader({ flags: DATA_VALID }));
      expect(receiveOne(fixture).header.flags).toBe(0);
    });
  });

  describe('with GUEST_CSUM', () => {
    it('NET-9 an open checksum arrives open: pseudo-header stored, csum_start and csum_offset right', () => {
      const fixture = receiveFixture({ features: [NetFeature.GUEST_CSUM] });
      const frame = shapeFrame({ vlans: [9] });
      fixture.port.push(frame.bytes, checksumHeader(frame, { hdrLen: 77 }));
      const got = receiveOne(fixture);
      expect(got.header).toEqual(decodeHeader(checksumHeader(frame, { numBuffers: 1 })));
      expect(got.frame).toEqual(frame.bytes);
    });

    it('NET-10 NET-11 DATA_VALID is passed on, RSC_INFO and unknown flags are not', () => {
      const fixture = receiveFixture({ features: [NetFeature.GUEST_CSUM] });
      const header = netHeader({ flags: DATA_VALID | RSC_INFO | 0xf8, csumStart: 3, csumOffset: 4 });
      fixture.port.push(shapeFrame().bytes, header);
      expect(receiveOne(fixture).header).toEqual(
        decodeHeader(netHeader({ flags: DATA_VALID, numBuffers: 1 })),
      );
    });

    it('F8 a checksum outside the frame is dropped', () => {
      for (const [csumStart, csumOffset] of [
        [65_535, 16],
        [34, 65_535],
        [0, 16],
      ] as const) {
        const fixture = receiveFixture({ features: [NetFeature.GUEST_CSUM] });
        fixture.port.push(shapeFrame().bytes, netHeader({ flags: NEEDS_CSUM, csumStart, csumOffset }));
        expectDropped(fixture, QueueCounter.DROP_HEADER);
      }
    });
  });

  describe('NET-8 GSO', () => {
    const tcp4 = shapeFrame({ payloadBytes: 4000, dataOffset: 8 });
    const tcp6 = shapeFrame({ payloadBytes: 4000, version: 6 });
    const udp4 = shapeFrame({ payloadBytes: 4000, protocol: 'udp' });
    const udp6 = shapeFrame({ payloadBytes: 4000, protocol: 'udp', version: 6 });
    const kinds = [
      ['TCPV4', tcp4, GsoType.TCPV4, NetFeature.GUEST_TSO4],
      ['TCPV6', tcp6, GsoType.TCPV6, NetFeature.GUEST_TSO6],
      ['TCPV4 with ECN', tcp4, GsoType.TCPV4 | GSO_ECN, NetFeature.GUEST_ECN],
      ['UDP_L4 over IPv4', udp4, GsoType.UDP_L4, NetFeature.GUEST_USO4],
      ['UDP_L4 over IPv6', udp6, GsoType.UDP_L4, NetFeature.GUEST_USO6],
      ['UDP fragments', udp4, GsoType.UDP, NetFeature.GUEST_UFO],
    ] as const;

    it.each(kinds)(
      '%s, negotiated: delivered with NEEDS_CSUM, gso_size and all headers in hdr_len',
      (_, frame, gsoType) => {
        const fixture = receiveFixture({ features: OFFLOADS_RECEIVE });
        fixture.port.push(frame.bytes, checksumHeader(frame, { gsoType, gsoSize: 1400, hdrLen: 20 }));
        const got = receiveOne(fixture);
        const expected = checksumHeader(frame, {
          gsoType,
          gsoSize: 1400,
          hdrLen: frame.payload,
          numBuffers: 1,
        });
        expect(got.header).toEqual(decodeHeader(expected));
        expect(got.frame).toEqual(frame.bytes);
      },
    );

    it.each(kinds)('%s, not negotiated: dropped', (_, frame, gsoType, feature) => {
      const features = OFFLOADS_RECEIVE.filter((bit) => bit !== feature);
      const fixture = receiveFixture({ features });
      fixture.port.push(frame.bytes, checksumHeader(frame, { gsoType, gsoSize: 1400 }));
      expectDropped(fixture, QueueCounter.DROP_HEADER);
    });

    it.each(kinds)('%s without gso_size or NEEDS_CSUM: dropped', (_, frame, gsoType) => {
      for (const header of [checksumHeader(frame, { gsoType }), netHeader({ gsoType, gsoSize: 1400 })]) {
        const fixture = receiveFixture({ features: OFFLOADS_RECEIVE });
        fixture.port.push(frame.bytes, header);
        expectDropped(fixture, QueueCounter.DROP_HEADER);
      }
    });
  });
});
