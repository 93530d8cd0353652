/**
 * scene.ts: what every whole-system test starts from and returns to.
 *
 * Theory
 *   A scene is a scratch directory, a network namespace and a set of processes. Ending it runs the registered
 *   endings in reverse, and then looks for what should not be there any more.
 *
 * Invariants
 *   I1  `end` leaves no process, interface, file or shared memory of the scene, even when a test failed before.
 *   I2  what had to be ended by force, or was left behind, is reported: a program that does not clean up after
 *       itself is a failed test.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { NetworkNamespace } from './netns.ts';
import { Processes } from './processes.ts';

/** Paths of UNIX sockets have to stay below 108 bytes, so the prefix is short. */
const PREFIX = 'vn-';
const LAST_LINES = 60;
const LAST_LINE_CHARACTERS = 400;

export class Scene {
  readonly processes: Processes;
  readonly net: NetworkNamespace;
  readonly directory: string;
  readonly #endings: (() => void | Promise<void>)[] = [];
  readonly #sharedMemory: readonly string[];
  readonly #hugePagesFree: number;
  /** What programs had said by the end. */
  #lastWords: string | null = null;

  private constructor(processes: Processes, net: NetworkNamespace, directory: string) {
    this.processes = processes;
    this.net = net;
    this.directory = directory;
    this.#sharedMemory = sharedMemoryFiles();
    this.#hugePagesFree = hugePagesFree();
  }

  static async open(): Promise<Scene> {
    const processes = new Processes();
    const directory = mkdtempSync(join(tmpdir(), PREFIX));
    const remove = () => rmSync(directory, { recursive: true, force: true });
    process.once('exit', remove);
    try {
      const scene = new Scene(processes, await NetworkNamespace.create(processes), directory);
      scene.atEnd(() => void process.off('exit', remove)); // the directory is removed there, too
      return scene;
    } catch (error) {
      await processes.endAll();
      remove();
      throw error;
    }
  }

  path(name: string): string {
    return join(this.directory, name);
  }

  /** Something to do at the end, before what was registered earlier. */
  atEnd(ending: () => void | Promise<void>): void {
    this.#endings.push(ending);
  }

  /** The end of every log in the scene's directory: what programs said before a test failed. */
  lastWords(): string {
    if (this.#lastWords !== null) return this.#lastWords;
    const logs = readdirSync(this.directory).filter((name) => name.endsWith('.log'));
    const ends = logs.map((name) => {
      const lines = readFileSync(this.path(name), 'utf8').trimEnd().split('\n');
      return [`--- ${name}`, ...lines.slice(-LAST_LINES).map((line) => line.slice(0, LAST_LINE_CHARACTERS))];
    });
    return ends.flat().join('\n');
  }

  /** Ends everything. Returns what should not have been left, in words; nothing when all is well. */
  async end(): Promise<string[]> {
    const problems: string[] = [];
    for (const ending of this.#endings.splice(0).reverse()) {
      try {
        await ending();
      } catch (error) {
        problems.push(error instanceof Error ? error.message : String(error));
      }
    }
    const links = await this.net.links().catch(() => []);
    for (const link of links)
      if (/^en\d+f\d+pf\d+sf\d+$/.test(link.ifname))
        problems.push(`the representor ${link.ifname} is still there`);
    await this.net.end();
    for (const { pid, command } of await this.processes.endAll())
      problems.push(`still running: ${pid} ${command}`);
    this.#lastWords ??= this.lastWords();
    rmSync(this.directory, { recursive: true, force: true });
    const known = new Set(this.#sharedMemory);
    for (const name of sharedMemoryFiles()) if (!known.has(name)) problems.push(`left in /dev/shm: ${name}`);
    if (hugePagesFree() < this.#hugePagesFree) problems.push('huge pages are still taken');
    return problems;
  }
}

/** Directories there are somebody else's: shm_open(3) and sem_open(3) make files. */
function sharedMemoryFiles(): string[] {
  try {
    const entries = readdirSync('/dev/shm', { withFileTypes: true });
    return entries.filter((entry) => entry.isFile()).map(({ name }) => name);
  } catch {
    return [];
  }
}

function hugePagesFree(): number {
  return Number(/HugePages_Free:\s+(\d+)/.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1] ?? 0);
}
