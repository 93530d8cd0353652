/**
 * chaos-stage.ts: what the chaos happens to: the whole product, two functions under streams, and what they should be.
 *
 *   host sender -> representor A -> driver of packages/testing (vfio-user) -> representor A -> host receiver
 *   host sender -> representor B -> DPDK's virtio-user (vhost-user, vfe-vhostd) -> representor B -> tcpdump
 *
 * Theory
 *   A service manager of the tests for each service, as systemd is one: it keeps descriptors, and restarts nobody by
 *   itself: an event that ends the controller, vfe-vhostd or vfe-vhostd-ha starts it again. The stage knows what there
 *   should be at any time; `check` compares.
 */
import { mkdirSync } from 'node:fs';
import { makeBuild } from '../../test/lib/builds.ts';
import { HostCapture } from '../../test/lib/capture.ts';
import { managed } from '../../test/lib/managed.ts';
import { ONE_STATIC_PF, STATIC_PF } from '../../test/lib/one-static-pf.ts';
import { udpPayload } from '../../test/lib/pcap.ts';
import { type Child, isRunning, signalPid } from '../../test/lib/processes.ts';
import { CLIENT_PROGRAM } from '../../test/lib/programs.ts';
import { Pump } from '../../test/lib/pump.ts';
import type { Scene } from '../../test/lib/scene.ts';
import {
  descriptorKinds,
  type Holdings,
  type Hotplugged,
  holdingsOf,
  type ProcessRole,
  Service,
} from '../../test/lib/service.ts';
import type { FakeServiceManager } from '../../test/lib/service-manager.ts';
import { type Arrival, analyseStream, type StreamReport } from '../../test/lib/stream-analysis.ts';
import { readStreamPacket } from '../../test/lib/stream-packet.ts';
import { HostStream, SPACING_US } from '../../test/lib/streams.ts';
import { Testpmd, virtioUser } from '../../test/lib/testpmd.ts';
import { settled } from '../../test/lib/updates.ts';
import { sleep, until } from '../../test/lib/waiting.ts';
import { deviceOf, type LinkFacts, Observer } from './chaos-observer.ts';
import { type Operator, socketOperator } from './chaos-operator.ts';
import { pinnedNode } from './paths.ts';

const ADDRESS = '10.81.0.1';
const PEER_ADDRESS = '10.81.0.2';
const PORT = 7901;
const QUEUE_SIZE = 256;
const PATIENCE_MS = 60_000;
/** Between two looks: of what may be there already, and of streams with a frame a millisecond. */
const LOOK_MS = 10;
const FRAME_MS = 2;
/** Nothing arrives any more when nothing has for so long. */
const SETTLE_MS = 3_000;
/** Frames that a representor keeps while nobody takes them: those of a minute, so that no pause makes the kernel drop any. */
const REPRESENTOR_FRAMES = 60_000;
/** How often, a millisecond apart, testpmd offers a frame to a ring that is full before it drops the frame. */
const OFFERS = 60_000;
const ROLES: readonly ProcessRole[] = ['controller', 'emu', 'emu-standby', 'ha'];
/** Queues of the two functions that are always driven: so many rings for bursts come with frames. */
export const BURST_RINGS = 4;

/** What a process holds, and how many descriptors of what it has. */
export interface Held extends Holdings {
  readonly kinds: ReadonlyMap<string, number>;
}

export const HOLDERS = ['emu', 'ha', 'vfe-vhostd', 'vfe-vhostd-ha'] as const;
/** Descriptors of a keeper's log. */
const LOGS = 2;
const REPRESENTOR = /^en\d+f\d+pf\d+sf\d+$/;
const mac = (last: number) => `0C:C4:7A:FF:22:${last}`;

interface Listed {
  readonly vuid: string;
  readonly function_type: string;
  readonly sf_rep_net_device: string;
}

/** What `modify` has set, and what has to be found after every event. */
export interface Settings {
  /** Of the function for clients that are killed. */
  mac: string;
  mtu: number;
  /** Of the interrupts of the function under streams, microseconds and frames. */
  period: number;
  maxCount: number;
}

interface Queried {
  readonly mac: string;
  readonly mtu: string;
  readonly 'enabled-queues-info'?: readonly { rq_cq_period?: string; rq_cq_max_count?: string }[];
}

/** One stream through a function. */
export interface Traffic {
  readonly name: string;
  readonly arrivals: readonly Arrival[];
  readonly report: StreamReport;
  /** Of those lost: dropped by others, in front of a full queue (the kernel) or ring (testpmd); a loss like any other. */
  readonly dropped: number;
  /** Queues a frame of it passes. */
  readonly queues: number;
}

export class ChaosStage {
  readonly scene: Scene;
  readonly service: Service;
  readonly manager: FakeServiceManager;
  readonly vhostd: FakeServiceManager;
  readonly vhostKeeper: FakeServiceManager;
  /** Other versions, alike. */
  readonly builds: readonly string[];
  /** For clients that are killed. */
  readonly target: Hotplugged;
  /** Plugged and unplugged. */
  extra: Pick<Hotplugged, 'vuid'> | null = null;
  vfs = 0;
  /** Representors that VFs have, or left behind: they stay, in a pool, for the VFs that come after them. */
  readonly #ofVfs = new Set<string>();
  readonly observer: Observer;
  readonly operator: Operator;
  readonly settings: Settings;
  readonly driven: Hotplugged;
  readonly #pump: Pump;
  readonly #vhost: Hotplugged;
  readonly #testpmd: Testpmd;
  readonly #sender: HostStream;
  readonly #capture: HostCapture;
  readonly #links: ReadonlyMap<string, string>;
  readonly #vuids: readonly string[];
  /** Is there before it is needed: a program takes longer to start than to be killed. */
  #client: Child;

  private constructor(parts: {
    scene: Scene;
    service: Service;
    manager: FakeServiceManager;
    vhostd: FakeServiceManager;
    vhostKeeper: FakeServiceManager;
    builds: readonly string[];
    target: Hotplugged;
    driven: Hotplugged;
    pump: Pump;
    vhost: Hotplugged;
    testpmd: Testpmd;
    sender: HostStream;
    capture: HostCapture;
    links: ReadonlyMap<string, string>;
    vuids: readonly string[];
    observer: Observer;
  }) {
    this.scene = parts.scene;
    this.service = parts.service;
    this.manager = parts.manager;
    this.vhostd = parts.vhostd;
    this.vhostKeeper = parts.vhostKeeper;
    this.builds = parts.builds;
    this.target = parts.target;
    this.driven = parts.driven;
    this.settings = { mac: parts.target.mac, mtu: 1500, period: 0, maxCount: 0 };
    this.observer = parts.observer;
    this.operator = socketOperator(parts.observer);
    this.#pump = parts.pump;
    this.#vhost = parts.vhost;
    this.#testpmd = parts.testpmd;
    this.#sender = parts.sender;
    this.#capture = parts.capture;
    this.#links = parts.links;
    this.#vuids = parts.vuids;
    this.#client = this.#startClient();
    this.scene.atEnd(async () => {
      signalPid(this.#client.pid, 'SIGKILL');
      await this.#client.exited;
    });
  }

  static async open(scene: Scene): Promise<ChaosStage> {
    const { net, processes, directory } = scene;
    const root = scene.path('root');
    mkdirSync(root, { recursive: true });
    const manager = await managed(scene, 'virtio_net_controller', root, { name: 'controller' });
    manager.start();
    await manager.ready();
    const service = Service.attached(scene, root);
    scene.atEnd(() => service.stop());
    await service.bootWith(ONE_STATIC_PF);
    const builds = ['0.2.0', '0.3.0'].map((version) => makeBuild(directory, version));

    const driven = await service.hotplug({ mac: mac(93), queueSize: QUEUE_SIZE });
    const vhost = await service.hotplug({ mac: mac(94), queueSize: QUEUE_SIZE });
    const target = await service.hotplug({ mac: mac(95), queueSize: QUEUE_SIZE });
    for (const { sf_rep_net_device: name } of [driven, vhost])
      await net.ip(`link set ${name} txqueuelen ${REPRESENTOR_FRAMES}`);
    const pump = await Pump.start(scene, service, driven, PATIENCE_MS);

    const representor = vhost.sf_rep_net_device;
    await net.quiet(representor);
    await net.ip(`addr add ${ADDRESS}/24 dev ${representor}`);
    await net.ip(`link set ${representor} up`);
    await net.ip(`link set ${target.sf_rep_net_device} up`);
    await net.ip(`neigh add ${PEER_ADDRESS} lladdr ${vhost.mac} dev ${representor} nud permanent`);
    const vhostKeeper = await managed(scene, 'vfe-vhostd-ha', root, { name: 'vhostd-ha' });
    const vhostd = await managed(scene, 'vfe-vhostd', root, { name: 'vhostd' });
    scene.atEnd(() => endVhost(vhostd, vhostKeeper));
    for (const one of [vhostKeeper, vhostd]) {
      one.start();
      await one.ready();
    }
    const path = scene.path('vhost.sock');
    await service.addVhost(vhost.bdf, path);
    const devices = [virtioUser({ path, queueSize: QUEUE_SIZE, mac: vhost.mac })];
    const testpmd = await Testpmd.start({ processes, net, directory, devices });
    await testpmd.command(`set burst tx delay 1000 retry ${OFFERS}`);
    await testpmd.forward('io retry');
    const filter = ['udp', 'dst', 'port', `${PORT}`];
    const capture = await HostCapture.start(scene, representor, filter, { direction: 'in' });
    const to = [PEER_ADDRESS, `${PORT}`, `${SPACING_US}`, '64'];
    const sender = await HostStream.start(processes, net, ['send', ...to]);

    await settled(service);
    const observer = new Observer(scene, service);
    scene.atEnd(() => observer.close());
    const links = new Map<string, string>();
    const there = await observer.links();
    for (const { sf_rep_net_device: name } of [driven, vhost, target]) links.set(name, factsOf(there, name));
    const vuids = (await listed(observer)).map(({ vuid }) => vuid);
    const managers = { manager, vhostd, vhostKeeper };
    const parts = {
      scene,
      service,
      ...managers,
      builds,
      target,
      driven,
      pump,
      vhost,
      testpmd,
      sender,
      capture,
    };
    return new ChaosStage({ ...parts, links, vuids, observer });
  }

  get staticPf(): string {
    return STATIC_PF;
  }

  get extraMac(): string {
    return mac(96);
  }

  /**
   * Waits until everybody is there and an emulator serves, and throws when something is not as it should be. Whether the
   * standby could take over already is not waited for: whatever needs that waits for it.
   */
  async check(): Promise<void> {
    const { service, observer } = this;
    await until('an emulator that serves', PATIENCE_MS, () => observer.serves(), LOOK_MS);
    for (const role of ROLES)
      await until(`${role} runs`, PATIENCE_MS, () => service.pid(role) !== null, LOOK_MS);
    const before = this.#positions();
    const configured = this.#configured();
    configured.catch(() => {}); // awaited below
    const devices = await until('the list', PATIENCE_MS, () => listed(observer), LOOK_MS);
    const expected = new Set([...this.#vuids, ...(this.extra === null ? [] : [this.extra.vuid])]);
    const vfs = devices.filter(({ function_type }) => function_type === 'VF');
    const others = devices.filter(({ function_type }) => function_type !== 'VF').map(({ vuid }) => vuid);
    const lost = [...expected].filter((vuid) => !others.includes(vuid));
    const odd = others.filter((vuid) => !expected.has(vuid));
    if (lost.length > 0) throw new Error(`lost: ${lost.join(', ')}`);
    if (odd.length > 0) throw new Error(`nobody made: ${odd.join(', ')}`);
    if (vfs.length !== this.vfs) throw new Error(`${vfs.length} VFs instead of ${this.vfs}`);
    for (const { sf_rep_net_device: name } of vfs) this.#ofVfs.add(name);
    const wanted = new Set([...devices.map(({ sf_rep_net_device: name }) => name), ...this.#ofVfs]);
    const there = await this.#representors([...wanted].sort());
    for (const [name, facts] of this.#links) {
      const now = factsOf(there, name);
      if (now !== facts) throw new Error(`the link of ${name} changed: ${facts}, now ${now}`);
    }
    const mtu = there.get(this.target.sf_rep_net_device)?.mtu;
    if (mtu !== this.settings.mtu)
      throw new Error(`the representor has MTU ${mtu}, modify has set ${this.settings.mtu}`);
    await configured;
    const lostBy = observer.lost();
    if (lostBy !== null) throw new Error(`vfe-vhostd says: ${lostBy}`);
    const moved = () => this.#positions().every((now, index) => now > before[index]!);
    await until('every stream moves', PATIENCE_MS, moved, FRAME_MS);
  }

  /** A client of the target's function, which connects now; another one gets ready. */
  async client(): Promise<Child> {
    const client = this.#client;
    await client.printed(/ready/, PATIENCE_MS);
    client.write('\n');
    this.#client = this.#startClient();
    return client;
  }

  #startClient(): Child {
    const command = [pinnedNode, CLIENT_PROGRAM, this.service.socket(this.target.bdf), 'held'];
    return this.scene.processes.start(command, { name: 'vfio-user client', stdin: 'pipe' });
  }

  /** Starts the controller, which was killed, again. */
  async startController(): Promise<void> {
    await this.manager.exited;
    this.manager.start();
    await this.manager.ready();
  }

  /** Whether an emulator serves, and a standby could take over at once. */
  async isWarm(): Promise<boolean> {
    return (await this.observer.serves()) && (await this.observer.standbyWarm());
  }

  /** Waits for a standby that could take over at once. */
  settled(): Promise<void> {
    return settled(this.service);
  }

  /** What everybody holds who holds things of guests; comparable while the same functions are there. */
  holdings(): Record<(typeof HOLDERS)[number], Held> {
    const { service } = this;
    return {
      emu: heldBy(service.runningPid('emu')),
      ha: heldBy(service.runningPid('ha')),
      'vfe-vhostd': heldBy(this.vhostd.pid),
      'vfe-vhostd-ha': heldBy(this.vhostKeeper.pid),
    };
  }

  /** Ends the streams and says what became of them. */
  async finish(): Promise<readonly Traffic[]> {
    const { report: driven, dropped: drivenDropped } = await this.#finishPump();
    const sent = Number((await this.#sender.finish()).split(' ')[0]);
    const counters = () => this.observer.counters().get(this.#vhost.sf_rep_net_device);
    await until('the last frames', PATIENCE_MS, async () => {
      const before = counters()?.received;
      await sleep(SETTLE_MS);
      return counters()?.received === before;
    });
    const arrivals = (await this.#capture.finish()).flatMap(({ bytes, timeUs }): Arrival[] => {
      const packet = readStreamPacket(udpPayload(bytes) ?? Buffer.alloc(0));
      return packet === null ? [] : [{ ...packet, arrivedUs: timeUs }];
    });
    const { rxPackets, txPackets } = await this.#testpmd.statistics();
    const dropped = (counters()?.dropped ?? 0) + rxPackets - txPackets;
    await this.#testpmd.quit();
    const { atDriver, atHost } = this.#pump.arrivals;
    return [
      { name: 'to driver', arrivals: atDriver, report: driven.toDriver, dropped: drivenDropped, queues: 1 },
      { name: 'from driver', arrivals: atHost, report: driven.fromDriver, dropped: 0, queues: 1 },
      {
        name: 'vhost, to and fro',
        arrivals,
        report: analyseStream(arrivals, 0, sent),
        dropped,
        queues: 2,
      },
    ];
  }

  async #finishPump() {
    const { dropped, ...report } = await this.#pump.finish();
    await this.#pump.close();
    return { report, dropped };
  }

  async #representors(wanted: readonly string[]): Promise<ReadonlyMap<string, LinkFacts>> {
    let there: string[] = [];
    const look = async () => {
      const links = await this.observer.links();
      there = [...links.keys()].filter((name) => REPRESENTOR.test(name)).sort();
      return there.join() === wanted.join() ? links : null;
    };
    return until('the representors', PATIENCE_MS, look, LOOK_MS).catch(() => {
      throw new Error(`representors: there are ${there.join(', ')} instead of ${wanted.join(', ')}`);
    });
  }

  /** The functions are as `modify` has made them. */
  async #configured(): Promise<void> {
    const { mac, mtu, period, maxCount } = this.settings;
    const wanted = `${mac} ${mtu} ${period} ${maxCount}`;
    const [target, driven] = await Promise.all(
      [this.target, this.driven].map(({ vuid }) => queried(this.observer, vuid)),
    );
    const queue = driven?.['enabled-queues-info']?.[0];
    const found = `${target?.mac} ${target?.mtu} ${queue?.rq_cq_period} ${queue?.rq_cq_max_count}`;
    if (found !== wanted) throw new Error(`modify has set ${wanted}, there is ${found}`);
  }

  /** How far each stream is. */
  #positions(): number[] {
    const counters = this.observer.counters();
    const from = ({ sf_rep_net_device: name }: Hotplugged) => counters.get(name)?.received ?? 0;
    return [this.#pump.received, from(this.driven), from(this.#vhost)];
  }
}

/** As `systemctl stop` of both: the functions are let go, and nothing of them is kept. */
async function endVhost(vhostd: FakeServiceManager, keeper: FakeServiceManager): Promise<void> {
  signalPid(vhostd.pid, 'SIGINT');
  const code = await vhostd.exited;
  if (code !== 0) throw new Error(`vfe-vhostd ended with ${code}`);
  await until('nothing is kept but the log of the keeper', PATIENCE_MS, () => keeper.names().length <= LOGS);
  const keeperCode = await keeper.stop();
  if (keeperCode !== 0) throw new Error(`vfe-vhostd-ha ended with ${keeperCode}`);
}

/** Whether a process that was killed is gone. */
export function gone(pid: number): Promise<unknown> {
  return until(`the end of ${pid}`, PATIENCE_MS, () => !isRunning(pid), 1);
}

async function listed(observer: Observer): Promise<readonly Listed[]> {
  return (await observer.ask<{ devices: Listed[] }>('list', {})).devices;
}

/** One device, as `virtnet query` shows it. */
async function queried(observer: Observer, vuid: string): Promise<Queried> {
  const params = { ...deviceOf(vuid), brief: false, queue: null };
  const ask = async () => (await observer.ask<{ devices?: Queried[] }>('query', params)).devices?.[0];
  return until(`${vuid} is there`, PATIENCE_MS, ask);
}

function factsOf(links: ReadonlyMap<string, LinkFacts>, name: string): string {
  const link = links.get(name);
  if (link === undefined) throw new Error(`no link ${name}`);
  return `number ${link.ifindex}, ${link.carrier_changes} carrier changes`;
}

function heldBy(pid: number): Held {
  return { kinds: descriptorKinds(pid), ...holdingsOf(pid) };
}
