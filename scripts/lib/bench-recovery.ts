/**
 * bench-recovery.ts: how long a stream pauses when the active emulator is killed, and what it loses.
 *
 * Theory
 *   host sender -> representor -> receive queue -> testpmd (io) -> transmit queue -> representor -> tcpdump
 *   Arrivals carry the kernel's stamps, so the measurement is not late when its own process is. A pause is charged to
 *   a kill when it ends within WINDOW_MS after it; the longest pause outside all windows says how far the machine
 *   itself can be trusted.
 *
 * Limits  A packet lost on the way in is missing on the way out, too: testpmd's counters tell the queues apart.
 */
import { writeFileSync } from 'node:fs';
import { HostCapture } from '../../test/lib/capture.ts';
import { killDuring } from '../../test/lib/kills.ts';
import { udpPayload } from '../../test/lib/pcap.ts';
import { randomNumbers, seed } from '../../test/lib/random.ts';
import { Scene } from '../../test/lib/scene.ts';
import { type Kill, Service } from '../../test/lib/service.ts';
import {
  type Arrival,
  analyseStream,
  longestPause,
  type Summary,
  summarise,
} from '../../test/lib/stream-analysis.ts';
import { readStreamPacket } from '../../test/lib/stream-packet.ts';
import { HostStream, SPACING_US } from '../../test/lib/streams.ts';
import { Testpmd, virtioUser } from '../../test/lib/testpmd.ts';
import { sleep, until } from '../../test/lib/waiting.ts';
import type { BenchOptions } from '../bench.ts';

const MAC = '0C:C4:7A:FF:22:93';
const ADDRESS = '10.78.0.1';
const PEER_ADDRESS = '10.78.0.2';
const PORT = 7500;
const QUEUE_SIZE = 1024;
const WINDOW_MS = 500;
const SETTLE_MS = 500;
/** The promise: see docs/promises.md. */
const MEDIAN_MS_MAX = 20;
const PAUSE_MS_MAX = 200;

interface Report {
  readonly seed: number;
  readonly kills: number;
  readonly pausesMs: Summary;
  /** Longest pause that no kill explains. */
  readonly quietPauseMs: number;
  readonly takeoversMs: Summary | null;
  readonly sent: number;
  readonly lost: number;
  readonly repeated: number;
  /** Packets that went in less those that came out, by queue. */
  readonly missing: { readonly receiveQueue: number; readonly transmitQueue: number };
  readonly holds: boolean;
  readonly eachPauseMs: readonly number[];
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
  const { net, processes, directory } = scene;
  const service = await Service.start(scene);
  const device = await service.hotplug({ mac: MAC, queues: 3, queueSize: QUEUE_SIZE });
  const representor = device.sf_rep_net_device;
  await net.quiet(representor);
  await net.ip(`addr add ${ADDRESS}/24 dev ${representor}`);
  await net.ip(`link set ${representor} up`);
  await net.ip(`neigh add ${PEER_ADDRESS} lladdr ${MAC} dev ${representor} nud permanent`);
  await service.startVhostd('server');
  const path = scene.path('vhost.sock');
  await service.addVhost(device.bdf, path);
  const devices = [virtioUser({ path, queueSize: QUEUE_SIZE, mac: MAC })];
  const testpmd = await Testpmd.start({ processes, net, directory, devices });
  await testpmd.forward('io');
  await until('the rings', 10_000, async () => (await service.query()).enabled_queues === '2');

  const capture = await HostCapture.start(scene, representor, ['udp', 'dst', 'port', `${PORT}`], {
    direction: 'in',
  });
  const before = await testpmd.statistics();
  const sender = await HostStream.start(processes, net, [
    'send',
    PEER_ADDRESS,
    `${PORT}`,
    `${SPACING_US}`,
    '64',
  ]);
  await sleep(SETTLE_MS);
  const takeovers: number[] = [];
  const onRecovered = async (_kill: Kill, index: number): Promise<void> => {
    const { takeoverMs } = (await service.emulators()).find(({ role }) => role === 'active') ?? {};
    if (typeof takeoverMs === 'number') takeovers.push(takeoverMs);
    if (process.stderr.isTTY) process.stderr.write(`\r${index + 1} of ${count} kills `);
  };
  const kills = await killDuring(
    service,
    { count, random: randomNumbers(seed), onRecovered },
    async () => {},
  );
  if (process.stderr.isTTY) process.stderr.write('\r');
  await sleep(SETTLE_MS);
  const sent = Number((await sender.finish()).split(' ')[0]);
  await sleep(SETTLE_MS);
  const after = await testpmd.statistics();
  const arrivals = (await capture.finish()).flatMap(({ bytes, timeUs }): Arrival[] => {
    const packet = readStreamPacket(udpPayload(bytes) ?? Buffer.alloc(0));
    return packet === null ? [] : [{ ...packet, arrivedUs: timeUs }];
  });
  await testpmd.quit();

  const { lost, duplicated } = analyseStream(arrivals, 0, sent);
  const eachPauseMs = kills.map((kill) => pauseAfter(arrivals, kill));
  const pausesMs = summarise(eachPauseMs);
  const quiet = longestPause(arrivals, (arrival) => !kills.some((kill) => isWithin(arrival, kill)));
  const received = after.rxPackets - before.rxPackets;
  const returned = after.txPackets - before.txPackets;
  return {
    seed,
    kills: kills.length,
    pausesMs,
    quietPauseMs: quiet?.pauseMs ?? 0,
    takeoversMs: takeovers.length > 0 ? summarise(takeovers) : null,
    sent,
    lost: lost.length,
    repeated: duplicated.length,
    missing: { receiveQueue: sent - received, transmitQueue: returned - arrivals.length },
    holds:
      pausesMs.median < MEDIAN_MS_MAX &&
      pausesMs.max < PAUSE_MS_MAX &&
      lost.length + duplicated.length <= 2 * kills.length,
    eachPauseMs,
  };
}

function isWithin(arrival: Arrival, kill: Kill): boolean {
  return arrival.arrivedUs >= kill.atUs && arrival.arrivedUs < kill.atUs + WINDOW_MS * 1_000;
}

function pauseAfter(arrivals: readonly Arrival[], kill: Kill): number {
  const pause = longestPause(arrivals, (arrival) => isWithin(arrival, kill));
  if (pause === null) throw new Error(`nothing arrived within ${WINDOW_MS} ms after the kill of ${kill.pid}`);
  return pause.pauseMs;
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
