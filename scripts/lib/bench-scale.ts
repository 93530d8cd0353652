/**
 * bench-scale.ts: every function that the firmware's configuration can ask for, in one instance.
 *
 * Theory
 *   The service runs with the guide's configuration for PFs and VFs together, in the largest numbers. Commands are
 *   measured as an operator waits for them, with their process's start. Memory is what is resident of all processes of
 *   the service together, with the VFs less without them: what V8 keeps as a reserve counts as theirs. Processor time
 *   is the kernel's account of the same processes over IDLE_S seconds in which nobody asks anything. Then the active
 *   emulator is killed again and again while a stream runs through one function (kill-stream.ts), and at last the
 *   whole service is stopped and started from its recovery files.
 *
 * Limits  A machine that is busy with something else is measured with it.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { Scene } from '../../test/lib/scene.ts';
import { Service } from '../../test/lib/service.ts';
import { type Summary, summarise } from '../../test/lib/stream-analysis.ts';
import { sleep, until } from '../../test/lib/waiting.ts';
import type { BenchOptions } from '../bench.ts';
import { STREAM_MAC, STREAM_QUEUE_SIZE, streamThroughKills } from './kill-stream.ts';
import { ignoreSessions } from './machine-state.ts';
import { configure, fullShape, functionsOf, plugAll, type Shape, setVfs } from './scale-stage.ts';

const IDLE_S = 10;
const SETTLE_MS = 3_000;
/** Heaps are tidied up some seconds after much has been made. */
const REST_MS = 15_000;
const SETTLE_TIMEOUT_MS = 120_000;
const QUESTIONS = 7;
const ROLES = ['controller', 'emu', 'emu-standby', 'ha'] as const;
const KIB_PER_MIB = 1024;
const MS_PER_S = 1_000;

type Resident = Readonly<Record<(typeof ROLES)[number], number>>;

/** One line of the table. `most`: what is promised, null where nothing is. */
interface Figure {
  readonly name: string;
  readonly value: number;
  readonly unit: string;
  readonly most: number | null;
}

interface Report {
  readonly shape: Shape;
  readonly functions: number;
  readonly figures: readonly Figure[];
  readonly residentBeforeKib: Resident;
  readonly residentKib: Resident;
  readonly listMs: Summary;
  readonly queryMs: Summary;
  readonly stream: Awaited<ReturnType<typeof streamThroughKills>> | null;
  readonly nodeStartMs: number;
  readonly holds: boolean;
}

export async function run({ pfs, kills, json }: BenchOptions): Promise<number> {
  ignoreSessions();
  const scene = await Scene.open();
  let problems: readonly string[] = [];
  let report: Report | null = null;
  try {
    report = await measure(scene, fullShape(pfs), kills);
    process.stdout.write(table(report));
    const text = `${JSON.stringify(report)}\n`;
    if (json === '-') process.stdout.write(text);
    else if (json !== null) writeFileSync(json, text);
  } finally {
    problems = await scene.end();
    for (const problem of problems) process.stderr.write(`${problem}\n`);
  }
  return report.holds && problems.length === 0 ? 0 : 1;
}

async function measure(scene: Scene, shape: Shape, kills: number): Promise<Report> {
  const functions = functionsOf(shape);
  const vfs = shape.staticPfs * shape.vfsPerPf;
  const figures: Figure[] = [];
  const note = (name: string, value: number, unit: string, most: number | null = null): void => {
    figures.push({ name, value, unit, most });
    if (process.stderr.isTTY) process.stderr.write(`${line({ name, value, unit, most })}\n`);
  };
  const nodeStartMs = await timed(() => scene.processes.run([process.execPath, '-e', '0']));
  const service = await Service.start(scene);
  await configure(service, shape);
  const stream = { mac: STREAM_MAC, queues: 3, queueSize: STREAM_QUEUE_SIZE };
  const [streamed] = await plugAll(service, shape, stream);
  await mirrored(service, functions - vfs);
  await sleep(SETTLE_MS);
  const residentBeforeKib = resident(service);

  note(`${vfs} VFs made`, (await timed(() => setVfs(service, shape, shape.vfsPerPf))) / MS_PER_S, 's', 10);
  note(`${vfs} VFs removed`, (await timed(() => setVfs(service, shape, 0))) / MS_PER_S, 's', 5);
  const again = await timed(() => setVfs(service, shape, shape.vfsPerPf));
  note(`${vfs} VFs made, their representors exist`, again / MS_PER_S, 's');
  await mirrored(service, functions);
  await sleep(SETTLE_MS);
  const residentKib = resident(service);
  const grown = ROLES.reduce((sum, role) => sum + residentKib[role] - residentBeforeKib[role], 0);
  note('resident memory for each VF', grown / KIB_PER_MIB / vfs, 'MiB', 1);
  await sleep(REST_MS);
  note('processor time, nobody asks anything', 100 * (await idle(service)), '%', 2);

  const listMs = await asked(service, 'list');
  note('virtnet list', listMs.median, 'ms', 500);
  const queryMs = await asked(service, 'query', '-a');
  note('virtnet query -a', queryMs.median, 'ms');
  note('virtnet-host lspci', await timed(() => service.host('lspci')), 'ms');

  const killed = service.killEmu();
  const recovering = await timed(() => recovered(service, killed.pid, functions));
  note('kill -9 of the emulator: until the next one could be killed', recovering / MS_PER_S, 's');
  let damage: Report['stream'] = null;
  if (streamed !== undefined) {
    damage = await streamThroughKills(scene, service, streamed, kills);
    note(`pause of a stream, ${kills} kills: median`, damage.pausesMs.median, 'ms');
    note(`pause of a stream, ${kills} kills: p99`, damage.pausesMs.p99, 'ms', 20);
    note('longest pause of it without a kill', damage.quietPauseMs, 'ms');
    note('packets of it lost or repeated', damage.lost + damage.repeated, '', 2 * kills);
  }
  const moving = await timed(() => succeed(service, 'restart'));
  note('virtnet restart', moving / MS_PER_S, 's');
  await mirrored(service, functions);
  note('stop of the service', (await timed(() => service.stop())) / MS_PER_S, 's');
  const started = performance.now();
  await service.startAgain();
  await until('every function', SETTLE_TIMEOUT_MS, async () => (await count(service)) === functions);
  note('start from recovery files', (performance.now() - started) / MS_PER_S, 's');
  const holds = figures.every(({ value, most }) => most === null || value < most);
  return {
    shape,
    functions,
    figures,
    residentBeforeKib,
    residentKib,
    listMs,
    queryMs,
    stream: damage,
    nodeStartMs,
    holds,
  };
}

async function timed(action: () => Promise<unknown>): Promise<number> {
  const started = performance.now();
  await action();
  return performance.now() - started;
}

/** Milliseconds of a command, process start included. */
async function asked(service: Service, ...words: string[]): Promise<Summary> {
  const times: number[] = [];
  for (let i = 0; i < QUESTIONS; i++) times.push(await timed(() => succeed(service, ...words)));
  return summarise(times);
}

async function succeed(service: Service, ...words: string[]): Promise<void> {
  const { code, stdout, stderr } = await service.virtnet(...words);
  if (code !== 0) throw new Error(`virtnet ${words.join(' ')} failed (${code}): ${stdout}${stderr}`);
}

async function count(service: Service): Promise<number> {
  const { stdout } = await service.virtnet('--json', 'list');
  return (JSON.parse(stdout) as { devices: readonly unknown[] }).devices.length;
}

/** Waits until active emulator and standby have that many functions. */
async function mirrored(service: Service, functions: number): Promise<void> {
  await until('every function at both emulators', SETTLE_TIMEOUT_MS, async () => {
    const emulators = await service.emulators();
    const isWhole = (role: string) =>
      emulators.some((one) => one.role === role && one.ready && one.devices === functions);
    return isWhole('active') && isWhole('standby');
  });
}

async function recovered(service: Service, killed: number, functions: number): Promise<void> {
  await service.recovered(killed, SETTLE_TIMEOUT_MS);
  await mirrored(service, functions);
}

/** KiB resident, by process. */
function resident(service: Service): Resident {
  const kib = (role: (typeof ROLES)[number]): number => {
    const status = readFileSync(`/proc/${service.runningPid(role)}/status`, 'utf8');
    return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]);
  };
  return { controller: kib('controller'), emu: kib('emu'), 'emu-standby': kib('emu-standby'), ha: kib('ha') };
}

/** Share of one processor that the service's processes take. */
async function idle(service: Service): Promise<number> {
  const used = (): number =>
    ROLES.reduce((sum, role) => sum + service.cpuSeconds(service.runningPid(role)), 0);
  const before = used();
  const started = performance.now();
  await sleep(IDLE_S * MS_PER_S);
  return (used() - before) / ((performance.now() - started) / MS_PER_S);
}

function line({ name, value, unit, most }: Figure): string {
  const figure = `${value.toFixed(value < 10 && unit !== '' ? 2 : 0).padStart(9)} ${unit.padEnd(4)}`;
  if (most === null) return `${name.padEnd(62)}${figure}`;
  return `${name.padEnd(62)}${figure}  < ${most} ${unit}: ${value < most ? 'holds' : 'BROKEN'}`;
}

function table({ shape, functions, figures, nodeStartMs, residentKib, holds }: Report): string {
  const { staticPfs, vfsPerPf, hotplugPfs } = shape;
  const mib = ROLES.map((role) => `${role} ${(residentKib[role] / KIB_PER_MIB).toFixed(0)}`).join(', ');
  return [
    `${functions} functions: ${staticPfs} static PFs with ${vfsPerPf} VFs each, ${hotplugPfs} hotplug PFs`,
    `(the machine starts node in ${nodeStartMs.toFixed(0)} ms)`,
    '',
    ...figures.map(line),
    '',
    `resident, MiB: ${mib}`,
    `promises of scale: ${holds ? 'hold' : 'BROKEN'}`,
    '',
  ].join('\n');
}
