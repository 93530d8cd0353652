/** golden-function.ts: what one vfe-vhostd leaves to the next: the record of a function. */
import { decodeRecord, encodeRecord } from '@virtnet/engine-recovery';
import {
  decodeFunctionRecord,
  encodeFunctionRecord,
  FUNCTION_RECORD_VERSION,
  type FunctionRecord,
} from '../../packages/program-vhostd/dist/function-record.js';
import { type GoldenKind, type Json, plain } from './golden.ts';

const sample: FunctionRecord = {
  vhostSocket: '/tmp/vhost-net0',
  uuid: 'a1b2',
  client: true,
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
      peerDataTransferBytesMax: 1_048_576,
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
        error: true,
        enableRequested: true,
        running: true,
      },
    ],
  },
  answered: { sequence: 9, digest: 0xdead_beef, reply: Uint8Array.of(1, 2, 3) },
};

const bytesOf = (written: Json): Uint8Array => Uint8Array.from(Buffer.from(written as string, 'base64'));
const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64');

export const functionRecordKind: GoldenKind = {
  name: 'vfe-function',
  version: FUNCTION_RECORD_VERSION,
  versionIn: 'FUNCTION_RECORD_VERSION (program-vhostd/src/function-record.ts)',
  write() {
    const bytes = encodeFunctionRecord(sample);
    if (bytes === null) throw new Error('the sample does not fit a record');
    return base64(bytes);
  },
  read(written) {
    const record = decodeFunctionRecord(bytesOf(written));
    if (record === null) throw new Error(functionRecordKind.refusal);
    const { profile, answered } = record;
    return plain({
      ...record,
      profile: { ...profile, features: profile.features.toString(16), mac: Array.from(profile.mac) },
      answered: answered && { ...answered, reply: Array.from(answered.reply ?? []) },
    });
  },
  newer(written) {
    const decoded = decodeRecord(bytesOf(written));
    if ('code' in decoded) throw new Error(decoded.code);
    return base64(encodeRecord(decoded.payload, FUNCTION_RECORD_VERSION + 1) as Uint8Array);
  },
  refusal: 'not a record that this version reads',
};
