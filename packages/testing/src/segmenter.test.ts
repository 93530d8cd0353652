/** Segmentation in software: what a receiver without GUEST_TSO or GUEST_USO is given. */
import { PrivateBytes, ReceiveOffloads, SEGMENTS_MAX, Segmenter } from '@virtnet/engine-virtio-net';
import { featureMask, GSO_ECN, GsoType, NetFeature } from '@virtnet/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  checksumHeader,
  type FrameShape,
  fold,
  type HeaderFields,
  type ShapedFrame,
  shapeFrame,
  wordSum,
} from './net-fixture.js';

const FIN = 1;
const SYN = 2;
const PSH = 8;
const ACK = 16;
const CWR = 0x80;

const gsoKind = (shape: FrameShape): number =>
  shape.protocol === 'udp' ? GsoType.UDP_L4 : shape.version === 6 ? GsoType.TCPV6 : GsoType.TCPV4;

function source(bytes: Uint8Array): PrivateBytes {
  const whole = new PrivateBytes(bytes);
  whole.length = bytes.length;
  return whole;
}

/** All segments of a frame; null when it is refused. */
function segments(frame: ShapedFrame, header: Uint8Array, segmenter = new Segmenter()): Uint8Array[] | null {
  const count = segmenter.open(source(frame.bytes), header, 0, frame.bytes.length);
  if (count === 0) return null;
  const made: Uint8Array[] = [];
  for (let bytes = segmenter.next(); bytes > 0; bytes = segmenter.next()) {
    made.push(segmenter.frame.slice(0, bytes));
  }
  expect(made).toHaveLength(count);
  return made;
}

const header = (frame: ShapedFrame, shape: FrameShape, fields: Partial<HeaderFields>) =>
  checksumHeader(frame, { gsoType: gsoKind(shape), ...fields });

/** What a receiver checks: the transport checksum over pseudo-header and payload, and IPv4's over its header. */
function expectSound(segment: Uint8Array, frame: ShapedFrame, v4: boolean, tcp: boolean): void {
  const addresses = segment.subarray(frame.network + (v4 ? 12 : 8), frame.network + (v4 ? 20 : 40));
  const transport = segment.subarray(frame.transport);
  const sum = wordSum(addresses) + (tcp ? 6 : 17) + transport.length + wordSum(transport);
  expect(fold(sum), 'transport checksum').toBe(0xffff);
  if (v4) expect(fold(wordSum(segment.subarray(frame.network, frame.transport)))).toBe(0xffff);
}

const shapes = fc.record({
  version: fc.constantFrom(4 as const, 6 as const),
  protocol: fc.constantFrom('tcp' as const, 'udp' as const),
  payloadBytes: fc.oneof(fc.integer({ min: 0, max: 4000 }), fc.integer({ min: 60_000, max: 65_000 })),
  dataOffset: fc.integer({ min: 5, max: 15 }),
  seed: fc.nat(255),
  vlans: fc.constantFrom([], [7], [7, 9]),
});

describe('segmenter', () => {
  const segmenter = new Segmenter();

  it('segments put together again are the frame; lengths, ids, numbers, flags and checksums are each one’s own', () => {
    const facts = fc.record({
      segmentBytes: fc.oneof(fc.integer({ min: 1, max: 1460 }), fc.constantFrom(536, 1448, 9000, 65_535)),
      sequence: fc.nat(0xffff_ffff),
      id: fc.nat(0xffff),
      flags: fc.nat(255),
    });
    let many = 0;
    fc.assert(
      fc.property(shapes, facts, (shape, { segmentBytes, sequence, id, flags }) => {
        const frame = shapeFrame(shape);
        const { network, transport, payload } = frame;
        const v4 = shape.version === 4;
        const tcp = shape.protocol === 'tcp';
        const view = new DataView(frame.bytes.buffer);
        if (v4) view.setUint16(network + 4, id);
        if (tcp) {
          view.setUint32(transport + 4, sequence);
          view.setUint8(transport + 13, flags);
        }
        const wanted = Math.max(1, Math.ceil(shape.payloadBytes / segmentBytes));
        const made = segments(frame, header(frame, shape, { gsoSize: segmentBytes }), segmenter);
        if (wanted > SEGMENTS_MAX) {
          expect(made).toBeNull();
          return;
        }
        expect(made).toHaveLength(wanted);
        if (wanted > 2) many++;
        let done = 0;
        made!.forEach((segment, i) => {
          const last = i === wanted - 1;
          const mine = new DataView(segment.buffer);
          const bytes = segment.length - payload;
          expect(bytes).toBe(last ? shape.payloadBytes - done : segmentBytes);
          expect(segment.subarray(payload), 'payload').toEqual(
            frame.bytes.subarray(payload + done, payload + done + bytes),
          );
          expectSound(segment, frame, v4, tcp);
          if (v4) {
            expect(mine.getUint16(network + 2)).toBe(segment.length - network);
            expect(mine.getUint16(network + 4)).toBe((id + i) & 0xffff);
          } else expect(mine.getUint16(network + 4)).toBe(segment.length - network - 40);
          if (tcp) {
            expect(mine.getUint32(transport + 4)).toBe((sequence + done) % 2 ** 32);
            const kept = (last ? 0 : FIN | PSH) | (i === 0 ? 0 : CWR);
            expect(mine.getUint8(transport + 13)).toBe(flags & ~kept);
          } else expect(mine.getUint16(transport + 4)).toBe(segment.length - transport);
          done += bytes;
        });
        expect(done).toBe(shape.payloadBytes);
      }),
      { numRuns: 120 },
    );
    expect(many, 'most frames have several segments').toBeGreaterThan(40);
  });

  it('FIN and PSH stay with the last segment, CWR with the first, everything else with all', () => {
    const frame = shapeFrame({ payloadBytes: 3000 });
    frame.bytes[frame.transport + 13] = FIN | PSH | ACK | CWR | SYN;
    const made = segments(frame, header(frame, {}, { gsoSize: 1000, gsoType: GsoType.TCPV4 | GSO_ECN }))!;
    expect(made.map((segment) => segment[frame.transport + 13])).toEqual([
      ACK | SYN | CWR,
      ACK | SYN,
      ACK | SYN | FIN | PSH,
    ]);
  });

  it('IPv4 options and IPv6 extension headers stand in front of every segment', () => {
    const plain = shapeFrame({ version: 6, payloadBytes: 500 });
    const options = new Uint8Array(8).fill(1);
    const bytes = new Uint8Array([
      ...plain.bytes.subarray(0, plain.transport),
      ...options,
      ...plain.bytes.subarray(plain.transport),
    ]);
    const transport = plain.transport + 8;
    const frame = { ...plain, bytes, transport, payload: plain.payload + 8 };
    const made = segments(frame, header(frame, { version: 6 }, { gsoSize: 300 }))!;
    expect(made.map(({ length }) => length)).toEqual([frame.payload + 300, frame.payload + 200]);
    for (const segment of made) {
      expect([...segment.subarray(plain.transport, transport)]).toEqual([...options]);
      const body = segment.subarray(transport);
      const addresses = segment.subarray(frame.network + 8, frame.network + 40);
      expect(fold(wordSum(addresses) + 6 + body.length + wordSum(body))).toBe(0xffff);
    }
  });

  it('refuses what can not be segmented, and hostile headers of any kind cost nothing but the frame', () => {
    const frame = shapeFrame({ payloadBytes: 3000 });
    const good = { gsoSize: 1000 };
    expect(segments(frame, header(frame, {}, good))).toHaveLength(3);
    for (const fields of [
      { gsoSize: 0 },
      { ...good, flags: 0 },
      { ...good, gsoType: GsoType.NONE },
      { ...good, gsoType: GsoType.UDP },
      { ...good, gsoType: GsoType.TCPV6 },
      { ...good, gsoType: GsoType.UDP_L4 },
      { ...good, csumStart: frame.transport + 4 },
      { ...good, csumStart: 60_000 },
      { ...good, csumOffset: 6 },
    ]) {
      expect(segments(frame, header(frame, {}, fields)), JSON.stringify(fields)).toBeNull();
    }
    const fragment = shapeFrame({ payloadBytes: 3000 });
    fragment.bytes[fragment.network + 6] = 0x20;
    expect(segments(fragment, header(fragment, {}, good)), 'a fragment').toBeNull();
    const cut = { ...frame, bytes: frame.bytes.subarray(0, 30) };
    expect(segments(cut, header(frame, {}, good)), 'cut off within its headers').toBeNull();
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 12, maxLength: 12 }),
        shapes,
        fc.nat(400),
        (fields, shape, length) => {
          const whole = shapeFrame(shape);
          const made = segments({ ...whole, bytes: whole.bytes.subarray(0, length) }, fields, segmenter);
          for (const segment of made ?? []) expect(segment.length).toBeLessThanOrEqual(length);
        },
      ),
      { numRuns: 500 },
    );
  });

  it('a frame that shrinks while it is segmented ends early', () => {
    const frame = shapeFrame({ payloadBytes: 3000 });
    const bytes = source(frame.bytes);
    expect(segmenter.open(bytes, header(frame, {}, { gsoSize: 1000 }), 0, frame.bytes.length)).toBe(3);
    expect(segmenter.next()).toBe(frame.payload + 1000);
    bytes.length = 500;
    expect(segmenter.next()).toBe(0);
    expect(segmenter.next()).toBe(0);
  });
});

describe('receive offloads', () => {
  const { GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, GUEST_ECN, GUEST_USO4 } = NetFeature;
  const v4 = shapeFrame({ vlans: [3] }).bytes;
  const v6 = shapeFrame({ version: 6 }).bytes;

  it('a kind of GSO is taken with its feature, and only on top of GUEST_CSUM', () => {
    const all = new ReceiveOffloads(featureMask([GUEST_CSUM, GUEST_TSO4, GUEST_USO4]));
    expect(all.takes(GsoType.TCPV4, v4)).toBe(true);
    expect(all.takes(GsoType.TCPV6, v6)).toBe(false);
    expect(all.takes(GsoType.UDP_L4, v4)).toBe(true);
    expect(all.takes(GsoType.UDP_L4, v6), 'USO of the other IP version').toBe(false);
    expect(all.takes(GsoType.TCPV4 | GSO_ECN, v4), 'ECN is a feature of its own').toBe(false);
    const ecn = new ReceiveOffloads(featureMask([GUEST_CSUM, GUEST_TSO6, GUEST_ECN]));
    expect(ecn.takes(GsoType.TCPV6 | GSO_ECN, v6)).toBe(true);
    const none = new ReceiveOffloads(featureMask([GUEST_TSO4]));
    expect(none.takes(GsoType.TCPV4, v4)).toBe(false);
    expect(none.takes(GsoType.NONE, v4)).toBe(true);
    expect(none.checksum).toBe(false);
  });
});
