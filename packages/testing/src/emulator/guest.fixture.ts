/** guest.fixture.ts: a guest as far as a function can tell: a vfio-user client, memory, a driver. */
import {
  close,
  eventfd,
  eventfdDrain,
  eventfdSignal,
  memfdCreate,
  type SharedMapping,
  sharedMapping,
} from '@virtnet/host-linux';
import { VfioUserClient } from '@virtnet/server-vfio-user';
import { DeviceStatus, NetHeader, VfioPciIrq } from '@virtnet/wire';
import { DriverMemory } from '../driver-memory.js';
import { type FunctionAccess, overRegions } from '../function-access.js';
import type { PackedDriver } from '../packed-driver.js';
import type { SplitDriver } from '../split-driver.js';
import { type NetDriverOptions, type NetRing, nextOf, VirtioNetDriver } from '../virtio-net-driver.js';
import { type EmulatorService, eventually, type Hotplugged } from './emulator-service.fixture.js';
import { numberedFrame, numberOf, PORT } from './network.fixture.js';

const MEMORY_BYTES = 16 << 20;
const MEMORY_IOVA = 0x1_0000_0000n;

export interface GuestOptions extends Partial<Omit<NetDriverOptions, 'memory'>> {
  /** Vectors to give events for; the driver maps one to configuration and one to each queue. */
  readonly events?: number;
  /** Interface with the host's address; default: the representor. */
  readonly hostInterface?: string;
}

type StartDriver<Ring extends NetRing> = (
  access: FunctionAccess,
  options: NetDriverOptions,
) => Promise<VirtioNetDriver<Ring>>;

export class Guest<Ring extends NetRing = SplitDriver> {
  readonly client: VfioUserClient;
  readonly driver: VirtioNetDriver<Ring>;
  readonly device: Hotplugged;
  readonly memoryFd: number;
  readonly events: readonly number[];
  readonly #hostMac: Uint8Array;
  readonly #guestMac: Uint8Array;
  readonly #mapping: SharedMapping;
  readonly #ends: readonly string[];
  #kickFds: readonly number[] = [];

  private constructor(
    parts: Pick<Guest<Ring>, 'client' | 'driver' | 'device' | 'memoryFd' | 'events'>,
    hostMac: Uint8Array,
    mapping: SharedMapping,
    ends: readonly string[],
  ) {
    this.client = parts.client;
    this.driver = parts.driver;
    this.device = parts.device;
    this.memoryFd = parts.memoryFd;
    this.events = parts.events;
    this.#hostMac = hostMac;
    this.#guestMac = Uint8Array.from(parts.device.mac.split(':'), (byte) => Number.parseInt(byte, 16));
    this.#mapping = mapping;
    this.#ends = ends;
  }

  /** Connects, shares memory, and brings the device up. */
  static start(service: EmulatorService, device: Hotplugged, options: GuestOptions = {}): Promise<Guest> {
    return Guest.#begin(service, device, options, VirtioNetDriver.start);
  }

  /** The same with packed rings. */
  static startPacked(
    service: EmulatorService,
    device: Hotplugged,
    options: GuestOptions = {},
  ): Promise<Guest<PackedDriver>> {
    return Guest.#begin(service, device, options, VirtioNetDriver.startPacked);
  }

  static async #begin<Ring extends NetRing>(
    service: EmulatorService,
    device: Hotplugged,
    { events = 0, hostInterface = device.representor, ...options }: GuestOptions,
    start: StartDriver<Ring>,
  ): Promise<Guest<Ring>> {
    const ends: string[] = [];
    const client = await VfioUserClient.connect(device.socket, {
      poller: service.poller,
      timeoutMs: 20_000,
      onClose: (errno) => ends.push(`errno ${errno}`),
    });
    const memoryFd = memfdCreate('test-guest', MEMORY_BYTES);
    const mapping = sharedMapping(memoryFd, MEMORY_BYTES);
    if (typeof mapping === 'number') throw new Error(`mmap: errno ${-mapping}`);
    const range = { iova: MEMORY_IOVA, sizeBytes: MEMORY_BYTES, fdOffset: 0 };
    await client.dmaMap({ ...range, fd: memoryFd, readable: true, writable: true });
    const memory = new DriverMemory({ sizeBytes: MEMORY_BYTES, iova: MEMORY_IOVA, buffer: mapping.buffer });
    const fds = Array.from({ length: events }, () => eventfd());
    const vectors = {
      index: VfioPciIrq.MSIX,
      start: 0,
      count: events,
      action: 'trigger',
      data: 'eventfd',
    } as const;
    if (events > 0) await client.setIrqs({ ...vectors, fds });
    const driver = await start(overRegions(client), {
      memory,
      vectors: events > 0 ? 'per-queue' : 'none',
      ...options,
    });
    const parts = { client, driver, device, memoryFd, events: fds };
    return new Guest(parts, service.network.mac(hostInterface), mapping, ends);
  }

  /** Reasons for which the connection ended; none while it is as it should be. */
  get ends(): readonly string[] {
    return this.#ends;
  }

  /** Kicks go through events from now on, as with vhost-user, and not through registers. */
  async kickByEvents(): Promise<void> {
    const queues = this.driver.rings.flatMap((ring, queue) => (ring === undefined ? [] : [queue]));
    const fds: number[] = [];
    for (const queue of queues) {
      fds[queue] = eventfd();
      await this.client.queueKick(queue, fds[queue]!);
    }
    this.#kickFds = fds;
  }

  async publish(queue: number): Promise<void> {
    const ring = this.driver.ring(queue);
    if (ring.publish()) await this.notify(queue, nextOf(ring));
  }

  /** Kicks a queue, in which `next` is the next available index. */
  async notify(queue: number, next: number): Promise<void> {
    const kick = this.#kickFds[queue];
    if (kick === undefined) await this.driver.pci.notify(queue, next);
    else eventfdSignal(kick);
  }

  /** Adds a numbered frame to a transmit ring, not yet visible: what the ring calls it, or -1 when there is no room. */
  add(number: number, pair = 0, toPort = PORT): number {
    const frame = numberedFrame(number, this.#hostMac, this.#guestMac, { toPort });
    const readable = [new Uint8Array(NetHeader.sizeBytes), frame];
    return this.driver.ring(2 * pair + 1).add({ readable });
  }

  /** Sends numbered frames to the host, as many as the ring has room for at once. */
  async send(numbers: readonly number[], pair = 0): Promise<void> {
    const ring = this.driver.ring(2 * pair + 1);
    for (const number of numbers) {
      await eventually(
        'room in the transmit ring',
        () => ring.outstanding < ring.queueSize / 4 || this.reap(pair),
      );
      this.add(number, pair);
      await this.publish(2 * pair + 1);
    }
  }

  /** Takes back what was sent; whether there was anything. */
  reap(pair = 0): boolean {
    return this.driver.ring(2 * pair + 1).collect().length > 0;
  }

  /** Posts as many receive buffers as fit. */
  async post(pair = 0): Promise<void> {
    const ring = this.driver.ring(2 * pair);
    while (ring.add({ writable: [1526] }) >= 0) {
      // until it is full
    }
    await this.publish(2 * pair);
  }

  /** Numbers of the frames received since the last call; `tagged`: only those behind a VLAN tag. */
  received(pair = 0, tagged = false): number[] {
    return this.driver
      .received(pair)
      .map(({ frame }) => numberOf(frame, tagged))
      .filter((number) => number >= 0);
  }

  async needsReset(): Promise<boolean> {
    return ((await this.driver.pci.status()) & DeviceStatus.NEEDS_RESET) !== 0;
  }

  /** Interrupts of a vector since the last call. */
  interrupts(vector: number): number {
    return eventfdDrain(this.events[vector]!);
  }

  /** Goes without a word, as a machine that is killed. */
  close(): void {
    this.client.close();
    for (const fd of [...this.events, ...this.#kickFds.filter((kick) => kick !== undefined)]) close(fd);
    this.#mapping.close();
    close(this.memoryFd);
  }
}
