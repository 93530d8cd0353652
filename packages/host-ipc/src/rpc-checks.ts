/** rpc-checks.ts: whether params and results fit their schemas, and the reading of requests, which depends on it. */
import {
  type CliCommand,
  catalogue,
  cliCommands,
  isMessageName,
  type MessageName,
  messageNames,
} from './catalogue.js';
import {
  type BadRequest,
  ENVELOPE_BYTES_MAX,
  ENVELOPE_VERSION,
  idOf,
  parseObject,
  type Request,
} from './rpc-envelope.js';
import { validatorOf } from './validators.js';

/** Compiles the schemas of messages now, so that the first request of a server is not slower than the second. */
export function warmUpChecks(names: readonly MessageName[]): void {
  for (const name of names) for (const half of ['params', 'result']) validatorOf(`${name} ${half}`);
}

/** The same for all messages and what the command line asks in them: for who talks to everybody. */
export function warmUpAllChecks(): void {
  warmUpChecks(messageNames);
  for (const command of Object.keys(cliCommands)) validatorOf(`cli ${command}`);
}

/** Null when `value` fits the schema of that half of `name`, else what is wrong with it. */
export function mismatch(name: MessageName, half: 'params' | 'result', value: unknown): string | null {
  const check = validatorOf(`${name} ${half}`);
  if (check(value)) return null;
  const [first] = check.errors ?? [];
  return `${half}${first?.instancePath ?? ''} ${first?.message ?? 'is wrong'}`;
}

/** Reads and checks a request. Never throws. */
export function decodeRequest(bytes: Uint8Array): Request | BadRequest {
  const envelope = parseObject(bytes);
  if (envelope === null) return { id: 0, problem: 'malformed', message: 'not a JSON object' };
  const { v, name, params } = envelope;
  const id = idOf(envelope.id);
  if (v !== ENVELOPE_VERSION || id === 0)
    return { id, problem: 'malformed', message: `not an envelope of version ${ENVELOPE_VERSION}` };
  if (!isMessageName(name)) return { id, problem: 'unknown', message: 'no such message' };
  const cap = catalogue[name].requestBytesMax;
  if (bytes.byteLength > cap + ENVELOPE_BYTES_MAX)
    return { id, problem: 'oversize', message: `${name}: ${bytes.byteLength} bytes, at most ${cap}` };
  const wrong = mismatch(name, 'params', params);
  if (wrong !== null) return { id, problem: 'schema', message: `${name}: ${wrong}` };
  return { id, name, params };
}

/** Null when `params` are those of `command` of the command line, else what is wrong with them. */
export function cliParamsProblem(command: CliCommand, params: unknown): string | null {
  const check = validatorOf(`cli ${command}`);
  if (check(params)) return null;
  const [first] = check.errors ?? [];
  return `${first?.instancePath ?? ''} ${first?.message ?? 'wrong'}`.trim();
}
