/**
 * datapath-stage.ts: one driver in front of two devices, ours and DPDK's, and rounds of traffic with either.
 *
 * Theory
 *   driver   dpdk-testpmd with ports of net_virtio_user: one, or for a switch two, at each device.
 *   virtnet  the service, behind vfe-vhostd; what stands behind its functions is a diagnostic representor or the switch.
 *   dpdk     dpdk-testpmd with ports of net_vhost.
 *   Both devices live all the time, and so does the driver: a round begins by telling it which ports to use. Who is not
 *   measured polls nothing. Driver and device have a processor each.
 *   A round has windows, one after the other, and the state of the machine is measured between them. A window's rate
 *   comes from the driver's counters at its ends. Both sides' counters over the whole round must agree. Who asks for
 *   counters and who answers goes before everybody else, for a moment each, so that windows can be short.
 *
 * Limits  One queue pair a port.
 */
import { constants, getPriority } from 'node:os';
import { type Side, sides, type Window } from '../../test/lib/round-analysis.ts';
import { Scene } from '../../test/lib/scene.ts';
import { Service } from '../../test/lib/service.ts';
import { FORWARDING_THREAD, Testpmd, virtioUser } from '../../test/lib/testpmd.ts';
import { sleep, until } from '../../test/lib/waiting.ts';
import { accountOf, goFirst, type PingPong, setPrecedence, threadNamed } from './machine-state.ts';

export type Case = 'drain' | 'fill' | 'loop' | 'switch';

export interface Kind {
  readonly name: string;
  readonly packed: boolean;
  readonly mergeable: boolean;
}

export interface StageOptions {
  readonly work: Case;
  readonly kind: Kind;
  /** Of the frames it begins with. */
  readonly bytes: number;
  /** Of driver and device. */
  readonly processors: readonly [number, number];
  /** How long what is measured of a round is, */
  readonly windowMs: number;
  /** and in how many parts; default 1. */
  readonly windows?: number;
  /** More of the environment of the service's processes. */
  readonly env?: Readonly<Record<string, string>>;
}

interface CaseWork {
  readonly representor: string;
  readonly ports: number;
  /** testpmd's forwarding modes. */
  readonly driver: string;
  readonly device: string;
  /** What the driver counts frames by. */
  readonly counts: 'rxPackets' | 'txPackets';
  /** Bursts of 32 frames that go round; 0: none do. */
  readonly circulating: number;
}

const CASES: Readonly<Record<Case, CaseWork>> = {
  drain: {
    representor: 'sink',
    ports: 1,
    driver: 'txonly',
    device: 'rxonly',
    counts: 'txPackets',
    circulating: 0,
  },
  fill: {
    representor: 'source',
    ports: 1,
    driver: 'rxonly',
    device: 'txonly',
    counts: 'rxPackets',
    circulating: 0,
  },
  loop: {
    representor: 'loop',
    ports: 1,
    driver: 'io',
    device: 'io',
    counts: 'rxPackets',
    circulating: 16,
  },
  switch: {
    representor: 'eswitch',
    ports: 2,
    driver: 'mac',
    device: 'io',
    counts: 'rxPackets',
    circulating: 8,
  },
};

const QUEUE_SIZE = 1024;
const MTU = 9_000;
const JUMBO_BYTES = 2_000;
/** Buffers of testpmd: one of them holds an ordinary frame, or a jumbo frame. */
const MBUF_BYTES = 2_176;
const JUMBO_MBUF_BYTES = 9_600;
/** A jumbo frame in buffers of MBUF_BYTES. */
const SEGMENTS = 5;
/** RTE_ETH_TX_OFFLOAD_MULTI_SEGS, RTE_ETH_RX_OFFLOAD_SCATTER. */
const SEGMENT_OPTIONS = ['--tx-offloads=0x8000', '--rx-offloads=0x2000', '--enable-scatter'];
const FEATURE = { mergeable: 15n, packed: 34n } as const;
const WARM_MS = 150;
const FIRST_WARM_MS = 800;
const SETTLE_MS = 30;
const RINGS_TIMEOUT_MS = 30_000;
const DATAPATH_THREAD = 'datapath-0';

/** What a window of a round says beside what round-analysis.ts needs. */
export interface MeasuredWindow extends Window {
  readonly windowMs: number;
  /** Shares of the time in which driver's and device's thread ran; a device may sleep. */
  readonly ran: { readonly driver: number; readonly device: number };
}

/** What a window says without the round it is of. */
type WindowOfItself = Omit<MeasuredWindow, 'round' | 'pingPongNs' | 'frames' | 'onTheWay'>;

const macOf = (side: Side, port: number): string => `02:00:00:00:0${side === 'dpdk' ? 1 : 2}:0${port + 1}`;

export class DatapathStage {
  readonly #options: StageOptions;
  readonly #case: CaseWork;
  readonly #scene: Scene;
  readonly #service: Service;
  readonly #dpdk: Testpmd;
  readonly #driver: Testpmd;
  readonly #warm = new Set<Side>();
  #rounds = 0;
  /** The state of the machine can be measured beside threads that never sleep. */
  #measuresBeside = false;

  private constructor(options: StageOptions, scene: Scene, service: Service, dpdk: Testpmd, driver: Testpmd) {
    this.#options = options;
    this.#case = CASES[options.work];
    this.#scene = scene;
    this.#service = service;
    this.#dpdk = dpdk;
    this.#driver = driver;
  }

  static async open(options: StageOptions): Promise<DatapathStage> {
    const scene = await Scene.open();
    try {
      const service = await startService(scene, options);
      const dpdk = await startDpdk(scene, options);
      const driver = await startDriver(scene, options);
      const stage = new DatapathStage(options, scene, service, dpdk, driver);
      await stage.#prepare();
      await stage.#letAnswersGoFirst();
      return stage;
    } catch (error) {
      await scene.end();
      throw error;
    }
  }

  /** Ends everything; what was left behind, in words. */
  async close(): Promise<string[]> {
    await this.#driver.quit();
    await this.#dpdk.quit();
    return this.#scene.end();
  }

  /** Its windows; only one where the machine's state cannot be measured in between. `edge` is called at both ends of each. */
  async round(side: Side, pingPong: PingPong, edge: () => void = () => {}): Promise<MeasuredWindow[]> {
    const { windowMs, windows: wished = 1 } = this.#options;
    const beside = this.#measuresBeside;
    const count = beside ? wished : 1;
    const states: number[] = [];
    const look = async (): Promise<void> => {
      states.push(await pingPong.measure());
    };
    this.#prefer(side);
    if (!beside) await look();
    const driverBefore = await this.#driverFrames(side);
    const deviceBefore = await this.#deviceFrames(side);
    await this.#driver.command(`set portlist ${this.#driverPorts(side).join(',')}`);
    if (side === 'dpdk') await this.#dpdk.forward(this.#case.device);
    await this.#driver.forward(this.#case.driver, this.#case.circulating);
    await sleep(this.#warm.has(side) ? WARM_MS : FIRST_WARM_MS);
    this.#warm.add(side);

    if (beside) await look();
    const windows: WindowOfItself[] = [];
    while (windows.length < count) {
      windows.push(await this.#window(side, windowMs / count, edge));
      if (beside) await look();
    }

    await this.#driver.stop();
    await sleep(SETTLE_MS);
    if (this.#case.circulating > 0) await this.#takeBack();
    if (side === 'dpdk') await this.#dpdk.stop();
    const driverAfter = await this.#driverFrames(side);
    const deviceAfter = await this.#deviceFrames(side);
    if (!beside) await look();
    const round = this.#rounds++;
    const frames = { driver: driverAfter - driverBefore, device: deviceAfter - deviceBefore };
    const onTheWay = this.#case.ports * QUEUE_SIZE;
    return windows.map((window, i) => ({
      ...window,
      round,
      pingPongNs: [states[i]!, states[i + 1]!],
      frames,
      onTheWay,
    }));
  }

  async #window(side: Side, ms: number, edge: () => void): Promise<WindowOfItself> {
    const { counts } = this.#case;
    const first = await this.#sample(side);
    edge();
    await sleep(ms);
    edge();
    const last = await this.#sample(side);
    const windowMs = last.at - first.at;
    const share = (thread: 'driver' | 'device', time: 'ranNs' | 'waitedNs'): number =>
      (last[thread][time] - first[thread][time]) / 1e6 / windowMs;
    return {
      side,
      framesPerSecond: ((last[counts] - first[counts]) / windowMs) * 1_000,
      ran: { driver: share('driver', 'ranNs'), device: share('device', 'ranNs') },
      waited: { driver: share('driver', 'waitedNs'), device: share('device', 'waitedNs') },
      windowError: (first.uncertainty + last.uncertainty) / windowMs,
      windowMs,
    };
  }

  /** Does something while the driver asks ports for frames that get none, and keeps its processor busy with that. */
  async meanwhile<T>(action: () => Promise<T>): Promise<T> {
    await this.#driver.command(`set portlist ${this.#driverPorts('dpdk').join(',')}`);
    await this.#driver.forward('rxonly');
    try {
      return await action();
    } finally {
      await this.#driver.stop();
    }
  }

  /** The process that works the functions of virtnet. */
  get emulatorPid(): number {
    return this.#service.runningPid('emu');
  }

  /**
   * Whatever else runs on the machine disturbs a round as little as may be, the other device included: a source that is
   * left with too few buffers for its next frame goes on trying. Driver and device have the nice value of this process,
   * and no better one: their own main threads have to answer in between.
   */
  #prefer(measured: Side): void {
    const own = getPriority();
    const threads = [
      { of: { pid: process.pid, thread: process.pid }, nice: own },
      { of: this.#driverThread(), nice: own },
      ...sides.map((side) => ({
        of: this.#deviceThread(side),
        nice: side === measured ? own : constants.priority.PRIORITY_LOW,
      })),
    ];
    const done = threads.map(({ of, nice }) => setPrecedence(of, nice));
    if (this.#warm.size === 0 && done.includes(false))
      process.stderr.write('no precedence over others (CAP_SYS_NICE): rounds may be disturbed\n');
  }

  /**
   * The driver's main thread answers beside the device: where its own forwarding thread runs it would be in the way of what
   * it waits for when forwarding is to end.
   */
  async #letAnswersGoFirst(): Promise<void> {
    const { pid } = this.#driver.child;
    await this.#scene.processes.run(['taskset', '-p', '-c', `${this.#options.processors[1]}`, `${pid}`]);
    this.#measuresBeside = goFirst(pid) && goFirst(process.pid);
  }

  #driverThread() {
    const { pid } = this.#driver.child;
    return { pid, thread: threadNamed(pid, FORWARDING_THREAD) };
  }

  #deviceThread(side: Side) {
    const pid = side === 'dpdk' ? this.#dpdk.child.pid : this.#service.runningPid('emu');
    return { pid, thread: threadNamed(pid, side === 'dpdk' ? FORWARDING_THREAD : DATAPATH_THREAD) };
  }

  /** Frames are this long from now on; what a source gives is the service's configuration, and stays. */
  async setBytes(bytes: number): Promise<void> {
    const segments = segmentsOf(this.#options);
    await this.#driver.command(
      `set txpkts ${Array(segments)
        .fill(bytes / segments)
        .join(',')}`,
    );
    await this.#dpdk.command(`set txpkts ${bytes}`);
    this.#warm.clear();
  }

  async #prepare(): Promise<void> {
    const { ports } = this.#case;
    for (const side of sides) {
      for (const [i, port] of this.#driverPorts(side).entries()) {
        // To itself where frames come straight back; where they are switched, to the other one.
        const peer = ports === 1 ? 0 : 1 - i;
        await this.#driver.command(`set eth-peer ${port} ${macOf(side, peer)}`);
      }
    }
    for (let port = 0; port < ports; port++) {
      const { driver_feature } = await until('the rings of testpmd', RINGS_TIMEOUT_MS, async () => {
        const device = await this.#service.query(port);
        return Number(device.enabled_queues) >= 2 ? device : null;
      });
      this.#checkFeatures(Object.values(driver_feature));
    }
  }

  #checkFeatures(agreed: readonly string[]): void {
    const { packed, mergeable } = this.#options.kind;
    for (const [feature, wanted] of [
      ['RING_PACKED', packed],
      ['MRG_RX_BUFFER', mergeable],
    ] as const)
      if (agreed.some((name) => name.endsWith(feature)) !== wanted)
        throw new Error(`${feature} is ${wanted ? 'not ' : ''}agreed on: ${agreed.join(' ')}`);
  }

  /** Ports of the driver at a device. */
  #driverPorts(side: Side): number[] {
    const { ports } = this.#case;
    return Array.from({ length: ports }, (_, port) => port + (side === 'dpdk' ? 0 : ports));
  }

  /** Frames that went round are received and not sent again. */
  async #takeBack(): Promise<void> {
    await this.#driver.forward('rxonly');
    await sleep(SETTLE_MS);
    await this.#driver.stop();
  }

  async #sample(side: Side) {
    const asked = performance.now();
    const counters = await this.#driverCounters(side);
    const answered = performance.now();
    return {
      ...counters,
      at: (asked + answered) / 2,
      uncertainty: (answered - asked) / 2,
      driver: accountOf(this.#driverThread()),
      device: accountOf(this.#deviceThread(side)),
    };
  }

  async #driverCounters(side: Side) {
    let [rxPackets, txPackets] = [0, 0];
    for (const port of this.#driverPorts(side)) {
      const counters = await this.#driver.statistics(port);
      rxPackets += counters.rxPackets;
      txPackets += counters.txPackets;
    }
    return { rxPackets, txPackets };
  }

  async #driverFrames(side: Side): Promise<number> {
    return (await this.#driverCounters(side))[this.#case.counts];
  }

  /** The same frames as the device counts them: received by it where the driver counts what it sends. */
  async #deviceFrames(side: Side): Promise<number> {
    const receives = this.#case.counts === 'txPackets';
    let frames = 0;
    for (let port = 0; port < this.#case.ports; port++) {
      if (side === 'dpdk') {
        const { rxPackets, txPackets } = await this.#dpdk.statistics(port);
        frames += receives ? rxPackets : txPackets;
      } else {
        const { devices } = await this.#service.answer<{
          devices: { 'enabled-queues-info': { frames: string }[] }[];
        }>('query', '-p', `${port}`, '--dbg_stats');
        frames += Number(devices[0]!['enabled-queues-info'][receives ? 1 : 0]!.frames);
      }
    }
    return frames;
  }
}

/** Cells that agree in this can have one stage. */
export const stageOf = (options: Pick<StageOptions, 'work' | 'kind' | 'bytes'>): string =>
  `${options.work} ${options.kind.name} ${options.work === 'fill' ? options.bytes : isJumbo(options)}`;

const isJumbo = ({ bytes }: Pick<StageOptions, 'bytes'>): boolean => bytes > JUMBO_BYTES;
const isSegmented = (options: StageOptions): boolean => isJumbo(options) && options.kind.mergeable;
const segmentsOf = (options: StageOptions): number => (isSegmented(options) ? SEGMENTS : 1);
const dpdkSocket = (scene: Scene, port: number): string => scene.path(`dpdk${port}.sock`);
const virtnetSocket = (scene: Scene, port: number): string => scene.path(`virtnet${port}.sock`);

async function startService(scene: Scene, options: StageOptions): Promise<Service> {
  const { work, bytes, kind, processors, env = {} } = options;
  const { representor, ports } = CASES[work];
  const service = await Service.start(scene, {
    conf: { eth_vq_workers: 1, software: { representor, source_frame_bytes: bytes } },
    env,
  });
  await pinDatapath(scene, service, processors[1]);
  await service.startVhostd('server');
  const addFeatures =
    (kind.packed ? 1n << FEATURE.packed : 0n) | (kind.mergeable ? 1n << FEATURE.mergeable : 0n);
  for (let port = 0; port < ports; port++) {
    const mac = macOf('virtnet', port);
    const device = await service.hotplug({ mac, mtu: MTU, queues: 3, queueSize: QUEUE_SIZE, addFeatures });
    if (device.errno !== 0) throw new Error(`hotplug: ${device.errstr}`);
    await service.addVhost(device.bdf, virtnetSocket(scene, port));
  }
  return service;
}

/** Binds the only datapath thread. dpa_core_start begins at 2, as on the original, and a small machine has no such processor. */
export async function pinDatapath({ processes }: Scene, service: Service, processor: number): Promise<void> {
  const emu = service.runningPid('emu');
  const thread = await until('the datapath', RINGS_TIMEOUT_MS, () => threadNamed(emu, DATAPATH_THREAD));
  await processes.run(['taskset', '-p', '-c', `${processor}`, `${thread}`]);
}

/** The pool: every ring full, transmit rings of frames of `segments` buffers, and what testpmd keeps at hand. */
function pool(ports: number, mbufBytes: number, segments: number) {
  const mbufs = 8_192 + ports * QUEUE_SIZE * (1 + segments);
  return { mbufs, memoryMegabytes: Math.ceil((mbufs * (mbufBytes + 512)) / 2 ** 20) + 96 };
}

function startDpdk(scene: Scene, options: StageOptions): Promise<Testpmd> {
  const { ports } = CASES[options.work];
  const mbufBytes = isJumbo(options) ? JUMBO_MBUF_BYTES : MBUF_BYTES;
  return Testpmd.start({
    processes: scene.processes,
    net: scene.net,
    directory: scene.directory,
    name: 'dpdk',
    processor: options.processors[1],
    devices: Array.from(
      { length: ports },
      (_, port) => `net_vhost${port},iface=${dpdkSocket(scene, port)},queues=1`,
    ),
    ...pool(ports, mbufBytes, 1),
    options: [`--rxd=${QUEUE_SIZE}`, `--txd=${QUEUE_SIZE}`, `--mbuf-size=${mbufBytes}`],
  });
}

async function startDriver(scene: Scene, options: StageOptions): Promise<Testpmd> {
  const { kind, work, processors } = options;
  const { ports } = CASES[work];
  const mbufBytes = isJumbo(options) && !kind.mergeable ? JUMBO_MBUF_BYTES : MBUF_BYTES;
  const numbers = Array.from({ length: ports }, (_, port) => port);
  const devices = [
    ...numbers.map((port) => ({ path: dpdkSocket(scene, port), mac: macOf('dpdk', port), index: port })),
    ...numbers.map((port) => ({
      path: virtnetSocket(scene, port),
      mac: macOf('virtnet', port),
      index: ports + port,
    })),
  ];
  const driver = await Testpmd.start({
    processes: scene.processes,
    net: scene.net,
    directory: scene.directory,
    name: 'driver',
    processor: processors[0],
    devices: devices.map((device) => virtioUser({ ...device, ...kind, queueSize: QUEUE_SIZE })),
    ...pool(devices.length, mbufBytes, segmentsOf(options)),
    options: [
      ...[`--rxd=${QUEUE_SIZE}`, `--txd=${QUEUE_SIZE}`, `--mbuf-size=${mbufBytes}`],
      ...(isJumbo(options) ? [`--max-pkt-len=${MTU + 18}`] : []),
      ...(isSegmented(options) ? SEGMENT_OPTIONS : []),
    ],
  });
  return driver;
}
