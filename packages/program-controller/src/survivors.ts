/**
 * survivors.ts: what a former controller left running on this root.
 *
 * Theory
 *   Emulators and keeper serve on when their controller dies. Whoever answers on its RPC socket and tells its pid is
 *   adopted. A process that a pid file names and that does not answer hangs, or had not come up: it is killed, and
 *   its death awaited, before anything is started in its place. On an overloaded machine silence says little: as long
 *   as it, or this process, has waited for a processor meanwhile, it is asked again.
 *
 * Invariants
 *   I1  nobody is killed who is not a program of ours on this very root: command line and environment are compared.
 *   I2  when findSurvivors resolves, every process named by a pid file is adopted, dead, or not ours.
 *
 * Limits  ADOPT_DEADLINE_MS for the answers, ADOPT_ROUNDS_MAX times.
 */
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { type Logger, RpcClient, type VirtnetPaths } from '@virtnet/host-ipc';
import {
  close,
  connect,
  type Poller,
  pidfdOpen,
  pidfdSendSignal,
  processorWaitMs,
} from '@virtnet/host-linux';
import { ADOPT_DEADLINE_MS, ADOPT_ROUNDS_MAX, READY_EXTENSION_MS } from './limits.js';
import type { PidFiles } from './pid-files.js';
import { type ProgramKind, programNames } from './programs.js';

export interface Survivor {
  readonly kind: ProgramKind;
  readonly instance: number;
  readonly pid: number;
  readonly as: 'starting' | 'ready' | 'serving';
  /** A destination of a handover. */
  readonly reserve: boolean;
}

const EMU_IPC = /^emu-(\d{1,9})\.ipc$/;
const SIGKILL = 9;

export async function findSurvivors(
  paths: VirtnetPaths,
  pidFiles: PidFiles,
  mains: Readonly<Record<ProgramKind, string>>,
  poller: Poller,
  log: Logger,
  waitedMs: (pid: number) => number = processorWaitMs,
): Promise<Survivor[]> {
  const instances = readdirSync(paths.run).flatMap((name) => {
    const match = EMU_IPC.exec(name);
    return match === null ? [] : [Number(match[1])];
  });
  let questions = [
    () => askKeeper(paths),
    ...instances.map((instance) => () => askEmulator(paths, instance)),
  ];
  const survivors: Survivor[] = [];
  const silent = () =>
    PID_FILES.flatMap(([file, kind]) => {
      const pid = pidFiles.read(file);
      if (pid === null || survivors.some((survivor) => survivor.pid === pid)) return [];
      return isOurs(pid, kind, mains, paths.root) ? [{ kind, pid }] : [];
    });
  for (let round = 0; round < ADOPT_ROUNDS_MAX && questions.length > 0; round++) {
    const before = new Map(
      [process.pid, ...silent().map(({ pid }) => pid)].map((pid) => [pid, waitedMs(pid)]),
    );
    const answers = await Promise.all(questions.map((question) => question()));
    survivors.push(...answers.filter((answer) => answer !== null && answer !== 'silent'));
    questions = questions.filter((_, index) => answers[index] === 'silent');
    const excused = (pid: number) => waitedMs(pid) - (before.get(pid) ?? 0) >= READY_EXTENSION_MS;
    const missing = silent();
    if (missing.length === 0 || !(excused(process.pid) || missing.some(({ pid }) => excused(pid)))) break;
  }
  const dying = silent().map(({ kind, pid }) => {
    log.warn({ kind, childPid: pid }, 'left by a former controller and does not answer: killing');
    return killAndWait(pid, poller);
  });
  await Promise.all(dying);
  return survivors;
}

const PID_FILES = [
  ['ha', 'ha'],
  ['emu', 'emu'],
  ['emu-standby', 'emu'],
  ['emu-reserve', 'emu'],
] as const;

type Answer = Survivor | 'silent' | null;

async function askKeeper(paths: VirtnetPaths): Promise<Answer> {
  return ask(paths.haIpc, async (client) => {
    const { pid } = await client.call('ha.status', {}, { deadlineMs: ADOPT_DEADLINE_MS });
    return { kind: 'ha', instance: 0, pid, as: 'ready', reserve: false };
  });
}

async function askEmulator(paths: VirtnetPaths, instance: number): Promise<Answer> {
  return ask(paths.emuIpc(instance), async (client) => {
    const status = await client.call('emu.status', {}, { deadlineMs: ADOPT_DEADLINE_MS });
    const { pid, role, ready, reserve } = status;
    const as = role === 'active' ? 'serving' : ready ? 'ready' : 'starting';
    return { kind: 'emu', instance, pid, as, reserve: reserve && role !== 'active' };
  });
}

/** Null when nobody listens at `path` (the file is then removed). */
async function ask(path: string, question: (client: RpcClient) => Promise<Survivor>): Promise<Answer> {
  const probe = connect(path, 'stream'); // ZeroMQ would retry until the deadline
  if (probe < 0) {
    rmSync(path, { force: true });
    return null;
  }
  close(probe);
  const client = new RpcClient(path);
  try {
    return await question(client);
  } catch {
    return 'silent';
  } finally {
    client.close();
  }
}

/** Whether `pid` runs the program on this root. The name replaces the command line once the process is up. */
function isOurs(
  pid: number,
  kind: ProgramKind,
  mains: Readonly<Record<ProgramKind, string>>,
  root: string,
): boolean {
  try {
    const command = readFileSync(join('/proc', String(pid), 'cmdline'), 'utf8').split('\0');
    const environment = readFileSync(join('/proc', String(pid), 'environ'), 'utf8').split('\0');
    // Another build's, which is about to take its name, has the same path in another directory.
    const another = `/packages/program-${kind}/dist/main.cjs`;
    const named =
      command.includes(mains[kind]) ||
      command.some((word) => word.endsWith(another)) ||
      command[0]?.trim() === programNames[kind];
    return named && environment.includes(`VIRTNET_ROOT=${root}`);
  } catch {
    return false; // gone, or somebody else's
  }
}

function killAndWait(pid: number, poller: Poller): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const pidfd = pidfdOpen(pid);
  if (pidfd < 0) return Promise.resolve(); // gone
  const watch = poller.watch(pidfd, { readable: true }, () => {
    if (typeof watch === 'object') watch.close();
    close(pidfd);
    resolve();
  });
  pidfdSendSignal(pidfd, SIGKILL);
  if (typeof watch === 'number') throw new RangeError(`cannot watch pid ${pid}: errno ${-watch}`);
  return promise;
}
