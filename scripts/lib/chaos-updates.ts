/**
 * chaos-updates.ts: live updates, and what happens during them.
 *
 * Theory
 *   An update moves to the one of two versions that does not run. Changes go on until it is over, by the command lines, as
 *   an operator makes them: the controller becomes another version of itself meanwhile. Every one is done, except that the
 *   very device that is being moved says so, and is asked again. Who is killed, in which phase and at which instant of it is
 *   random: afterwards everybody is of one version, the new one or the former one.
 */
import { failure } from '@virtnet/engine-control';
import { install } from '../../test/lib/builds.ts';
import { signalPid } from '../../test/lib/processes.ts';
import type { ProcessRole } from '../../test/lib/service.ts';
import {
  PHASES,
  phaseReached,
  type UpdateStatus,
  update,
  updateOver,
  versions,
} from '../../test/lib/updates.ts';
import { sleep, until } from '../../test/lib/waiting.ts';
import { type Change, changeVfs, modify, unplugOrPlug } from './chaos-changes.ts';
import { type ChaosEvent, FOUND_MS, START_MS } from './chaos-kinds.ts';
import { type Operator, typingOperator } from './chaos-operator.ts';
import type { ChaosStage } from './chaos-stage.ts';

const PATIENCE_MS = 60_000;
/** The device is on its way to the other version at this instant. */
const IS_MIGRATING = failure('DEV_IS_MIGRATING').errno;
const BETWEEN_MS = 300;
/** Longest time in a phase before somebody is killed. */
const INSTANT_MS = 400;

/** Makes the version that does not run the destination. */
async function installOther({ service, builds }: ChaosStage): Promise<void> {
  const { original } = await versions(service);
  install(service, builds[original === 'v0.2.0' ? 1 : 0]!);
}

/** A change of a device that is being moved at this instant is asked for again. */
function persistent(operator: Operator): Operator {
  const again = <T extends { readonly errno: number }>(ask: () => Promise<T>): Promise<T> =>
    until('a device that is not being moved', PATIENCE_MS, async () => {
      const answer = await ask();
      return answer.errno === IS_MIGRATING ? null : answer;
    }) as Promise<T>;
  return {
    hotplug: (...words) => again(() => operator.hotplug(...words)),
    unplug: (...words) => again(() => operator.unplug(...words)),
    sriov: (...words) => again(() => operator.sriov(...words)),
    modify: (...words) => again(() => operator.modify(...words)),
  };
}

/** Everybody is of the version that the controller names; of the destination's after a success. */
async function isWhole(stage: ChaosStage, status: UpdateStatus): Promise<void> {
  const { service } = stage;
  await stage.settled();
  const { original, destination } = await versions(service);
  const others = (await service.emulators()).filter(({ version }) => `v${version}` !== original);
  if (others.length > 0)
    throw new Error(`of ${original}, but for ${others.map(({ role, version }) => `${role} ${version}`)}`);
  if (status['last live update status'] === 'success' && original !== destination)
    throw new Error(`moved to ${destination}, and ${original} runs`);
}

async function moved(stage: ChaosStage, meanwhile?: Parameters<typeof update>[1]): Promise<void> {
  await installOther(stage);
  const status = await update(stage.service, meanwhile);
  if (status['last live update status'] !== 'success') throw new Error(JSON.stringify(status));
  await isWhole(stage, status);
}

/** Something that is asked for again and again during an update. */
const during =
  (change: Change): ChaosEvent['happen'] =>
  (stage, random) => {
    const operator = persistent(typingOperator(stage.service));
    return moved(stage, async (ongoing) => {
      do {
        await change(stage, random, operator);
        await sleep(random() * BETWEEN_MS);
      } while (ongoing());
    });
  };

type Party = ProcessRole | 'destination' | 'everything';
const PARTIES: readonly Party[] = ['controller', 'emu', 'emu-standby', 'ha', 'destination', 'everything'];

/** Null while there is none. Where the destination has none in reserve, its emulator is the one that serves. */
function pidOf({ service, manager }: ChaosStage, party: Party): number | null {
  switch (party) {
    case 'destination':
      return service.pid('emu-reserve') ?? service.pid('emu');
    case 'everything':
      return -manager.pid; // its process group
    default:
      return service.pid(party);
  }
}

async function killDuringUpdate(stage: ChaosStage, random: () => number): Promise<void> {
  const { service } = stage;
  const party = PARTIES[Math.floor(random() * PARTIES.length)]!;
  const phase = PHASES[Math.floor(random() * PHASES.length)]!;
  const instantMs = random() * INSTANT_MS;
  await installOther(stage);
  await service.answer('update', '-s');
  if ((await phaseReached(service, phase)) === null) return isWhole(stage, await updateOver(service));
  await sleep(instantMs);
  signalPid(await until(`the ${party}`, PATIENCE_MS, () => pidOf(stage, party), 1), 'SIGKILL');
  if (party === 'controller' || party === 'everything') await stage.startController();
  const status = await updateOver(service).catch((error: Error) => {
    throw new Error(`${party} killed in ${phase}: ${error.message}`);
  });
  await isWhole(stage, status);
}

export const updateEvents: readonly ChaosEvent[] = [
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
  { name: 'update', weight: 2, frames: 0, pauseMs: FOUND_MS, warm: true, happen: (stage) => moved(stage) },
  ...(
    [
      ['modify', modify],
      ['plug or unplug', unplugOrPlug],
      ['VFs', changeVfs],
    ] as const
  ).map(
    ([name, change]): ChaosEvent => ({
      name: `${name} during an update`,
      weight: 1,
      frames: 0,
      pauseMs: FOUND_MS,
      warm: true,
      happen: during(change),
    }),
  ),
  {
    name: 'kill during an update',
    weight: 3,
    // The former emulator and the destination's may both end, each over a frame of each queue.
    frames: 2,
    pauseMs: START_MS,
    warm: true,
    happen: killDuringUpdate,
  },
];
