/**
 * record.ts: a device record as bytes that survive their writer, and the distrust with which they are read back.
 *
 * Theory
 *   A record is JSON behind a fixed frame: magic, frame version, payload version, length, CRC-32. Whoever reads it may
 *   be another version of the program, and the bytes may come from a file that a power loss tore. Reading therefore
 *   yields the payload or one named fault, and never throws. What the payload means is checked by its owner.
 *
 * Invariants
 *   I1  decodeRecord(encodeRecord(x, v)) gives x and v.
 *   I2  no byte sequence makes decodeRecord throw, nor allocate more than the sequence itself.
 *
 * Limits  RECORD_BYTES_MAX for frame and payload together.
 */
import { RECORD_BYTES_MAX, RECORD_FRAME_VERSION, RECORD_MAGIC, RecordHeader, viewOf } from '@virtnet/wire';
import { crc32 } from './crc32.js';

/** What may be wrong with a record. */
export type RecordFault =
  | { readonly code: 'TRUNCATED'; readonly bytes: number; readonly neededBytes: number }
  | { readonly code: 'TOO_LARGE'; readonly bytes: number; readonly maximumBytes: number }
  | { readonly code: 'BAD_MAGIC'; readonly magic: number }
  | { readonly code: 'FRAME_VERSION'; readonly version: number }
  | { readonly code: 'TRAILING_BYTES'; readonly bytes: number }
  | { readonly code: 'CHECKSUM'; readonly stored: number; readonly computed: number }
  | { readonly code: 'NOT_JSON' };

export interface DecodedRecord {
  /** Untrusted: plain JSON whose shape nobody checked yet. */
  readonly payload: unknown;
  readonly payloadVersion: number;
}

/** Frames `payload` (plain JSON). Returns the TOO_LARGE fault when it does not fit. */
export function encodeRecord(payload: unknown, payloadVersion: number): Uint8Array | RecordFault {
  const json = new TextEncoder().encode(JSON.stringify(payload));
  const bytes = RecordHeader.sizeBytes + json.byteLength;
  if (bytes > RECORD_BYTES_MAX) return { code: 'TOO_LARGE', bytes, maximumBytes: RECORD_BYTES_MAX };
  const record = new Uint8Array(bytes);
  RecordHeader.encode(viewOf(record), 0, {
    magic: RECORD_MAGIC,
    frameVersion: RECORD_FRAME_VERSION,
    payloadVersion,
    payloadBytes: json.byteLength,
    checksum: crc32(json),
  });
  record.set(json, RecordHeader.sizeBytes);
  return record;
}

/** Reads a record back, or says what is wrong with it. Never throws. */
export function decodeRecord(record: Uint8Array): DecodedRecord | RecordFault {
  const bytes = record.byteLength;
  if (bytes > RECORD_BYTES_MAX) return { code: 'TOO_LARGE', bytes, maximumBytes: RECORD_BYTES_MAX };
  if (bytes < RecordHeader.sizeBytes)
    return { code: 'TRUNCATED', bytes, neededBytes: RecordHeader.sizeBytes };
  const header = RecordHeader.decode(viewOf(record));
  if (header.magic !== RECORD_MAGIC) return { code: 'BAD_MAGIC', magic: header.magic };
  if (header.frameVersion !== RECORD_FRAME_VERSION)
    return { code: 'FRAME_VERSION', version: header.frameVersion };
  const neededBytes = RecordHeader.sizeBytes + header.payloadBytes;
  if (bytes < neededBytes) return { code: 'TRUNCATED', bytes, neededBytes };
  if (bytes > neededBytes) return { code: 'TRAILING_BYTES', bytes: bytes - neededBytes };
  const json = record.subarray(RecordHeader.sizeBytes);
  const computed = crc32(json);
  if (computed !== header.checksum) return { code: 'CHECKSUM', stored: header.checksum, computed };
  try {
    const payload: unknown = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(json));
    return { payload, payloadVersion: header.payloadVersion };
  } catch {
    return { code: 'NOT_JSON' };
  }
}

/** A line for the log. */
export function describeRecordFault(fault: RecordFault): string {
  const { code, ...facts } = fault;
  const list = Object.entries(facts).map(([name, value]) => `${name}=${value}`);
  return list.length === 0 ? code : `${code} (${list.join(' ')})`;
}
