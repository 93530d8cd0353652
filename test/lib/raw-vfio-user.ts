/** A vfio-user client whose bytes leave when a test says so, and not message by message. */
import { close, connect, Receiver, send } from '@virtnet/host-linux';
import {
  Errno,
  VFIO_USER_VERSION_MAJOR as major,
  VFIO_USER_VERSION_MINOR as minor,
  VfioUserCommand,
  VfioUserFlags,
  VfioUserHeader,
  VfioUserVersion,
  viewOf,
} from '@virtnet/wire';
import { until } from './waiting.ts';

const REPLY_BYTES_MAX = 4096;

export interface RawReply {
  readonly messageId: number;
  /** 0: it succeeded. */
  readonly errno: number;
}

/** A request as it is sent. `body` is what follows the header. */
export function rawRequest(messageId: number, command: number, body: Uint8Array): Uint8Array {
  const sizeBytes = VfioUserHeader.sizeBytes + body.length;
  return Buffer.concat([VfioUserHeader.bytes({ messageId, command, sizeBytes, flags: 0, errno: 0 }), body]);
}

export class RawVfioUser {
  readonly #fd: number;
  readonly #receiver = new Receiver(REPLY_BYTES_MAX);
  #received = Buffer.alloc(0);

  private constructor(fd: number) {
    this.#fd = fd;
  }

  /** Connects and agrees on the version. `patienceMs`: how long the answer may take. */
  static async open(socket: string, patienceMs: number): Promise<RawVfioUser> {
    const fd = connect(socket, 'stream');
    if (fd < 0) throw new Error(`cannot connect to ${socket}: errno ${-fd}`);
    const client = new RawVfioUser(fd);
    client.send(rawRequest(0, VfioUserCommand.VERSION, VfioUserVersion.bytes({ major, minor })));
    const { errno } = await client.reply(patienceMs);
    if (errno !== 0) throw new Error(`VERSION: errno ${errno}`);
    return client;
  }

  /** The descriptors ride with the first byte. */
  send(bytes: Uint8Array, fds: readonly number[] = []): void {
    const sent = send(this.#fd, bytes, fds);
    if (sent !== bytes.length) throw new Error(`sent ${sent} of ${bytes.length} bytes`);
  }

  /** The next reply. */
  reply(patienceMs: number): Promise<RawReply> {
    return until('a reply', patienceMs, () => this.#take());
  }

  /** Bytes that were received and belong to no reply that was taken. */
  get pending(): number {
    this.#receive();
    return this.#received.length;
  }

  close(): void {
    close(this.#fd);
  }

  #take(): RawReply | null {
    this.#receive();
    if (this.#received.length < VfioUserHeader.sizeBytes) return null;
    const { messageId, sizeBytes, flags, errno } = VfioUserHeader.decode(viewOf(this.#received));
    if (this.#received.length < sizeBytes) return null;
    this.#received = Buffer.from(this.#received.subarray(sizeBytes));
    return { messageId, errno: (flags & VfioUserFlags.ERROR) === 0 ? 0 : errno };
  }

  #receive(): void {
    const received = this.#receiver.receive(this.#fd);
    if (received === -Errno.EAGAIN) return;
    if (typeof received === 'number' || received.bytes.length === 0) throw new Error('the connection ended');
    this.#received = Buffer.concat([this.#received, received.bytes]);
  }
}
