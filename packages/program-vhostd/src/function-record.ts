/**
 * function-record.ts: what is kept of one function for a successor, as plain data.
 *
 * Theory
 *   The record says everything that is not in the page: how the function was added, what it is, what the frontend has
 *   said, and the last answer. Descriptors are beside it, by name. It comes back from a keeper that interprets nothing,
 *   perhaps from another version of this program: it is taken only when every part of it has its shape.
 *
 * Limits    FUNCTION_RECORD_VERSION: a record of another version is not read.
 */
import type { FunctionProfile, SavedFunction } from '@virtnet/driver-virtio-net';
import { decodeRecord, encodeRecord } from '@virtnet/engine-recovery';
import { type AnsweredRequest, parseNegotiated } from '@virtnet/server-vfio-user';
import { hex, isSavedSession, type SavedSession, unhex } from '@virtnet/server-vhost-user';
import { MAC_BYTES } from '@virtnet/wire';
import { Ajv } from 'ajv';

export const FUNCTION_RECORD_VERSION = 1;

export interface FunctionRecord {
  readonly vhostSocket: string;
  readonly uuid: string;
  readonly client: boolean;
  /** What the function said of itself last. */
  readonly profile: FunctionProfile;
  /** null: not connected. */
  readonly function: SavedFunction | null;
  /** Packed rings whose position was lost. */
  readonly adrift: readonly number[];
  /** null: no frontend is connected. */
  readonly session: SavedSession | null;
  /** The last answer to the frontend. */
  readonly answered: AnsweredRequest | null;
}

const count = { type: 'integer', minimum: 0, maximum: 0xffff_ffff };
const text = { type: 'string', maxLength: 4096 };
const exactly = (properties: Record<string, object>) => ({
  type: 'object',
  properties,
  required: Object.keys(properties),
});
const orNull = (schema: object) => ({ anyOf: [{ type: 'null' }, schema] });

/** The shape of a record as JSON; what other packages own is looked at by them. */
const schema = exactly({
  vhostSocket: text,
  uuid: text,
  client: { type: 'boolean' },
  profile: exactly({
    features: { type: 'string', pattern: '^[0-9a-f]{1,16}$' },
    mac: { type: 'string', pattern: `^[0-9a-f]{${2 * MAC_BYTES}}$` },
    mtuBytes: count,
    dataQueues: count,
    queueCount: count,
    queueSizeMax: count,
    vectors: count,
  }),
  function: orNull(
    exactly({
      negotiated: {},
      probe: exactly({ common: exactly({ bar: count, offset: count, lengthBytes: count }), msixAt: count }),
    }),
  ),
  adrift: { type: 'array', items: count, maxItems: 0xffff },
  session: {},
  answered: orNull(
    exactly({
      sequence: count,
      digest: count,
      reply: orNull({ type: 'string', pattern: '^[0-9a-f]{0,1024}$' }),
    }),
  ),
});
interface RecordJson extends Omit<FunctionRecord, 'profile' | 'answered'> {
  readonly profile: Omit<FunctionProfile, 'features' | 'mac'> & {
    readonly features: string;
    readonly mac: string;
  };
  readonly answered: (Omit<AnsweredRequest, 'reply'> & { readonly reply: string | null }) | null;
}
const isRecordJson = new Ajv({ strict: true, strictRequired: false }).compile<RecordJson>(schema);

/** Null when it does not fit a record. */
export function encodeFunctionRecord(record: FunctionRecord): Uint8Array | null {
  const { profile, answered } = record;
  const json: RecordJson = {
    ...record,
    profile: { ...profile, features: hex(profile.features), mac: Buffer.from(profile.mac).toString('hex') },
    answered: answered && {
      ...answered,
      reply: answered.reply && Buffer.from(answered.reply).toString('hex'),
    },
  };
  const bytes = encodeRecord(json, FUNCTION_RECORD_VERSION);
  return bytes instanceof Uint8Array ? bytes : null;
}

/** The record, or null when it is none that this version reads. */
export function decodeFunctionRecord(bytes: Uint8Array): FunctionRecord | null {
  const decoded = decodeRecord(bytes);
  if ('code' in decoded || decoded.payloadVersion !== FUNCTION_RECORD_VERSION) return null;
  const json = decoded.payload;
  if (!isRecordJson(json)) return null;
  const { profile, answered, session, function: saved } = json;
  if (session !== null && !isSavedSession(session)) return null;
  const negotiated = saved === null ? null : parseNegotiated(saved.negotiated);
  if (saved !== null && negotiated === null) return null;
  return {
    ...json,
    profile: { ...profile, features: unhex(profile.features), mac: Buffer.from(profile.mac, 'hex') },
    function: saved === null || negotiated === null ? null : { ...saved, negotiated },
    answered: answered && {
      ...answered,
      reply: answered.reply === null ? null : Buffer.from(answered.reply, 'hex'),
    },
  };
}
