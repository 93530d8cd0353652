/**
 * guest-channel.ts: running commands in the guest.
 *
 * Theory
 *   QEMU connects a virtio-serial port of the guest to a UNIX socket on which this file listens. A request is one
 *   line, `<id> <command in base64>`; the answer is one line, `<id> <exit code> <output in base64>`. Commands run side
 *   by side in the guest, so answers come in any order. After each boot the guest says `ready`.
 *   scripts/lib/guest-init.sh is the other end.
 *
 * Invariants
 *   I1  every request is answered once, or rejected when its time is over or the guest is gone.
 *
 * Limits  output of a command is held in memory, both sides; a few megabytes are fine.
 */
import { createServer, type Server, type Socket } from 'node:net';
import { within } from './waiting.ts';

export interface CommandResult {
  readonly code: number;
  /** stdout and stderr together. */
  readonly output: Buffer;
}

export class GuestChannel {
  readonly #server: Server;
  readonly #waiting = new Map<number, (result: CommandResult | null) => void>();
  #socket: Socket | null = null;
  #lines: Buffer[] = [];
  #nextId = 1;
  #boots = 0;
  #onBoot: (() => void)[] = [];

  private constructor(server: Server) {
    this.#server = server;
    server.on('connection', (socket) => this.#adopt(socket));
  }

  static async listen(path: string): Promise<GuestChannel> {
    const server = createServer();
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(path, resolve);
    });
    return new GuestChannel(server);
  }

  /** How often the guest has come up. */
  get boots(): number {
    return this.#boots;
  }

  /** Resolves once the guest came up for the `count`th time. */
  async booted(count: number, timeoutMs: number): Promise<boolean> {
    while (this.#boots < count) {
      const next = new Promise<true>((resolve) => this.#onBoot.push(() => resolve(true)));
      if ((await within(next, timeoutMs)) === null) return false;
    }
    return true;
  }

  /** Runs a shell command; null when there is no answer in time. */
  async command(text: string, timeoutMs: number): Promise<CommandResult | null> {
    const id = this.#nextId++;
    const answer = new Promise<CommandResult | null>((resolve) => this.#waiting.set(id, resolve));
    this.#socket?.write(`${id} ${Buffer.from(text).toString('base64')}\n`);
    const result = await within(answer, timeoutMs);
    this.#waiting.delete(id);
    return result;
  }

  close(): void {
    this.#socket?.destroy();
    this.#server.close();
    this.#rejectAll();
  }

  #adopt(socket: Socket): void {
    this.#socket?.destroy();
    this.#socket = socket;
    this.#lines = [];
    socket.on('data', (chunk) => this.#take(Buffer.from(chunk)));
    socket.on('error', () => {}); // 'close' follows
    socket.on('close', () => {
      if (this.#socket !== socket) return;
      this.#socket = null;
      this.#rejectAll();
    });
  }

  #take(chunk: Buffer): void {
    let from = 0;
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, from)) {
      this.#lines.push(chunk.subarray(from, end));
      const line = Buffer.concat(this.#lines).toString('latin1');
      this.#lines = [];
      from = end + 1;
      this.#line(line);
    }
    if (from < chunk.length) this.#lines.push(chunk.subarray(from));
  }

  #line(line: string): void {
    const [first = '', code = '', output = ''] = line.split(' ');
    if (first.endsWith('ready')) {
      this.#boots += 1;
      for (const wake of this.#onBoot.splice(0)) wake();
      return;
    }
    this.#waiting.get(Number(first))?.({ code: Number(code), output: Buffer.from(output, 'base64') });
  }

  #rejectAll(): void {
    for (const resolve of this.#waiting.values()) resolve(null);
    this.#waiting.clear();
  }
}
