/**
 * bench-memory.ts: what a queue pair costs in memory that a driver has set up and nobody uses.
 *
 * Theory
 *   FUNCTIONS VFs have drivers of one pair each, and then of all their pairs, again and again. What the service holds more
 *   in the second case, divided by the pairs more, is the figure. Every thread of the service collects its garbage before it
 *   says what it holds (memory-preload.ts), for V8 keeps tens of megabytes in reserve, whatever is in them. The first time
 *   does not count: code is compiled and let go of meanwhile. State pages are there whether there is a driver or not, so
 *   of those every pair bears its part; they are shared memory, of which each process is counted its share. Guests' memory
 *   belongs to nobody here.
 *
 * Limits  What the kernel holds (TAP queues, eventfds) is in no process; what malloc keeps is nobody's.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { Poller } from '@virtnet/host-linux';
import { BoundFunction } from '../../test/lib/bound-function.ts';
import { Scene } from '../../test/lib/scene.ts';
import { Service } from '../../test/lib/service.ts';
import { sleep, until } from '../../test/lib/waiting.ts';
import type { BenchOptions } from '../bench.ts';
import { makeVfs } from './many-devices.ts';

const FUNCTIONS = 32;
const QUEUE_SIZE = 64;
/** The target: see docs/promises.md. */
const PAIR_KIB_MAX = 16;
const ROLES = ['controller', 'emu', 'emu-standby', 'ha'] as const;
const TIMES = 3;
const NOT_COUNTED = 1;
/** What a driver does has arrived everywhere. */
const SETTLE_MS = 2_000;
const ANSWER_MS = 60_000;
const KIB = 1_024;
const STATE_PAGES = 'state pages';
const STATE_PAGE_MAPPING = '/memfd:virtnet-state-page ';
const FRAME = new Uint8Array(60);

/** What a thread of the service holds, after it collected its garbage. */
export interface ThreadHolding {
  readonly pid: number;
  readonly thread: number;
  /** Number of the question. */
  readonly asked: number;
  readonly heapBytes: number;
  /** Outside the heap: contents of typed arrays and the like. */
  readonly outsideBytes: number;
}

/** KiB, by process and kind of memory. */
type Held = ReadonlyMap<string, number>;

interface Growth {
  readonly pairs: number;
  readonly kibPerPair: number;
  /** Of it. */
  readonly parts: Readonly<Record<string, number>>;
}

export async function run({ json }: BenchOptions): Promise<number> {
  const directory = mkdtempSync(join(tmpdir(), 'virtnet-memory-'));
  const scene = await Scene.open();
  let problems: readonly string[] = [];
  let growths: readonly Growth[] = [];
  try {
    growths = await measure(scene, directory);
  } finally {
    problems = await scene.end();
    rmSync(directory, { recursive: true, force: true });
    for (const problem of problems) process.stderr.write(`${problem}\n`);
  }
  const holds = problems.length === 0 && growths.every(({ kibPerPair }) => kibPerPair < PAIR_KIB_MAX);
  process.stdout.write(growths.map(lines).join(''));
  process.stdout.write(`target (< ${PAIR_KIB_MAX} KiB an idle pair): ${holds ? 'met' : 'NOT MET'}\n`);
  const text = `${JSON.stringify({ functions: FUNCTIONS, growths, holds })}\n`;
  if (json === '-') process.stdout.write(text);
  else if (json !== null) writeFileSync(json, text);
  return holds ? 0 : 1;
}

async function measure(scene: Scene, directory: string): Promise<Growth[]> {
  writeFileSync(join(directory, 'ask'), '0');
  const preload = pathToFileURL(join(import.meta.dirname, 'memory-preload.ts'));
  const env = { NODE_OPTIONS: `--import=${preload}`, MEMORY_DIRECTORY: directory };
  const service = await Service.start(scene, { env });
  const bdfs = await makeVfs(service, FUNCTIONS);
  await scene.net.ip('link set group default up');
  const poller = new Poller();
  poller.start();
  const functions: BoundFunction[] = [];
  try {
    for (const bdf of bdfs) functions.push(await BoundFunction.open(service.socket(bdf), undefined, poller));
    const growths: Growth[] = [];
    for (let time = 0; time < TIMES; time++) {
      const few = await startAll(functions, 1);
      const fewHeld = await held(service, functions, directory, 2 * time + 1);
      const many = await startAll(functions, null);
      const manyHeld = await held(service, functions, directory, 2 * time + 2);
      if (time >= NOT_COUNTED) growths.push(growthOf(fewHeld, manyHeld, many - few, many));
    }
    return growths;
  } finally {
    for (const fn of functions) await fn.close();
    await poller.stop();
  }
}

/** Lets every function have a driver of so many pairs, null: of all it has; how many pairs these are together. */
async function startAll(functions: readonly BoundFunction[], pairs: number | null): Promise<number> {
  let started = 0;
  for (const fn of functions) {
    const options = { queueSize: QUEUE_SIZE, ...(pairs === null ? {} : { pairs }) };
    const { rings, controlIndex } = await fn.start(options);
    const queues = rings.filter((ring) => ring !== undefined).length;
    started += (queues - (controlIndex === null ? 0 : 1)) / 2;
  }
  return started;
}

/** Asks every thread of the service for what it holds. */
async function held(
  service: Service,
  functions: readonly BoundFunction[],
  directory: string,
  asked: number,
): Promise<Held> {
  await sleep(SETTLE_MS);
  writeFileSync(join(directory, 'ask'), `${asked}`);
  // A datapath thread sleeps, and answers before it sleeps again.
  for (const { driver } of functions) await driver.transmit(0, FRAME);
  const pids = ROLES.map((role) => [service.runningPid(role), role] as const);
  const answers = await until('every process says what it holds', ANSWER_MS, () => {
    const answered = holdings(directory).filter((holding) => holding.asked === asked);
    const main = pids.every(([pid]) => answered.some((one) => one.pid === pid && one.thread === 0));
    const datapath = answered.some(({ pid, thread }) => pid === service.runningPid('emu') && thread > 0);
    return main && datapath ? answered : null;
  });
  const kib = new Map<string, number>();
  const add = (name: string, bytes: number) => kib.set(name, (kib.get(name) ?? 0) + bytes / KIB);
  for (const [pid, role] of pids) {
    for (const { heapBytes, outsideBytes } of answers.filter((answer) => answer.pid === pid))
      add(role, heapBytes + outsideBytes);
    add(STATE_PAGES, statePageBytes(pid));
  }
  return kib;
}

function holdings(directory: string): ThreadHolding[] {
  return readdirSync(directory)
    .filter((name) => name.endsWith('.held'))
    .map((name) => JSON.parse(readFileSync(join(directory, name), 'utf8')) as ThreadHolding);
}

/** The share of process `pid` of all state pages it has mapped. */
function statePageBytes(pid: number): number {
  let counts = false;
  let kib = 0;
  for (const line of readFileSync(`/proc/${pid}/smaps`, 'latin1').split('\n')) {
    if (/^[0-9a-f]+-/.test(line)) counts = line.includes(STATE_PAGE_MAPPING);
    else if (counts && line.startsWith('Pss:')) kib += Number.parseInt(line.slice('Pss:'.length), 10);
  }
  return kib * KIB;
}

function growthOf(few: Held, many: Held, pairs: number, allPairs: number): Growth {
  const parts: Record<string, number> = {};
  for (const [name, kib] of many)
    parts[name] = name === STATE_PAGES ? kib / allPairs : (kib - (few.get(name) ?? 0)) / pairs;
  return { pairs, kibPerPair: Object.values(parts).reduce((sum, kib) => sum + kib, 0), parts };
}

function lines({ pairs, kibPerPair, parts }: Growth): string {
  const words = Object.entries(parts).map(([name, kib]) => `${name} ${kib.toFixed(1)}`);
  return `${pairs} pairs more: ${kibPerPair.toFixed(1)} KiB each (${words.join(', ')})\n`;
}
