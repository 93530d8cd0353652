/**
 * journal.ts: how a request is answered exactly once although the server may be killed between any two instructions.
 *
 * Theory
 *   A request is peeked and stays in the socket while it is worked. Three stores outlive the process: the socket, the
 *   keeper's record, and a word in the state page. For every request the connection does, in this order:
 *
 *     begin    the whole request is in hand, nothing was done yet
 *     (work)   the session calls the device; nothing of it may be visible outside the process yet
 *     commit   record(): the program sends the changes of device and session and the answer to the keeper, in ONE
 *              transaction
 *     send     reply out and request dropped, by one system call that a kill cannot cut in two (ReplyRing)
 *     finish   the page's word becomes this request's number
 *
 *   A successor takes the same socket, record and word, and its connection calls begin for whatever stands first in
 *   the socket. With F the finished number and C the recorded one:
 *
 *     killed                      record    word  socket        begin answers
 *     before commit               C <= F    F     request       'fresh': worked as if for the first time
 *     after commit, before send   C = F+1   F     request       {replay}: the recorded answer, no work
 *     after send, before finish   C = F+1   F     next request  'fresh', after counting C as finished
 *     after finish                C <= F    F     next request  'fresh'
 *
 *   Rows two and three differ in what stands in the socket, and the digest of the recorded request tells them apart.
 *   Without io_uring, send and drop are two calls, and a kill between them ends in row two: the reply goes out twice.
 *
 * Parties
 *   connection  calls begin, commit and finish, and forget when a socket is new or has ended.
 *   program     implements JournalPorts, and hands the recorded answer of its predecessor to the constructor.
 *
 * Invariants
 *   I1  commit(n) happens before reply n can be seen, finish(n) after request n can no longer be seen.
 *   I2  numbers run over connections, so that a word left behind never matches a later one by accident.
 *
 * Limits
 *   Numbers are 32 bits and wrap. Two requests in a row that are equal to the last bit, message id included, cannot
 *   be told apart in row three (for the few microseconds before finish); clients count their ids, QEMU does.
 *   A request that changed nothing needs no record: answering it again does no harm.
 */
import { crc32 } from 'node:zlib';

/** The last answer that was recorded; plain data. */
export interface AnsweredRequest {
  /** Number of the request. */
  readonly sequence: number;
  /** CRC-32 of the request's bytes. */
  readonly digest: number;
  /** null: it wanted none. */
  readonly reply: Uint8Array | null;
}

export interface JournalPorts {
  /** The number of the last request that is over, in memory that outlives the process. */
  readFinished(): number;
  writeFinished(sequence: number): void;
  /** A request is about to be worked; writeFinished says that it is over. */
  begun?(): void;
  /**
   * Makes the device's changes and this answer durable, together; returns when a kill can no longer lose them, or a
   * promise of that. A program whose device did not change by this request may do nothing.
   */
  record(answered: AnsweredRequest): Promise<void> | null | void;
}

export type Beginning = 'fresh' | { readonly replay: Uint8Array | null };

export class RequestJournal {
  readonly #ports: JournalPorts;
  #recorded: AnsweredRequest | null;

  /** `recorded` is what the predecessor recorded last, if anything. */
  constructor(ports: JournalPorts, recorded: AnsweredRequest | null = null) {
    this.#ports = ports;
    this.#recorded = recorded;
  }

  /** The whole request is in hand. */
  begin(message: Uint8Array): Beginning {
    this.#ports.begun?.();
    const recorded = this.#recorded;
    if (recorded === null || recorded.sequence !== this.#next()) return 'fresh';
    if (recorded.digest === crc32(message)) return { replay: recorded.reply };
    this.finish(); // the predecessor had sent it; this is another
    return 'fresh';
  }

  /** The request was worked, and `reply` may go out when this returns null, or what it returns resolves. */
  commit(message: Uint8Array, reply: Uint8Array | null): Promise<void> | null {
    this.#recorded = { sequence: this.#next(), digest: crc32(message), reply };
    return this.#ports.record(this.#recorded) ?? null;
  }

  /** The request is no longer in the socket. */
  finish(): void {
    this.#ports.writeFinished(this.#next());
  }

  /** The socket is new, or has ended: whatever was recorded belongs to no request that can come. */
  forget(): void {
    if (this.#recorded?.sequence === this.#next()) this.finish();
    this.#recorded = null;
  }

  #next(): number {
    return (this.#ports.readFinished() + 1) >>> 0;
  }
}
