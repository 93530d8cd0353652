/**
 * kill-stream.ts: a numbered stream through one function while the active emulator is killed again and again.
 *
 * Theory
 *   host sender -> representor -> receive queue -> testpmd (io) -> transmit queue -> representor -> tcpdump
 *   Arrivals carry the kernel's stamps, so the measurement is not late when its own process is. A pause is charged to
 *   a kill when it ends within WINDOW_MS after it; the longest pause outside all windows says how far the machine
 *   itself can be trusted.
 *
 * Limits  A packet lost on the way in is missing on the way out, too: testpmd's counters tell the queues apart.
 */
import { HostCapture } from '../../test/lib/capture.ts';
import { killDuring } from '../../test/lib/kills.ts';
import { udpPayload } from '../../test/lib/pcap.ts';
import { randomNumbers, seed } from '../../test/lib/random.ts';
import type { Scene } from '../../test/lib/scene.ts';
import type { Hotplugged, Kill, Service } from '../../test/lib/service.ts';
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

const ADDRESS = '10.78.0.1';
const PEER_ADDRESS = '10.78.0.2';
const PORT = 7500;
const WINDOW_MS = 500;
const SETTLE_MS = 500;

/** The function the stream goes through. */
export const STREAM_MAC = '0C:C4:7A:FF:22:93';
export const STREAM_QUEUE_SIZE = 1024;

export interface StreamDamage {
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
  readonly eachPauseMs: readonly number[];
}

/** Kills `count` times; `device` has STREAM_MAC, three queues of STREAM_QUEUE_SIZE, and nobody who uses it. */
export async function streamThroughKills(
  scene: Scene,
  service: Service,
  device: Hotplugged,
  count: number,
): Promise<StreamDamage> {
  const { net, processes, directory } = scene;
  const representor = device.sf_rep_net_device;
  await net.quiet(representor);
  await net.ip(`addr add ${ADDRESS}/24 dev ${representor}`);
  await net.ip(`link set ${representor} up`);
  await net.ip(`neigh add ${PEER_ADDRESS} lladdr ${STREAM_MAC} dev ${representor} nud permanent`);
  await service.startVhostd('server');
  const path = scene.path('vhost.sock');
  await service.addVhost(device.bdf, path);
  const devices = [virtioUser({ path, queueSize: STREAM_QUEUE_SIZE, mac: STREAM_MAC })];
  const testpmd = await Testpmd.start({ processes, net, directory, devices });
  await testpmd.forward('io');
  await until('the rings', 10_000, async () => (await service.query(device.id)).enabled_queues === '2');

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
  await service.removeVhost(device.bdf);

  const { lost, duplicated } = analyseStream(arrivals, 0, sent);
  const eachPauseMs = kills.map((kill) => pauseAfter(arrivals, kill));
  const pausesMs = summarise(eachPauseMs);
  const quiet = longestPause(arrivals, (arrival) => !kills.some((kill) => isWithin(arrival, kill)));
  const received = after.rxPackets - before.rxPackets;
  const returned = after.txPackets - before.txPackets;
  return {
    kills: kills.length,
    pausesMs,
    quietPauseMs: quiet?.pauseMs ?? 0,
    takeoversMs: takeovers.length > 0 ? summarise(takeovers) : null,
    sent,
    lost: lost.length,
    repeated: duplicated.length,
    missing: { receiveQueue: sent - received, transmitQueue: returned - arrivals.length },
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
