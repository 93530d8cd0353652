/** rpc-checks.ts: whether params and results fit their schemas, and the reading of requests, which depends on it. */
import { Ajv, type ValidateFunction } from 'ajv';
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

/** That the catalogue's own schemas are schemas is a test's to find out, not every process's (catalogue.test.ts). */
const ajv = new Ajv({
  allErrors: false,
  strict: true,
  allowUnionTypes: true,
  meta: false,
  validateSchema: false,
});
interface Checks {
  readonly params: ValidateFunction;
  readonly result: ValidateFunction;
}
const compiled = new Map<MessageName, Checks>();

/** Compiled on first use: a command line must not pay for messages it never sends. Bounded by the catalogue. */
function checksOf(name: MessageName): Checks {
  const known = compiled.get(name);
  if (known !== undefined) return known;
  const { paramsSchema, resultSchema } = catalogue[name];
  const checks = { params: ajv.compile(paramsSchema), result: ajv.compile(resultSchema) };
  compiled.set(name, checks);
  return checks;
}

/** Compiles the schemas of messages now, so that the first request of a server is not slower than the second. */
export function warmUpChecks(names: readonly MessageName[]): void {
  for (const name of names) checksOf(name);
}

/** The same for all messages and what the command line asks in them: for who talks to everybody. */
export function warmUpAllChecks(): void {
  warmUpChecks(messageNames);
  for (const command of Object.keys(cliCommands) as CliCommand[]) commandCheck(command);
}

/** Null when `value` fits the schema of that half of `name`, else what is wrong with it. */
export function mismatch(name: MessageName, half: 'params' | 'result', value: unknown): string | null {
  const check = checksOf(name)[half];
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

const compiledCommands = new Map<CliCommand, ValidateFunction>(); // bounded by the commands

function commandCheck(command: CliCommand): ValidateFunction {
  const check = compiledCommands.get(command) ?? ajv.compile(cliCommands[command].json);
  compiledCommands.set(command, check);
  return check;
}

/** Null when `params` are those of `command` of the command line, else what is wrong with them. */
export function cliParamsProblem(command: CliCommand, params: unknown): string | null {
  const check = commandCheck(command);
  if (check(params)) return null;
  const [first] = check.errors ?? [];
  return `${first?.instancePath ?? ''} ${first?.message ?? 'wrong'}`.trim();
}
