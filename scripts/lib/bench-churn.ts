/**
 * bench-churn.ts: what clients leave behind that are killed while they use a function.
 *
 * Theory
 *   Client processes bind one function over vfio-user, one after the other: they map memory, hand eventfds over, start
 *   a driver and send frames. Half of them are killed at a random instant while they connect and probe, half while they
 *   send. Descriptors and shared mappings of emulator and keeper are counted before and after; nothing may stay.
 *
 * Limits  The next processes are started while one is served, because starting takes longer than being killed.
 */
import { writeFileSync } from 'node:fs';
import { type Child, signalPid } from '../../test/lib/processes.ts';
import { CLIENT_PROGRAM } from '../../test/lib/programs.ts';
import { randomNumbers, seed } from '../../test/lib/random.ts';
import { Scene } from '../../test/lib/scene.ts';
import { type Holdings, Service } from '../../test/lib/service.ts';
import { sleep, until } from '../../test/lib/waiting.ts';
import type { BenchOptions } from '../bench.ts';
import { pinnedNode } from './paths.ts';

const CLIENTS_AT_ONCE = 3;
const BOUND_TIMEOUT_MS = 30_000;
const SETTLE_TIMEOUT_MS = 10_000;
/** Longest life of a client: in the first half of the cases from its start, in the other from its first frame. */
const LIFE_MS = 120;
const SENDING_MS = 10;
const STEPS = 10;

interface Sample {
  readonly kills: number;
  readonly emu: Holdings;
  readonly ha: Holdings;
}

export async function run({ kills, json }: BenchOptions): Promise<number> {
  const scene = await Scene.open();
  try {
    const service = await Service.start(scene);
    const device = await service.hotplug({ mac: '0C:C4:7A:FF:22:93', queues: 3, queueSize: 256 });
    await scene.net.ip(`link set ${device.sf_rep_net_device} up`);
    const socket = service.socket(device.bdf);
    await killClients(scene, socket, CLIENTS_AT_ONCE); // what is allocated once is allocated now
    const samples = [await sample(service, 0, null)];
    const [first] = samples as [Sample];
    print(first);
    const step = Math.max(1, Math.ceil(kills / STEPS));
    for (let done = 0; done < kills; done += step) {
      const count = Math.min(step, kills - done);
      await killClients(scene, socket, count);
      const now = await sample(service, done + count, first);
      samples.push(now);
      print(now);
    }
    const flat = isSame(first, samples.at(-1) ?? first);
    process.stdout.write(
      `promise (nothing is left of ${kills} killed clients): ${flat ? 'holds' : 'BROKEN'}\n`,
    );
    const text = `${JSON.stringify({ seed, samples, holds: flat })}\n`;
    if (json === '-') process.stdout.write(text);
    else if (json !== null) writeFileSync(json, text);
    return flat ? 0 : 1;
  } finally {
    for (const problem of await scene.end()) process.stderr.write(`${problem}\n`);
  }
}

async function killClients(scene: Scene, socket: string, count: number): Promise<void> {
  const random = randomNumbers(seed + count);
  let left = count;
  const worker = async (): Promise<void> => {
    while (left > 0) {
      left -= 1;
      const client = scene.processes.start([pinnedNode, CLIENT_PROGRAM, socket], {
        name: 'vfio-user client',
      });
      await live(client, random);
      signalPid(client.pid, 'SIGKILL');
      await client.exited;
    }
  };
  await Promise.all(Array.from({ length: CLIENTS_AT_ONCE }, worker));
}

async function live(client: Child, random: () => number): Promise<void> {
  if (random() < 0.5) {
    await sleep(LIFE_MS + random() * LIFE_MS);
  } else {
    await client.printed(/bound/, BOUND_TIMEOUT_MS);
    await sleep(random() * SENDING_MS);
  }
}

/** What is held now; after a moment of grace when it is not what it was at `first`. */
async function sample(service: Service, kills: number, first: Sample | null): Promise<Sample> {
  const now = (): Sample => ({ kills, emu: service.holdings('emu'), ha: service.holdings('ha') });
  const wanted = first;
  if (wanted === null) await sleep(SETTLE_TIMEOUT_MS / 2);
  else await until('a quiet moment', SETTLE_TIMEOUT_MS, () => isSame(now(), wanted)).catch(() => {});
  return now();
}

function isSame(a: Sample, b: Sample): boolean {
  return JSON.stringify([a.emu, a.ha]) === JSON.stringify([b.emu, b.ha]);
}

function print({ kills, emu, ha }: Sample): void {
  const text = (name: string, { descriptors, sharedMappings }: Holdings): string =>
    `${name} ${descriptors} descriptors, ${sharedMappings} shared mappings`;
  process.stdout.write(`${String(kills).padStart(6)} kills: ${text('emu', emu)}; ${text('ha', ha)}\n`);
}
