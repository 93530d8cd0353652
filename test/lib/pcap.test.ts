import { describe, expect, test } from 'vitest';
import { parsePcap, udpPayload } from './pcap.ts';
import { readStreamPacket, writeStreamPacket } from './stream-packet.ts';

function capture(frames: readonly Buffer[]): Buffer {
  const header = Buffer.alloc(24);
  header.writeUInt32LE(0xa1b2c3d4, 0);
  const packets = frames.map((frame, index) => {
    const head = Buffer.alloc(16);
    head.writeUInt32LE(1_700_000_000, 0);
    head.writeUInt32LE(index, 4);
    head.writeUInt32LE(frame.length, 8);
    head.writeUInt32LE(frame.length + 1000, 12);
    return Buffer.concat([head, frame]);
  });
  return Buffer.concat([header, ...packets]);
}

function udpFrame(payload: Buffer): Buffer {
  const frame = Buffer.alloc(42 + payload.length);
  frame.writeUInt16BE(0x0800, 12);
  frame[14] = 0x45;
  frame[23] = 17;
  payload.copy(frame, 42);
  return frame;
}

describe('capture', () => {
  test('packets come back with their stamps and lengths', () => {
    const packets = parsePcap(capture([Buffer.from('one'), Buffer.from('three')]));
    expect(packets.map(({ bytes }) => bytes.toString())).toEqual(['one', 'three']);
    expect(packets[1]).toMatchObject({ timeUs: 1_700_000_000e6 + 1, lengthBytes: 1005 });
  });

  test('a packet that is cut off is left out', () => {
    expect(parsePcap(capture([Buffer.from('one'), Buffer.from('three')]).subarray(0, -2))).toHaveLength(1);
  });

  test('something else than a capture is refused', () => {
    expect(() => parsePcap(Buffer.alloc(64, 7))).toThrow();
  });

  test('the number and stamp of a stream packet survive the frame', () => {
    const payload = Buffer.alloc(64);
    writeStreamPacket(payload, 0xfffffffe, 1_700_000_000_123_456);
    const found = udpPayload(udpFrame(payload));
    expect(found).not.toBeNull();
    expect(readStreamPacket(found as Buffer)).toEqual({
      sequence: 0xfffffffe,
      sentUs: 1_700_000_000_123_456,
    });
  });

  test('another packet than one of a stream is not taken for one', () => {
    expect(readStreamPacket(Buffer.alloc(64))).toBeNull();
    expect(udpPayload(Buffer.alloc(60))).toBeNull();
  });
});
