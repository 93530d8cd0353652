/** test-driver.ts: brings a function up as a driver does, in this process or through a vfio-user client. */
import { close, dup, eventfd, eventfdDrain } from '@virtnet/host-linux';
import type { DmaMapRequest, IrqRequest } from '@virtnet/server-vfio-user';
import { DeviceStatus, NO_VECTOR, PciMsix, VfioPciRegion, VirtioPciCommon } from '@virtnet/wire';
import { IrqIndex } from '../device-interrupts.js';
import type { TestDevice } from './test-device.js';
import { type TestMemory, TestRing } from './test-ring.js';

/** What a driver needs of a function; descriptors stay the driver's. */
export interface FunctionClient {
  read(region: number, offset: number, count: number): Promise<Uint8Array> | Uint8Array;
  write(region: number, offset: number, bytes: Uint8Array): unknown;
  dmaMap(request: DmaMapRequest): Promise<unknown>;
  setIrqs(request: IrqRequest): Promise<unknown>;
}

export interface BringUp {
  readonly memory: TestMemory;
  readonly features: bigint;
  /** Queues to enable, by index. */
  readonly queues: readonly number[];
  readonly queueSize?: number;
  /** Vector 0 is for configuration, vector 1 + index for a queue. Default true. */
  readonly vectors?: boolean;
}

const BAR = 0;
const MSIX_ENABLE = 0x8000;
const { ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK } = DeviceStatus;
const { at } = VirtioPciCommon;

/** Calls of `device` as a client would make them: a descriptor is duplicated, as a socket does. */
export function clientOf({ access }: TestDevice): FunctionClient {
  const given = async (fds: readonly number[], call: (fds: number[]) => Promise<number>) => {
    const copies = fds.map((fd) => dup(fd));
    const answer = await call(copies);
    if (answer === 0) return;
    for (const fd of copies) close(fd);
    throw new Error(`errno ${-answer}`);
  };
  return {
    read: (region, offset, count) => access.read(region, offset, count),
    write: (region, offset, bytes) => access.write(region, offset, bytes),
    dmaMap: ({ fd, ...range }) =>
      given(fd === null ? [] : [fd], ([copy]) => access.dmaMap({ ...range, fd: copy ?? null })),
    setIrqs: ({ fds, ...request }) =>
      given(fds ?? [], (copies) => access.setIrqs(fds === undefined ? request : { ...request, fds: copies })),
  };
}

export class TestDriver {
  readonly client: FunctionClient;
  readonly rings = new Map<number, TestRing>();
  /** By vector. */
  readonly events: number[] = [];

  constructor(client: FunctionClient) {
    this.client = client;
  }

  static async start(client: FunctionClient, options: BringUp): Promise<TestDriver> {
    const driver = new TestDriver(client);
    await driver.mapMemory(options.memory);
    await driver.negotiate(options.features);
    if (options.vectors ?? true) await driver.takeVectors(2 + Math.max(...options.queues));
    for (const queue of options.queues) {
      await driver.enable(queue, new TestRing(options.memory, options.queueSize ?? 64));
    }
    await driver.register('deviceStatus', 1, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    return driver;
  }

  async register(name: keyof typeof at, bytes: number, value: number | bigint): Promise<void> {
    const data = new Uint8Array(8);
    new DataView(data.buffer).setBigUint64(0, BigInt(value), true);
    await this.client.write(BAR, at[name], data.subarray(0, bytes));
  }

  async status(): Promise<number> {
    return (await this.client.read(BAR, at.deviceStatus, 1))[0]!;
  }

  mapMemory({ iova, sizeBytes, fd }: TestMemory): Promise<unknown> {
    return this.client.dmaMap({ iova, sizeBytes, fdOffset: 0, readable: true, writable: true, fd });
  }

  async negotiate(features: bigint): Promise<void> {
    await this.register('deviceStatus', 1, 0);
    await this.register('deviceStatus', 1, ACKNOWLEDGE | DRIVER);
    for (const word of [0, 1]) {
      await this.register('driverFeatureSelect', 4, word);
      await this.register('driverFeature', 4, (features >> BigInt(32 * word)) & 0xffff_ffffn);
    }
    await this.register('deviceStatus', 1, ACKNOWLEDGE | DRIVER | FEATURES_OK);
  }

  /** Enables MSI-X and gives each vector an event. */
  async takeVectors(count: number): Promise<void> {
    const config = await this.client.read(VfioPciRegion.CONFIG, 0, 256);
    let capability = config[0x34]!;
    while (capability !== 0 && config[capability] !== 0x11) capability = config[capability + 1]!;
    const control = new Uint8Array(2);
    new DataView(control.buffer).setUint16(0, MSIX_ENABLE, true);
    await this.client.write(VfioPciRegion.CONFIG, capability + PciMsix.at.control, control);
    for (let i = 0; i < count; i++) this.events.push(eventfd());
    const request = { index: IrqIndex.MSIX, start: 0, count, action: 'trigger', data: 'eventfd' } as const;
    await this.client.setIrqs({ ...request, fds: this.events });
    await this.register('configVector', 2, 0);
  }

  async enable(queue: number, ring: TestRing): Promise<void> {
    this.rings.set(queue, ring);
    await this.register('queueSelect', 2, queue);
    await this.register('queueSize', 2, ring.size);
    await this.register('queueVector', 2, this.events.length > queue + 1 ? queue + 1 : NO_VECTOR);
    await this.register('queueDescriptor', 4, ring.descriptorAddress);
    await this.register('queueDriver', 4, ring.driverAddress);
    await this.register('queueDevice', 4, ring.deviceAddress);
    await this.register('queueEnable', 2, 1);
  }

  ring(queue: number): TestRing {
    return this.rings.get(queue)!;
  }

  /** Interrupts of a vector since the last call. */
  interrupts(vector: number): number {
    return eventfdDrain(this.events[vector]!);
  }

  close(): void {
    for (const fd of this.events.splice(0)) close(fd);
  }
}
