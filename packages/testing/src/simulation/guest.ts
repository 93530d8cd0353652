/**
 * guest.ts: a virtual machine: a client of one function and the driver in it, which outlive every process of ours.
 *
 * Theory
 *   It brings the function up, moves numbered frames, raises a number by requests that are not the same when they are
 *   done twice, and looks at its rings when it is interrupted and at no other time. What it may see of a crash: the frame
 *   that was being moved, sent twice or lost, one for each queue; nothing else.
 *
 * Invariants
 *   I1  every request has one answer, the right one, in the order of the requests.
 *   I2  what comes back is what was given, once: the ring drivers object to everything else.
 *   I3  frames arrive in order; of each queue at most one was lost (received) or repeated (sent) for each crash.
 *   I4  the positions of the rings in the state page never go back.
 */

import { VirtioPciFunction } from '@virtnet/engine-pci';
import { NetDevice } from '@virtnet/engine-virtio-net';
import {
  DeviceStatus,
  HASH_TYPES,
  MsixControl,
  PciMsix,
  QueueWord,
  queueBlock,
  VirtioFeature,
  VirtioPciCommon,
} from '@virtnet/wire';
import { DriverMemory } from '../driver-memory.js';
import { PackedDriver } from '../packed-driver.js';
import { SplitDriver } from '../split-driver.js';
import { type ClientReply, type ClientRequest, decode, QUEUES } from './device.js';
import {
  ConnectionObject,
  EventObject,
  type ListenerObject,
  MemoryObject,
  type TapObject,
} from './objects.js';
import { OFFERED } from './plans.js';
import type { SimObject, SimWorld } from './world.js';

const QUEUE_SIZE = 8;
const HEADER_BYTES = 12;
const FRAME_BYTES = 60;
const NUMBER_AT = 20;
/** Of emulators by one guest: two, and some whose cause no controller could tell. */
const POISON_DEATHS_MAX = 16;
const { ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET } = DeviceStatus;
const { at } = VirtioPciCommon;

/** Where a driver finds what it looks for; the same in every function of a kind. */
const layout = (() => {
  const device = new NetDevice({
    mac: '0C:C4:7A:FF:22:93',
    mtu: 1500,
    maxQueuePairs: 1,
    maxQueueSize: 16,
    speedMbps: null,
    offeredFeatures: OFFERED,
    hashTypes: HASH_TYPES,
  });
  const fn = new VirtioPciFunction({ device, classCode: 0x020000, msixVectors: 3 });
  return { common: fn.layout.common.offset, msix: fn.capabilities.msix! };
})();

const bytesOf = (value: number, count: number): number[] =>
  Array.from({ length: count }, (_, index) => Math.floor(value / 2 ** (8 * index)) & 0xff);

function frameOf(number: number): Uint8Array {
  const frame = new Uint8Array(FRAME_BYTES).fill(number & 0xff);
  frame.set([0x0c, 0xc4, 0x7a, 0xff, 0x22, 0x93, 2, 0, 0, 0, 0, 1, 0x08, 0]);
  new DataView(frame.buffer).setUint32(NUMBER_AT, number);
  return frame;
}

function numberOf(frame: Uint8Array): number {
  return new DataView(frame.buffer, frame.byteOffset).getUint32(NUMBER_AT);
}

type Ring = SplitDriver | PackedDriver;
type Ask = ClientRequest extends infer R
  ? R extends { readonly id: number }
    ? Omit<R, 'id'>
    : never
  : never;

/** What the world tells of the device. */
export interface GuestSite {
  readonly world: SimWorld;
  readonly sockets: ReadonlyMap<string, ListenerObject>;
  /** The device's state page, as somebody who may look has it; null while there is none. */
  pageOf(vuid: string): ArrayBuffer | null;
}

export class SimGuest {
  readonly vuid: string;
  tap: TapObject;
  /** Whoever works its rings fails over what it does. */
  poisoned = false;
  poisonDeaths = 0;
  /** Its device is being removed, or is. */
  unplugged = false;
  /** Everybody died who had its device: its connection ends. */
  #bereft = false;
  #quiet = false;
  readonly #site: GuestSite;
  readonly #world: SimWorld;
  readonly #packed: boolean;
  readonly #eventIdx: boolean;
  #connection: ConnectionObject | null = null;
  #events: Record<string, EventObject> = {};
  #rings: readonly Ring[] = [];
  #memory = new DriverMemory({ sizeBytes: 1 << 15 });
  #script: (Ask & { readonly then?: (value: number) => void })[] = [];
  #open: { readonly id: number; readonly then: (value: number) => void; readonly raises: boolean } | null =
    null;
  #nextId = 1;
  #raised = 0;
  /** Requests to raise that ended with their connection: done, or not. */
  #unsure = 0;
  /** Of this connection. */
  #answers = 0;
  #running = false;
  #generation = 0;
  /** Frames: the next to send, and the next expected at the representor; the same from there. */
  #nextSent = 1;
  #expectedSent = 1;
  #nextReceived = 1;
  #expectedReceived = 1;
  /** Frames in rings that were given up need not arrive. */
  #sentMayJump = false;
  #receivedMayJump = false;
  /** Crashes over its queues that cost no frame yet. */
  readonly #credit = [0, 0];
  readonly #positions: (number | null)[] = [null, null];
  #page: ArrayBuffer | null = null;
  #words: readonly Uint32Array[] = [];
  lost = 0;
  repeated = 0;
  moved = 0;

  constructor(site: GuestSite, vuid: string, tap: TapObject) {
    this.#site = site;
    this.#world = site.world;
    this.vuid = vuid;
    this.tap = tap;
    this.plugInto(tap);
    this.#packed = this.#world.chance(500);
    this.#eventIdx = this.#world.chance(500);
  }

  /** Its device is made anew, with another representor. */
  plugInto(tap: TapObject): void {
    this.tap.onSent = () => {};
    this.tap = tap;
    tap.onSent = (frame) => this.#arrived(frame);
  }

  /** Nobody is left who knows its device: it may have one again that begins anew. */
  bereave(): void {
    if (this.#connection === null) this.#beginsAnew();
    else this.#bereft = true; // what was answered already may still arrive
  }

  #beginsAnew(): void {
    this.#bereft = false;
    this.#raised = 0;
    this.#unsure = 0;
  }

  start(): void {
    this.#connectSoon();
    this.#tickSoon();
  }

  /** It does nothing by itself any more. */
  calm(): void {
    this.#quiet = true;
    this.poisoned = false;
  }

  /** A process died that worked its rings. */
  crashed(byPoison: boolean): void {
    for (const queue of QUEUES) this.#credit[queue]!++;
    if (!byPoison) return;
    this.poisonDeaths++;
    if (this.poisonDeaths > POISON_DEATHS_MAX)
      this.#world.fail(`${this.vuid}: its guest ends one emulator after the other`);
  }

  /** What it still waits for; null when nothing. */
  get waitsFor(): string | null {
    if (this.unplugged) return null;
    if (!this.#running) return `it is not up (${this.#script.length} steps left)`;
    if (this.#open !== null || this.#script.length > 0) return 'an answer';
    const transmit = this.#rings[1]!;
    if (transmit.outstanding > 0) return `${transmit.outstanding} frames to be sent`;
    if (this.tap.waiting.length > 0) return `${this.tap.waiting.length} frames to be received`;
    return null;
  }

  /** Whether what the device says is what was asked for. */
  isRaised(value: number): boolean {
    return value >= this.#raised && value <= this.#raised + this.#unsure;
  }

  check(): void {
    if (!this.#running) return;
    const page = this.#site.pageOf(this.vuid);
    if (page === null) return;
    if (page !== this.#page) {
      this.#page = page;
      this.#words = QUEUES.map((queue) => queueBlock(page, queue).words);
    }
    for (const queue of QUEUES) {
      const position = this.#words[queue]![QueueWord.POSITION]!;
      const former = this.#positions[queue]!;
      if (former !== null && this.#distance(former, position) > QUEUE_SIZE)
        this.#world.fail(`${this.vuid} queue ${queue} went back from ${former} to ${position}`);
      this.#positions[queue] = position;
    }
  }

  #distance(from: number, to: number): number {
    if (!this.#packed) return (to - from) & 0xffff;
    const linear = (position: number) => ((position >>> 15) & 1 ? 0 : QUEUE_SIZE) + (position & 0x7fff);
    return (linear(to) - linear(from) + 2 * QUEUE_SIZE) % (2 * QUEUE_SIZE);
  }

  // ---- connection --------------------------------------------------------------------------------------------

  #connectSoon(): void {
    this.#world.after(null, this.#world.between(0.5, 5), `${this.vuid} connects`, () => this.#connect());
  }

  #connect(): void {
    if (this.unplugged) return; // its successor, of the same name, connects
    const listener = this.#site.sockets.get(this.vuid);
    if (listener === undefined) {
      this.#connectSoon();
      return;
    }
    const connection = new ConnectionObject(this.#world, `request ${this.vuid}`);
    this.#connection = connection;
    this.#answers = 0;
    this.#nextId = 1;
    this.#open = null;
    connection.onReply = (reply) => {
      const copy = reply.slice();
      this.#world.after(null, this.#world.between(0.01, 0.3), `${this.vuid} reply`, () => {
        if (this.#connection === connection) this.#replied(copy);
      });
    };
    connection.onGone = () => {
      this.#world.after(null, this.#world.between(0.01, 0.5), `${this.vuid} hung up`, () => {
        if (this.#connection === connection) this.#hungUp(connection);
      });
    };
    listener.connect(connection);
    this.#bringUp();
  }

  #hungUp(connection: ConnectionObject): void {
    this.#connection = null;
    const bereft = this.#bereft;
    if (bereft) this.#beginsAnew();
    else if (this.#open?.raises === true) this.#unsure++;
    this.#stopRings();
    if (this.#answers > 0 && !connection.refused && !this.unplugged && !bereft)
      this.#world.fail(`${this.vuid}: the connection ended although nobody ended it`);
    this.#world.count('connections ended');
    if (!this.unplugged) this.#connectSoon();
  }

  #ask(ask: Ask, then: (value: number) => void = () => {}): void {
    this.#script.push({ ...ask, then });
    this.#next();
  }

  #next(): void {
    if (this.#open !== null || this.#connection === null) return;
    const step = this.#script.shift();
    if (step === undefined) return;
    const { then = () => {}, ...ask } = step;
    const id = this.#nextId++;
    this.#open = { id, then, raises: ask.op === 'raise' };
    const objects = new Map<string, SimObject>();
    if (ask.op === 'give') {
      objects.set('memory', new MemoryObject('memory', this.#memory));
      for (const [part, event] of Object.entries(this.#events)) objects.set(part, event);
    }
    const bytes = new TextEncoder().encode(JSON.stringify({ id, ...ask }));
    this.#connection.request({ bytes, objects });
  }

  #replied(bytes: Uint8Array): void {
    const { id, value } = decode<ClientReply>(bytes);
    if (this.#open === null) this.#world.fail(`${this.vuid}: answer ${id} to nothing that was asked`);
    if (this.#open.id !== id) this.#world.fail(`${this.vuid}: answer ${id} to request ${this.#open.id}`);
    const { then } = this.#open;
    this.#open = null;
    this.#answers++;
    this.#world.count('requests');
    then(value);
    this.#next();
  }

  // ---- driver ------------------------------------------------------------------------------------------------

  #write(register: keyof typeof at, count: number, value: number): void {
    this.#ask({ op: 'write', at: layout.common + at[register], bytes: bytesOf(value, count) });
  }

  /** Registers of equal width, one behind the other. */
  #writeAt(first: keyof typeof at, values: readonly number[], width: number): void {
    const bytes = values.flatMap((value) => bytesOf(value, width));
    this.#ask({ op: 'write', at: layout.common + at[first], bytes });
  }

  #features(word: number, bits: number): void {
    this.#writeAt('driverFeatureSelect', [word, bits], 4);
  }

  #stopRings(): void {
    this.#running = false;
    this.#generation++;
    this.#script = [];
    this.#positions.fill(null);
    this.#framesMayJump();
  }

  /** What was under way in former rings may be gone. */
  #framesMayJump(): void {
    this.#sentMayJump = true;
    this.#receivedMayJump = true;
  }

  /** Resets the function and brings it up with new rings. */
  #bringUp(): void {
    this.#stopRings();
    const generation = this.#generation;
    this.#write('deviceStatus', 1, 0);
    // Nothing of the former rings is touched any more from here on.
    this.#ask({ op: 'read', at: layout.common + at.deviceStatus, count: 1 }, () => {
      if (generation === this.#generation) this.#setUp(generation);
    });
  }

  #setUp(generation: number): void {
    this.poisoned = false;
    this.poisonDeaths = 0;
    this.#framesMayJump(); // some may have come between the request for a reset and its answer
    this.#memory = new DriverMemory({ sizeBytes: 1 << 15 });
    this.#events = {};
    for (const vector of [0, 1, 2])
      this.#events[`irq/${vector}`] = new EventObject(this.#world, `irq ${vector}`);
    for (const queue of QUEUES) this.#events[`kick/${queue}`] = new EventObject(this.#world, `kick ${queue}`);
    const options = { memory: this.#memory, queueSize: QUEUE_SIZE, eventIdx: this.#eventIdx };
    this.#rings = QUEUES.map(() => (this.#packed ? new PackedDriver(options) : new SplitDriver(options)));
    this.#ask({ op: 'give' });
    this.#ask({ op: 'config', at: layout.msix + PciMsix.at.control, bytes: bytesOf(MsixControl.ENABLE, 2) });
    this.#write('deviceStatus', 1, ACKNOWLEDGE | DRIVER);
    this.#features(0, this.#eventIdx ? 2 ** VirtioFeature.EVENT_IDX : 0);
    this.#features(1, this.#packed ? 0b101 : 0b001);
    this.#write('deviceStatus', 1, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    this.#write('configVector', 2, 0);
    for (const queue of QUEUES) {
      const ring = this.#rings[queue]!;
      const { descriptorAddress, driverAddress, deviceAddress } = ring;
      this.#writeAt('queueSelect', [queue, QUEUE_SIZE, queue + 1], 2);
      this.#writeAt('queueDescriptor', [descriptorAddress, driverAddress, deviceAddress].map(Number), 8);
      this.#write('queueEnable', 2, 1);
    }
    // As Linux does: buffers are there before the device is told to go.
    this.#fill();
    this.#ask(
      {
        op: 'write',
        at: layout.common + at.deviceStatus,
        bytes: [ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK],
      },
      () => {
        if (generation !== this.#generation) return;
        this.#running = true;
        for (const queue of QUEUES) this.#look(queue);
      },
    );
    for (const queue of QUEUES) {
      const event = this.#events[`irq/${queue + 1}`]!;
      event.watch(null, () => {
        if (generation === this.#generation && event.drain()) this.#look(queue);
      });
    }
    const config = this.#events['irq/0']!;
    config.watch(null, () => {
      if (generation !== this.#generation || !config.drain()) return;
      this.#ask({ op: 'read', at: layout.common + at.deviceStatus, count: 1 }, (status) => {
        if (generation === this.#generation && (status & NEEDS_RESET) !== 0) this.#bringUp();
      });
    });
  }

  #kick(queue: number): void {
    if (this.#rings[queue]!.publish()) this.#events[`kick/${queue}`]!.signal();
  }

  #fill(): void {
    const ring = this.#rings[0]!;
    let added = false;
    while (ring.add({ writable: [HEADER_BYTES + FRAME_BYTES] }) >= 0) added = true;
    if (added) this.#kick(0);
  }

  /** An interrupt: takes what came back. */
  #look(queue: number): void {
    const ring = this.#rings[queue]!;
    for (;;) {
      const used = ring.collect();
      for (const { written, readableIntact } of used) {
        if (!readableIntact) this.#world.fail(`${this.vuid}: the device wrote where it may only read`);
        if (queue === 0) this.#received(written.subarray(HEADER_BYTES));
      }
      ring.wantInterrupts(true);
      if (used.length === 0) break;
    }
    if (queue === 0) this.#fill();
  }

  #received(frame: Uint8Array): void {
    const number = numberOf(frame);
    const missing = number - this.#expectedReceived;
    if (missing < 0) this.#world.fail(`${this.vuid}: frame ${number} was received twice, or late`);
    if (missing > 0 && !this.#receivedMayJump) {
      this.lost += missing;
      this.#spend(0, missing, `frames up to ${number} were lost`);
    }
    this.#receivedMayJump = false;
    this.#expectedReceived = number + 1;
    this.moved++;
  }

  /** At the representor. */
  #arrived(frame: Uint8Array): void {
    const number = numberOf(frame);
    const missing = number - this.#expectedSent;
    if (missing > 0 && !this.#sentMayJump)
      this.#world.fail(`${this.vuid}: frames before ${number} were not sent`);
    if (missing < 0) {
      if (missing < -1) this.#world.fail(`${this.vuid}: frame ${number} was sent late`);
      this.repeated++;
      this.#spend(1, 1, `frame ${number} was sent twice`);
    }
    this.#sentMayJump = false;
    this.#expectedSent = number + 1;
    this.moved++;
  }

  #spend(queue: number, frames: number, what: string): void {
    this.#credit[queue]! -= frames;
    if (this.#credit[queue]! < 0) this.#world.fail(`${this.vuid}: ${what}, and no crash explains it`);
  }

  // ---- what it does by itself --------------------------------------------------------------------------------

  #tickSoon(): void {
    this.#world.after(null, this.#world.between(0.3, 4), `${this.vuid} tick`, () => {
      if (this.#quiet || this.unplugged) return;
      this.#tick();
      this.#tickSoon();
    });
  }

  #tick(): void {
    const world = this.#world;
    if (world.chance(350) && this.tap.push(frameOf(this.#nextReceived))) this.#nextReceived++;
    if (!this.#running) return;
    const dice = world.random.below(1000);
    if (dice < 500) this.#send(1 + world.random.below(3));
    else if (dice < 640) this.#raise();
    else if (dice < 700) this.tap.block(world.between(0.1, 4));
    else if (dice < 706) this.#bringUp();
    else if (dice < 709 && world.faults) {
      this.poisoned = true;
      this.#events['kick/1']!.signal();
    }
  }

  #send(frames: number): void {
    const ring = this.#rings[1]!;
    for (let sent = 0; sent < frames; sent++) {
      if (ring.add({ readable: [new Uint8Array(HEADER_BYTES), frameOf(this.#nextSent)] }) < 0) break;
      this.#nextSent++;
    }
    this.#kick(1);
  }

  #raise(): void {
    if (this.#script.length > 4) return;
    this.#ask({ op: 'raise' }, (value) => {
      const least = this.#raised + 1;
      if (value < least || value > least + this.#unsure)
        this.#world.fail(`${this.vuid}: raised to ${value} where ${least} was next`);
      this.#raised = value;
      this.#unsure = 0;
    });
  }
}
