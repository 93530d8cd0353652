/**
 * rpc-envelope.ts: how a request and its reply are written. rpc-checks.ts judges what is inside.
 *
 *   request  {"v":1,"id":7,"name":"emu.status","params":{}}
 *   reply    {"v":1,"id":7,"result":{...}}  or  {"v":1,"id":7,"error":{"errno":-22,"message":"..."}}
 */
import type { MessageName } from './catalogue.js';
import type { JsonValue } from './schema.js';

export const ENVELOPE_VERSION = 1;
/** What the envelope adds to params or result, error texts included. */
export const ENVELOPE_BYTES_MAX = 4096;
const ERROR_TEXT_MAX = 1024;

/** A request that could not be carried out; `errno` is a negative Linux errno. */
export class RpcError extends Error {
  override readonly name = 'RpcError';
  readonly errno: number;
  constructor(errno: number, message: string) {
    super(message);
    this.errno = errno;
  }
}

export interface Request {
  readonly id: number;
  readonly name: MessageName;
  readonly params: unknown;
}
export type Reply =
  | { readonly id: number; readonly result: unknown }
  | { readonly id: number; readonly error: { readonly errno: number; readonly message: string } };

export function encodeRequest(id: number, name: MessageName, params: unknown): Buffer {
  return Buffer.from(JSON.stringify({ v: ENVELOPE_VERSION, id, name, params }));
}

export function encodeResult(id: number, result: unknown): Buffer {
  return Buffer.from(JSON.stringify({ v: ENVELOPE_VERSION, id, result }));
}

export function encodeError(id: number, errno: number, message: string): Buffer {
  const error = { errno, message: message.slice(0, ERROR_TEXT_MAX) };
  return Buffer.from(JSON.stringify({ v: ENVELOPE_VERSION, id, error }));
}

/** What is wrong with a request; `id` is 0 when not even that could be read. */
export interface BadRequest {
  readonly id: number;
  readonly problem: 'malformed' | 'unknown' | 'oversize' | 'schema';
  readonly message: string;
}

/** Reads a reply's envelope; its result is checked by the caller, who knows the message. Null when malformed. */
export function decodeReply(bytes: Uint8Array): Reply | null {
  const envelope = parseObject(bytes);
  if (envelope === null || envelope.v !== ENVELOPE_VERSION) return null;
  const id = idOf(envelope.id);
  if (id === 0) return null;
  if ('result' in envelope) return { id, result: envelope.result };
  const { error } = envelope;
  if (typeof error !== 'object' || error === null || Array.isArray(error)) return null;
  const { errno, message } = error as Record<string, unknown>;
  if (!Number.isSafeInteger(errno) || (errno as number) >= 0 || typeof message !== 'string') return null;
  return { id, error: { errno: errno as number, message } };
}

export function idOf(value: unknown): number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value > 0 ? value : 0;
}

export function parseObject(bytes: Uint8Array): Record<string, JsonValue> | null {
  try {
    const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('utf8');
    const value = JSON.parse(text) as JsonValue;
    return typeof value === 'object' && value !== null && !Array.isArray(value)
      ? (value as Record<string, JsonValue>)
      : null;
  } catch {
    return null; // a peer's bytes are not an exception
  }
}
