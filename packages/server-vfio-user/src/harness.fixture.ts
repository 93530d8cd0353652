/** harness.fixture.ts: a ServerConnection over a real socket pair, and a client that sends bytes as it likes. */
import { readdirSync } from 'node:fs';
import { setImmediate as turn } from 'node:timers/promises';
import {
  close,
  closeAll,
  dup,
  Poller,
  Receiver,
  ReplyRing,
  type ReplySender,
  send,
  socketPair,
} from '@virtnet/host-linux';
import { Errno, VfioUserHeader, viewOf } from '@virtnet/wire';
import type { VfioUserDevice } from './device.js';
import { type AnsweredRequest, type JournalPorts, RequestJournal } from './journal.js';
import { parseReply, version } from './messages.fixture.js';
import { type ConnectionEnd, ServerConnection } from './server-connection.js';
import { ServerSession } from './session.js';

/** Turns of the event loop before a wait has failed; a turn without work takes a few microseconds. */
const TURNS_MAX = 200_000;

export function openDescriptors(): number {
  return readdirSync('/proc/self/fd').length;
}

export async function until(condition: () => boolean, what: string): Promise<void> {
  for (let turns = 0; turns < TURNS_MAX; turns++) {
    if (condition()) return;
    await turn();
  }
  throw new Error(`waited in vain: ${what}`);
}

/** The keeper's record and the page's word, which outlive a connection. */
export class MemoryJournal implements JournalPorts {
  finished = 0;
  records: AnsweredRequest[] = [];
  onRecord: () => unknown = () => {};
  /** Resolves when a record is safe; null: at once. */
  safe: Promise<void> | null = null;

  readFinished(): number {
    return this.finished;
  }
  writeFinished(sequence: number): void {
    this.finished = sequence;
  }
  record(answered: AnsweredRequest): Promise<void> | null {
    this.records.push(answered);
    this.onRecord();
    return this.safe;
  }
  /** What a successor starts with. */
  reopen(): RequestJournal {
    return new RequestJournal(this, this.records.at(-1) ?? null);
  }
}

/** The client's end: bytes out, messages in. */
export class RawClient {
  readonly fd: number;
  readonly #receiver = new Receiver(1 << 20, 64);
  #buffer = new Uint8Array(0);
  #fds: number[] = [];
  ended = false;

  constructor(fd: number) {
    this.fd = fd;
  }

  /** Sends everything, waiting for room. */
  async send(bytes: Uint8Array, fds: readonly number[] = []): Promise<void> {
    let rest = bytes;
    let riding = fds;
    for (let turns = 0; rest.length > 0 && turns < TURNS_MAX; turns++) {
      const sent = send(this.fd, rest, riding);
      if (sent < 0 && sent !== -Errno.EAGAIN) throw new Error(`send: errno ${-sent}`);
      if (sent > 0) {
        rest = rest.subarray(sent);
        riding = [];
      } else await turn();
    }
  }

  /** The next whole message with the descriptors that came up to its end; null at the end of the connection. */
  async receive(): Promise<{ bytes: Uint8Array; fds: number[] } | null> {
    for (let turns = 0; turns < TURNS_MAX; turns++) {
      const message = this.#take();
      if (message !== null) return message;
      if (this.ended) return null;
      this.poll();
      await turn();
    }
    throw new Error('no reply');
  }

  /** Reads what is there; returns the bytes of the first read, for tests about segments. */
  poll(): number {
    const received = this.#receiver.receive(this.fd);
    if (typeof received === 'number') {
      if (received !== -Errno.EAGAIN) this.ended = true;
      return 0;
    }
    if (received.bytes.length === 0) this.ended = true;
    const joined = new Uint8Array(this.#buffer.length + received.bytes.length);
    joined.set(this.#buffer);
    joined.set(received.bytes, this.#buffer.length);
    this.#buffer = joined;
    this.#fds.push(...received.fds);
    return received.bytes.length;
  }

  /** Bytes that were read and belong to no message that was taken. */
  get pending(): number {
    return this.#buffer.length;
  }

  /** Sends one request and returns its reply taken apart. */
  async ask(bytes: Uint8Array, fds: readonly number[] = []) {
    await this.send(bytes, fds);
    const reply = await this.receive();
    if (reply === null) throw new Error('connection ended');
    return { ...parseReply(reply.bytes), fds: reply.fds };
  }

  close(): void {
    closeAll(this.#fds);
    close(this.fd);
  }

  #take(): { bytes: Uint8Array; fds: number[] } | null {
    if (this.#buffer.length < VfioUserHeader.sizeBytes) return null;
    const { sizeBytes } = VfioUserHeader.decode(viewOf(this.#buffer));
    if (this.#buffer.length < sizeBytes) return null;
    const bytes = this.#buffer.slice(0, sizeBytes);
    this.#buffer = this.#buffer.slice(sizeBytes);
    const fds = this.#fds;
    this.#fds = [];
    return { bytes, fds };
  }
}

export interface Serving {
  readonly poller: Poller;
  readonly client: RawClient;
  readonly connection: ServerConnection;
  readonly journal: MemoryJournal;
  readonly ends: ConnectionEnd[];
  /** Duplicates the server's socket, as the keeper does: the client then sees no end when the server is gone. */
  keep(): void;
  /** Another ServerConnection on the kept socket, as a successor makes one. */
  adopt(session: ServerSession, journal?: RequestJournal): ServerConnection;
  stop(): Promise<void>;
}

export interface ServeOptions {
  readonly replyRing?: ReplySender;
  /** What an earlier server left. */
  readonly journal?: MemoryJournal;
}

/** Serves `device` on one end of a socket pair; the client has the other. */
export function serve(device: VfioUserDevice, options: ServeOptions = {}): Serving {
  const pair = socketPair('stream');
  if (typeof pair === 'number') throw new Error(`socketpair: errno ${-pair}`);
  const [fd, clientFd] = pair;
  const poller = new Poller();
  poller.start();
  const ring = options.replyRing === undefined ? ReplyRing.create() : null;
  const replyRing = options.replyRing ?? ring;
  const journal = options.journal ?? new MemoryJournal();
  const ends: ConnectionEnd[] = [];
  let kept = -1;
  const connections: ServerConnection[] = [];
  const open = (socket: number, session: ServerSession, requests: RequestJournal, adopted: boolean) => {
    const onClose = (end: ConnectionEnd) => ends.push(end);
    const made = ServerConnection.open({
      fd: socket,
      poller,
      session,
      replyRing,
      journal: requests,
      adopted,
      onClose,
    });
    if (typeof made === 'number') throw new Error(`open: errno ${-made}`);
    connections.push(made);
    return made;
  };
  const connection = open(fd, new ServerSession(device), journal.reopen(), false);
  const client = new RawClient(clientFd);
  return {
    poller,
    client,
    connection,
    journal,
    ends,
    keep() {
      kept = dup(fd);
    },
    adopt: (session, requests = journal.reopen()) => open(dup(kept), session, requests, true),
    async stop() {
      for (const made of connections) made.close();
      client.close();
      if (kept >= 0) close(kept);
      ring?.close();
      await poller.stop();
    },
  };
}

/** A served connection that has agreed on the version. */
export async function serveNegotiated(
  device: VfioUserDevice,
  capabilities?: object,
  options: ServeOptions = {},
): Promise<Serving> {
  const serving = serve(device, options);
  const reply = await serving.client.ask(version(0, capabilities));
  if (reply.errno !== 0) throw new Error(`VERSION: errno ${reply.errno}`);
  return serving;
}
