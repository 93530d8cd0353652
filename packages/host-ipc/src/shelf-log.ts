/**
 * shelf-log.ts: the shelf's names and blobs as a log in memory that somebody else keeps.
 *
 * Theory
 *   A service manager keeps descriptors for us, but no bytes. So the bytes go into two memfds that it keeps as well: one
 *   is the log that counts, the other is free. A transaction is appended and then committed by one store of the new
 *   length; whoever is killed between leaves the log as it was. When the log has grown to several times what it says,
 *   the whole shelf is written to the free file, which from its header on is the one that counts.
 *   Descriptors are not in it: an entry says that it has one, and of which file (shelf-store.ts), by a number.
 *
 * Invariants
 *   I1  at any instant one of the two files is a whole log, or both are empty.
 *   I2  what is read back is untrusted: a length, checksum or message that makes no sense ends the reading there.
 *
 * Limits  LOG_BYTES_MAX a file; compaction beyond COMPACT_BYTES_MIN and COMPACT_FACTOR times the live bytes.
 */
import { readSync, writeSync } from 'node:fs';
import { crc32, Shelf, type ShelfEntry, type ShelfOperation } from '@virtnet/engine-recovery';
import { fileSize, ftruncate } from '@virtnet/host-linux';
import {
  layout,
  SHELF_DESCRIPTORS_MAX,
  SHELF_MESSAGE_BYTES_MAX,
  ShelfMessageHeader,
  ShelfMessageKind,
  u32,
  viewOf,
} from '@virtnet/wire';
import { decodeShelfMessage, encodeShelfMessage, operationBytes } from './shelf-codec.js';

const LOG_MAGIC = 0x47_4c_53_56; // "VSLG"
const LOG_VERSION = 2;
/** Without numbers of files: what a build before them left. All are 0. */
const LOG_VERSION_UNNUMBERED = 1;
const NUMBER_BYTES = 4;
const LOG_BYTES_MAX = 2 ** 30;
const COMPACT_BYTES_MIN = 4 * 1024 * 1024;
const COMPACT_FACTOR = 4;
const OPERATIONS_PER_RECORD = 200;

const LogHeader = layout('ShelfLogHeader', 24, {
  magic: u32,
  version: u32,
  /** The file with the higher one counts. */
  generation: u32,
  /** Bytes behind this header that are valid. */
  committedBytes: u32,
  reserved0: u32,
  reserved1: u32,
});

const RecordHead = layout('ShelfLogRecord', 12, {
  sizeBytes: u32,
  checksum: u32,
  /** Operations of it that have a descriptor. The numbers of their files are behind the message, a u32 each. */
  descriptors: u32,
});

/** An entry without its descriptor; `handle` is the number of its file. */
export type LoggedEntry = ShelfEntry<number>;

/** The number of the file of an entry that has a descriptor. */
export type FileOf = (name: string) => number;

interface LogFile {
  readonly fd: number;
  readonly version: number;
  readonly generation: number;
  readonly committedBytes: number;
}

function readHeader(fd: number): LogFile | null {
  const bytes = Buffer.alloc(LogHeader.sizeBytes);
  if (readSync(fd, bytes, 0, bytes.length, 0) < bytes.length) return null;
  const { magic, version, generation, committedBytes } = LogHeader.decode(viewOf(bytes));
  const room = fileSize(fd) - LogHeader.sizeBytes;
  const known = version === LOG_VERSION || version === LOG_VERSION_UNNUMBERED;
  if (magic !== LOG_MAGIC || !known || committedBytes > room) return null;
  return { fd, version, generation, committedBytes };
}

/** What the younger whole log of the two files says; null when there is none. */
export function readShelfLog(fds: readonly [number, number]): LoggedEntry[] | null {
  const [file] = fds
    .map(readHeader)
    .filter((header) => header !== null)
    .sort((a, b) => b.generation - a.generation);
  if (file === undefined) return null;
  const bytes = Buffer.alloc(file.committedBytes);
  readSync(file.fd, bytes, 0, bytes.length, LogHeader.sizeBytes);
  const shelf = new Shelf<number>();
  for (let at = 0; at + RecordHead.sizeBytes <= bytes.length; ) {
    const { sizeBytes, checksum, descriptors } = RecordHead.decode(viewOf(bytes), at);
    const numbersBytes = file.version === LOG_VERSION ? descriptors * NUMBER_BYTES : 0;
    const from = at + RecordHead.sizeBytes;
    at = from + sizeBytes;
    if (sizeBytes > RECORD_BYTES_MAX || at > bytes.length || descriptors > SHELF_DESCRIPTORS_MAX) break;
    const record = bytes.subarray(from, at);
    if (crc32(record) !== checksum || numbersBytes > sizeBytes) break;
    const numbersAt = sizeBytes - numbersBytes;
    const numbers = Array.from({ length: descriptors }, (_, index) =>
      numbersBytes === 0 ? 0 : record.readUInt32LE(numbersAt + index * NUMBER_BYTES),
    );
    const message = decodeShelfMessage(record.subarray(0, numbersAt), numbers);
    if (typeof message === 'string') break;
    shelf.apply(message.operations);
  }
  return [...shelf.entries()];
}
const RECORD_BYTES_MAX = SHELF_MESSAGE_BYTES_MAX + SHELF_DESCRIPTORS_MAX * NUMBER_BYTES;

export class ShelfLog {
  readonly #fds: readonly [number, number];
  #current: number;
  #generation: number;
  #committed: number;
  #liveBytes: number;
  /** The file that counts is one that this version writes. */
  #numbered: boolean;
  readonly counters = { appended: 0, compactions: 0 };

  /** Goes on with what is in the two files. */
  constructor(fds: readonly [number, number]) {
    this.#fds = fds;
    const headers = fds.map(readHeader);
    const [a, b] = [headers[0]?.generation ?? 0, headers[1]?.generation ?? 0];
    this.#current = b > a ? 1 : 0;
    this.#generation = Math.max(a, b);
    this.#committed = headers[this.#current]?.committedBytes ?? 0;
    this.#liveBytes = this.#committed;
    this.#numbered = headers[this.#current]?.version === LOG_VERSION;
  }

  /** What the log says. */
  read(): LoggedEntry[] {
    return readShelfLog(this.#fds) ?? [];
  }

  /** Appends a transaction. False when the log should be written anew, which then says the same. */
  append(operations: readonly ShelfOperation<unknown>[], fileOf: FileOf): boolean {
    if (!this.#numbered) return false;
    const record = encodeRecord(operations, fileOf);
    if (record === null || LogHeader.sizeBytes + this.#committed + record.length > LOG_BYTES_MAX)
      return false;
    writeSync(this.#fds[this.#current]!, record, 0, record.length, LogHeader.sizeBytes + this.#committed);
    this.#commit(this.#committed + record.length);
    this.counters.appended += 1;
    return this.#committed < Math.max(COMPACT_BYTES_MIN, COMPACT_FACTOR * this.#liveBytes);
  }

  /** Makes the log say exactly `entries`. */
  rewrite(entries: Iterable<ShelfEntry<unknown>>, fileOf: FileOf): void {
    const fd = this.#fds[1 - this.#current]!;
    ftruncate(fd, 0); // no header: this file does not count until the end
    let at = LogHeader.sizeBytes;
    for (const operations of grouped(entries)) {
      const record = encodeRecord(operations, fileOf);
      if (record === null) continue; // an entry came in a message, so it fits one
      writeSync(fd, record, 0, record.length, at);
      at += record.length;
    }
    this.#current = 1 - this.#current;
    this.#numbered = true;
    this.#generation += 1;
    this.#liveBytes = at - LogHeader.sizeBytes;
    this.#commit(this.#liveBytes);
    this.counters.compactions += 1;
  }

  #commit(committedBytes: number): void {
    const header = new Uint8Array(LogHeader.sizeBytes);
    LogHeader.encode(viewOf(header), 0, {
      magic: LOG_MAGIC,
      version: LOG_VERSION,
      generation: this.#generation,
      committedBytes,
      reserved0: 0,
      reserved1: 0,
    });
    writeSync(this.#fds[this.#current]!, header, 0, header.length, 0);
    this.#committed = committedBytes;
  }
}

/** Null when it does not fit a message. */
function encodeRecord(operations: readonly ShelfOperation<unknown>[], fileOf: FileOf): Uint8Array | null {
  const numbered = operations.map((operation): ShelfOperation<number> => {
    if (operation.kind !== 'put') return operation;
    return { ...operation, handle: operation.handle === null ? null : fileOf(operation.name) };
  });
  const message = encodeShelfMessage({
    kind: ShelfMessageKind.TRANSACTION,
    argument: 0,
    operations: numbered,
  });
  if (typeof message === 'number') return null;
  const { bytes, handles } = message;
  const sizeBytes = bytes.byteLength + handles.length * NUMBER_BYTES;
  const record = Buffer.alloc(RecordHead.sizeBytes + sizeBytes);
  record.set(bytes, RecordHead.sizeBytes);
  for (const [index, number] of handles.entries())
    record.writeUInt32LE(number, RecordHead.sizeBytes + bytes.byteLength + index * NUMBER_BYTES);
  RecordHead.encode(viewOf(record), 0, {
    sizeBytes,
    checksum: crc32(record.subarray(RecordHead.sizeBytes)),
    descriptors: handles.length,
  });
  return record;
}

function* grouped(entries: Iterable<ShelfEntry<unknown>>): Generator<ShelfOperation<unknown>[]> {
  let group: ShelfOperation<unknown>[] = [];
  let bytes = ShelfMessageHeader.sizeBytes;
  for (const entry of entries) {
    const put = { kind: 'put' as const, ...entry };
    const more = operationBytes(put);
    if (
      group.length > 0 &&
      (group.length >= OPERATIONS_PER_RECORD || bytes + more > SHELF_MESSAGE_BYTES_MAX)
    ) {
      yield group;
      group = [];
      bytes = ShelfMessageHeader.sizeBytes;
    }
    group.push(put);
    bytes += more;
  }
  if (group.length > 0) yield group;
}
