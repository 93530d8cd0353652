/**
 * chaos-events.ts: what can happen, how often, how many frames of a queue it may cost, and for how long a stream may pause.
 */
import { install } from '../../test/lib/builds.ts';
import { signalPid } from '../../test/lib/processes.ts';
import type { ProcessRole } from '../../test/lib/service.ts';
import { update } from '../../test/lib/updates.ts';
import { sleep, until } from '../../test/lib/waiting.ts';
import { deviceOf } from './chaos-observer.ts';
import { type ChaosStage, gone } from './chaos-stage.ts';

export interface ChaosEvent {
  readonly name: string;
  /** Among all of them. What ends an emulator takes seconds, so most of what happens is what happens in between. */
  readonly weight: number;
  /** Frames that each queue may lose or repeat. */
  readonly frames: number;
  /** The longest pause of a stream, on a machine that lets everybody run at once. */
  readonly pauseMs: number;
  /** Waits for a warm standby before. Otherwise it may happen while one is only starting. */
  readonly warm?: boolean;
  /** When no standby is there yet, streams pause until an emulator has started: a row of its own in the table. */
  readonly cold?: boolean;
  happen(stage: ChaosStage, random: () => number): Promise<void>;
}

const PATIENCE_MS = 60_000;
/** Two deaths within a second. */
const BETWEEN_MS = 1_000;
const STOPPED_MS = 300;
const CLIENT_MS = 150;
const VFS_MAX = 3;
/** Streams do not notice: the pause of a machine that schedules them. */
const UNNOTICED_MS = 500;
/** A standby takes over. */
const TAKEOVER_MS = 1_500;
/** Somebody who is stopped is found, and a standby takes over. */
const FOUND_MS = 3_000;
/** Processes start from nothing. */
export const START_MS = 10_000;
const MTU_MIN = 1_280;
const MTU_CHOICES = 700;
const PERIOD_US_MAX = 200;
const COUNT_MAX = 16;

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
    await stage.settled(); // whoever starts now is not who was killed
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
    await gone(stage.service.killEmu().pid);
    await asked;
  };

async function killVhostd(stage: ChaosStage, signal?: 'SIGTERM'): Promise<void> {
  await stage.service.killVhostd(signal);
  await stage.service.startVhostd('server');
}

async function killClient(stage: ChaosStage, random: () => number): Promise<void> {
  const { target, observer } = stage;
  const client = await stage.client();
  if (random() < 0.5) await client.printed(/bound/, PATIENCE_MS);
  else await sleep(random() * CLIENT_MS);
  signalPid(client.pid, 'SIGKILL');
  await client.exited;
  const params = { ...deviceOf(target.vuid), brief: false, queue: null };
  const bare = async () => {
    const { devices } = await observer.ask<{ devices: { enabled_queues: string }[] }>('query', params);
    return devices[0]?.enabled_queues === '0';
  };
  await until('the function of a killed client is let go', PATIENCE_MS, bare);
}

/** Another address or MTU of the function without a driver, or another moderation of one under streams. */
async function modify(stage: ChaosStage, random: () => number): Promise<void> {
  const { observer, settings, target, driven } = stage;
  const below = (limit: number) => Math.floor(random() * limit);
  const ask = async (vuid: string, what: Record<string, unknown>) => {
    const answer = await observer.ask<{ errno: number }>('modify', { ...deviceOf(vuid), ...what });
    if (answer.errno !== 0) throw new Error(`modify ${JSON.stringify(what)}: ${JSON.stringify(answer)}`);
  };
  const choice = below(3);
  if (choice === 0) {
    const mac = `0C:C4:7A:FF:23:${below(256).toString(16).toUpperCase().padStart(2, '0')}`;
    await ask(target.vuid, { device: { mac } });
    settings.mac = mac;
  } else if (choice === 1) {
    const mtu = MTU_MIN + below(MTU_CHOICES);
    await ask(target.vuid, { device: { mtu } });
    settings.mtu = mtu;
  } else {
    const [period, maxCount] = [1 + below(PERIOD_US_MAX), 1 + below(COUNT_MAX)];
    await ask(driven.vuid, { queueOptions: { periodMode: 'event', period, maxCount } });
    settings.period = period;
    settings.maxCount = maxCount;
  }
}

export const chaosEvents: readonly ChaosEvent[] = [
  {
    name: 'kill emulator',
    weight: 20,
    frames: 1,
    pauseMs: TAKEOVER_MS,
    cold: true,
    happen: async (stage) => void (await kill(stage, 'emu')),
  },
  {
    name: 'kill standby',
    weight: 10,
    frames: 0,
    pauseMs: UNNOTICED_MS,
    happen: async (stage) => void (await kill(stage, 'emu-standby')),
  },
  {
    name: 'kill keeper',
    weight: 8,
    frames: 0,
    pauseMs: UNNOTICED_MS,
    happen: async (stage) => void (await kill(stage, 'ha')),
  },
  {
    name: 'kill controller',
    weight: 8,
    frames: 1,
    pauseMs: TAKEOVER_MS,
    async happen(stage) {
      await kill(stage, 'controller');
      await startController(stage);
    },
  },
  {
    name: 'kill emulator, keeper',
    weight: 5,
    frames: 1,
    pauseMs: START_MS,
    warm: true,
    happen: both('emu', 'ha'),
  },
  {
    name: 'kill keeper, emulator',
    weight: 5,
    frames: 1,
    pauseMs: START_MS,
    warm: true,
    happen: both('ha', 'emu'),
  },
  {
    name: 'kill emulator, standby',
    weight: 5,
    frames: 2,
    pauseMs: START_MS,
    warm: true,
    happen: both('emu', 'emu-standby'),
  },
  {
    name: 'kill everything',
    weight: 4,
    frames: 1,
    pauseMs: START_MS,
    warm: true,
    async happen(stage) {
      await stage.manager.killGroup();
      await startController(stage);
      await stage.settled();
    },
  },
  {
    name: 'stop emulator',
    weight: 5,
    frames: 1,
    pauseMs: FOUND_MS,
    warm: true,
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
    pauseMs: UNNOTICED_MS,
    warm: true,
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
    pauseMs: UNNOTICED_MS,
    warm: true,
    async happen({ service }) {
      const pid = service.runningPid('ha');
      signalPid(pid, 'SIGSTOP');
      await gone(pid);
    },
  },
  ...(['controller', 'vfe-vhostd', 'vfe-vhostd-ha'] as const).map(
    (role): ChaosEvent => ({
      name: `stop ${role} for a while`,
      weight: role === 'controller' ? 20 : 10,
      frames: 0,
      pauseMs: UNNOTICED_MS,
      async happen({ service }, random) {
        const pid = role === 'controller' ? service.runningPid(role) : service.vhostPid(role);
        signalPid(pid, 'SIGSTOP');
        await sleep(random() * STOPPED_MS);
        signalPid(pid, 'SIGCONT');
      },
    }),
  ),
  {
    name: 'kill vfe-vhostd',
    weight: 16,
    frames: 0,
    pauseMs: UNNOTICED_MS,
    happen: (stage) => killVhostd(stage),
  },
  {
    name: 'replace vfe-vhostd',
    weight: 10,
    frames: 0,
    pauseMs: UNNOTICED_MS,
    happen: (stage) => killVhostd(stage, 'SIGTERM'),
  },
  {
    name: 'kill vfe-vhostd-ha',
    weight: 10,
    frames: 0,
    pauseMs: UNNOTICED_MS,
    happen: ({ service }) => service.replaceVhostdKeeper(),
  },
  {
    name: 'kill vfe-vhostd, emulator',
    weight: 5,
    frames: 1,
    pauseMs: TAKEOVER_MS,
    warm: true,
    async happen(stage, random) {
      const killed = killVhostd(stage);
      await sleep(random() * BETWEEN_MS);
      await gone(stage.service.killEmu().pid);
      await killed;
    },
  },
  { name: 'kill a client', weight: 60, frames: 0, pauseMs: UNNOTICED_MS, happen: killClient },
  { name: 'modify', weight: 200, frames: 0, pauseMs: UNNOTICED_MS, happen: modify },
  {
    name: 'modify over a death',
    weight: 3,
    frames: 1,
    pauseMs: TAKEOVER_MS,
    warm: true,
    happen: overADeath(modify),
  },
  { name: 'plug or unplug', weight: 90, frames: 0, pauseMs: UNNOTICED_MS, happen: unplugOrPlug },
  {
    name: 'plug or unplug over a death',
    weight: 4,
    frames: 1,
    pauseMs: TAKEOVER_MS,
    warm: true,
    happen: overADeath(unplugOrPlug),
  },
  { name: 'VFs', weight: 40, frames: 0, pauseMs: UNNOTICED_MS, happen: changeVfs },
  {
    name: 'VFs over a death',
    weight: 3,
    frames: 1,
    pauseMs: TAKEOVER_MS,
    warm: true,
    happen: overADeath(changeVfs),
  },
  {
    name: 'restart',
    weight: 2,
    frames: 0,
    pauseMs: FOUND_MS,
    warm: true,
    async happen({ service }) {
      const { stdout } = await service.virtnet('restart');
      if (stdout !== 'SUCCESS\n') throw new Error(`restart: ${stdout}`);
    },
  },
  {
    name: 'update',
    weight: 3,
    frames: 0,
    pauseMs: FOUND_MS,
    warm: true,
    async happen({ service, builds }) {
      const running = JSON.stringify(await service.answer('version'));
      install(service, builds[running.includes('"Original Controller":"v0.2.0"') ? 1 : 0]!);
      const status = await update(service);
      if (status['last live update status'] !== 'success') throw new Error(JSON.stringify(status));
    },
  },
];
