/**
 * virtio-net-driver.ts: a small network driver for tests: brings a device up, commands it, moves frames.
 *
 * Theory
 *   Rings are SplitDrivers, or PackedDrivers where the caller wants those, in memory that it shares with the device.
 *   Answers are awaited by looking at the ring, so that no interrupt is needed; vectors can be mapped all the same, for
 *   tests about them.
 *
 * Invariants
 *   I1  only queues that exist under the features agreed on are set up, all before DRIVER_OK (5.1.5).
 *
 * Limits  ANSWER_MS for a control command.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import {
  ControlAck,
  ControlAnnounce,
  ControlClass,
  ControlGuestOffloads,
  ControlMac,
  ControlMq,
  ControlNotfCoal,
  type ControlRx,
  ControlVlan,
  featureMask,
  hasFeature,
  MAC_BYTES,
  NET_HEADER_HASH_AT,
  NET_HEADER_HASH_BYTES,
  NetConfig,
  NetControlHeader,
  NetFeature,
  NetHeader,
  NO_VECTOR,
  VirtioFeature,
  viewOf,
} from '@virtnet/wire';
import type { DriverMemory } from './driver-memory.js';
import type { FunctionAccess } from './function-access.js';
import { PackedDriver } from './packed-driver.js';
import { check, littleEndian } from './pci-enumeration.js';
import type { UsedChain } from './ring-driver.js';
import { SplitDriver } from './split-driver.js';
import { VirtioPciDriver } from './virtio-pci-driver.js';

/** Either kind of ring. */
export type NetRing = SplitDriver | PackedDriver;

export interface NetDriverOptions {
  readonly memory: DriverMemory;
  /** Default: everything offered. */
  readonly features?: bigint;
  /** Entries of each queue; default: the most the device has. */
  readonly queueSize?: number;
  /** Queue pairs to set up; default: all that exist. */
  readonly pairs?: number;
  /** `per-queue`: vector 0 for configuration, then one a queue, as far as they go. Default `none`. */
  readonly vectors?: 'none' | 'per-queue';
}

/** What the device answered to a control command. */
export interface ControlAnswer {
  readonly ack: number;
  readonly result: Uint8Array;
  /** Bytes the device says it wrote. */
  readonly usedBytes: number;
}

/** How the bytes of a command are spread over buffers. */
export interface Framing {
  /** Sizes of the readable buffers; the last takes the rest. */
  readonly readable?: readonly number[];
  /** Sizes of the writable buffers; default one for everything. */
  readonly writable?: readonly number[];
}

/** What a device gave its driver. */
export interface ReceivedFrame {
  readonly header: ReturnType<typeof NetHeader.decode>;
  /** Of HASH_REPORT; null without it. */
  readonly hash: number | null;
  readonly hashReport: number | null;
  readonly frame: Uint8Array;
}

/** What RSS_CONFIG says of the way to a receive queue, which is named by its pair. */
export interface Steering {
  readonly types: number;
  readonly key: ArrayLike<number> & Iterable<number>;
  readonly table: readonly number[];
  readonly unclassified: number;
}

const ANSWER_MS = 5000;
/** Types, reserved words and the length of the key in front of a key. */
const HASH_CONFIG_BYTES = 13;
const QUEUES_PER_PAIR = 2;
const NO_OFFLOAD = new Uint8Array(NET_HEADER_HASH_BYTES);
/** What a test receives unless it says otherwise: header and a frame of 1514 bytes. */
const RECEIVE_BUFFER_BYTES = 1526;

/** `bytes` cut into pieces of these sizes, the rest last. */
export function cut(bytes: Uint8Array, sizes: readonly number[]): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  let at = 0;
  for (const size of sizes) {
    if (at >= bytes.length) break;
    pieces.push(bytes.slice(at, at + size));
    at += size;
  }
  if (at < bytes.length) pieces.push(bytes.slice(at));
  return pieces;
}

const join = (parts: readonly Uint8Array[]): Uint8Array =>
  Uint8Array.from(parts.flatMap((part) => [...part]));

type MakeRing<Ring> = (options: {
  readonly memory: DriverMemory;
  readonly queueSize: number;
  readonly eventIdx: boolean;
}) => Ring;

const PACKED = featureMask([VirtioFeature.RING_PACKED]);
const WRAP_SHIFT = 15;

export class VirtioNetDriver<Ring extends NetRing = SplitDriver> {
  readonly pci: VirtioPciDriver;
  readonly memory: DriverMemory;
  readonly features: bigint;
  /** Pairs that exist under the features agreed on. */
  readonly maxPairs: number;
  /** By queue index; undefined for queues not set up. */
  readonly rings: readonly (Ring | undefined)[];
  readonly controlIndex: number | null;
  readonly #make: MakeRing<Ring>;
  readonly #headerBytes: number;

  private constructor(
    pci: VirtioPciDriver,
    options: NetDriverOptions,
    maxPairs: number,
    rings: readonly (Ring | undefined)[],
    make: MakeRing<Ring>,
  ) {
    this.pci = pci;
    this.#make = make;
    this.memory = options.memory;
    this.features = pci.features;
    this.maxPairs = maxPairs;
    this.rings = rings;
    this.#headerBytes = hasFeature(pci.features, NetFeature.HASH_REPORT)
      ? NET_HEADER_HASH_BYTES
      : NetHeader.sizeBytes;
    this.controlIndex = hasFeature(pci.features, NetFeature.CTRL_VQ) ? maxPairs * QUEUES_PER_PAIR : null;
  }

  /** Probes the function and brings the device to DRIVER_OK, with split rings. */
  static start(access: FunctionAccess, options: NetDriverOptions): Promise<VirtioNetDriver> {
    const features = (options.features ?? ~0n) & ~PACKED;
    return VirtioNetDriver.#begin(access, { ...options, features }, (ring) => new SplitDriver(ring));
  }

  /** The same with packed rings; DriverError when the device has none. */
  static async startPacked(
    access: FunctionAccess,
    options: NetDriverOptions,
  ): Promise<VirtioNetDriver<PackedDriver>> {
    const features = (options.features ?? ~0n) | PACKED;
    const driver = await VirtioNetDriver.#begin(
      access,
      { ...options, features },
      (ring) => new PackedDriver(ring),
    );
    check(hasFeature(driver.features, VirtioFeature.RING_PACKED), 'the device has no packed rings');
    return driver;
  }

  static async #begin<Ring extends NetRing>(
    access: FunctionAccess,
    options: NetDriverOptions,
    make: MakeRing<Ring>,
  ): Promise<VirtioNetDriver<Ring>> {
    const pci = await VirtioPciDriver.probe(access);
    const features = await pci.negotiate(options.features);
    const config = await readConfig(pci);
    const several = hasFeature(features, NetFeature.MQ) || hasFeature(features, NetFeature.RSS);
    const maxPairs = several ? config.maxVirtqueuePairs : 1;
    const pairs = Math.min(options.pairs ?? maxPairs, maxPairs);
    const wanted = Array.from({ length: pairs * QUEUES_PER_PAIR }, (_, queue) => queue);
    if (hasFeature(features, NetFeature.CTRL_VQ)) wanted.push(maxPairs * QUEUES_PER_PAIR);
    const vectors = await enableVectors(pci, options.vectors ?? 'none');
    const rings: (Ring | undefined)[] = [];
    for (const [i, queue] of wanted.entries()) {
      const vector = 1 + i < vectors ? 1 + i : NO_VECTOR;
      rings[queue] = await openRing(pci, queue, options, vector, make);
    }
    await pci.driverOk();
    return new VirtioNetDriver(pci, options, maxPairs, rings, make);
  }

  config(): ReturnType<typeof readConfig> {
    return readConfig(this.pci);
  }

  ring(queue: number): Ring {
    const ring = this.rings[queue];
    check(ring !== undefined, `queue ${queue} was not set up`);
    return ring;
  }

  /** Makes what was added visible and notifies the device when it asked for that. */
  async publish(queue: number): Promise<void> {
    const ring = this.ring(queue);
    if (ring.publish()) await this.pci.notify(queue, nextOf(ring));
  }

  /** Gives the device `count` buffers to receive frames into. */
  async postReceive(pair: number, count: number, sizeBytes = RECEIVE_BUFFER_BYTES): Promise<number> {
    const queue = pair * QUEUES_PER_PAIR;
    let posted = 0;
    while (posted < count && this.ring(queue).add({ writable: [sizeBytes] }) >= 0) posted++;
    await this.publish(queue);
    return posted;
  }

  /** Received frames since the last call, each with its header. */
  received(pair: number): ReceivedFrame[] {
    return this.ring(pair * QUEUES_PER_PAIR)
      .collect()
      .map(({ written, lengthBytes }) => {
        const view = viewOf(written);
        const hashed = this.#headerBytes === NET_HEADER_HASH_BYTES;
        return {
          header: NetHeader.decode(view),
          hash: hashed ? view.getUint32(NET_HEADER_HASH_AT.value, true) : null,
          hashReport: hashed ? view.getUint16(NET_HEADER_HASH_AT.report, true) : null,
          frame: written.slice(this.#headerBytes, lengthBytes),
        };
      });
  }

  /** Hands a frame to the device; false when the ring is full. */
  async transmit(
    pair: number,
    frame: Uint8Array,
    header: Uint8Array = NO_OFFLOAD.subarray(0, this.#headerBytes),
  ): Promise<boolean> {
    const queue = pair * QUEUES_PER_PAIR + 1;
    if (this.ring(queue).add({ readable: [header, frame] }) < 0) return false;
    await this.publish(queue);
    return true;
  }

  /** Sends any bytes as a control command; `resultBytes` of result are expected in front of the acknowledgement. */
  async commandBytes(request: Uint8Array, resultBytes = 0, framing: Framing = {}): Promise<ControlAnswer> {
    check(this.controlIndex !== null, 'there is no control queue');
    const ring = this.ring(this.controlIndex);
    const head = ring.add({
      readable: cut(request, framing.readable ?? []),
      writable: framing.writable ?? [resultBytes + 1],
    });
    check(head >= 0, 'the control queue is full');
    await this.publish(this.controlIndex);
    const used = await this.#answer(ring);
    check(used.id === head && used.readableIntact, 'another command was answered, or this one was changed');
    const { written, lengthBytes } = used;
    return { ack: written.at(-1) ?? -1, result: written.slice(0, resultBytes), usedBytes: lengthBytes };
  }

  async #answer(ring: Ring): Promise<UsedChain> {
    const deadline = performance.now() + ANSWER_MS;
    for (;;) {
      const [used] = ring.collect();
      if (used !== undefined) return used;
      check(performance.now() < deadline, 'a control command is not answered');
      await sleep(1);
    }
  }

  async command(
    controlClass: number,
    command: number,
    data: Uint8Array = new Uint8Array(0),
  ): Promise<number> {
    const header = NetControlHeader.bytes({ class: controlClass, command });
    return (await this.commandBytes(join([header, data]))).ack;
  }

  /** Which types of hashes received frames shall carry, and the key. */
  setHash(types: number, key: Uint8Array): Promise<void> {
    const data = new Uint8Array(HASH_CONFIG_BYTES + key.length);
    viewOf(data).setUint32(0, types, true);
    data[HASH_CONFIG_BYTES - 1] = key.length;
    data.set(key, HASH_CONFIG_BYTES);
    return this.#expectOk(this.command(ControlClass.MQ, ControlMq.HASH_CONFIG, data), 'HASH_CONFIG');
  }

  /** Which receive queue a frame goes to by its hash; `pairs` may transmit. */
  setSteering({ types, key, table, unclassified }: Steering, pairs: number): Promise<void> {
    const data = join([
      littleEndian(types, 4),
      ...[table.length - 1, unclassified, ...table, pairs].map((word) => littleEndian(word, 2)),
      Uint8Array.of(key.length, ...key),
    ]);
    return this.#expectOk(this.command(ControlClass.MQ, ControlMq.RSS_CONFIG, data), 'RSS_CONFIG');
  }

  async #expectOk(ack: Promise<number>, what: string): Promise<void> {
    check((await ack) === ControlAck.OK, `${what} was refused`);
  }

  /** Sets a receive mode; DriverError when refused, as with every command below. */
  setReceiveMode(mode: ControlRx, on: boolean): Promise<void> {
    return this.#expectOk(this.command(ControlClass.RX, mode, Uint8Array.of(on ? 1 : 0)), 'receive mode');
  }

  setMacTable(unicast: readonly Uint8Array[], multicast: readonly Uint8Array[]): Promise<void> {
    const data = join([
      littleEndian(unicast.length, 4),
      ...unicast,
      littleEndian(multicast.length, 4),
      ...multicast,
    ]);
    return this.#expectOk(this.command(ControlClass.MAC, ControlMac.TABLE_SET, data), 'MAC table');
  }

  setMac(mac: Uint8Array): Promise<void> {
    check(mac.length === MAC_BYTES, 'not a MAC address');
    return this.#expectOk(this.command(ControlClass.MAC, ControlMac.ADDR_SET, mac), 'MAC address');
  }

  addVlan(id: number): Promise<void> {
    return this.#expectOk(this.command(ControlClass.VLAN, ControlVlan.ADD, littleEndian(id, 2)), 'VLAN');
  }

  removeVlan(id: number): Promise<void> {
    return this.#expectOk(this.command(ControlClass.VLAN, ControlVlan.DEL, littleEndian(id, 2)), 'VLAN');
  }

  acknowledgeAnnouncement(): Promise<void> {
    return this.#expectOk(this.command(ControlClass.ANNOUNCE, ControlAnnounce.ACK), 'announcement');
  }

  setQueuePairs(pairs: number): Promise<void> {
    const data = littleEndian(pairs, 2);
    return this.#expectOk(this.command(ControlClass.MQ, ControlMq.VQ_PAIRS_SET, data), 'queue pairs');
  }

  setOffloads(offloads: bigint): Promise<void> {
    const data = new Uint8Array(8);
    viewOf(data).setBigUint64(0, offloads, true);
    return this.#expectOk(
      this.command(ControlClass.GUEST_OFFLOADS, ControlGuestOffloads.SET, data),
      'offloads',
    );
  }

  /** How many packets, and how many microseconds, a notification of a class of queues may wait for. */
  coalesce(which: 'receive' | 'transmit', packets: number, usecs: number): Promise<void> {
    const command = which === 'receive' ? ControlNotfCoal.RX_SET : ControlNotfCoal.TX_SET;
    const data = join([littleEndian(packets, 4), littleEndian(usecs, 4)]);
    return this.#expectOk(this.command(ControlClass.NOTF_COAL, command, data), 'coalescing');
  }

  /** Resets a queue and sets it up anew in fresh memory, with another size if asked for. */
  async restartQueue(queue: number, queueSize = this.ring(queue).queueSize): Promise<Ring> {
    await this.pci.resetQueue(queue);
    return this.reopenQueue(queue, queueSize);
  }

  /** Sets a queue that was reset up anew in fresh memory. */
  async reopenQueue(queue: number, queueSize: number): Promise<Ring> {
    const options = { memory: this.memory, queueSize };
    const ring = await openRing(this.pci, queue, options, NO_VECTOR, this.#make);
    (this.rings as (Ring | undefined)[])[queue] = ring;
    return ring;
  }

  /** Resets the device. */
  stop(): Promise<void> {
    return this.pci.reset();
  }
}

async function readConfig(pci: VirtioPciDriver): Promise<ReturnType<typeof NetConfig.decode>> {
  return NetConfig.decode(viewOf(await pci.readDeviceConfig(0, NetConfig.sizeBytes)));
}

/** Enables MSI-X when wanted, with configuration changes on vector 0; how many vectors there are. */
async function enableVectors(pci: VirtioPciDriver, vectors: 'none' | 'per-queue'): Promise<number> {
  const count = pci.found.msix?.vectors ?? 0;
  if (vectors === 'none' || count === 0) return 0;
  await pci.setMsix(true);
  await pci.mapConfigVector(0);
  return count;
}

/** Where the next available entry will be, as a notification tells it (4.1.5.2). */
export function nextOf(ring: NetRing): number {
  if (ring instanceof SplitDriver) return ring.availableIndex;
  const { index, wrap } = ring.addedPlace;
  return (wrap << WRAP_SHIFT) | index;
}

async function openRing<Ring extends NetRing>(
  pci: VirtioPciDriver,
  queue: number,
  options: NetDriverOptions,
  vector: number,
  make: MakeRing<Ring>,
): Promise<Ring> {
  const sizeMax = await pci.queueSizeMax(queue);
  check(sizeMax > 0, `there is no queue ${queue}`);
  const ring = make({
    memory: options.memory,
    queueSize: Math.min(options.queueSize ?? sizeMax, sizeMax),
    eventIdx: hasFeature(pci.features, VirtioFeature.EVENT_IDX),
  });
  await pci.enableQueue(queue, {
    size: ring.queueSize,
    descriptorAddress: ring.descriptorAddress,
    driverAddress: ring.driverAddress,
    deviceAddress: ring.deviceAddress,
    vector,
  });
  return ring;
}
