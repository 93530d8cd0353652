/**
 * streams.ts: numbered UDP streams between the host and a guest, one packet a millisecond.
 *
 * Theory
 *   Towards the guest, stream-host.ts sends and tcpdump in the guest records arrivals with the kernel's stamps. From
 *   the guest, the kernel's pktgen sends (it retries when the ring is full, so it never drops by itself), and
 *   stream-host.ts receives. Each stream uses a port of its own.
 *
 * Invariants
 *   I1  a stream is stopped before it is counted, and then the last packets get SETTLE_MS to arrive.
 */
import { gunzipSync } from 'node:zlib';
import { pinnedNode } from '../../scripts/lib/paths.ts';
import type { Guest } from './guest.ts';
import type { NetworkNamespace } from './netns.ts';
import { parsePcap, udpPayload } from './pcap.ts';
import type { Child, Processes } from './processes.ts';
import { STREAM_PROGRAM } from './programs.ts';
import { type Arrival, analyseStream, type StreamReport } from './stream-analysis.ts';
import { readStreamPacket } from './stream-packet.ts';
import { sleep, until } from './waiting.ts';

export const SPACING_US = 1_000;
const READY_TIMEOUT_MS = 30_000;
const SETTLE_MS = 500;
const FETCH_TIMEOUT_MS = 60_000;
const PAYLOAD_BYTES = 64;
const STREAM_MS_MAX = 3_600_000;

export interface StreamResult {
  readonly arrivals: readonly Arrival[];
  readonly report: StreamReport;
}

export interface Ends {
  readonly processes: Processes;
  readonly net: NetworkNamespace;
  readonly guest: Guest;
}

/** A program of ours inside the namespace that ends when its stdin does and then prints its result. */
export class HostStream {
  readonly #child: Child;
  readonly #chunks: Buffer[];

  private constructor(child: Child, chunks: Buffer[]) {
    this.#child = child;
    this.#chunks = chunks;
  }

  static async start(
    processes: Processes,
    net: NetworkNamespace,
    words: readonly string[],
  ): Promise<HostStream> {
    const chunks: Buffer[] = [];
    const child = processes.start(net.inside([pinnedNode, STREAM_PROGRAM, ...words]), {
      name: `stream ${words[0]}`,
      stdin: 'pipe',
      onStdout: (chunk) => chunks.push(chunk),
    });
    const stream = new HostStream(child, chunks);
    await until('the stream program', READY_TIMEOUT_MS, () => stream.#text().startsWith('ready'));
    return stream;
  }

  /** Ends the program and returns what it printed after `ready`. */
  async finish(): Promise<string> {
    this.#child.endInput();
    const { code } = await this.#child.exited;
    await this.#child.drained;
    if (code !== 0) throw new Error(`${this.#child.name} failed: ${this.#child.tail}`);
    return this.#text().replace(/^ready\n/, '');
  }

  #text(): string {
    return Buffer.concat(this.#chunks).toString('latin1');
  }
}

/** A stream from the host to the guest's `address`. */
export async function streamToGuest(
  ends: Ends,
  address: string,
  port: number,
): Promise<() => Promise<StreamResult>> {
  const { guest, processes, net } = ends;
  const file = `/tmp/stream.${port}`;
  const capture = guest.result(
    `/usr/bin/tcpdump -Z root -p -i eth0 -n -s 80 -B 16384 -U -w ${file} udp dst port ${port} 2>${file}.log`,
    STREAM_MS_MAX,
  );
  capture.catch(() => {}); // looked at when the stream is finished
  await guest.run(
    `for i in $(seq 250); do grep -q listening ${file}.log && exit 0; usleep 20000; done; cat ${file}.log; exit 1`,
  );
  const unheard = async (): Promise<number> =>
    Number(await guest.run("awk '/^Udp: [0-9]/ { print $3 }' /proc/net/snmp")); // NoPorts: nobody listens there
  const before = await unheard();
  const sender = await HostStream.start(processes, net, [
    'send',
    address,
    `${port}`,
    `${SPACING_US}`,
    `${PAYLOAD_BYTES}`,
  ]);
  return async () => {
    const sent = Number((await sender.finish()).split(' ')[0]);
    await sleep(SETTLE_MS);
    // The kernel hands packets over after a second at the latest, and what tcpdump has not written when it ends is
    // gone. It writes every packet at once (-U): asked to flush by a signal in the middle of a write, it writes what
    // it has in its buffer twice.
    await guest.run(
      `sleep 1; same=0; n=-1; while [ $same -lt 3 ]; do sleep 0.4; ` +
        `m=$(wc -c <${file}); [ $m = $n ] && same=$((same + 1)) || same=0; n=$m; done`,
    );
    await guest.run('kill -TERM $(pidof tcpdump)');
    await capture;
    const dropped = /(\d+) packets dropped by kernel/.exec(await guest.run(`cat ${file}.log`))?.[1];
    if (dropped !== '0')
      throw new Error(`tcpdump in the guest missed ${dropped} packets, so nothing can be said`);
    const { output } = await guest.result(`gzip -1 <${file}`, FETCH_TIMEOUT_MS);
    await guest.run(`rm ${file}*`);
    const arrivals = arrivalsOf(gunzipSync(output));
    const heard = (await unheard()) - before;
    if (arrivals.length < heard) throw new Error(`tcpdump wrote ${arrivals.length} of ${heard} packets`);
    return { arrivals, report: analyseStream(arrivals, 0, sent) };
  };
}

function arrivalsOf(capture: Buffer): Arrival[] {
  return parsePcap(capture).flatMap(({ timeUs, bytes }) => {
    const payload = udpPayload(bytes);
    const packet = payload === null ? null : readStreamPacket(payload);
    return packet === null ? [] : [{ ...packet, arrivedUs: timeUs }];
  });
}

/** What pktgen in the guest sends, and where. */
export interface Generated {
  readonly address: string;
  /** MAC of who has that address. */
  readonly mac: string;
  readonly port: number;
  /** 0 until it is stopped. */
  readonly count: number;
  /** Nanoseconds from one packet to the next; 0 is as fast as can be. */
  readonly delayNs?: number;
  /** Transmit queues used in turn. */
  readonly queues?: number;
  /** The guest's interface; default eth0. */
  readonly device?: string;
}

const PKTGEN = '/proc/net/pktgen';
const GENERATOR = `${PKTGEN}/eth0@0`;

/** Sets pktgen up and starts it; resolves when it has sent `count`, at once when that is 0. */
export async function generatePackets(guest: Guest, what: Generated): Promise<void> {
  const { address, mac, port, count, delayNs = 0, queues = 1, device = 'eth0' } = what;
  const settings = [
    ...[`count ${count}`, 'clone_skb 0', `delay ${delayNs}`, `pkt_size ${PAYLOAD_BYTES + 42}`],
    ...[`dst ${address}`, `dst_mac ${mac}`, `udp_dst_min ${port}`, `udp_dst_max ${port}`],
    ...['queue_map_min 0', `queue_map_max ${queues - 1}`],
  ];
  await guest.run(
    [
      'modprobe pktgen',
      `echo rem_device_all >${PKTGEN}/kpktgend_0; echo 'add_device ${device}@0' >${PKTGEN}/kpktgend_0`,
      ...settings.map((setting) => `echo '${setting}' >${PKTGEN}/${device}@0`),
      `echo start >${PKTGEN}/pgctrl${count === 0 ? ' &' : ''}`,
    ].join('\n'),
  );
}

export async function stopPackets(guest: Guest): Promise<void> {
  await guest.run(`echo stop >${PKTGEN}/pgctrl; usleep 100000`);
}

/** A stream from the guest to `address` on the host, whose MAC is `mac`. */
export async function streamFromGuest(
  ends: Ends,
  address: string,
  mac: string,
  port: number,
): Promise<() => Promise<StreamResult>> {
  const { guest, processes, net } = ends;
  const receiver = await HostStream.start(processes, net, ['receive', `${port}`]);
  await generatePackets(guest, { address, mac, port, count: 0, delayNs: SPACING_US * 1_000 });
  return async () => {
    await stopPackets(guest);
    const sent = Number(/pkts-sofar: (\d+)/.exec(await guest.run(`cat ${GENERATOR}`))?.[1]);
    await sleep(SETTLE_MS);
    const arrivals = parseArrivals(await receiver.finish());
    const first = Math.min(...arrivals.slice(0, 10).map(({ sequence }) => sequence));
    return { arrivals, report: analyseStream(arrivals, first, sent) };
  };
}

/** The lines a receiver prints. */
export function parseArrivals(text: string): Arrival[] {
  return text
    .split('\n')
    .filter(Boolean)
    .map((line) => {
      const [sequence = 0, sentUs = 0, arrivedUs = 0] = line.split(' ').map(Number);
      return { sequence, sentUs, arrivedUs };
    });
}
