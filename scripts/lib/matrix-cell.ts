/** matrix-cell.ts: one way to drive a function with DPDK's virtio-user, and whether every payload survives it. */
import { rmSync } from 'node:fs';
import { UDP_PROGRAM } from '../../test/lib/programs.ts';
import type { Scene } from '../../test/lib/scene.ts';
import { type Hotplugged, Service } from '../../test/lib/service.ts';
import { Testpmd, virtioUser } from '../../test/lib/testpmd.ts';
import type { EchoResult } from '../../test/lib/udp-host.ts';
import { sleep, until } from '../../test/lib/waiting.ts';
import { pinnedNode } from './paths.ts';

/** One cell of the matrix. */
export interface Cell {
  readonly packed: boolean;
  readonly mergeable: boolean;
  readonly inOrder: boolean;
  readonly pairs: number;
  readonly queueSize: number;
  /** Frames leave in several descriptors: in a table where DPDK may use one, else chained. */
  readonly segmented: boolean;
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
/** mbufs of testpmd: a transmit ring full of frames of four segments, a full receive ring, and some on their way. */
const MBUFS_PER_ENTRY = 6;

const MAC = '0C:C4:7A:FF:22:93';
const HOST_ADDRESS = '10.78.0.1';
export const PEER_ADDRESS = '10.78.0.2';
export const UDP_PORT = 7100;
const RINGS_TIMEOUT_MS = 15_000;
const SEGMENTS_MS = 200;
const ECHO_TIMEOUT_MS = 120_000;
/** RING_PACKED, IN_ORDER, MRG_RXBUF. */
const FEATURES = (1n << 34n) | (1n << 35n) | (1n << 15n);
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
    cell.segmented ? 'segments' : 'linear',
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
            for (const segmented of BOTH)
              for (const server of ['testpmd', 'backend'] as const)
                cells.push({ packed, mergeable, inOrder, pairs, queueSize, segmented, server });
  return cells;
}

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
  readonly #path: string;

  private constructor(scene: Scene, service: Service, device: Hotplugged) {
    this.scene = scene;
    this.service = service;
    this.device = device;
    this.#path = scene.path('vhost.sock');
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
    const representor = device.sf_rep_net_device;
    await scene.net.quiet(representor);
    await scene.net.ip(`addr add ${HOST_ADDRESS}/24 dev ${representor}`);
    await scene.net.ip(`link set ${representor} up`);
    await scene.net.ip(`neigh add ${PEER_ADDRESS} lladdr ${MAC} dev ${representor} nud permanent`);
    const stage = new MatrixStage(scene, service, device);
    await service.startVhostd(server === 'testpmd' ? 'client' : 'server');
    await service.addVhost(device.bdf, stage.#path);
    return stage;
  }

  /** Starts testpmd for a cell. */
  async start(cell: Cell): Promise<Testpmd> {
    const path = this.#path;
    const { pairs, queueSize, packed, mergeable, inOrder } = cell;
    const server = cell.server === 'testpmd';
    if (server) rmSync(path, { force: true }); // one that was killed leaves its socket
    const mbufs = Math.max(4_096, MBUFS_PER_ENTRY * pairs * queueSize);
    const mbufBytes = mergeable ? (queueSize < SMALL_RING ? LARGE_MBUF : SMALL_MBUF) : LARGE_MBUF;
    const testpmd = await Testpmd.start({
      processes: this.scene.processes,
      net: this.scene.net,
      directory: this.scene.directory,
      devices: [virtioUser({ path, queues: pairs, queueSize, mac: MAC, server, packed, mergeable, inOrder })],
      memoryMegabytes: Math.ceil((mbufs * (mbufBytes + 512)) / 2 ** 20) + 96,
      mbufs,
      options: [
        ...[`--rxq=${pairs}`, `--txq=${pairs}`, `--rxd=${queueSize}`, `--txd=${queueSize}`],
        ...[`--mbuf-size=${mbufBytes}`, `--max-pkt-len=${FRAME_BYTES_MAX + 4}`],
        ...(mergeable ? [`--rx-offloads=${SCATTER}`, '--enable-scatter'] : []),
        ...(mergeable || cell.segmented ? [`--tx-offloads=${MULTI_SEGMENTS}`] : []),
      ],
    });
    await this.#rings(pairs);
    return testpmd;
  }

  /** Sends `count` datagrams of every length through testpmd and back, before and after a stop and start of its port. */
  async check(cell: Cell, count: number): Promise<string[]> {
    const problems: string[] = [];
    const testpmd = await this.start(cell);
    try {
      const accepted = await this.#accepted();
      for (const [name, wanted] of [
        ['RING_PACKED', cell.packed],
        ['MRG_RX_BUFFER', cell.mergeable],
        ['IN_ORDER', cell.inOrder],
      ] as const)
        if (accepted.some((feature) => feature.endsWith(name)) !== wanted)
          problems.push(`${name} is ${wanted ? 'not ' : ''}agreed on`);
      problems.push(...(await this.#round('', testpmd, cell, count)));
      await testpmd.stop();
      await testpmd.command('port stop 0');
      await testpmd.command('port start 0');
      await this.#rings(cell.pairs);
      problems.push(...(await this.#round('after port stop and start: ', testpmd, cell, count)));
    } catch (error) {
      problems.push(error instanceof Error ? error.message : String(error));
    }
    const { signal } = await testpmd.quit();
    if (signal !== null) problems.push('testpmd did not end by itself');
    return problems;
  }

  async #round(prefix: string, testpmd: Testpmd, cell: Cell, count: number): Promise<string[]> {
    const problems: string[] = [];
    await testpmd.forward('5tswap');
    const largest = MTU - UDP_HEADERS;
    const words = ['echo', PEER_ADDRESS, `${UDP_PORT}`, `${count}`, `${largest}`];
    const text = await this.scene.net.run([pinnedNode, UDP_PROGRAM, ...words], {
      timeoutMs: ECHO_TIMEOUT_MS,
    });
    const { sent, intact, damaged, repeated } = JSON.parse(text) as EchoResult;
    if (intact !== sent || damaged > 0 || repeated > 0)
      problems.push(
        `${prefix}of ${sent} datagrams ${intact} intact, ${damaged} damaged, ${repeated} repeated`,
      );
    if (cell.segmented) problems.push(...(await this.#segments(prefix, testpmd)));
    return problems;
  }

  /** Frames of four segments, counted on the far side. */
  async #segments(prefix: string, testpmd: Testpmd): Promise<string[]> {
    await testpmd.stop();
    const received = async (): Promise<number> => {
      const [link] = JSON.parse(
        await this.scene.net.ip(`-j -s link show ${this.device.sf_rep_net_device}`),
      ) as [{ stats64: { rx: { bytes: number } } }];
      return link.stats64.rx.bytes;
    };
    const sizes = [64, 300, 1_000, 1_400];
    const before = await received();
    const sentBefore = (await testpmd.statistics()).txPackets;
    await testpmd.command(`set txpkts ${sizes.join(',')}`);
    await testpmd.forward('txonly');
    await sleep(SEGMENTS_MS);
    await testpmd.stop();
    const sent = (await testpmd.statistics()).txPackets - sentBefore;
    const bytes = sent * sizes.reduce((a, b) => a + b, 0);
    try {
      await until('the last frames', RINGS_TIMEOUT_MS, async () => (await received()) - before === bytes);
    } catch {
      return [`${prefix}of ${bytes} bytes in segments ${(await received()) - before} arrived`];
    }
    return sent > 0 ? [] : [`${prefix}no frame in segments was sent`];
  }

  async #accepted(): Promise<string[]> {
    return Object.values((await this.service.query()).driver_feature);
  }

  async #rings(pairs: number): Promise<void> {
    await until('the rings of testpmd', RINGS_TIMEOUT_MS, async () => {
      const { enabled_queues } = await this.service.query();
      return Number(enabled_queues) >= 2 * pairs;
    });
  }
}
