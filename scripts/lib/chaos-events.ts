/**
 * chaos-events.ts: what can happen, how often, and how many frames of a queue it may cost.
 */
import { install } from '../../test/lib/builds.ts';
import { signalPid } from '../../test/lib/processes.ts';
import { CLIENT_PROGRAM } from '../../test/lib/programs.ts';
import type { ProcessRole } from '../../test/lib/service.ts';
import { update } from '../../test/lib/updates.ts';
import { sleep, until } from '../../test/lib/waiting.ts';
import { type ChaosStage, gone } from './chaos-stage.ts';
import { pinnedNode } from './paths.ts';

export interface ChaosEvent {
  readonly name: string;
  /** Among all of them. */
  readonly weight: number;
  /** Frames that each queue may lose or repeat. */
  readonly frames: number;
  happen(stage: ChaosStage, random: () => number): Promise<void>;
}

const PATIENCE_MS = 60_000;
/** Two deaths within a second. */
const BETWEEN_MS = 1_000;
const STOPPED_MS = 300;
const CLIENT_MS = 150;
const VFS_MAX = 3;

function kill(stage: ChaosStage, role: ProcessRole): Promise<unknown> {
  const pid = stage.service.runningPid(role);
  signalPid(pid, 'SIGKILL');
  return gone(pid);
}

async function startController(stage: ChaosStage): Promise<void> {
  await stage.manager.exited;
  stage.manager.start();
  await stage.manager.ready();
}

/** Kills one after the other, within a second. */
const both =
  (first: ProcessRole, second: ProcessRole): ChaosEvent['happen'] =>
  async (stage, random) => {
    const pid = stage.service.runningPid(second);
    await kill(stage, first);
    await sleep(random() * BETWEEN_MS * 0.2);
    try {
      signalPid(pid, 'SIGKILL');
    } catch {
      return; // it has gone its own way
    }
    await gone(pid);
  };

async function unplugOrPlug(stage: ChaosStage): Promise<void> {
  const { service, extra } = stage;
  if (extra === null) {
    stage.extra = await service.hotplug({ mac: stage.extraMac, queueSize: 256 });
    return;
  }
  const { code, stdout } = await service.virtnet('unplug', '-u', extra.vuid);
  if (code !== 0) throw new Error(`unplug: ${stdout}`);
  stage.extra = null;
}

async function setVfs(stage: ChaosStage, count: number): Promise<void> {
  const { stdout } = await stage.service.host('sriov', stage.staticPf, `${count}`);
  const { errno } = JSON.parse(stdout) as { errno: number };
  if (errno !== 0) throw new Error(`sriov ${count}: ${stdout}`);
  stage.vfs = count;
}

function changeVfs(stage: ChaosStage, random: () => number): Promise<void> {
  return setVfs(stage, stage.vfs > 0 ? 0 : 1 + Math.floor(random() * VFS_MAX));
}

/** VFs leave their representors to those that come after them: from now on there are as many as there will ever be. */
export async function fillPool(stage: ChaosStage): Promise<void> {
  for (const count of [VFS_MAX, 0]) {
    await setVfs(stage, count);
    await stage.check();
  }
}

/** Something that is asked for while the emulator dies. */
const overADeath =
  (ask: (stage: ChaosStage, random: () => number) => Promise<void>): ChaosEvent['happen'] =>
  async (stage, random) => {
    const asked = ask(stage, random);
    asked.catch(() => {}); // awaited below
    await sleep(random() * 200);
    stage.service.killEmu();
    await asked;
  };

async function killVhostd(stage: ChaosStage): Promise<void> {
  await stage.service.killVhostd();
  await stage.service.startVhostd('server');
}

async function killClient({ service, scene, target }: ChaosStage, random: () => number): Promise<void> {
  const socket = service.socket(target.bdf);
  const client = scene.processes.start([pinnedNode, CLIENT_PROGRAM, socket], { name: 'vfio-user client' });
  if (random() < 0.5) await client.printed(/bound/, PATIENCE_MS);
  else await sleep(random() * CLIENT_MS);
  signalPid(client.pid, 'SIGKILL');
  await client.exited;
  const bare = async () =>
    (await service.answer<{ devices: { enabled_queues: string }[] }>('query', '-u', target.vuid)).devices[0]
      ?.enabled_queues === '0';
  await until('the function of a killed client is let go', PATIENCE_MS, bare);
}

export const chaosEvents: readonly ChaosEvent[] = [
  { name: 'kill emulator', weight: 20, frames: 1, happen: async (stage) => void (await kill(stage, 'emu')) },
  {
    name: 'kill standby',
    weight: 6,
    frames: 0,
    happen: async (stage) => void (await kill(stage, 'emu-standby')),
  },
  { name: 'kill keeper', weight: 8, frames: 0, happen: async (stage) => void (await kill(stage, 'ha')) },
  {
    name: 'kill controller',
    weight: 5,
    frames: 1,
    async happen(stage) {
      await kill(stage, 'controller');
      await startController(stage);
    },
  },
  { name: 'kill emulator, keeper', weight: 5, frames: 1, happen: both('emu', 'ha') },
  { name: 'kill keeper, emulator', weight: 5, frames: 1, happen: both('ha', 'emu') },
  { name: 'kill emulator, standby', weight: 5, frames: 2, happen: both('emu', 'emu-standby') },
  {
    name: 'kill everything',
    weight: 4,
    frames: 1,
    async happen(stage) {
      await stage.manager.killGroup();
      await startController(stage);
    },
  },
  {
    name: 'stop emulator',
    weight: 5,
    frames: 1,
    async happen({ service }) {
      const pid = service.runningPid('emu');
      signalPid(pid, 'SIGSTOP');
      await gone(pid);
    },
  },
  {
    name: 'stop standby',
    weight: 3,
    frames: 0,
    async happen({ service }) {
      const pid = service.runningPid('emu-standby');
      signalPid(pid, 'SIGSTOP');
      await gone(pid);
    },
  },
  {
    name: 'stop keeper',
    weight: 3,
    frames: 0,
    async happen({ service }) {
      const pid = service.runningPid('ha');
      signalPid(pid, 'SIGSTOP');
      await gone(pid);
    },
  },
  {
    name: 'stop controller for a while',
    weight: 3,
    frames: 0,
    async happen({ service }, random) {
      const pid = service.runningPid('controller');
      signalPid(pid, 'SIGSTOP');
      await sleep(random() * STOPPED_MS);
      signalPid(pid, 'SIGCONT');
    },
  },
  { name: 'kill vfe-vhostd', weight: 10, frames: 0, happen: killVhostd },
  {
    name: 'kill vfe-vhostd-ha',
    weight: 5,
    frames: 0,
    happen: ({ service }) => service.replaceVhostdKeeper(),
  },
  {
    name: 'kill vfe-vhostd, emulator',
    weight: 5,
    frames: 1,
    async happen(stage, random) {
      const killed = killVhostd(stage);
      await sleep(random() * BETWEEN_MS);
      stage.service.killEmu();
      await killed;
    },
  },
  { name: 'kill a client', weight: 6, frames: 0, happen: killClient },
  { name: 'plug or unplug', weight: 6, frames: 0, happen: unplugOrPlug },
  { name: 'plug or unplug over a death', weight: 4, frames: 1, happen: overADeath(unplugOrPlug) },
  { name: 'VFs', weight: 5, frames: 0, happen: changeVfs },
  { name: 'VFs over a death', weight: 3, frames: 1, happen: overADeath(changeVfs) },
  {
    name: 'restart',
    weight: 2,
    frames: 0,
    async happen({ service }) {
      const { stdout } = await service.virtnet('restart');
      if (stdout !== 'SUCCESS\n') throw new Error(`restart: ${stdout}`);
    },
  },
  {
    name: 'update',
    weight: 3,
    frames: 0,
    async happen({ service, builds }) {
      const running = JSON.stringify(await service.answer('version'));
      install(service, builds[running.includes('"Original Controller":"v0.2.0"') ? 1 : 0]!);
      const status = await update(service);
      if (status['last live update status'] !== 'success') throw new Error(JSON.stringify(status));
    },
  },
];
