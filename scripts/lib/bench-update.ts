/**
 * bench-update.ts: for how long nobody works a device when the service is moved.
 *
 * Theory
 *   `virtnet restart` is the move that `virtnet update` makes, onto the version that runs. Every device has a driver with
 *   running rings, and one a numbered stream both ways. The pauses are the service's own: from the lender's last frame to
 *   the borrower's first look at the rings, by one clock of the machine.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { BoundFunction } from '../../test/lib/bound-function.ts';
import { type Damage, damage, Pump } from '../../test/lib/pump.ts';
import { Scene } from '../../test/lib/scene.ts';
import { type Hotplugged, Service } from '../../test/lib/service.ts';
import { type Summary, summarise } from '../../test/lib/stream-analysis.ts';
import { settled } from '../../test/lib/updates.ts';
import type { BenchOptions } from '../bench.ts';
import { ManyDevices } from './many-devices.ts';

const DEVICES = [1, 16, 64, 256] as const;
/** As many as the default firmware configuration has hotplug ports for; more are VFs, and no stream runs through them. */
const STREAMED_MAX = 16;
const MANY_MOVES_MAX = 5;
const QUEUE_SIZE = 256;
/** The promise: see docs/promises.md. */
const P99_MS_MAX = 10;

interface Row extends Damage {
  readonly devices: number;
  readonly moves: number;
  readonly pausesMs: Summary;
  readonly wholeMs: Summary;
}

export async function run({ moves, json }: BenchOptions): Promise<number> {
  const rows: Row[] = [];
  process.stdout.write(
    'virtnet restart under traffic: nobody works a device for (ms)\n\ndevices   moves     min  median     p99     max   whole move, median\n',
  );
  for (const devices of DEVICES) {
    const scene = await Scene.open();
    try {
      const row =
        devices <= STREAMED_MAX
          ? await measure(scene, devices, moves)
          : await measureMany(scene, devices, Math.min(moves, MANY_MOVES_MAX));
      rows.push(row);
      process.stdout.write(line(row));
    } finally {
      for (const problem of await scene.end()) process.stderr.write(`${problem}\n`);
    }
  }
  const broken = rows.filter((row) => row.pausesMs.p99 >= P99_MS_MAX || faults(row) > 0);
  process.stdout.write(
    `frames lost or repeated: ${rows.reduce((sum, row) => sum + faults(row), 0)}\n` +
      `promise (p99 < ${P99_MS_MAX} ms, no frame lost, repeated or out of order): ${broken.length === 0 ? 'holds' : 'BROKEN'}\n`,
  );
  const text = `${JSON.stringify({ rows, holds: broken.length === 0 })}\n`;
  if (json === '-') process.stdout.write(text);
  else if (json !== null) writeFileSync(json, text);
  return broken.length === 0 ? 0 : 1;
}

async function measure(scene: Scene, count: number, moves: number): Promise<Row> {
  const service = await Service.start(scene);
  const devices: Hotplugged[] = [];
  for (let index = 0; index < count; index++) {
    const mac = `0C:C4:7A:FF:23:${index.toString(16).padStart(2, '0').toUpperCase()}`;
    devices.push(await service.hotplug({ mac, queueSize: QUEUE_SIZE }));
  }
  const pump = await Pump.start(scene, service, devices[0]!);
  const bound: BoundFunction[] = [];
  for (const { bdf } of devices.slice(1)) {
    const fn = await BoundFunction.open(service.socket(bdf));
    bound.push(fn);
    const driver = await fn.start({ queueSize: QUEUE_SIZE });
    await driver.postReceive(0, QUEUE_SIZE);
  }
  const pauses: number[] = [];
  const wholes: number[] = [];
  for (let move = 0; move < moves; move++) {
    const { pausesMs, timeUsedMs } = await moved(service);
    pauses.push(...pausesMs);
    wholes.push(timeUsedMs);
    if (process.stderr.isTTY) process.stderr.write(`\r${move + 1} of ${moves} moves `);
  }
  if (process.stderr.isTTY) process.stderr.write('\r');
  const report = damage(await pump.finish());
  for (const fn of bound) {
    await fn.driver.stop();
    await fn.close();
  }
  await pump.close();
  return { devices: count, moves, pausesMs: summarise(pauses), wholeMs: summarise(wholes), ...report };
}

/** Moves the service once; what it says of that. */
async function moved(service: Service): Promise<{ pausesMs: number[]; timeUsedMs: number }> {
  const { code, stdout, stderr } = await service.virtnet('restart');
  if (code !== 0) throw new Error(`virtnet restart failed: ${stdout}${stderr}`);
  const record = JSON.parse(readFileSync(join(service.root, 'run/virtnet/update.json'), 'utf8'));
  await settled(service);
  return record as { pausesMs: number[]; timeUsedMs: number };
}

/** The same with more functions than there are ports; every driver moves a frame after each move. */
async function measureMany(scene: Scene, count: number, moves: number): Promise<Row> {
  const service = await Service.start(scene);
  const many = await ManyDevices.start(service, count);
  const pauses: number[] = [];
  const wholes: number[] = [];
  for (let move = 0; move < moves; move++) {
    const { pausesMs, timeUsedMs } = await moved(service);
    pauses.push(...pausesMs);
    wholes.push(timeUsedMs);
    await many.exercise();
  }
  await many.close();
  const undamaged = { toDriver: 0, fromDriver: 0, reordered: 0 };
  return { devices: count, moves, pausesMs: summarise(pauses), wholeMs: summarise(wholes), ...undamaged };
}

function faults({ toDriver, fromDriver, reordered }: Damage): number {
  return toDriver + fromDriver + reordered;
}

function line({ devices, moves, pausesMs, wholeMs }: Row): string {
  const { min, median, p99, max } = pausesMs;
  const numbers = [min, median, p99, max].map((value) => value.toFixed(1).padStart(8)).join('');
  return `${`${devices}`.padStart(7)}${`${moves}`.padStart(8)}${numbers}${wholeMs.median.toFixed(0).padStart(21)}\n`;
}
