/** test-device.ts: a function with everything around it but processes, threads and a real TAP. */
import { type DevicePlan, FunctionKind, restorePlan } from '@virtnet/engine-control';
import { hotplugFeatures } from '@virtnet/engine-virtio-net';
import { Arena, close, Poller, socketPair } from '@virtnet/host-linux';
import { DeviceAccess } from '../device-access.js';
import { buildDevice } from '../device-factory.js';
import type { DeviceHost } from '../device-host.js';
import type { HostServices } from '../device-parts.js';
import { restoreDevice } from '../device-restore.js';
import { DeviceStore } from '../device-store.js';
import { DeviceTaps } from '../device-taps.js';
import { LocalShelf } from '../local-shelf.js';
import { type DeviceMirror, Mirror } from '../mirror.js';
import { InlineDatapath } from './inline-datapath.js';

export function testPlan(change: Partial<DevicePlan> = {}): DevicePlan {
  const plan = restorePlan({
    kind: FunctionKind.HOTPLUG_PF,
    pfId: 3,
    vfId: null,
    switchPort: 2,
    address: 0x1700,
    sfNum: 2002,
    ibDevice: 'mlx5_0',
    mac: '0C:C4:7A:FF:22:93',
    mtu: 1500,
    queuePairs: 2,
    queueSize: 64,
    msixVectors: 6,
    features: `0x${hotplugFeatures({ uso: false }).toString(16)}`,
    ...change,
  });
  if (typeof plan === 'string') throw new Error(plan);
  return plan;
}

export function pairOfSockets(): readonly [number, number] {
  const pair = socketPair('seqpacket');
  if (typeof pair === 'number') throw new Error(`socketpair: errno ${-pair}`);
  return pair;
}

/** Memory, workers, keeper and log that several functions share. */
export class TestWorld {
  readonly arena = Arena.reserve(2 ** 32);
  readonly datapath = new InlineDatapath(this.arena);
  readonly poller = new Poller();
  readonly shelf = new LocalShelf();
  readonly said: string[] = [];
  readonly services: HostServices;

  constructor() {
    this.poller.start();
    this.services = {
      datapath: this.datapath,
      poller: this.poller,
      store: new DeviceStore(this.shelf, () => {}),
      sourceFrameBytes: 1500,
      log: (_, message) => this.said.push(message),
    };
  }

  /** The representor is one socket a pair; the other ends are `network`. */
  device(plan = testPlan()): TestDevice {
    const pairs = Array.from({ length: plan.queuePairs }, pairOfSockets);
    const taps = new DeviceTaps(
      plan.representor,
      pairs.map(([tap]) => tap),
    );
    const host = buildDevice(plan, 'tap', 'test', taps, this.arena, this.services);
    if (typeof host === 'number') throw new Error(`device: errno ${-host}`);
    return new TestDevice(
      host,
      pairs.map(([, network]) => network),
    );
  }

  /** What a standby would hold of the only device. */
  mirrored(): DeviceMirror {
    const mirror = new Mirror(this.arena);
    this.shelf.tell(mirror);
    const [device, ...others] = mirror.take();
    if (device === undefined || others.length > 0) throw new Error('there is not exactly one device');
    return device;
  }

  restored(mirror = this.mirrored()): { readonly mirror: DeviceMirror; readonly device: TestDevice } {
    const restored = restoreDevice(mirror, this.services);
    if (typeof restored === 'string') throw new Error(restored);
    return { mirror, device: new TestDevice(restored.host, []) };
  }

  async close(): Promise<void> {
    this.shelf.clear();
    this.datapath.close();
    await this.poller.stop();
  }
}

export class TestDevice {
  readonly host: DeviceHost;
  readonly access: DeviceAccess;
  readonly network: readonly number[];

  constructor(host: DeviceHost, network: readonly number[]) {
    this.host = host;
    this.access = new DeviceAccess(host);
    this.network = network;
  }

  async end(): Promise<void> {
    await this.host.destroy();
    for (const fd of this.network) close(fd);
  }
}
