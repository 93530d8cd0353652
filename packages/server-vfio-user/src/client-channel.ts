/**
 * client-channel.ts: requests out, replies in: the client's end of a vfio-user socket.
 *
 * Theory
 *   Every request has an id; its promise waits under that id until the reply, the timeout or the end. Requests are
 *   pipelined. A server that was replaced in the middle may answer a request twice, so a reply under an id that
 *   nobody waits for is counted and dropped.
 *
 * Parties
 *   server   may be hostile: everything of a reply is checked before it is believed.
 *   caller   keeps descriptors that it sends open until the promise is settled; owns those of a reply.
 *
 * Invariants
 *   I1  every promise is settled: by reply, timeout or end.
 *   I2  descriptors of a reply that was not waited for, or more than were expected, are closed.
 *
 * Limits  CLIENT_REQUESTS_MAX under way or unsent; CLIENT_MESSAGE_BYTES_MAX per reply.
 * Not here  what the commands mean (client.ts).
 */
import { close, closeAll, type Poller, Receiver, send, shutdown, type Watch } from '@virtnet/host-linux';
import {
  Errno,
  type VfioUserCommand,
  VfioUserFlags,
  VfioUserHeader,
  vfioUserCommandName,
  viewOf,
} from '@virtnet/wire';
import {
  CLIENT_MESSAGE_BYTES_MAX,
  CLIENT_REQUESTS_MAX,
  MESSAGE_FDS_MAX,
  MESSAGES_PER_TURN,
} from './limits.js';
import { type Message, MessageReader } from './message-reader.js';
import { replyBytes } from './outcome.js';

/** Why a request failed: the server's errno, or one of our own (ETIMEDOUT, ENOTCONN, EPROTO, ENOBUFS, EINVAL). */
export class VfioUserError extends Error {
  override readonly name = 'VfioUserError';
  readonly errno: number;

  constructor(command: VfioUserCommand, errno: number) {
    super(`${vfioUserCommandName[command]}: errno ${errno}`);
    this.errno = errno;
  }
}

export interface Reply {
  readonly body: Uint8Array;
  readonly view: DataView;
  readonly fds: readonly number[];
}

interface Waiting {
  readonly command: VfioUserCommand;
  readonly fdsExpected: number;
  timer: NodeJS.Timeout;
  resolve(reply: Reply): void;
  reject(error: VfioUserError): void;
}

interface Outgoing {
  bytes: Uint8Array;
  fds: readonly number[];
}

/** Where the number of the last request is, for whoever takes the socket over: it must not use a number again. */
export interface LastRequest {
  id: number;
}

export interface ChannelOptions {
  readonly poller: Poller;
  readonly last?: LastRequest;
  readonly timeoutMs: number;
  /** Called once; errno 0 when the server closed, or this side did. */
  onClose(errno: number): void;
}

export interface RequestOptions {
  /** Sent with the message. */
  readonly fds?: readonly number[];
  /** Most that may come back. */
  readonly fdsExpected?: number;
}

const ID_COUNT = 0x1_0000;
/** A timer that comes so much too late: this process stood still, and has not read what was answered meanwhile. */
const STOOD_STILL_MS = 100;
/** So long it may take to come then, also when the server stood still as well. */
const STOOD_STILL_WAIT_MS = 1_000;
let receiver: Receiver | null = null; // made on first use: a server process has no clients

export class ClientChannel {
  readonly #fd: number;
  readonly #options: ChannelOptions;
  readonly #reader: MessageReader;
  readonly #waiting = new Map<number, Waiting>(); // CLIENT_REQUESTS_MAX
  readonly #outgoing: Outgoing[] = []; // CLIENT_REQUESTS_MAX
  #watch: Watch | null = null;
  readonly #last: LastRequest;
  #open = true;
  #strayReplies = 0;

  private constructor(fd: number, options: ChannelOptions) {
    this.#fd = fd;
    this.#options = options;
    this.#last = options.last ?? { id: 0 };
    receiver ??= new Receiver(CLIENT_MESSAGE_BYTES_MAX, MESSAGE_FDS_MAX);
    this.#reader = new MessageReader(fd, receiver, CLIENT_MESSAGE_BYTES_MAX);
  }

  /** Takes over a connected socket; -errno (and the socket left alone) when it cannot be watched. */
  static open(fd: number, options: ChannelOptions): ClientChannel | number {
    const channel = new ClientChannel(fd, options);
    const watch = options.poller.watch(fd, { readable: true }, () => channel.#ready());
    if (typeof watch === 'number') return watch;
    channel.#watch = watch;
    return channel;
  }

  get isOpen(): boolean {
    return this.#open;
  }

  get fd(): number {
    return this.#fd;
  }

  /** Replies that nobody waited for. */
  get strayReplies(): number {
    return this.#strayReplies;
  }

  /** Sends a request; resolves with its reply, rejects with a VfioUserError. */
  request(command: VfioUserCommand, body: Uint8Array, options: RequestOptions = {}): Promise<Reply> {
    return new Promise((resolve, reject) => {
      const refused = this.#refusal();
      if (refused !== 0) return reject(new VfioUserError(command, refused));
      const id = this.#takeId();
      const dueMs = performance.now() + this.#options.timeoutMs;
      const expire = () => this.#fail(id, Errno.ETIMEDOUT);
      const expireUnlessLate = () => {
        if (performance.now() - dueMs < STOOD_STILL_MS) expire();
        else waiting.timer = setTimeout(expire, STOOD_STILL_WAIT_MS).unref();
      };
      const timer = setTimeout(expireUnlessLate, this.#options.timeoutMs).unref();
      const waiting: Waiting = { command, fdsExpected: options.fdsExpected ?? 0, timer, resolve, reject };
      this.#waiting.set(id, waiting);
      this.#send(message(id, command, VfioUserFlags.TYPE_COMMAND, body), options.fds ?? []);
    });
  }

  /** Sends a request without wanting a reply; throws a VfioUserError when it cannot be queued. */
  post(command: VfioUserCommand, body: Uint8Array): void {
    const refused = this.#refusal();
    if (refused !== 0) throw new VfioUserError(command, refused);
    this.#send(message(this.#takeId(), command, VfioUserFlags.NO_REPLY, body), []);
  }

  close(): void {
    this.#end(0);
  }

  #refusal(): number {
    if (!this.#open) return Errno.ENOTCONN;
    const full = this.#waiting.size >= CLIENT_REQUESTS_MAX || this.#outgoing.length >= CLIENT_REQUESTS_MAX;
    return full ? Errno.ENOBUFS : 0;
  }

  #takeId(): number {
    let id = this.#last.id;
    do id = (id + 1) % ID_COUNT;
    while (this.#waiting.has(id));
    this.#last.id = id;
    return id;
  }

  #send(bytes: Uint8Array, fds: readonly number[]): void {
    this.#outgoing.push({ bytes, fds });
    if (this.#outgoing.length === 1) this.#flush();
  }

  #flush(): void {
    for (;;) {
      const [next] = this.#outgoing;
      if (next === undefined) {
        this.#watch?.setWritable(false);
        return;
      }
      const sent = send(this.#fd, next.bytes, next.fds);
      if (sent === -Errno.EAGAIN) {
        this.#watch?.setWritable(true);
        return;
      }
      if (sent < 0) return this.#end(-sent);
      if (sent === next.bytes.length) this.#outgoing.shift();
      else this.#outgoing[0] = { bytes: next.bytes.subarray(sent), fds: [] };
    }
  }

  #ready(): void {
    if (this.#outgoing.length > 0) this.#flush();
    for (let count = 0; count < MESSAGES_PER_TURN && this.#open; count++) {
      const reading = this.#reader.read();
      switch (reading.kind) {
        case 'message':
          this.#receive(reading);
          break;
        case 'wait':
          return; // what was read is out of the socket: the next piece wakes us
        case 'end':
          return this.#end(0);
        case 'error':
          return this.#end(reading.errno);
        case 'fault':
          return this.#end(Errno.EPROTO);
      }
    }
  }

  #receive({ message: bytes, fds }: Message): void {
    const header = VfioUserHeader.decode(viewOf(bytes));
    if ((header.flags & VfioUserFlags.TYPE_MASK) === VfioUserFlags.TYPE_COMMAND) {
      closeAll(fds);
      const posted = (header.flags & VfioUserFlags.NO_REPLY) !== 0;
      if (!posted && this.#refusal() === 0) this.#send(replyBytes(header, Errno.EOPNOTSUPP), []);
      return;
    }
    const waiting = this.#waiting.get(header.messageId);
    if (waiting === undefined || waiting.command !== header.command) {
      this.#strayReplies++;
      return closeAll(fds);
    }
    if ((header.flags & VfioUserFlags.ERROR) !== 0) {
      closeAll(fds);
      return this.#fail(header.messageId, header.errno === 0 ? Errno.EIO : header.errno);
    }
    closeAll(fds.slice(waiting.fdsExpected));
    this.#forget(header.messageId, waiting);
    const body = bytes.subarray(VfioUserHeader.sizeBytes);
    waiting.resolve({ body, view: viewOf(body), fds: fds.slice(0, waiting.fdsExpected) });
  }

  #fail(id: number, errno: number): void {
    const waiting = this.#waiting.get(id);
    if (waiting === undefined) return;
    this.#forget(id, waiting);
    waiting.reject(new VfioUserError(waiting.command, errno));
  }

  #forget(id: number, waiting: Waiting): void {
    clearTimeout(waiting.timer);
    this.#waiting.delete(id);
  }

  #end(errno: number): void {
    if (!this.#open) return;
    this.#open = false;
    this.#watch?.close();
    this.#reader.reset();
    shutdown(this.#fd); // whoever keeps a descriptor for a successor does not keep the connection
    close(this.#fd);
    this.#outgoing.length = 0;
    for (const id of [...this.#waiting.keys()]) this.#fail(id, Errno.ENOTCONN);
    // A server that closes with our request still in its socket resets the connection: closed all the same.
    const closed = errno === Errno.ECONNRESET || errno === Errno.EPIPE;
    this.#options.onClose(closed ? 0 : errno);
  }
}

function message(id: number, command: VfioUserCommand, flags: number, body: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(VfioUserHeader.sizeBytes + body.length);
  VfioUserHeader.encode(viewOf(bytes), 0, {
    messageId: id,
    command,
    sizeBytes: bytes.length,
    flags,
    errno: 0,
  });
  bytes.set(body, VfioUserHeader.sizeBytes);
  return bytes;
}
