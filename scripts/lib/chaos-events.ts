/**
 * chaos-events.ts: what can happen, how often, how many frames of a queue it may cost, and for how long a stream may pause.
 */
import { signalPid } from '../../test/lib/processes.ts';
import type { ProcessRole } from '../../test/lib/service.ts';
import { sleep, until } from '../../test/lib/waiting.ts';
import { type Change, changeVfs, modify, unplugOrPlug } from './chaos-changes.ts';
import { type ChaosEvent, FOUND_MS, START_MS, TAKEOVER_MS, UNNOTICED_MS } from './chaos-kinds.ts';
import { deviceOf } from './chaos-observer.ts';
import { type ChaosStage, gone } from './chaos-stage.ts';
import { updateEvents } from './chaos-updates.ts';

const PATIENCE_MS = 60_000;
/** Two deaths within a second. */
const BETWEEN_MS = 1_000;
const STOPPED_MS = 300;
const CLIENT_MS = 150;
/** So much later than vfe-vhostd its keeper is started by systemd. */
const KEEPER_LATER_MS = 80;
function kill(
  stage: ChaosStage,
  role: ProcessRole,
  signal: 'SIGKILL' | 'SIGSEGV' | 'SIGABRT' = 'SIGKILL',
): Promise<unknown> {
  const pid = stage.service.runningPid(role);
  signalPid(pid, signal);
  return gone(pid);
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

/** Something that is asked for while the emulator dies. */
const overADeath =
  (ask: Change): ChaosEvent['happen'] =>
  async (stage, random) => {
    const asked = ask(stage, random);
    asked.catch(() => {}); // awaited below
    await sleep(random() * 200);
    await gone(stage.service.killEmu().pid);
    await asked;
  };

async function killVhostd({ vhostd }: ChaosStage, signal: 'SIGKILL' | 'SIGTERM' = 'SIGKILL'): Promise<void> {
  signalPid(vhostd.pid, signal);
  await vhostd.exited;
  vhostd.start();
  await vhostd.ready();
}

async function killVhostKeeper(stage: ChaosStage): Promise<void> {
  const { vhostKeeper } = stage;
  await vhostKeeper.killGroup();
  vhostKeeper.start();
  await vhostKeeper.ready();
  await atKeeper(stage);
}

/** vfe-vhostd and its keeper start again, each after the time that its unit gives, or so. */
async function startVhost(stage: ChaosStage, random: () => number): Promise<void> {
  const { vhostd, vhostKeeper } = stage;
  vhostd.start();
  await sleep(random() * 2 * KEEPER_LATER_MS);
  vhostKeeper.start();
  await Promise.all([vhostd.ready(), vhostKeeper.ready()]);
  await atKeeper(stage);
}

function atKeeper({ observer }: ChaosStage): Promise<unknown> {
  const look = async () => !(await observer.vhostVersion()).includes('HA Disconnected');
  return until('vfe-vhostd at its new keeper', PATIENCE_MS, look);
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

export const chaosEvents: readonly ChaosEvent[] = [
  {
    name: 'kill emulator',
    weight: 20,
    frames: 1,
    pauseMs: TAKEOVER_MS,
    cold: true,
    happen: async (stage) => void (await kill(stage, 'emu')),
  },
  // What a crash ends with, from outside: nobody is blamed for it, however often.
  ...(['SIGSEGV', 'SIGABRT'] as const).map(
    (signal): ChaosEvent => ({
      name: `${signal} for emulator`,
      weight: 3,
      frames: 1,
      pauseMs: TAKEOVER_MS,
      cold: true,
      happen: async (stage) => void (await kill(stage, 'emu', signal)),
    }),
  ),
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
      await stage.startController();
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
      await stage.startController();
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
      async happen({ manager, vhostd, vhostKeeper }, random) {
        const { pid } = { controller: manager, 'vfe-vhostd': vhostd, 'vfe-vhostd-ha': vhostKeeper }[role];
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
    happen: killVhostKeeper,
  },
  {
    name: 'kill vfe-vhostd, vfe-vhostd-ha',
    weight: 10,
    frames: 0,
    pauseMs: UNNOTICED_MS,
    async happen(stage, random) {
      await Promise.all([stage.vhostd.killGroup(), stage.vhostKeeper.killGroup()]);
      await startVhost(stage, random);
    },
  },
  {
    name: 'kill both services',
    weight: 2,
    frames: 1,
    pauseMs: START_MS,
    warm: true,
    async happen(stage, random) {
      const { manager, vhostd, vhostKeeper } = stage;
      await Promise.all([manager, vhostd, vhostKeeper].map((one) => one.killGroup()));
      await Promise.all([stage.startController(), startVhost(stage, random)]);
    },
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
  ...updateEvents,
];
