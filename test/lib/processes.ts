/**
 * processes.ts: starting programs so that they can always be ended again.
 *
 * Theory
 *   Whole-system tests start QEMU, testpmd, tcpdump and the service, which starts processes of its own. Each
 *   `Processes` writes a random mark into the environment of what it starts. The environment is inherited, so
 *   /proc/<pid>/environ finds every descendant later, also one whose parent is gone. Nothing is ever ended by name.
 *   A direct child additionally gets SIGTERM from the kernel when this process dies, however it dies.
 *
 * Invariants
 *   I1  every signal goes to a pid that was read from a handle of our own or from a matching mark just before.
 *   I2  after `endAll` no process with the mark runs.
 *   I3  an interrupted run (SIGINT, SIGTERM, SIGHUP) ends all marked processes before it exits.
 *
 * Limits  Linux only. A descendant that clears its environment escapes the mark; none of ours does.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { createWriteStream, readdirSync, readFileSync, type WriteStream } from 'node:fs';
import { sleep, within } from './waiting.ts';

const MARK = 'VIRTNET_TEST_MARK';
const END_GRACE_MS = 5_000;
const TAIL_CHARACTERS = 4_000;

export interface Exit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export interface StartOptions {
  /** For messages. */
  readonly name: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** File that gets everything the program prints. */
  readonly log?: string;
  /** 'pipe' keeps the child's stdin open for `stdin`. */
  readonly stdin?: 'pipe' | 'ignore';
  /** Gets stdout as bytes; stdout is then not part of the log. */
  readonly onStdout?: (chunk: Buffer) => void;
}

/** One program that was started. */
export class Child {
  readonly name: string;
  readonly pid: number;
  readonly exited: Promise<Exit>;
  /** Ended, and all its output was read; later than `exited` when a child of its own keeps the output open. */
  readonly drained: Promise<void>;
  exit: Exit | null = null;
  readonly #process: ChildProcess;
  readonly #log: WriteStream | null;
  readonly #listeners = new Set<(text: string) => void>();
  readonly #stdoutListeners = new Set<(text: string) => void>();
  #tail = '';

  constructor(child: ChildProcess, options: StartOptions) {
    this.name = options.name;
    this.#process = child;
    this.pid = child.pid ?? -1;
    this.#log = options.log === undefined ? null : createWriteStream(options.log, { flags: 'a' });
    const take = (chunk: Buffer): void => {
      const text = chunk.toString('utf8');
      this.#tail = (this.#tail + text).slice(-TAIL_CHARACTERS);
      this.#log?.write(text);
      for (const listener of this.#listeners) listener(text);
    };
    child.stdout?.on('data', options.onStdout ?? take);
    child.stdout?.on('data', (chunk: Buffer) => {
      for (const listener of this.#stdoutListeners) listener(chunk.toString('utf8'));
    });
    child.stderr?.on('data', take);
    child.stdin?.on('error', () => {}); // the peer may be gone: `exited` tells
    this.exited = new Promise((resolve) => {
      const finish = (exit: Exit): void => {
        this.exit = exit;
        resolve(exit);
      };
      child.once('error', (error) => {
        this.#tail += `${error.message}\n`;
        finish({ code: 127, signal: null });
      });
      child.once('exit', (code, signal) => finish({ code, signal }));
    });
    this.drained = new Promise((resolve) => {
      const finish = (): void => {
        this.#log?.end();
        resolve();
      };
      child.once('error', finish).once('close', finish);
    });
  }

  /** The last few kilobytes printed. */
  get tail(): string {
    return this.#tail;
  }

  write(text: string): void {
    this.#process.stdin?.write(text);
  }

  /** Closes the program's stdin. */
  endInput(): void {
    this.#process.stdin?.end();
  }

  /** Calls `listener` with everything printed from now on, or with stdout alone. Returns the way to stop. */
  onText(listener: (text: string) => void, which: 'all' | 'stdout' = 'all'): () => void {
    const listeners = which === 'all' ? this.#listeners : this.#stdoutListeners;
    listeners.add(listener);
    return () => listeners.delete(listener);
  }

  signal(signal: NodeJS.Signals): void {
    if (this.exit === null && this.pid > 0) this.#process.kill(signal);
  }

  /** Asks with `signal`, and after `graceMs` insists with SIGKILL. */
  async end(signal: NodeJS.Signals = 'SIGTERM', graceMs = END_GRACE_MS): Promise<Exit> {
    this.signal(signal);
    const exit = await within(this.exited, graceMs);
    if (exit !== null) return exit;
    this.signal('SIGKILL');
    return this.exited;
  }

  /**
   * Resolves when the program prints something `pattern` matches; rejects when it ends first or after `timeoutMs`.
   * What it printed lately counts too, unless `fromNow`.
   */
  async printed(pattern: RegExp, timeoutMs: number, { fromNow = false } = {}): Promise<RegExpMatchArray> {
    let seen = fromNow ? '' : this.#tail;
    let stop: () => void = () => {};
    const found = new Promise<RegExpMatchArray>((resolve) => {
      const look = (text: string): void => {
        seen = (seen + text).slice(-TAIL_CHARACTERS * 4);
        const match = seen.match(pattern);
        if (match) resolve(match);
      };
      stop = this.onText(look);
      look('');
    });
    try {
      const first = await within(Promise.race([found, this.exited]), timeoutMs);
      if (first !== null && Array.isArray(first)) return first;
      const why =
        first === null
          ? `did not print ${pattern} within ${timeoutMs} ms`
          : `ended before it printed ${pattern}`;
      throw new Error(`${this.name} ${why}; it said:\n${this.#tail}`);
    } finally {
      stop();
    }
  }
}

export interface Output {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Marks of those who started this process: they find what it starts, too. */
const inheritedMarks = process.env[MARK]?.split(':') ?? [];
const live = new Set<Processes>();

/** Everything one test (or one script) started. */
export class Processes {
  readonly mark = randomBytes(8).toString('hex');
  readonly #children = new Set<Child>();

  constructor() {
    live.add(this);
    endOnInterrupt();
  }

  /** Starts a program. It gets SIGTERM when this process dies. */
  start(command: readonly string[], options: StartOptions): Child {
    const child = new Child(
      spawn('setpriv', ['--pdeathsig', 'TERM', '--', ...command], {
        env: { ...systemEnvironment(), ...options.env, [MARK]: [...inheritedMarks, this.mark].join(':') },
        ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
        stdio: [options.stdin ?? 'ignore', 'pipe', 'pipe'],
      }),
      options,
    );
    this.#children.add(child);
    void child.exited.then(() => this.#children.delete(child));
    return child;
  }

  /** Runs a program to its end. Does not reject on a failure of the program. */
  async output(
    command: readonly string[],
    options: { env?: Readonly<Record<string, string>>; timeoutMs?: number; cwd?: string } = {},
  ): Promise<Output> {
    const stdout: Buffer[] = [];
    let stderr = '';
    const name = command.join(' ');
    const { timeoutMs = 60_000, ...rest } = options;
    const child = this.start(command, { name, ...rest, onStdout: (chunk) => stdout.push(chunk) });
    child.onText((text) => {
      stderr += text;
    });
    const exit = await within(Promise.all([child.exited, child.drained]), timeoutMs);
    if (exit === null) {
      await child.end('SIGKILL');
      throw new Error(`${name} did not end within ${timeoutMs} ms`);
    }
    return { code: exit[0].code ?? 128, stdout: Buffer.concat(stdout).toString('utf8'), stderr };
  }

  /** As `output`, and throws when the program fails. Returns stdout. */
  async run(command: readonly string[], options: Parameters<Processes['output']>[1] = {}): Promise<string> {
    const { code, stdout, stderr } = await this.output(command, options);
    if (code !== 0) throw new Error(`${command.join(' ')} failed (${code}): ${stderr}${stdout}`);
    return stdout;
  }

  /** All processes that carry the mark now, started here or by what was started here. */
  marked(): { pid: number; command: string }[] {
    return markedProcesses(this.mark);
  }

  /** Ends all that is left: asks, waits, insists. Returns what had to be ended this way. */
  async endAll(): Promise<{ pid: number; command: string }[]> {
    const left = this.marked();
    for (const { pid } of left) signalPid(pid, 'SIGTERM');
    const deadline = performance.now() + END_GRACE_MS;
    while (this.marked().length > 0) {
      if (performance.now() > deadline) for (const { pid } of this.marked()) signalPid(pid, 'SIGKILL');
      await sleep(20);
    }
    await Promise.all([...this.#children].map((child) => child.exited));
    live.delete(this);
    return left;
  }

  /** The same without waiting, for a process that is about to exit. */
  endAllNow(): void {
    for (const { pid } of this.marked()) signalPid(pid, 'SIGKILL');
  }
}

/** The environment programs run in: that of this process, with the system administrator's directories in PATH. */
function systemEnvironment(): NodeJS.ProcessEnv {
  return { ...process.env, PATH: `${process.env.PATH ?? ''}:/usr/sbin:/sbin:/usr/bin:/bin`, LC_ALL: 'C' };
}

/** Processes whose environment holds `mark`, zombies excluded. */
export function markedProcesses(mark: string): { pid: number; command: string }[] {
  const found: { pid: number; command: string }[] = [];
  for (const entry of readdirSync('/proc')) {
    const pid = Number(entry);
    if (!Number.isInteger(pid) || pid === process.pid) continue;
    try {
      if (!marksOf(readFileSync(`/proc/${pid}/environ`, 'latin1')).includes(mark)) continue;
      const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim();
      if (command !== '') found.push({ pid, command });
    } catch {
      // ended meanwhile, or not ours to read
    }
  }
  return found;
}

function marksOf(environment: string): string[] {
  const variable = environment.split('\0').find((text) => text.startsWith(`${MARK}=`));
  return variable?.slice(MARK.length + 1).split(':') ?? [];
}

/** Sends a signal; a process that is gone already is fine. */
export function signalPid(pid: number, signal: NodeJS.Signals): boolean {
  try {
    return process.kill(pid, signal);
  } catch {
    return false;
  }
}

export function isRunning(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return !/\) [ZX] /.test(stat);
  } catch {
    return false;
  }
}

let watching = false;

function endOnInterrupt(): void {
  if (watching) return;
  watching = true;
  const end = (): void => {
    for (const processes of live) processes.endAllNow();
  };
  process.on('exit', end);
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => {
      end();
      process.exit(signal === 'SIGINT' ? 130 : 143);
    });
  }
}
