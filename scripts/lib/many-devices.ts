/**
 * many-devices.ts: a service with many functions, each with a driver whose rings run.
 *
 * Theory
 *   The functions are hotplug PFs as long as the default configuration has ports for them, and VFs of static PFs beyond
 *   that. Every driver is packages/testing's, over vfio-user, in this process.
 *   What a guest would feel of a takeover: every function has a frame available when the emulator is killed, and its pause ends
 *   when the frame leaves through its representor, by the kernel's stamp. The frames are made available just before the kill,
 *   while the queues sleep, and no notification is sent: all drivers are this one process, which would keep the processors
 *   from the takeover for as long as it takes, and would be late itself. The capture hands its packets over when all is over.
 *   Beside it stands what the same measurement says of a device that lives: a frame and its notification, one after the other.
 *
 * Limits  A frame that left before the kill, because something else woke the queue, tells of no pause and is left out.
 */
import { Poller } from '@virtnet/host-linux';
import { BoundFunction } from '../../test/lib/bound-function.ts';
import { HostCapture } from '../../test/lib/capture.ts';
import { udpFrame } from '../../test/lib/frames.ts';
import type { Service } from '../../test/lib/service.ts';
import { wallClockUs } from '../../test/lib/stream-packet.ts';
import { sleep, until } from '../../test/lib/waiting.ts';
import { configure, setVfs } from './scale-stage.ts';

const HOTPLUG_MAX = 16;
const STATIC_PFS = 4;
const QUEUE_SIZE = 64;
const RECEIVE_BUFFERS = 32;
const PAUSE_MS_MAX = 60_000;
/** A queue that has nothing to do sleeps by then. */
const ASLEEP_MS = 50;
const TRANSMIT_QUEUE = 1;
const PORT = 7801;
/** How often it is looked whether all is over; nothing is measured by it. */
const LOOK_MS = 100;

interface Listed {
  readonly function_type: string;
  readonly pci_bdf: string;
}

export class ManyDevices {
  readonly #service: Service;
  readonly #poller: Poller;
  readonly #functions: readonly BoundFunction[];
  readonly #capture: HostCapture;
  #rounds = 0;

  private constructor(
    service: Service,
    poller: Poller,
    functions: readonly BoundFunction[],
    capture: HostCapture,
  ) {
    this.#service = service;
    this.#poller = poller;
    this.#functions = functions;
    this.#capture = capture;
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
    const capture = await HostCapture.start(service.scene, 'any', ['udp', 'dst', 'port', `${PORT}`], {
      direction: 'in',
      atOnce: false,
    });
    return new ManyDevices(service, poller, functions, capture);
  }

  /** Moves a frame through every function, one after the other; for how many milliseconds each was on its way. */
  async exercise(): Promise<number[]> {
    const round = this.#rounds++;
    const sinceUs: number[] = [];
    for (const [index, { driver }] of this.#functions.entries()) {
      sinceUs.push(wallClockUs());
      if (this.#offer(index, round)) await driver.pci.notify(TRANSMIT_QUEUE);
    }
    const left = await this.#left(round);
    return left.map((us, index) => (us - sinceUs[index]!) / 1000);
  }

  /** Kills the active emulator; for how many milliseconds nobody worked each of the functions. */
  async kill(): Promise<number[]> {
    await sleep(ASLEEP_MS);
    const round = this.#rounds++;
    for (const index of this.#functions.keys()) this.#offer(index, round);
    const { pid, atUs } = this.#service.killEmu();
    const left = await this.#left(round);
    await this.#service.recovered(pid);
    return left.filter((us) => us > atUs).map((us) => (us - atUs) / 1000);
  }

  /** Ends the drivers; the functions stay. */
  async close(): Promise<void> {
    await this.#capture.finish();
    for (const fn of this.#functions) {
      await fn.driver.stop();
      await fn.close();
    }
    await this.#poller.stop();
  }

  /** Has a function's driver make a frame available; whether the device is to be notified. */
  #offer(index: number, round: number): boolean {
    const ring = this.#functions[index]!.driver.ring(TRANSMIT_QUEUE);
    if (ring.add({ readable: [HEADER, frameOf(index, round)] }) < 0)
      throw new Error('a transmit queue is full');
    return ring.publish();
  }

  /** Waits until every function has sent its frame of a round and given it back; when each left, in us. */
  async #left(round: number): Promise<number[]> {
    const given = new Set<number>();
    const left = await until(
      `frames of ${this.#functions.length} functions`,
      PAUSE_MS_MAX,
      () => {
        for (const [index, { driver }] of this.#functions.entries())
          if (!given.has(index) && driver.ring(TRANSMIT_QUEUE).collect().length > 0) given.add(index);
        if (given.size < this.#functions.length) return null;
        const stamps = this.#stamps(round);
        return stamps.size === this.#functions.length ? stamps : null;
      },
      LOOK_MS,
    );
    return [...this.#functions.keys()].map((index) => left.get(index)!);
  }

  /** When the first frame of each function in a round left, by function. */
  #stamps(round: number): Map<number, number> {
    const stamps = new Map<number, number>();
    for (const { timeUs, bytes } of this.#capture.packets()) {
      const at = bytes.indexOf(MARK);
      if (at < 0 || bytes.readUInt32LE(at + MARK.length) !== round) continue;
      const index = bytes.readUInt32LE(at + MARK.length + 4);
      if (!stamps.has(index)) stamps.set(index, timeUs);
    }
    return stamps;
  }
}

const HEADER = new Uint8Array(12);
const MARK = Buffer.from('many-devices');

function frameOf(index: number, round: number): Buffer {
  const payload = Buffer.alloc(64);
  MARK.copy(payload);
  payload.writeUInt32LE(round, MARK.length);
  payload.writeUInt32LE(index, MARK.length + 4);
  return udpFrame({
    source: '10.78.0.2',
    destination: '10.78.0.1',
    sourceMac: '02:00:00:00:00:02',
    destinationMac: '02:00:00:00:00:01',
    port: PORT,
    payload,
  });
}

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
