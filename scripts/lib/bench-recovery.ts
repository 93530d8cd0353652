/**
 * bench-recovery.ts: how long a stream pauses when the active emulator is killed, and what it loses; then for how long
 * each of many functions is worked by nobody.
 *
 * Theory  kill-stream.ts, many-devices.ts
 */
import { writeFileSync } from 'node:fs';
import { seed } from '../../test/lib/random.ts';
import { Scene } from '../../test/lib/scene.ts';
import { Service } from '../../test/lib/service.ts';
import { type Summary, summarise } from '../../test/lib/stream-analysis.ts';
import { sleep } from '../../test/lib/waiting.ts';
import type { BenchOptions } from '../bench.ts';
import { STREAM_MAC, STREAM_QUEUE_SIZE, type StreamDamage, streamThroughKills } from './kill-stream.ts';
import { ignoreSessions } from './machine-state.ts';
import { ManyDevices } from './many-devices.ts';

/** The promises: see docs/promises.md. */
const MEDIAN_MS_MAX = 20;
const PAUSE_MS_MAX = 200;
/** How many times as long as the only function one of many may wait (p99 of either). */
const MANY_FACTOR_MAX = 2;

const DEVICES = [1, 64, 256] as const;
const MANY_KILLS_MAX = 20;
/** A standby makes everything ahead that drivers have set up, at the lowest precedence; so long after the last of them. */
const MADE_AHEAD_MS = 3_000;
const MANY_HEADING = `
kill -9 of the active emulator: nobody works each of many functions for (ms)

                                                       without a kill
devices   kills     min  median     p99     max       median      p99
`;

interface ManyRow {
  readonly devices: number;
  readonly kills: number;
  /** From the kill until the device sent a frame that its driver had made available; of every function and kill. */
  readonly pausesMs: Summary;
  /** How long a frame of a device that lives was on its way, by the same measurement. */
  readonly quietMs: Summary;
}

interface StreamReport extends StreamDamage {
  readonly seed: number;
  readonly holds: boolean;
}

export async function run(options: BenchOptions): Promise<number> {
  ignoreSessions();
  const stream = await onStage((scene) => measure(scene, options.kills));
  process.stdout.write(table(stream));
  const many: ManyRow[] = [];
  process.stdout.write(MANY_HEADING);
  for (const devices of DEVICES) {
    const row = await onStage((scene) =>
      measureMany(scene, devices, Math.min(options.kills, MANY_KILLS_MAX)),
    );
    process.stdout.write(manyLine(row));
    many.push(row);
  }
  const most = MANY_FACTOR_MAX * many[0]!.pausesMs.p99;
  const even = many.every(({ pausesMs }) => pausesMs.p99 <= most);
  process.stdout.write(
    `promise (p99 of many at most ${MANY_FACTOR_MAX} times that of one): ${even ? 'holds' : 'BROKEN'}\n`,
  );
  const holds = stream.holds && even;
  const json = `${JSON.stringify({ ...stream, many, holds })}\n`;
  if (options.json === '-') process.stdout.write(json);
  else if (options.json !== null) writeFileSync(options.json, json);
  return holds ? 0 : 1;
}

async function onStage<T>(action: (scene: Scene) => Promise<T>): Promise<T> {
  const scene = await Scene.open();
  try {
    return await action(scene);
  } finally {
    for (const problem of await scene.end()) process.stderr.write(`${problem}\n`);
  }
}

async function measure(scene: Scene, count: number): Promise<StreamReport> {
  const service = await Service.start(scene);
  const device = await service.hotplug({ mac: STREAM_MAC, queues: 3, queueSize: STREAM_QUEUE_SIZE });
  const damage = await streamThroughKills(scene, service, device, count);
  const { pausesMs, lost, repeated, kills } = damage;
  const holds =
    pausesMs.median < MEDIAN_MS_MAX && pausesMs.max < PAUSE_MS_MAX && lost + repeated <= 2 * kills;
  return { seed, ...damage, holds };
}

async function measureMany(scene: Scene, devices: number, kills: number): Promise<ManyRow> {
  const many = await ManyDevices.start(await Service.start(scene), devices);
  await sleep(MADE_AHEAD_MS);
  const pauses: number[] = [];
  const quiet: number[] = [];
  for (let kill = 0; kill < kills; kill++) {
    quiet.push(...(await many.exercise()));
    pauses.push(...(await many.kill()));
  }
  await many.close();
  return { devices, kills, pausesMs: summarise(pauses), quietMs: summarise(quiet) };
}

function columns({ min, median, p99, max }: Summary): string {
  return [min, median, p99, max].map((value) => value.toFixed(1).padStart(8)).join('');
}

function manyLine({ devices, kills, pausesMs, quietMs }: ManyRow): string {
  const quiet = [quietMs.median, quietMs.p99].map((value) => value.toFixed(1).padStart(9)).join('');
  return `${`${devices}`.padStart(7)}${`${kills}`.padStart(8)}${columns(pausesMs)}    ${quiet}\n`;
}

function table(report: StreamReport): string {
  const { pausesMs, takeoversMs, missing } = report;
  return [
    `kill -9 of the active emulator, ${report.kills} times (seed ${report.seed})`,
    '',
    '                      min  median     p99     max   (ms)',
    `pause of stream ${columns(pausesMs)}`,
    ...(takeoversMs === null ? [] : [`takeover itself ${columns(takeoversMs)}`]),
    `longest pause without a kill: ${report.quietPauseMs.toFixed(1)} ms`,
    `packets: ${report.sent} sent, ${report.lost} lost, ${report.repeated} repeated`,
    `missing: ${missing.receiveQueue} on the receive queue, ${missing.transmitQueue} on the transmit queue (less than 0: repeated)`,
    `promise (median < ${MEDIAN_MS_MAX} ms, max < ${PAUSE_MS_MAX} ms, at most one packet per queue and kill): ${
      report.holds ? 'holds' : 'BROKEN'
    }`,
    '',
  ].join('\n');
}
