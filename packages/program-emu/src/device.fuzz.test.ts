/**
 * Any client and any driver of a function, with everything behind it but threads: messages of every kind, rings full of
 * anything, kicks and frames between a question and its answer. Every message is answered, what is recorded can be taken
 * over, a neighbour on the same worker goes on, and when the client has gone nothing of it is held.
 */
import { hotplugFeatures } from '@virtnet/engine-virtio-net';
import { close, dup, eventfd, eventfdSignal, memfdCreate, Receiver, send } from '@virtnet/host-linux';
import { ServerSession } from '@virtnet/server-vfio-user';
import {
  DescriptorFlag,
  featureMask,
  NetFeature,
  PackedFlag,
  VfioPciIrq,
  VfioPciRegion,
  VfioUserCommand,
  VfioUserDmaMap,
  VfioUserDmaUnmap,
  VfioUserFlags,
  VfioUserHeader,
  VfioUserIrqSet,
  VfioUserQueueBase,
  VfioUserQueueEnable,
  VfioUserQueueKick,
  VfioUserRegionAccess,
  VirtioFeature,
  VirtioPciCommon,
} from '@virtnet/wire';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { tryRecord } from './device-engines.js';
import { decodeDeviceRecord, encodeDeviceRecord } from './device-record.js';
import { openFds } from './test-support/holdings.js';
import { type TestDevice, TestWorld, testPlan } from './test-support/test-device.js';
import { clientOf, TestDriver } from './test-support/test-driver.js';
import { TestMemory } from './test-support/test-ring.js';
import { frame, HEADER_BYTES } from './test-support/worker-fixture.js';

const RUNS = 60;
const TIMEOUT_MS = 300_000;
const QUEUES = 5;
const CONTROL = QUEUES - 1;
const MEMORY_BYTES = 1 << 20;
const IOVA = 0x10_0000n;
/** Of a queue in the client's memory: each part begins a page of its own. */
const QUEUE_BYTES = 0x4000;
const PAGE = 0x1000;
const BUFFERS_AT = QUEUES * QUEUE_BYTES;
const SLOTS = 64;
const C = VfioUserCommand;
const F = VirtioFeature;
const N = NetFeature;
const OFFERED =
  hotplugFeatures({ uso: false, vlan: true, packedVq: true, mrgRxbuf: true }) |
  featureMask([F.RING_RESET, N.RSS, N.HASH_REPORT]);
const LEFT_OUT = [F.RING_PACKED, F.INDIRECT_DESC, F.EVENT_IDX, N.MRG_RXBUF, N.RSS, N.HASH_REPORT, N.MQ];
const CAPABILITIES = { max_msg_fds: 16, write_multiple: true, virtnet: 1 };
const STATUS = [0, 1, 3, 0xb, 0xf, 0x80, 0x8f, 0x4f] as const;
const NETWORK_FRAME = Uint8Array.from([...new Uint8Array(HEADER_BYTES), ...frame(1)]);

/** What somebody does next; each act cuts the numbers to what it uses them for. */
interface Act {
  readonly kind: number;
  readonly a: number;
  readonly b: number;
  readonly c: number;
  readonly bytes: Uint8Array;
}

const number = fc.oneof(fc.nat(8), fc.nat(0xffff));
const anyAct: fc.Arbitrary<Act> = fc.record({
  // Rings at work, a client that does what clients do, and anything.
  kind: fc.oneof(
    { weight: 2, arbitrary: fc.constantFrom(19, 20, 21, 22, 23, 23, 27) },
    fc.constantFrom(0, 1, 6, 7, 8, 11, 11, 13, 15),
    fc.nat(27),
  ),
  a: number,
  b: fc.oneof(number, fc.nat(0xffff_ffff)),
  c: number,
  bytes: fc.uint8Array({ minLength: 2, maxLength: 24 }),
});

class Hostile {
  readonly #device: TestDevice;
  readonly #memory: TestMemory;
  readonly #session: ServerSession;
  /** The next slot of each ring. */
  readonly #slots = new Array<number>(QUEUES).fill(0);
  #messages = 0;

  constructor(device: TestDevice, memory: TestMemory) {
    this.#device = device;
    this.#memory = memory;
    this.#session = new ServerSession(device.access);
    device.host.session = () => this.#session.save();
  }

  async begin(without: number): Promise<void> {
    const json = new TextEncoder().encode(`${JSON.stringify({ capabilities: CAPABILITIES })}\0`);
    await this.#ask(C.VERSION, new Uint8Array([0, 0, 0, 0, ...json]));
    await this.#map();
    await this.#bringUp(without, SLOTS);
  }

  /** What a successor would make of the function now. */
  problems(): string | null {
    const { host, access } = this.#device;
    const encoded = encodeDeviceRecord(host.record());
    if (!(encoded instanceof Uint8Array)) return 'the record cannot be kept';
    const record = decodeDeviceRecord(encoded);
    if (typeof record === 'string') return record;
    const session = ServerSession.restore(access, record.session, host.memory.all());
    return 'error' in session ? session.error : tryRecord(record, host.page);
  }

  /** What the client asks, or what the driver does and then notifies by its register. */
  do(act: Act): Promise<void> | void {
    const { kind, a, b, c, bytes } = act;
    const queue = a % QUEUES;
    switch (kind) {
      case 0:
        return this.#bringUp(a, 1 << (c % 7));
      case 1:
        return this.#enable(queue, (c & 8) === 0 ? SLOTS : c);
      case 2:
        return this.#write(
          VfioPciRegion.BAR0,
          a % VirtioPciCommon.sizeBytes,
          bytes.subarray(0, 1 << (b & 3)),
        );
      case 3:
        return this.#write([0, 4, 7, 0, 2][b % 5]!, (c & 1) === 0 ? a : a % 0x100, bytes);
      case 4: {
        const access = { offset: BigInt(a), region: b % 10, count: c % 4096 };
        return this.#ask(C.REGION_READ, VfioUserRegionAccess.bytes(access));
      }
      case 5:
        return this.#register('deviceStatus', 1, STATUS[a % STATUS.length]!);
      case 6:
        return this.#resetQueue(queue);
      case 7:
        return this.#map();
      case 8:
      case 9: {
        const whole = (c & 1) === 0;
        const flags = kind === 8 ? 0 : b & 3;
        const range = flags === 2 ? { iova: 0n, sizeBytes: 0n } : this.#range(whole ? 0 : a);
        return this.#ask(C.DMA_UNMAP, VfioUserDmaUnmap.bytes({ argsz: 24, flags, ...range }));
      }
      case 10: {
        const iova = (c & 1) === 0 ? BigInt(b) << 12n : BigInt(b) << 32n;
        const range = { fdOffset: BigInt(c & 0xf000), iova, sizeBytes: BigInt((a & 0xff) << ((c & 3) * 6)) };
        const fds = (c & 2) === 0 ? [this.#descriptor(c >> 4)] : [];
        return this.#ask(C.DMA_MAP, VfioUserDmaMap.bytes({ argsz: 32, flags: b & 15, ...range }), fds);
      }
      case 11:
      case 12: {
        const usual = kind === 11;
        const count = a % (usual ? 4 : 8);
        const flags = usual ? 0x24 : c & 0x3f;
        const index = usual ? VfioPciIrq.MSIX : b % 6;
        const set = VfioUserIrqSet.bytes({ argsz: 20, flags, index, start: c % (usual ? 4 : 7), count });
        const odd = bytes[0]! < 32 ? bytes[1]! : 0;
        const fds = Array.from({ length: (flags & 4) === 0 ? 0 : count }, () => this.#descriptor(odd));
        const values = (flags & 2) === 0 ? [] : bytes.subarray(0, count);
        return this.#ask(C.DEVICE_SET_IRQS, new Uint8Array([...set, ...values]), fds);
      }
      case 13: {
        const fds = (c & 1) === 0 ? [this.#descriptor(c < 64 ? 0 : c)] : [];
        return this.#ask(C.QUEUE_KICK, VfioUserQueueKick.bytes({ queue: a % (QUEUES + 1), flags: 0 }), fds);
      }
      case 14:
        return this.#ask(C.QUEUE_BASE_SET, VfioUserQueueBase.bytes({ queue, base: b }));
      case 15:
        return this.#ask(C.QUEUE_BASE_GET, VfioUserQueueBase.bytes({ queue, base: 0 }));
      case 16:
        return this.#ask(C.QUEUE_ENABLE, VfioUserQueueEnable.bytes({ queue, enabled: c % 3 }));
      case 17:
        return this.#ask(C.DEVICE_RESET, bytes.subarray(0, b & 1));
      case 18: {
        const fds = Array.from({ length: b % 4 }, (_, i) => this.#descriptor(i));
        return this.#ask(a % 20, bytes, fds, (c & 1) === 0 ? 0 : VfioUserFlags.NO_REPLY);
      }
      default:
        this.meanwhile(act);
        return this.#notify(kind < 23 ? queue : CONTROL);
    }
  }

  /** What goes on without a question of the client's: kinds from 19 on. */
  meanwhile(act: Act): void {
    const { host, network } = this.#device;
    const { kind, a, b, c, bytes } = act;
    const queue = a % QUEUES;
    switch (kind) {
      case 19:
      case 20:
      case 21:
        for (let i = 0; i <= c % 8; i++) this.#describe(queue, { ...act, a: a + i });
        return host.kick(queue);
      case 22:
        for (const fd of host.state.kicks.values()) eventfdSignal(fd);
        return host.kick(queue);
      case 23:
        for (let i = 0; i < c % 8; i++) send(network[queue >> 1] ?? network[0]!, NETWORK_FRAME);
        return;
      case 24:
        return this.#memory.bytes.set(bytes, (a * 0x10001 + b) % (MEMORY_BYTES - bytes.length));
      case 25:
        return void host.movePair(a & 1, b & 1);
      case 26:
        return host.followUplink({ up: (a & 1) === 0, speedMbps: b % 400_000 });
      default:
        this.#command(act);
        return host.kick(CONTROL);
    }
  }

  /** Sends a message as a connection would: what the function does not take is closed. */
  async #ask(command: number, body: Uint8Array, fds: readonly number[] = [], flags = 0): Promise<void> {
    const sizeBytes = VfioUserHeader.sizeBytes + body.length;
    const header = { messageId: this.#messages & 0xffff, command, sizeBytes, flags, errno: 0 };
    const message = new Uint8Array([...VfioUserHeader.bytes(header), ...body]);
    const { takenFds, reply, changes } = await this.#session.handle(message, fds);
    for (const fd of fds) if (!takenFds.includes(fd)) close(fd);
    expect(reply === null).toBe((flags & VfioUserFlags.NO_REPLY) !== 0);
    const applied = { sequence: this.#messages++, digest: 0, reply: null };
    if (changes) this.#device.host.commit(applied);
  }

  #write(region: number, offset: number, bytes: Uint8Array): Promise<void> {
    const access = VfioUserRegionAccess.bytes({ offset: BigInt(offset), region, count: bytes.length });
    return this.#ask(C.REGION_WRITE, new Uint8Array([...access, ...bytes]));
  }

  #register(name: keyof typeof VirtioPciCommon.at, bytes: number, value: number | bigint): Promise<void> {
    const data = new Uint8Array(8);
    new DataView(data.buffer).setBigUint64(0, BigInt(value), true);
    return this.#write(VfioPciRegion.BAR0, VirtioPciCommon.at[name], data.subarray(0, bytes));
  }

  #range(a: number) {
    return { iova: IOVA + BigInt(a << 12), sizeBytes: BigInt(MEMORY_BYTES - (a & 7) * PAGE) };
  }

  #map(): Promise<void> {
    const body = VfioUserDmaMap.bytes({ argsz: 32, flags: 3, fdOffset: 0n, ...this.#range(0) });
    return this.#ask(C.DMA_MAP, body, [dup(this.#memory.fd)]);
  }

  /** An eventfd, or now and then what is none. */
  #descriptor(choice: number): number {
    if (choice % 8 === 7) return memfdCreate('odd', PAGE);
    return choice % 8 === 6 ? dup(this.#memory.fd) : eventfd();
  }

  /** Goes through what a driver does; `without`: which of LEFT_OUT it does not want. */
  async #bringUp(without: number, size: number): Promise<void> {
    await this.#register('deviceStatus', 1, 0);
    await this.#register('deviceStatus', 1, 3);
    this.#memory.bytes.fill(0, 0, BUFFERS_AT);
    this.#slots.fill(0);
    const unwanted = LEFT_OUT.filter((_, i) => ((without >> i) & 1) === 1);
    const features = this.#device.host.net.offeredFeatures & ~featureMask(unwanted);
    for (const word of [0, 1]) {
      await this.#register('driverFeatureSelect', 4, word);
      await this.#register('driverFeature', 4, (features >> BigInt(32 * word)) & 0xffff_ffffn);
    }
    await this.#register('deviceStatus', 1, 0xb);
    for (let queue = 0; queue < QUEUES; queue++) await this.#enable(queue, size);
    await this.#register('deviceStatus', 1, 0xf);
  }

  async #enable(queue: number, size: number): Promise<void> {
    const base = IOVA + BigInt(queue * QUEUE_BYTES);
    await this.#register('queueSelect', 2, queue);
    await this.#register('queueSize', 2, size);
    await this.#register('queueVector', 2, queue);
    await this.#register('queueDescriptor', 8, base);
    await this.#register('queueDriver', 8, base + BigInt(PAGE));
    await this.#register('queueDevice', 8, base + BigInt(2 * PAGE));
    await this.#register('queueEnable', 2, 1);
  }

  async #resetQueue(queue: number): Promise<void> {
    await this.#register('queueSelect', 2, queue);
    await this.#register('queueReset', 2, 1);
  }

  #notify(queue: number): Promise<void> {
    const { notify } = this.#device.host.fn.layout;
    return this.#write(notify.bar, notify.offset + queue * 4, new Uint8Array(4));
  }

  /** Makes a descriptor available that is one in either format: in a packed ring of the first lap. */
  #describe(queue: number, { a, b, c, bytes }: Act): void {
    const offset = BUFFERS_AT + ((a * 64 + b) % (MEMORY_BYTES - BUFFERS_AT));
    const address = (c & 0x100) === 0 ? IOVA + BigInt(offset) : BigInt(b) << 32n;
    const lengthBytes = (c & 0x200) === 0 ? 64 + (c & 0x7f) : b;
    const usual =
      (queue % 2 === 0 && queue !== CONTROL ? DescriptorFlag.WRITE : 0) | (a & DescriptorFlag.NEXT & c);
    this.#put(queue, address, lengthBytes, (c & 0x400) === 0 ? usual : bytes[0]! & 7);
    if ((c & 0x1c00) === 0x1c00) {
      const index = queue * QUEUE_BYTES + PAGE + 2;
      this.#memory.view.setUint16(index, this.#memory.view.getUint16(index, true) + bytes[1]!, true);
    }
  }

  #put(queue: number, address: bigint, lengthBytes: number, flags: number): void {
    const { view } = this.#memory;
    const slot = this.#slots[queue]!;
    this.#slots[queue] = (slot + 1) % SLOTS;
    const ring = queue * QUEUE_BYTES;
    const entry = ring + 16 * slot;
    const packed = this.#device.host.state.packed;
    view.setBigUint64(entry, BigInt.asUintN(64, address), true);
    view.setUint32(entry + 8, lengthBytes >>> 0, true);
    view.setUint16(entry + 12, packed ? slot : flags, true);
    view.setUint16(entry + 14, packed ? flags | PackedFlag.AVAIL : (slot + 1) % SLOTS, true);
    if (packed) return;
    const index = view.getUint16(ring + PAGE + 2, true);
    view.setUint16(ring + PAGE + 4 + 2 * (index % SLOTS), slot, true);
    // Of a chain the first descriptor is the one that is available.
    if ((flags & DescriptorFlag.NEXT) === 0) view.setUint16(ring + PAGE + 2, index + 1, true);
  }

  /** A command in one descriptor, its answer in the next. */
  #command({ a, b, c, bytes }: Act): void {
    const { memory, at } = { memory: this.#memory, at: BUFFERS_AT + (c & 0xff) * 256 };
    memory.bytes.set([a % 7, b % 6, ...bytes], at);
    const { view } = memory;
    const ring = CONTROL * QUEUE_BYTES;
    const index = view.getUint16(ring + PAGE + 2, true);
    const head = this.#slots[CONTROL]!;
    const dataBytes = [1, 2, 6, 8, 12, 14, 24][(c >> 8) % 7]!;
    this.#put(CONTROL, IOVA + BigInt(at), 2 + dataBytes, DescriptorFlag.NEXT);
    this.#put(CONTROL, IOVA + BigInt(at + 128), 1, DescriptorFlag.WRITE);
    if (!this.#device.host.state.packed) view.setUint16(ring + PAGE + 4 + 2 * (index % SLOTS), head, true);
  }
}

describe('a function under any client and driver', () => {
  const receiver = new Receiver(4096, 1);
  let world: TestWorld;
  let good: TestDevice;
  let goodMemory: TestMemory;
  let goodDriver: TestDriver;
  beforeAll(async () => {
    world = new TestWorld();
    good = world.device(testPlan({ sfNum: 2003, address: 0x1800 }));
    goodMemory = new TestMemory(2 << 20, { arena: world.arena });
    goodDriver = await start(good, goodMemory);
  });
  afterAll(async () => {
    goodDriver.close();
    await good.end();
    goodMemory.close();
    await world.close();
  });

  const start = (device: TestDevice, memory: TestMemory) =>
    TestDriver.start(clientOf(device), { memory, features: featureMask([F.VERSION_1]), queues: [0, 1] });

  const sends = async (device: TestDevice, driver: TestDriver): Promise<boolean> => {
    driver.ring(1).add([new Uint8Array(HEADER_BYTES), frame(7)]);
    driver.ring(1).publish();
    device.host.kick(1);
    await world.datapath.settle();
    // What the network does not read is held up some day.
    while (typeof receiver.receive(device.network[0]!) !== 'number');
    return driver.ring(1).collect().length === 1;
  };

  const attack = async (device: TestDevice, memory: TestMemory, without: number, acts: readonly Act[]) => {
    const hostile = new Hostile(device, memory);
    await hostile.begin(without);
    for (const [i, act] of acts.entries()) {
      const done = hostile.do(act);
      const next = acts[i + 1];
      // What a driver does while its client waits for an answer.
      if (next !== undefined && next.kind > 18) hostile.meanwhile(next);
      await done;
      await world.datapath.settle();
      expect(hostile.problems()).toBeNull();
    }
    const { host } = device;
    await host.disconnected();
    expect([host.memory.count, [...host.interrupts.entries()], host.state.kicks.size]).toEqual([0, [], 0]);
    const shelved = [...world.shelf.entries.keys()].filter((name) => name.startsWith(`dev/${host.vuid}/`));
    expect(shelved.filter((name) => /dma|irq|kick/.test(name))).toEqual([]);
  };

  /** As the next client of the function finds it. */
  const isServed = async (device: TestDevice): Promise<boolean> => {
    const memory = new TestMemory(2 << 20, { arena: world.arena });
    const driver = await start(device, memory);
    const sent = await sends(device, driver);
    driver.close();
    await device.host.disconnected();
    memory.close();
    return sent;
  };

  const attacked = async (without: number, acts: readonly Act[]): Promise<void> => {
    const before = { fds: openFds(), regions: world.arena.regionCount };
    const memory = new TestMemory(MEMORY_BYTES, { arena: world.arena, iova: IOVA });
    const device = world.device(testPlan({ features: `0x${OFFERED.toString(16)}` }));
    device.host.upload();
    try {
      await attack(device, memory, without, acts);
      expect([await isServed(device), await sends(good, goodDriver)]).toEqual([true, true]);
    } finally {
      await device.end();
      memory.close();
      world.services.store.forget(device.host, `dev/${device.host.vuid}/`);
    }
    expect({ fds: openFds(), regions: world.arena.regionCount }).toEqual(before);
  };

  it(
    'every message is answered, every record can be taken over, a neighbour goes on, and nothing is left',
    async () => {
      const acts = fc.array(anyAct, { maxLength: 48 });
      await fc.assert(fc.asyncProperty(fc.nat(127), acts, attacked), { numRuns: RUNS });
    },
    TIMEOUT_MS,
  );
});
