import { RECORD_BYTES_MAX, RecordHeader, viewOf } from '@virtnet/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { crc32 } from './crc32.js';
import { decodeRecord, describeRecordFault, encodeRecord } from './record.js';

const PAYLOAD = { vuid: 'MT2151X03152VNETS1D0F0', queues: [{ size: 256, address: '0x7f' }], text: 'ä€' };

function encoded(payload: unknown = PAYLOAD, version = 3): Uint8Array {
  const record = encodeRecord(payload, version);
  if ('code' in record) throw new Error(describeRecordFault(record));
  return record;
}

describe('crc32', () => {
  it('has the check value of CRC-32/ISO-HDLC', () => {
    expect(crc32(new TextEncoder().encode('123456789'))).toBe(0xcbf4_3926);
    expect(crc32(new Uint8Array(0))).toBe(0);
  });
});

describe('device record', () => {
  it('any JSON payload comes back with its version', () => {
    fc.assert(
      fc.property(fc.jsonValue(), fc.integer({ min: 0, max: 0xffff_ffff }), (payload, version) => {
        const decoded = decodeRecord(encoded(payload, version));
        // JSON knows no negative zero.
        expect(decoded).toEqual({ payload: JSON.parse(JSON.stringify(payload)), payloadVersion: version });
      }),
    );
  });

  it('cut off at any byte, is refused as truncated', () => {
    const record = encoded();
    for (let length = 0; length < record.byteLength; length++)
      expect(decodeRecord(record.subarray(0, length))).toMatchObject({ code: 'TRUNCATED', bytes: length });
  });

  it('with any single bit flipped, is refused, except in the payload version, which its owner judges', () => {
    const record = encoded();
    const { payloadVersion: versionAt } = RecordHeader.at;
    for (let at = 0; at < record.byteLength; at++)
      for (let bit = 0; bit < 8; bit++) {
        const flipped = record.slice();
        flipped[at]! ^= 1 << bit;
        const decoded = decodeRecord(flipped);
        if (at >= versionAt && at < versionAt + 4) expect(decoded).toMatchObject({ payload: PAYLOAD });
        else expect(decoded).toHaveProperty('code');
      }
  });

  it('with bytes behind its end, of another frame version or of another kind, is refused by name', () => {
    const record = encoded();
    const longer = new Uint8Array(record.byteLength + 2);
    longer.set(record);
    expect(decodeRecord(longer)).toEqual({ code: 'TRAILING_BYTES', bytes: 2 });
    const newer = record.slice();
    viewOf(newer).setUint32(RecordHeader.at.frameVersion, 2, true);
    expect(decodeRecord(newer)).toEqual({ code: 'FRAME_VERSION', version: 2 });
    const other = record.slice();
    viewOf(other).setUint32(RecordHeader.at.magic, 0, true);
    expect(decodeRecord(other)).toEqual({ code: 'BAD_MAGIC', magic: 0 });
  });

  it('whose payload is no JSON, or no UTF-8, is refused although its checksum is right', () => {
    for (const text of [new TextEncoder().encode('{"a":'), Uint8Array.of(0x22, 0xff, 0x22)]) {
      const record = new Uint8Array(RecordHeader.sizeBytes + text.byteLength);
      record.set(encoded().subarray(0, RecordHeader.sizeBytes));
      record.set(text, RecordHeader.sizeBytes);
      viewOf(record).setUint32(RecordHeader.at.payloadBytes, text.byteLength, true);
      viewOf(record).setUint32(RecordHeader.at.checksum, crc32(text), true);
      expect(decodeRecord(record)).toEqual({ code: 'NOT_JSON' });
    }
  });

  it('at the size limit is taken, one byte past it is refused in both directions', () => {
    const room = RECORD_BYTES_MAX - RecordHeader.sizeBytes - 2; // two quotes
    expect(encoded('x'.repeat(room)).byteLength).toBe(RECORD_BYTES_MAX);
    expect(encodeRecord('x'.repeat(room + 1), 1)).toMatchObject({ code: 'TOO_LARGE' });
    expect(decodeRecord(new Uint8Array(RECORD_BYTES_MAX + 1))).toMatchObject({ code: 'TOO_LARGE' });
  });

  it('any bytes at all give a payload or a fault, and never an exception', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        expect(decodeRecord(bytes)).toHaveProperty('code');
      }),
    );
  });
});
