import { encodeRecord } from '@virtnet/engine-recovery';
import { describe, expect, test } from 'vitest';
import { decodeFunctionRecord, encodeFunctionRecord, type FunctionRecord } from './function-record.js';

const record: FunctionRecord = {
  vhostSocket: '/tmp/vhost-net0',
  uuid: '',
  client: false,
  profile: {
    features: 0x1_3000_0020n,
    mac: Uint8Array.of(0x0c, 0xc4, 0x7a, 0xff, 0x22, 0x93),
    mtuBytes: 1500,
    dataQueues: 2,
    queueCount: 3,
    queueSizeMax: 256,
    vectors: 4,
  },
  function: {
    negotiated: {
      peerMessageFdsMax: 8,
      peerDataTransferBytesMax: 1 << 20,
      writeMultiple: true,
      privateCommands: true,
    },
    probe: { common: { bar: 0, offset: 0, lengthBytes: 64 }, msixAt: 0x40 },
  },
  adrift: [1],
  session: {
    protocolFeatures: '8a2b',
    status: 15,
    features: '130000020',
    regions: [
      { guestAddress: '0', sizeBytes: '100000', userAddress: '7f0000000000', mmapOffset: '0', again: 1 },
    ],
    rings: [
      {
        index: 0,
        size: 256,
        base: 7,
        addresses: { descriptor: '7f0000000000', available: '7f0000002000', used: '7f0000004000' },
        kick: 'eventfd',
        call: true,
        error: false,
        enableRequested: true,
        running: true,
      },
    ],
  },
  answered: { sequence: 9, digest: 0xdeadbeef, reply: Uint8Array.of(1, 2, 3) },
};

/** The record as JSON, changed by `change`, framed again. */
function changed(change: (json: Record<string, unknown>) => void): Uint8Array {
  const json = {
    ...record,
    profile: { ...record.profile, features: '130000020', mac: '0cc47aff2293' },
    answered: { ...record.answered, reply: '010203' },
  };
  const copy = JSON.parse(JSON.stringify(json)) as Record<string, unknown>;
  change(copy);
  return encodeRecord(copy, 1) as Uint8Array;
}

describe('the record of a function', () => {
  test('comes back as it was', () => {
    const back = decodeFunctionRecord(encodeFunctionRecord(record)!)!;
    expect({ ...back, profile: { ...back.profile, mac: Array.from(back.profile.mac) } }).toEqual({
      ...record,
      profile: { ...record.profile, mac: Array.from(record.profile.mac) },
      answered: { ...record.answered, reply: Buffer.from([1, 2, 3]) },
    });
    expect(decodeFunctionRecord(changed(() => {}))).toEqual(back);
  });

  test.each<[string, (json: Record<string, unknown>) => void]>([
    ['a profile without features', (json) => delete (json.profile as Record<string, unknown>).features],
    ['features that are no number', (json) => Object.assign(json.profile as object, { features: '0x1' })],
    ['a MAC of five bytes', (json) => Object.assign(json.profile as object, { mac: '0cc47aff22' })],
    ['a ring that runs and has no size', (json) => Object.assign(json, { session: { rings: [{}] } })],
    [
      'a negotiation that makes no sense',
      (json) => Object.assign(json.function as object, { negotiated: 1 }),
    ],
    ['an answer without a number', (json) => Object.assign(json.answered as object, { sequence: -1 })],
    ['a list in its place', (json) => Object.assign(json, { adrift: { length: 1 } })],
  ])('%s > is not taken', (_, change) => {
    expect(decodeFunctionRecord(changed(change))).toBeNull();
  });

  test('of another version, cut off at any byte, or with any byte changed > is not taken', () => {
    expect(decodeFunctionRecord(encodeRecord(record.session, 2) as Uint8Array)).toBeNull();
    const bytes = encodeFunctionRecord(record)!;
    for (let at = 0; at < bytes.length; at++) {
      expect(decodeFunctionRecord(bytes.subarray(0, at))).toBeNull();
      const damaged = bytes.slice();
      damaged[at] = damaged[at]! ^ 0x20;
      expect(decodeFunctionRecord(damaged)).toBeNull();
    }
  });
});
