/**
 * matrix-cell.ts: one way to drive a function with DPDK's virtio-user, and whether every payload survives it.
 *
 * Theory
 *   testpmd returns what it gets: with addresses swapped and each frame in the buffers it came in (`5tswap`), and copied
 *   into SEGMENTS of its own (`csum` with `txsplit`). It leaves IP addresses alone then, so the host has the address the
 *   datagrams are for, and a rule sends them out all the same.
 *   DPDK puts a frame of more than one and fewer than eight segments into an indirect table where INDIRECT_DESC was
 *   agreed on, except for split rings in order: those it always chains. It takes the bit where it is offered, and
 *   `virtnet modify -f` decides whether it is. That the rings then look as they should is read from the descriptors
 *   themselves, while testpmd sends more than the representor takes.
 */
import { rmSync } from 'node:fs';
import { featureMask, NetFeature, VirtioFeature } from '@virtnet/wire';
import { DriverRings } from '../../test/lib/driver-rings.ts';
import type { Child } from '../../test/lib/processes.ts';
import { UDP_PROGRAM } from '../../test/lib/programs.ts';
import type { Scene } from '../../test/lib/scene.ts';
import { type Hotplugged, type QueriedDevice, Service } from '../../test/lib/service.ts';
import { Testpmd, virtioUser } from '../../test/lib/testpmd.ts';
import type { EchoResult } from '../../test/lib/udp-host.ts';
import { until } from '../../test/lib/waiting.ts';
import { pinnedNode } from './paths.ts';

/** One cell of the matrix. */
export interface Cell {
  readonly packed: boolean;
  readonly mergeable: boolean;
  readonly inOrder: boolean;
  readonly pairs: number;
  readonly queueSize: number;
  /** Frames of several descriptors may leave in a table; else they are chained. */
  readonly indirect: boolean;
  /** Who listens on the vhost-user socket. */
  readonly server: 'testpmd' | 'backend';
}

/** Largest frame in bytes, Ethernet header included. */
export const FRAME_BYTES_MAX = 9_014;
const MTU = 9_000;
const UDP_HEADERS = 28;
/** Small enough that a jumbo frame takes five of them with mergeable buffers. */
const SMALL_MBUF = 2_176;
/** In a ring of fewer entries a frame gets one buffer, or those on their way would not fit. */
const SMALL_RING = 128;
/** One buffer holds a whole frame. */
const LARGE_MBUF = 9_600;
/** Bytes of the segments of a frame; a largest one is seven of them, each of which fits into a small buffer. */
const SEGMENTS = [64, 300, 1_000, 2_000, 2_000, 2_000, 1_650] as const;
const FLOOD_SEGMENTS = [300, 1_200] as const;
/** mbufs of testpmd: a transmit ring full of frames of a flood, which keeps them for long, and a full receive ring. */
const MBUFS_PER_ENTRY = 4;
/** Frames that are copied into segments. */
const MBUFS_ON_THEIR_WAY = 4_096;

const MAC = '0C:C4:7A:FF:22:93';
const HOST_ADDRESS = '10.78.0.1';
export const PEER_ADDRESS = '10.78.0.2';
/** An address of the host that lies behind the function nevertheless. */
const LOOP_ADDRESS = '10.78.0.3';
export const UDP_PORT = 7100;
const FLOWS_PER_PAIR = 2;
const RINGS_TIMEOUT_MS = 60_000;
const ECHO_TIMEOUT_MS = 120_000;
const END_TIMEOUT_MS = 5_000;
/** What testpmd waits for room in a transmit ring: so many times so many microseconds. */
const RETRIES = 20_000;
const RETRY_US = 50;
const FEATURES = featureMask([VirtioFeature.RING_PACKED, VirtioFeature.IN_ORDER, NetFeature.MRG_RXBUF]);
const INDIRECT = featureMask([VirtioFeature.INDIRECT_DESC]);
/** RTE_ETH_TX_OFFLOAD_MULTI_SEGS; RTE_ETH_RX_OFFLOAD_SCATTER. */
const MULTI_SEGMENTS = '0x8000';
const SCATTER = '0x2000';

export const cellName = (cell: Cell): string =>
  [
    cell.packed ? 'packed' : 'split',
    cell.mergeable ? 'mergeable' : 'single',
    cell.inOrder ? 'in order' : 'any order',
    `${cell.pairs} pairs`,
    `${cell.queueSize} entries`,
    cell.indirect ? 'indirect' : 'chained',
    `${cell.server} listens`,
  ].join(', ');

const PAIRS = [1, 2, 8] as const;
const SPLIT_SIZES = [64, 256, 1024] as const;
const PACKED_SIZES = [...SPLIT_SIZES, 1000] as const;
const BOTH = [false, true] as const;

/** Every cell there is. */
export function allCells(): Cell[] {
  const cells: Cell[] = [];
  for (const packed of BOTH)
    for (const mergeable of BOTH)
      for (const inOrder of BOTH)
        for (const pairs of PAIRS)
          for (const queueSize of packed ? PACKED_SIZES : SPLIT_SIZES)
            for (const indirect of BOTH)
              for (const server of ['testpmd', 'backend'] as const)
                cells.push({ packed, mergeable, inOrder, pairs, queueSize, indirect, server });
  return cells;
}

/** Whether DPDK's driver makes tables in such a cell. */
const makesTables = ({ indirect, packed, inOrder }: Cell): boolean => indirect && (packed || !inOrder);

/** A few of them, in which any two values of any two columns meet. */
export function coveringCells(): Cell[] {
  const all = allCells();
  const pairsOf = (cell: Cell): string[] => {
    const columns = Object.entries(cell).map(([name, value]) => `${name}=${value}`);
    return columns.flatMap((a, i) => columns.slice(i + 1).map((b) => `${a} ${b}`));
  };
  const missing = new Set(all.flatMap(pairsOf));
  const chosen: Cell[] = [];
  while (missing.size > 0) {
    const news = (cell: Cell): number => pairsOf(cell).filter((pair) => missing.has(pair)).length;
    const best = all.reduce((a, b) => (news(b) > news(a) ? b : a));
    for (const pair of pairsOf(best)) missing.delete(pair);
    chosen.push(best);
  }
  return chosen;
}

/** A function with every ring format, whose representor answers for a peer behind it. */
export class MatrixStage {
  readonly scene: Scene;
  readonly service: Service;
  readonly device: Hotplugged;
  /** MAC of the representor. */
  readonly #mac: string;
  readonly #path: string;
  readonly #echo: Child;
  #offersIndirect = true;

  private constructor(scene: Scene, service: Service, device: Hotplugged, mac: string, echo: Child) {
    this.scene = scene;
    this.service = service;
    this.device = device;
    this.#mac = mac;
    this.#path = scene.path('vhost.sock');
    this.#echo = echo;
  }

  static async open(scene: Scene, pairs: number, server: Cell['server']): Promise<MatrixStage> {
    const service = await Service.start(scene);
    const device = await service.hotplug({
      mac: MAC,
      mtu: MTU,
      queues: 2 * pairs + 1,
      queueSize: 1024,
      addFeatures: FEATURES,
    });
    const { net } = scene;
    const representor = device.sf_rep_net_device;
    await net.quiet(representor);
    await net.ip(`addr add ${HOST_ADDRESS}/24 dev ${representor}`);
    await net.ip(`link set ${representor} up`);
    for (const address of [PEER_ADDRESS, LOOP_ADDRESS])
      await net.ip(`neigh add ${address} lladdr ${MAC} dev ${representor} nud permanent`);
    await loop(scene, representor);
    const { address } = await net.waitForLink(representor);
    const echo = scene.processes.start(net.inside([pinnedNode, UDP_PROGRAM]), { name: 'udp', stdin: 'pipe' });
    scene.atEnd(async () => {
      echo.endInput();
      await echo.end('SIGTERM', END_TIMEOUT_MS);
    });
    const stage = new MatrixStage(scene, service, device, address, echo);
    await service.startVhostd(server === 'testpmd' ? 'client' : 'server');
    await service.addVhost(device.bdf, stage.#path);
    return stage;
  }

  /** Starts testpmd for a cell. */
  async start(cell: Cell): Promise<Testpmd> {
    const path = this.#path;
    const { pairs, queueSize, packed, mergeable, inOrder } = cell;
    await this.#offer(cell.indirect);
    const server = cell.server === 'testpmd';
    if (server) rmSync(path, { force: true }); // one that was killed leaves its socket
    const mbufs = MBUFS_ON_THEIR_WAY + MBUFS_PER_ENTRY * pairs * queueSize;
    const mbufBytes = mergeable ? (queueSize < SMALL_RING ? LARGE_MBUF : SMALL_MBUF) : LARGE_MBUF;
    const testpmd = await Testpmd.start({
      processes: this.scene.processes,
      net: this.scene.net,
      directory: this.scene.directory,
      devices: [virtioUser({ path, queues: pairs, queueSize, mac: MAC, server, packed, mergeable, inOrder })],
      memoryMegabytes: Math.ceil((mbufs * (mbufBytes + 512)) / 2 ** 20) + 96,
      mbufs,
      tellsRings: true,
      options: [
        ...[`--rxq=${pairs}`, `--txq=${pairs}`, `--rxd=${queueSize}`, `--txd=${queueSize}`],
        ...[`--mbuf-size=${mbufBytes}`, `--max-pkt-len=${FRAME_BYTES_MAX + 4}`],
        ...(mergeable ? [`--rx-offloads=${SCATTER}`, '--enable-scatter'] : []),
        `--tx-offloads=${MULTI_SEGMENTS}`,
      ],
    });
    await this.#rings(pairs);
    return testpmd;
  }

  /** Sends datagrams of every length through testpmd and back, before and after a stop and start of its port. */
  async check(cell: Cell, count: number): Promise<string[]> {
    const problems: string[] = [];
    const testpmd = await this.start(cell);
    try {
      const accepted = BigInt((await this.#query()).driver_feature.value ?? 0);
      for (const [name, bit, wanted] of [
        ['RING_PACKED', VirtioFeature.RING_PACKED, cell.packed],
        ['MRG_RXBUF', NetFeature.MRG_RXBUF, cell.mergeable],
        ['IN_ORDER', VirtioFeature.IN_ORDER, cell.inOrder],
        ['INDIRECT_DESC', VirtioFeature.INDIRECT_DESC, cell.indirect],
      ] as const)
        if (((accepted & featureMask([bit])) !== 0n) !== wanted)
          problems.push(`${name} is ${wanted ? 'not ' : ''}agreed on`);
      await testpmd.command('set txsplit on');
      await testpmd.command(`set eth-peer 0 ${this.#mac}`);
      await testpmd.command(`set burst tx delay ${RETRY_US} retry ${RETRIES}`);
      await this.#passing(testpmd, cell.pairs);
      problems.push(...(await this.#round('', testpmd, cell, count)));
      await testpmd.command('port stop 0');
      await testpmd.command('port start 0');
      await this.#passing(testpmd, cell.pairs);
      problems.push(...(await this.#round('after port stop and start: ', testpmd, cell, count)));
    } catch (error) {
      problems.push(error instanceof Error ? error.message : String(error));
    }
    const { signal } = await testpmd.quit();
    if (signal !== null) problems.push('testpmd did not end by itself');
    return problems;
  }

  /**
   * Waits until every ring passes frames on. One that its frontend has not switched on yet discards what it is sent
   * (vhost-user, Ring states); to be switched on is not answered, and no command shows it. So bursts are sent until
   * some frames of every queue were passed on; of a pair the transmit queue is the second that is switched on.
   */
  async #passing(testpmd: Testpmd, pairs: number): Promise<void> {
    await this.#rings(pairs);
    const passed = async (): Promise<number[]> => {
      const queues = (await this.#query())['enabled-queues-info'];
      return queues
        .filter(({ index }) => Number(index) % 2 === 1 && Number(index) < 2 * pairs)
        .map(({ total_bytes }) => Number(total_bytes));
    };
    const before = await passed();
    await testpmd.command('set txpkts 64');
    await until('frames of every queue', RINGS_TIMEOUT_MS, async () => {
      await testpmd.forward('io', 1);
      await testpmd.stop();
      const now = await passed();
      return now.length === pairs && now.every((bytes, pair) => bytes > before[pair]!);
    });
  }

  async #round(prefix: string, testpmd: Testpmd, cell: Cell, count: number): Promise<string[]> {
    const problems: string[] = [];
    await testpmd.command(`set txpkts ${SEGMENTS.join(',')}`);
    for (const [mode, how, address] of [
      ['5tswap', 'as they came', PEER_ADDRESS],
      ['csum', 'in segments', LOOP_ADDRESS],
    ] as const) {
      await testpmd.forward(`${mode} retry`);
      const { sent, intact, damaged, repeated } = await this.#echoes(address, cell.pairs, count);
      await testpmd.stop();
      if (intact !== sent || damaged > 0 || repeated > 0)
        problems.push(
          `${prefix}of ${sent} datagrams ${how} ${intact} intact, ${damaged} damaged, ${repeated} repeated`,
        );
    }
    problems.push(...(await this.#flood(testpmd, cell)).map((problem) => `${prefix}${problem}`));
    return problems;
  }

  async #echoes(address: string, pairs: number, count: number): Promise<EchoResult> {
    const words = ['echo', address, UDP_PORT, count, MTU - UDP_HEADERS, FLOWS_PER_PAIR * pairs];
    const answer = this.#echo.printed(/^(\{.*\})$/m, ECHO_TIMEOUT_MS, { fromNow: true });
    this.#echo.write(`${words.join(' ')}\n`);
    return JSON.parse((await answer)[1]!) as EchoResult;
  }

  /** Frames in segments on every queue, as fast as testpmd makes them: looked at in its rings, counted on the far side. */
  async #flood(testpmd: Testpmd, cell: Cell): Promise<string[]> {
    const tables = makesTables(cell);
    const rings = new DriverRings(
      testpmd.child.pid,
      Array.from({ length: cell.pairs }, (_, pair) => ({
        address: testpmd.ringAddress(2 * pair + 1),
        entries: cell.queueSize,
        packed: cell.packed,
      })),
    );
    try {
      const before = await this.#receivedBytes();
      const sentBefore = (await testpmd.statistics()).txPackets;
      await testpmd.command(`set txpkts ${FLOOD_SEGMENTS.join(',')}`);
      await testpmd.forward('txonly');
      await until(`${tables ? 'tables' : 'chains'} in every ring`, RINGS_TIMEOUT_MS, () => {
        rings.look();
        return rings.seen.every(({ next, indirect }) => (tables ? indirect : next) > 0);
      });
      await testpmd.stop();
      rings.look();
      const sent = (await testpmd.statistics()).txPackets - sentBefore;
      const bytes = sent * FLOOD_SEGMENTS.reduce((sum, size) => sum + size, 0);
      try {
        await until('the last frames', RINGS_TIMEOUT_MS, async () => {
          return (await this.#receivedBytes()) - before === bytes;
        });
      } catch {
        return [`of ${bytes} bytes in segments ${(await this.#receivedBytes()) - before} arrived`];
      }
      return rings.seen.every(({ next, indirect }) => (tables ? next : indirect) === 0)
        ? []
        : [tables ? 'frames are chained, too' : 'frames are in tables, too'];
    } finally {
      rings.close();
    }
  }

  /** What the function's transmit queues gave to the representor. */
  async #receivedBytes(): Promise<number> {
    const [link] = JSON.parse(
      await this.scene.net.ip(`-j -s link show ${this.device.sf_rep_net_device}`),
    ) as [{ stats64: { rx: { bytes: number } } }];
    return link.stats64.rx.bytes;
  }

  /** Has the function offer INDIRECT_DESC or not. Nobody may be connected. */
  async #offer(indirect: boolean): Promise<void> {
    if (indirect === this.#offersIndirect) return;
    const { service, device } = this;
    await service.removeVhost(device.bdf);
    const offered = BigInt((await this.#query()).device_feature.value ?? 0);
    const features = indirect ? offered | INDIRECT : offered & ~INDIRECT;
    await service.answer('modify', '-p', '0', 'device', '-f', `0x${features.toString(16)}`);
    await service.addVhost(device.bdf, this.#path);
    this.#offersIndirect = indirect;
  }

  /** `virtnet query`, without a process for it each time. */
  async #query(): Promise<QueriedDevice> {
    const { vuid } = this.device;
    const params = { all: false, pf: null, vf: null, vuid, brief: false, queue: null };
    const { devices } = await this.service.ask<{ devices: [QueriedDevice] }>('query', params);
    return devices[0];
  }

  async #rings(pairs: number): Promise<void> {
    await until('the rings of testpmd', RINGS_TIMEOUT_MS, async () => {
      return Number((await this.#query()).enabled_queues) >= 2 * pairs;
    });
  }
}

/**
 * Sends what is for LOOP_ADDRESS out through the representor although it is the host's own, and lets it in when it
 * comes back with the host's address as its source.
 */
async function loop({ net }: Scene, representor: string): Promise<void> {
  const table = 100;
  await net.ip(`addr add ${LOOP_ADDRESS}/32 dev ${representor}`);
  await net.ip(`route add ${LOOP_ADDRESS} dev ${representor} src ${HOST_ADDRESS} table ${table}`);
  await net.ip(`rule add pref 1 iif lo to ${LOOP_ADDRESS} lookup ${table}`);
  await net.ip('rule add pref 2 lookup local');
  await net.ip('rule del pref 0');
  const settings = [`${representor}.accept_local=1`, `${representor}.rp_filter=0`, 'all.rp_filter=0'];
  await net.run(['sysctl', '-qw', ...settings.map((setting) => `net.ipv4.conf.${setting}`)]);
}
