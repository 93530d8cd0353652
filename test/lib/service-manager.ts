/**
 * service-manager.ts: as much of systemd as keeps descriptors: NOTIFY_SOCKET, the store, LISTEN_FDS, starting again.
 *
 * Theory
 *   systemd must not run on the machine that runs the tests. This one starts a program in a process group of its own,
 *   reads what it says, keeps the descriptors it sends by FDSTORE=1 under their names, lets them go by
 *   FDSTOREREMOVE=1, and hands what it has to the next start. What was sent before a kill is read after it.
 *
 * Invariants
 *   I1  like systemd: several descriptors may be kept under one name, and all of them go by it; an opened file that is
 *       kept under any name is not kept once more.
 *   I2  `close` lets everything go.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createWriteStream } from 'node:fs';
import { sleep, until } from './waiting.ts';

/** A socket holds few messages: whoever has more to say waits, and may be killed meanwhile. systemd reads at once. */
const LISTEN_MS = 2;

export interface ServiceManagerOptions {
  readonly socket: string;
  readonly command: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly log: string;
}

export class FakeServiceManager {
  readonly #options: ServiceManagerOptions;
  readonly #linux: typeof import('@virtnet/host-linux');
  readonly #notify: number;
  readonly #receiver: InstanceType<typeof import('@virtnet/host-linux').Receiver>;
  readonly #kept: { name: string; fd: number }[] = [];
  /** What the service said of itself, in order. */
  readonly said: string[] = [];
  #saidBefore = 0;
  readonly #listening: NodeJS.Timeout;
  #child: ChildProcess | null = null;
  #exited: Promise<number | null> = Promise.resolve(null);

  private constructor(options: ServiceManagerOptions, linux: typeof import('@virtnet/host-linux')) {
    this.#options = options;
    this.#linux = linux;
    this.#notify = linux.bindDatagram(options.socket);
    if (this.#notify < 0) throw new Error(`cannot bind ${options.socket}: errno ${-this.#notify}`);
    this.#listening = setInterval(() => this.#listen(), LISTEN_MS).unref();
    this.#receiver = new linux.Receiver(4096);
  }

  static async open(options: ServiceManagerOptions): Promise<FakeServiceManager> {
    // here, for the packages may not be built yet
    return new FakeServiceManager(options, await import('@virtnet/host-linux'));
  }

  get pid(): number {
    return this.#child?.pid ?? -1;
  }

  get exited(): Promise<number | null> {
    return this.#exited;
  }

  /** Names of what is kept now. */
  names(): string[] {
    this.#listen();
    return this.#kept.map(({ name }) => name).sort();
  }

  /** Whether the service has said `line` by now. */
  hasSaid(line: string): boolean {
    this.#listen();
    return this.said.includes(line);
  }

  /** Starts the service with everything that is kept. */
  start(): void {
    this.#listen();
    this.#saidBefore = this.said.length;
    const kept = [...this.#kept];
    const log = createWriteStream(this.#options.log, { flags: 'a' });
    const listen = { LISTEN_FDS: `${kept.length}`, LISTEN_FDNAMES: kept.map(({ name }) => name).join(':') };
    const child = spawn('sh', ['-c', 'LISTEN_PID=$$ exec "$@"', 'sh', ...this.#options.command], {
      detached: true, // a process group of its own, as under systemd
      env: {
        ...process.env,
        PATH: `${process.env.PATH ?? ''}:/usr/sbin:/sbin:/usr/bin:/bin`,
        ...this.#options.env,
        NOTIFY_SOCKET: this.#options.socket,
        ...(kept.length === 0 ? {} : listen),
      },
      stdio: ['ignore', 'pipe', 'pipe', ...kept.map(({ fd }) => fd)],
    });
    child.stdout?.pipe(log, { end: false });
    child.stderr?.pipe(log, { end: false });
    this.#child = child;
    this.#exited = new Promise((resolve) => child.once('exit', (code) => resolve(code)));
  }

  /** Waits until the service says READY=1, or has since its last start. */
  async ready(timeoutMs = 60_000): Promise<void> {
    await until('READY=1', timeoutMs, () => {
      this.#listen();
      return this.said.slice(this.#saidBefore).some((line) => line === 'READY=1');
    });
  }

  /** SIGKILL for the whole process group. Returns when the main process is dead. */
  async killGroup(): Promise<void> {
    process.kill(-this.pid, 'SIGKILL');
    await this.#exited;
  }

  /** As `systemctl stop`: SIGTERM to the main process, SIGKILL to what is left of the group. */
  async stop(): Promise<number | null> {
    if (this.#child === null || this.#child.exitCode !== null || this.#child.signalCode !== null) return null;
    this.#child.kill('SIGTERM');
    const code = await this.#exited;
    try {
      process.kill(-this.pid, 'SIGKILL');
    } catch {
      // nobody is left
    }
    this.#listen(); // what it said last
    return code;
  }

  async close(): Promise<void> {
    await this.stop();
    await sleep(10);
    clearInterval(this.#listening);
    this.#listen();
    for (const { fd } of this.#kept.splice(0)) this.#linux.close(fd);
    this.#linux.close(this.#notify);
  }

  #listen(): void {
    for (;;) {
      const received = this.#receiver.receive(this.#notify);
      if (typeof received === 'number') return;
      const lines = Buffer.from(received.bytes).toString('utf8').split('\n');
      const name = lines.find((line) => line.startsWith('FDNAME='))?.slice('FDNAME='.length) ?? 'stored';
      if (lines.includes('FDSTORE=1')) for (const fd of received.fds) this.#keep(name, fd);
      else this.#linux.closeAll(received.fds);
      if (lines.includes('FDSTOREREMOVE=1')) this.#remove(name);
      this.said.push(...lines.filter((line) => !line.startsWith('FD')));
    }
  }

  #keep(name: string, fd: number): void {
    if (this.#kept.some((kept) => this.#linux.sameOpenFile(kept.fd, fd))) this.#linux.close(fd);
    else this.#kept.push({ name, fd });
  }

  #remove(name: string): void {
    for (let at = this.#kept.length - 1; at >= 0; at--) {
      if (this.#kept[at]!.name !== name) continue;
      this.#linux.close(this.#kept[at]!.fd);
      this.#kept.splice(at, 1);
    }
  }
}
