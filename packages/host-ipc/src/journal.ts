/**
 * journal.ts: log lines as entries of systemd's journal.
 *
 * Theory
 *   A service whose standard error is the journal is told so in JOURNAL_STREAM, by device and inode. Its log lines then
 *   go to the journal's own socket, one datagram of fields each: MESSAGE in the shape of the original
 *   (`[INFO] file:line:function: message`), with what is short of the line's fields behind it for people who read; PRIORITY,
 *   SYSLOG_IDENTIFIER and CODE_* as the journal knows them; and every field of the line whole, as VIRTNET_<NAME>.
 *   Who sent it is added by the journal, which asks the kernel.
 *   A socket that is full says so at once; what was refused waits, in order, and is sent a moment later.
 *
 * Invariants
 *   I1  write() neither throws nor waits, whatever became of the journal.
 *   I2  entries arrive in the order of their writes, or not at all: then they are counted.
 *
 * Limits  WAITING_MAX entries wait; of a value VALUE_BYTES_MAX are kept, of an entry ENTRY_BYTES_MAX.
 */
import { fstatSync } from 'node:fs';
import { close, connectDatagram, send } from '@virtnet/host-linux';
import { Errno } from '@virtnet/wire';

const JOURNAL_SOCKET = '/run/systemd/journal/socket';
const STDERR_FD = 2;
const WAITING_MAX = 1024;
const RETRY_MS = 10;
const VALUE_BYTES_MAX = 8 * 1024;
/** Fits the smallest send buffer a socket has. */
const ENTRY_BYTES_MAX = 64 * 1024;
/** Names of fields are at most so long. */
const NAME_CHARACTERS_MAX = 64;
/** A value that is longer is not repeated in MESSAGE. */
const SHOWN_CHARACTERS_MAX = 100;

/** A line of the log as pino writes it. */
export type LogLine = Readonly<Record<string, unknown>>;

/** pino's levels: the word in MESSAGE, and syslog's priority. */
const LEVELS: Readonly<Record<string, readonly [string, number]>> = {
  trace: ['DEBUG', 7],
  debug: ['DEBUG', 7],
  info: ['INFO', 6],
  warn: ['WARN', 4],
  error: ['ERR', 3],
  fatal: ['ERR', 2],
};

/** Told in fields of the journal's own. */
const OWN_FIELDS = new Set(['level', 'program', 'pid', 'file', 'line', 'function', 'msg']);
/** Not worth a reader's time. */
const UNSHOWN_FIELDS = new Set([...OWN_FIELDS, 'time', 'stack']);

/** The fields of one entry, in order. */
export function journalFields(line: LogLine): [string, string][] {
  const [word, priority] = LEVELS[String(line.level)] ?? LEVELS.info!;
  const place = `${line.file ?? '?'}:${line.line ?? '?'}:${line.function ?? '?'}`;
  const rest = Object.entries(line).flatMap(([key, value]) => flattened(key, value));
  const shown = rest.filter(([key, text]) => {
    return !UNSHOWN_FIELDS.has(key.split('.').at(-1) ?? '') && text.length <= SHOWN_CHARACTERS_MAX;
  });
  const detail = shown.length === 0 ? '' : ` (${shown.map(([key, text]) => `${key}=${text}`).join(' ')})`;
  const fields: [string, string][] = [
    ['MESSAGE', `[${word}] ${place}: ${line.msg ?? ''}${detail}`],
    ['PRIORITY', `${priority}`],
    ['SYSLOG_IDENTIFIER', String(line.program ?? 'virtnet').replaceAll('_', '-')],
  ];
  if (line.file !== undefined) fields.push(['CODE_FILE', String(line.file)]);
  if (line.line !== undefined) fields.push(['CODE_LINE', String(line.line)]);
  if (line.function !== undefined) fields.push(['CODE_FUNC', String(line.function)]);
  for (const [key, text] of rest) if (!OWN_FIELDS.has(key)) fields.push([fieldName(key), text]);
  return fields;
}

/** Objects (an error, say) one level deep as `key.inner`; what is deeper, and arrays, as JSON. */
function flattened(key: string, value: unknown): [string, string][] {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return [[key, textOf(value)]];
  return Object.entries(value).map(([inner, part]) => [`${key}.${inner}`, textOf(part)]);
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : (JSON.stringify(value) ?? 'undefined');
}

/** `childPid` -> `VIRTNET_CHILD_PID`. */
function fieldName(key: string): string {
  const words = key.replaceAll(/([a-z0-9])([A-Z])/g, '$1_$2').toUpperCase();
  return `VIRTNET_${words.replaceAll(/[^A-Z0-9_]/g, '_')}`.slice(0, NAME_CHARACTERS_MAX);
}

/** One entry as the journal's socket takes it. Fields that it has no room for are left out. */
export function encodeEntry(fields: readonly (readonly [string, string])[]): Buffer {
  const encoded: Buffer[] = [];
  let bytes = 0;
  for (const [name, text] of fields) {
    const field = encodeField(name, Buffer.from(text).subarray(0, VALUE_BYTES_MAX));
    if (bytes + field.byteLength > ENTRY_BYTES_MAX) continue;
    encoded.push(field);
    bytes += field.byteLength;
  }
  return Buffer.concat(encoded);
}

/** `NAME=value`; a value of several lines has its length in front instead. */
function encodeField(name: string, value: Buffer): Buffer {
  if (!value.includes('\n')) return Buffer.concat([Buffer.from(`${name}=`), value, Buffer.from('\n')]);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(value.byteLength));
  return Buffer.concat([Buffer.from(`${name}\n`), length, value, Buffer.from('\n')]);
}

export class Journal {
  readonly #path: string;
  #fd = -1;
  readonly #waiting: Buffer[] = [];
  #timer: NodeJS.Timeout | undefined;
  /** Entries that did not reach the journal. */
  dropped = 0;

  constructor(path = JOURNAL_SOCKET) {
    this.#path = path;
  }

  /** One JSON line of pino. What is no JSON becomes a message as it is. */
  write(text: string): void {
    this.#waiting.push(encodeEntry(journalFields(parsed(text))));
    if (this.#waiting.length > WAITING_MAX) {
      this.#waiting.shift();
      this.dropped += 1;
    }
    this.flush();
  }

  /** Sends what there is room for now; the rest follows by itself. */
  flush(): void {
    for (let entry = this.#waiting[0]; entry !== undefined; entry = this.#waiting[0]) {
      const sent = this.#send(entry);
      if (sent === -Errno.EAGAIN || sent === -Errno.ENOBUFS) break;
      if (sent < 0) this.dropped += 1;
      this.#waiting.shift();
    }
    if (this.#waiting.length === 0 || this.#timer !== undefined) return;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.flush();
    }, RETRY_MS).unref();
  }

  close(): void {
    clearTimeout(this.#timer);
    if (this.#fd >= 0) close(this.#fd);
    this.#fd = -1;
  }

  /** Bytes sent or -errno. A journal that was started anew has a new socket. */
  #send(entry: Buffer): number {
    for (let attempt = 0; ; attempt++) {
      if (this.#fd < 0) this.#fd = connectDatagram(this.#path);
      if (this.#fd < 0) return this.#fd;
      const sent = send(this.#fd, entry);
      const gone = sent === -Errno.ECONNREFUSED || sent === -Errno.ENOTCONN || sent === -Errno.ECONNRESET;
      if (!gone || attempt > 0) return sent;
      close(this.#fd);
      this.#fd = -1;
    }
  }
}

function parsed(text: string): LogLine {
  try {
    const line: unknown = JSON.parse(text);
    if (typeof line === 'object' && line !== null) return line as LogLine;
  } catch {
    // below
  }
  return { level: 'info', msg: text.trimEnd() };
}

/** The journal, when it is what our standard error leads to; else null. */
export function openJournal(
  environment: Readonly<Record<string, string | undefined>> = process.env,
  path = JOURNAL_SOCKET,
): Journal | null {
  const stream = environment.JOURNAL_STREAM;
  if (stream === undefined) return null;
  try {
    const { dev, ino } = fstatSync(STDERR_FD, { bigint: true });
    return stream === `${dev}:${ino}` ? new Journal(path) : null;
  } catch {
    return null; // no standard error
  }
}
