/**
 * bench-recovery.ts: how long a stream pauses when the active emulator is killed, and what it loses.
 *
 * Theory  kill-stream.ts
 */
import { writeFileSync } from 'node:fs';
import { seed } from '../../test/lib/random.ts';
import { Scene } from '../../test/lib/scene.ts';
import { Service } from '../../test/lib/service.ts';
import type { Summary } from '../../test/lib/stream-analysis.ts';
import type { BenchOptions } from '../bench.ts';
import { STREAM_MAC, STREAM_QUEUE_SIZE, type StreamDamage, streamThroughKills } from './kill-stream.ts';

/** The promise: see docs/promises.md. */
const MEDIAN_MS_MAX = 20;
const PAUSE_MS_MAX = 200;

interface Report extends StreamDamage {
  readonly seed: number;
  readonly holds: boolean;
}

export async function run(options: BenchOptions): Promise<number> {
  const scene = await Scene.open();
  try {
    const report = await measure(scene, options.kills);
    process.stdout.write(table(report));
    const json = `${JSON.stringify(report)}\n`;
    if (options.json === '-') process.stdout.write(json);
    else if (options.json !== null) writeFileSync(options.json, json);
    return report.holds ? 0 : 1;
  } finally {
    for (const problem of await scene.end()) process.stderr.write(`${problem}\n`);
  }
}

async function measure(scene: Scene, count: number): Promise<Report> {
  const service = await Service.start(scene);
  const device = await service.hotplug({ mac: STREAM_MAC, queues: 3, queueSize: STREAM_QUEUE_SIZE });
  const damage = await streamThroughKills(scene, service, device, count);
  const { pausesMs, lost, repeated, kills } = damage;
  const holds =
    pausesMs.median < MEDIAN_MS_MAX && pausesMs.max < PAUSE_MS_MAX && lost + repeated <= 2 * kills;
  return { seed, ...damage, holds };
}

function table(report: Report): string {
  const { pausesMs, takeoversMs, missing } = report;
  const line = ({ min, median, p99, max }: Summary): string =>
    [min, median, p99, max].map((value) => value.toFixed(1).padStart(8)).join('');
  return [
    `kill -9 of the active emulator, ${report.kills} times (seed ${report.seed})`,
    '',
    '                      min  median     p99     max   (ms)',
    `pause of stream ${line(pausesMs)}`,
    ...(takeoversMs === null ? [] : [`takeover itself ${line(takeoversMs)}`]),
    `longest pause without a kill: ${report.quietPauseMs.toFixed(1)} ms`,
    `packets: ${report.sent} sent, ${report.lost} lost, ${report.repeated} repeated`,
    `missing: ${missing.receiveQueue} on the receive queue, ${missing.transmitQueue} on the transmit queue (less than 0: repeated)`,
    `promise (median < ${MEDIAN_MS_MAX} ms, max < ${PAUSE_MS_MAX} ms, at most one packet per queue and kill): ${
      report.holds ? 'holds' : 'BROKEN'
    }`,
    '',
  ].join('\n');
}
