/**
 * many-devices.ts: a service with many functions, each with a driver whose rings run.
 *
 * Theory
 *   The functions are hotplug PFs as long as the default configuration has ports for them, and VFs of static PFs beyond
 *   that. Every driver is packages/testing's, over vfio-user, in this process.
 *   What a guest would feel of a takeover: right after the kill every driver makes a frame available, and notifies the
 *   device by its register, which the successor answers; a function's pause ends when the frame comes back. The rings are looked at
 *   every LOOK_MS: that is the resolution, and leaves the processors to the service.
 */
import { Poller } from '@virtnet/host-linux';
import { BoundFunction } from '../../test/lib/bound-function.ts';
import { udpFrame } from '../../test/lib/frames.ts';
import type { Service } from '../../test/lib/service.ts';
import { sleep } from '../../test/lib/waiting.ts';
import { configure, setVfs } from './scale-stage.ts';

const HOTPLUG_MAX = 16;
const STATIC_PFS = 4;
const QUEUE_SIZE = 64;
const RECEIVE_BUFFERS = 32;
const LOOK_MS = 1;
const PAUSE_MS_MAX = 60_000;
const TRANSMIT_QUEUE = 1;

interface Listed {
  readonly function_type: string;
  readonly pci_bdf: string;
}

export class ManyDevices {
  readonly #service: Service;
  readonly #poller: Poller;
  readonly #functions: readonly BoundFunction[];

  private constructor(service: Service, poller: Poller, functions: readonly BoundFunction[]) {
    this.#service = service;
    this.#poller = poller;
    this.#functions = functions;
  }

  /** Makes `count` functions in a service that has none, a multiple of STATIC_PFS where there are more than hotplug ports. */
  static async start(service: Service, count: number): Promise<ManyDevices> {
    const bdfs = count <= HOTPLUG_MAX ? await plug(service, count) : await makeVfs(service, count);
    await service.scene.net.ip('link set group default up');
    const poller = new Poller();
    poller.start();
    const functions: BoundFunction[] = [];
    for (const bdf of bdfs) {
      const fn = await BoundFunction.open(service.socket(bdf), undefined, poller);
      functions.push(fn);
      const driver = await fn.start({ queueSize: QUEUE_SIZE, pairs: 1 });
      await driver.postReceive(0, RECEIVE_BUFFERS);
    }
    return new ManyDevices(service, poller, functions);
  }

  /** Moves a frame through every function; resolves when all came back. */
  async exercise(): Promise<void> {
    const since = performance.now();
    for (const { driver } of this.#functions) await driver.transmit(0, FRAME);
    await this.#pauses(since);
  }

  /** Kills the active emulator; for how many milliseconds nobody worked each of the functions. */
  async kill(): Promise<number[]> {
    const since = performance.now();
    const { pid } = this.#service.killEmu();
    const notified: Promise<unknown>[] = [];
    for (const { driver } of this.#functions) {
      const ring = driver.ring(TRANSMIT_QUEUE);
      if (ring.add({ readable: [HEADER, FRAME] }) < 0) throw new Error('a transmit queue is full');
      if (ring.publish()) notified.push(driver.pci.notify(TRANSMIT_QUEUE));
    }
    const pauses = await this.#pauses(since);
    await Promise.all(notified);
    await this.#service.recovered(pid);
    return pauses;
  }

  /** Ends the drivers; the functions stay. */
  async close(): Promise<void> {
    for (const fn of this.#functions) {
      await fn.driver.stop();
      await fn.close();
    }
    await this.#poller.stop();
  }

  async #pauses(sinceMs: number): Promise<number[]> {
    const pauses: number[] = [];
    let waiting = this.#functions.map(({ driver }) => driver.ring(TRANSMIT_QUEUE));
    while (waiting.length > 0) {
      await sleep(LOOK_MS);
      const now = performance.now();
      waiting = waiting.filter((ring) => {
        if (ring.collect().length === 0) return true;
        pauses.push(now - sinceMs);
        return false;
      });
      if (now - sinceMs > PAUSE_MS_MAX) throw new Error(`${waiting.length} functions are worked by nobody`);
    }
    return pauses;
  }
}

const HEADER = new Uint8Array(12);
const FRAME = udpFrame({
  source: '10.78.0.2',
  destination: '10.78.0.1',
  sourceMac: '02:00:00:00:00:02',
  destinationMac: '02:00:00:00:00:01',
  port: 7801,
  payload: Buffer.alloc(64),
});

async function plug(service: Service, count: number): Promise<string[]> {
  const bdfs: string[] = [];
  for (let index = 0; index < count; index++) {
    const mac = `0C:C4:7A:FF:25:${index.toString(16).padStart(2, '0').toUpperCase()}`;
    bdfs.push((await service.hotplug({ mac, queueSize: QUEUE_SIZE })).bdf);
  }
  return bdfs;
}

/** Makes `count` VFs, a multiple of STATIC_PFS, in a service that has none; their addresses. */
export async function makeVfs(service: Service, count: number): Promise<string[]> {
  const shape = { staticPfs: STATIC_PFS, vfsPerPf: count / STATIC_PFS, hotplugPfs: 0 };
  await configure(service, shape);
  await setVfs(service, shape, shape.vfsPerPf);
  const { devices } = await service.answer<{ devices: readonly Listed[] }>('--json', 'list');
  return devices.filter(({ function_type }) => function_type === 'VF').map(({ pci_bdf }) => pci_bdf);
}
