import { deflateRawSync } from 'node:zlib';
import { restorePlan } from '@virtnet/engine-control';
import { encodeRecord } from '@virtnet/engine-recovery';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type DeviceRecord, decodeDeviceRecord, encodeDeviceRecord, RECORD_SCHEMA } from './device-record.js';
import { INITIAL_SETTINGS } from './device-settings.js';
import { testPlan } from './test-support/test-device.js';

const record: DeviceRecord = {
  schema: RECORD_SCHEMA,
  requestId: 'b7c2',
  plan: testPlan(),
  settings: INITIAL_SETTINGS,
  representor: 'eswitch',
  linkUp: true,
  pci: { config: 'AAAA' },
  net: { features: '0x0' },
  session: { negotiated: null },
  applied: { sequence: 0xffff_ffff, digest: 1, reply: 'AAECAw==' },
  bases: { 0: 65_535, 2: 0 },
  ringEnables: { 0: true, 2: false },
  broken: [1],
  health: { recoveries: 2, lastCause: 'crash', lastPauseMs: 1.25, maxPauseMs: null, error: null },
};

const encoded = (value: unknown): Uint8Array => {
  const bytes = encodeRecord(value, RECORD_SCHEMA);
  if (!(bytes instanceof Uint8Array)) throw new Error('too large');
  return bytes;
};

describe('device record', () => {
  it('is read back as it was written', () => {
    const bytes = encodeDeviceRecord(record);
    expect(bytes).toBeInstanceOf(Uint8Array);
    expect(decodeDeviceRecord(bytes as Uint8Array)).toEqual(record);
  });

  it('cut off anywhere, or longer: said, not thrown', () => {
    const bytes = encoded(record);
    for (let length = 0; length < bytes.length; length++)
      expect(typeof decodeDeviceRecord(bytes.subarray(0, length))).toBe('string');
    expect(typeof decodeDeviceRecord(Uint8Array.from([...bytes, 0]))).toBe('string');
  });

  it('any bit flipped: said, not thrown', () => {
    const bytes = encoded(record);
    for (let bit = 0; bit < bytes.length * 8; bit += 7) {
      const flipped = bytes.slice();
      flipped[bit >> 3]! ^= 1 << (bit & 7);
      // The payload's version is not covered by the checksum; the payload says its schema itself.
      const answer = decodeDeviceRecord(flipped);
      if (typeof answer !== 'string') expect(answer).toEqual(record);
    }
  });

  it('any bytes at all: said, not thrown', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 200 }),
        (bytes) => typeof decodeDeviceRecord(bytes) === 'string',
      ),
    );
  });

  it('any JSON under a proper frame: said, not thrown', () => {
    fc.assert(fc.property(fc.jsonValue(), (value) => typeof decodeDeviceRecord(encoded(value)) === 'string'));
  });

  it('a packed part that is damaged, or that unpacks to far too much: said, not thrown', () => {
    const bomb = deflateRawSync(Buffer.alloc(64 << 20, 0x20)).toString('base64');
    for (const packed of ['', 'not base64', 'AAAA', bomb, deflateRawSync('{"schema":1').toString('base64')])
      expect(typeof decodeDeviceRecord(encoded({ packed }))).toBe('string');
  });

  it('another program’s schema: says which', () => {
    expect(decodeDeviceRecord(encoded({ ...record, schema: 1 }))).toBe('schema 1 is not 3');
  });

  it.each<[string, Record<string, unknown>]>([
    ['requestId', { requestId: 7 }],
    ['settings', { settings: null }],
    ['speedMbps', { settings: { ...INITIAL_SETTINGS, speedMbps: -1 } }],
    ['countSizes', { settings: { ...INITIAL_SETTINGS, countSizes: 1 } }],
    ['dropsFrom', { settings: { ...INITIAL_SETTINGS, dropsFrom: 0.5 } }],
    ['moderation', { settings: { ...INITIAL_SETTINGS, moderation: { periodMode: 'x' } } }],
    ['hashTypes', { settings: { ...INITIAL_SETTINGS, hashTypes: 512 } }],
    ['dim', { settings: { ...INITIAL_SETTINGS, dim: 1 } }],
    ['aarfs', { settings: { ...INITIAL_SETTINGS, aarfs: 'enabled' } }],
    ['mtuPending', { settings: { ...INITIAL_SETTINGS, mtuPending: 'no' } }],
    ['changes', { settings: { ...INITIAL_SETTINGS, changes: [{ requestId: 1, warning: null }] } }],
    ['linkUp', { linkUp: 'yes' }],
    ['bases', { bases: [] }],
    ['bases', { bases: { 0: 2 ** 32 } }],
    ['bases', { bases: { 0: -1 } }],
    ['bases', { bases: { x: 1 } }],
    ['ringEnables', { ringEnables: null }],
    ['ringEnables', { ringEnables: { 0: 1 } }],
    ['ringEnables', { ringEnables: { 123456: true } }],
    ['broken', { broken: {} }],
    ['broken', { broken: [-1] }],
    ['broken', { broken: ['0'] }],
    ['health', { health: null }],
    ['health', { health: { ...record.health, recoveries: 0.5 } }],
    ['health', { health: { ...record.health, maxPauseMs: 'x' } }],
    ['health', { health: { ...record.health, error: 'SOMETHING' } }],
    ['health', { health: { ...record.health, lastCause: {} } }],
    ['applied', { applied: undefined }],
    ['applied', { applied: [] }],
    ['applied', { applied: { sequence: 1, digest: 2 } }],
    ['applied', { applied: { sequence: 1, digest: 2, reply: 5 } }],
    ['applied', { applied: { sequence: -1, digest: 2, reply: null } }],
  ])('%s that is none: the answer names it (%j)', (name, change) => {
    expect(decodeDeviceRecord(encoded({ ...record, ...change }))).toMatch(name);
  });

  it('a plan whose chosen values are out of range is refused, and what follows from them is derived anew', () => {
    expect(typeof decodeDeviceRecord(encoded({ ...record, plan: { ...record.plan, queuePairs: 0 } }))).toBe(
      'string',
    );
    const forged = { ...record, plan: { ...record.plan, representor: 'eth0', queueCount: 60_000 } };
    expect(decodeDeviceRecord(encoded(forged))).toMatchObject({ plan: restorePlan(record.plan) });
  });
});
