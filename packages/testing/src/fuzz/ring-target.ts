/**
 * ring-target.ts: a queue of a network device over a ring whose driver does anything, split or packed.
 *
 * Theory
 *   An input decides which queue there is (receive or transmit, mergeable or not, size, features, where it begins) and
 *   then what happens, step by step: the driver adds proper chains or does what it must not, the port gets frames or
 *   fills up, memory changes in the middle of a frame, the process vanishes and another one goes on, the queue is
 *   polled. After each poll the queue's own account is checked; after the case, the guards.
 *   As long as the driver has kept to the rules, it checks what comes back, too.
 *
 * Invariants checked
 *   I1  nothing outside the regions is read or written, nothing written that may only be read.
 *   I2  no step throws, and none takes longer than STEP_MS_MAX.
 *   I3  a queue whose ring is broken moves nothing any more.
 *   I4  a driver that keeps to the rules gets back what it gave, each chain once, and readable buffers unchanged.
 *   I5  what was completed is either a frame or dropped under a reason, when no frame takes several chains.
 */
import {
  FRAME_BYTES_MAX,
  PLAIN_MASK,
  ReceiveQueue,
  SpreadReceiveQueue,
  TransmitQueue,
} from '@virtnet/engine-virtio-net';
import {
  ChainRoom,
  completeSpreadBurst,
  copyBurst,
  copyFrames,
  type DeviceRing,
  isRing,
  openRing,
  PlainRoom,
  PrivateBuffers,
  PrivateMemory,
  type QueueLedger,
  readChain,
  resumePosition,
  writeChain,
} from '@virtnet/engine-virtqueue';
import {
  Errno,
  featureMask,
  NetFeature,
  NetHeader,
  type QueueBlock,
  QueueCounter,
  queueBlock,
  statePageSize,
  VirtioFeature,
} from '@virtnet/wire';
import { PlainMemoryPort } from '../memory-port.js';
import { packedPosition } from '../packed-ring-fixture.js';
import { ensureWindow, windowRoom } from '../window-room.js';
import { FuzzInput } from './fuzz-input.js';
import { FuzzFailure, type FuzzTarget, type FuzzWatch } from './fuzzer.js';
import { GuardedMemory } from './guarded-memory.js';
import { type AddressMenu, type RawRing, rawPacked, rawSplit } from './raw-ring.js';

const STEPS_MAX = 96;
/** Frames a poll may move: the largest ones, copied by the port of this test, stay below a millisecond. */
const POLL_BUDGET = 8;
/** The same as in an emulator, where as many times longer is allowed. */
const LARGE_POLL_BUDGET = 128;
const GUARD_BYTES = 4096;
const PIECE_BYTES = 2 ** 30;
/** The driver's memory crosses a line at which memory is cut, which is a line of 4 GiB as well. */
const MAIN = { iova: BigInt(4 * PIECE_BYTES - 0x1_0000), sizeBytes: 0x2_0000, writable: true };
const REGIONS = [
  MAIN,
  { iova: 0x2_0000_0000n, sizeBytes: 0x2000, writable: false },
  { iova: 0x2_0000_2000n, sizeBytes: 0x2000, writable: true },
  { iova: 0xffff_ffff_ffff_e000n, sizeBytes: 0x2000, writable: true },
];
const MENU: AddressMenu = {
  starts: [
    ...REGIONS.flatMap(({ iova, sizeBytes }) => [iova, iova + BigInt(sizeBytes) - 0x100n]),
    BigInt(4 * PIECE_BYTES) - 0x80n,
    0n,
  ],
};
const SEGMENTS_MAX = [128, 16, 3, 1, 256] as const;
ensureWindow();
/** As a worker's rings have them: with what the case before left there, and where WebAssembly finds it. */
const ROOMS = { chainRoom: new ChainRoom(Math.max(...SEGMENTS_MAX), true), plainRoom: new PlainRoom() };
const FRAME_SIZES = [0, 1, 13, 14, 60, 64, 300, 1_514, 1_515, 9_014, 65_000, 65_600] as const;
const BUFFER_SIZES = [0, 1, 11, 12, 26, 60, 128, 1_526, 2_048, 9_100] as const;
const OFFLOADS = [
  NetFeature.CSUM,
  NetFeature.GUEST_CSUM,
  NetFeature.HOST_TSO4,
  NetFeature.HOST_TSO6,
  NetFeature.HOST_USO,
  NetFeature.GUEST_TSO4,
  NetFeature.GUEST_TSO6,
  NetFeature.MTU,
];
const DROPS = Object.entries(QueueCounter).flatMap(([name, counter]) =>
  name.startsWith('DROP_') ? [counter] : [],
);
const Saw = { OPENED: 1, POLLED: 2, FAULT: 3, COUNTER: 4, SENT: 5, USED: 6, ACT: 7, REFUSED: 8 } as const;

/** A port in the middle of whose work memory may change. */
class RacingPort extends PlainMemoryPort {
  /** What the driver does during the next frame. */
  race: (() => void) | null = null;

  override send(ring: DeviceRing, header: Uint8Array, frameOffset: number): number {
    this.strike();
    return super.send(ring, header, frameOffset);
  }

  override receive(ring: DeviceRing, header: Uint8Array, frameOffset: number): number {
    const received = super.receive(ring, header, frameOffset);
    this.strike();
    return received;
  }

  override sendPlain(ring: DeviceRing, count: number, frameOffset: number, ledger: QueueLedger): number {
    this.strike();
    return super.sendPlain(ring, count, frameOffset, ledger);
  }

  override receivePlain(ring: DeviceRing, count: number, bytesMax: number, ledger: QueueLedger): number {
    this.strike();
    return super.receivePlain(ring, count, bytesMax, ledger);
  }

  protected strike(): void {
    this.race?.();
    this.race = null;
  }
}

const SLOT_BYTES = 66 * 1024;
const copiesRoom = windowRoom(POLL_BUDGET * SLOT_BYTES + GUARD_BYTES);
const copiesMemory = new PrivateMemory(POLL_BUDGET * SLOT_BYTES, copiesRoom.buffer, copiesRoom.byteOffset);
const behindCopies = new Uint8Array(
  copiesRoom.buffer,
  copiesRoom.byteOffset + POLL_BUDGET * SLOT_BYTES,
  GUARD_BYTES,
);
const copies = new PrivateBuffers(copiesMemory);

/** One that copies as a switch does, in the window, to and from memory of its own with a guard behind it. */
class CopyingPort extends RacingPort {
  readonly judges = true;

  override send(ring: DeviceRing, header: Uint8Array, frameOffset: number): number {
    if (this.fullFor > 0 || this.refusal !== 0) return super.send(ring, header, frameOffset);
    this.strike();
    const bytes = Math.min(ring.readableBytes - frameOffset, SLOT_BYTES);
    const read = readChain(ring, frameOffset, copiesMemory, 0, bytes);
    this.#keep(0, read, header);
    return header.length + read;
  }

  override receive(ring: DeviceRing, header: Uint8Array, frameOffset: number): number {
    this.reads++;
    const next = this.waiting.shift();
    if (next === undefined) return -Errno.EAGAIN;
    const { frame } = next;
    header.set(next.header);
    copiesMemory.u8.set(frame);
    const fitted = writeChain(copiesMemory, 0, ring, frameOffset, frame.length);
    this.overflow.set(frame.subarray(fitted));
    this.strike();
    return NetHeader.sizeBytes + frame.length;
  }

  override sendPlain(
    ring: DeviceRing,
    count: number,
    frameOffset: number,
    ledger: QueueLedger,
    bytesMax = SLOT_BYTES,
  ): number {
    if (this.fullFor > 0 || this.refusal !== 0) return 0;
    this.strike();
    copies.lay(SLOT_BYTES, SLOT_BYTES, POLL_BUDGET * SLOT_BYTES);
    const how = {
      fromHeader: frameOffset,
      toHeader: 0,
      unwanted: PLAIN_MASK,
      bytesMax: Math.min(bytesMax, SLOT_BYTES),
    };
    const done = copyBurst({ from: ring, to: copies, ...how }, 0, 0, Math.min(count, POLL_BUDGET));
    for (let i = 0; i < done; i++) {
      const bytes = ring.plain.lengths[i]! - frameOffset;
      this.#keep(i * SLOT_BYTES, bytes, new Uint8Array(NetHeader.sizeBytes));
      ledger.completePlain(i, bytes, 0);
    }
    return done;
  }

  override receivePlain(ring: DeviceRing, count: number, bytesMax: number, ledger: QueueLedger): number {
    const most = Math.min(count, POLL_BUDGET, this.waiting.length);
    copies.lay(SLOT_BYTES, SLOT_BYTES, POLL_BUDGET * SLOT_BYTES);
    let plain = 0;
    for (; plain < most; plain++) {
      const { frame, header } = this.waiting[plain]!;
      if (header.some((byte) => byte !== 0)) break;
      copiesMemory.u8.set(frame, plain * SLOT_BYTES);
      copies.plain.lengths[plain] = frame.length;
    }
    const how = { fromHeader: 0, toHeader: NetHeader.sizeBytes, unwanted: 0, bytesMax };
    const done = copyBurst({ from: copies, to: ring, ...how }, 0, 0, plain);
    this.strike();
    for (const [i, { frame }] of this.waiting.splice(0, done).entries())
      ledger.completePlain(i, frame.length, NetHeader.sizeBytes + frame.length);
    this.#check();
    return done;
  }

  sendFrames(ring: DeviceRing, count: number, frameOffset: number, ledger: QueueLedger): number {
    if (this.fullFor > 0 || this.refusal !== 0) return 0;
    this.strike();
    copies.lay(SLOT_BYTES, SLOT_BYTES, POLL_BUDGET * SLOT_BYTES);
    const how = { fromHeader: frameOffset, toHeader: 0, unwanted: 0, bytesMax: SLOT_BYTES };
    const done = copyFrames({ from: ring, to: copies, ...how }, 0, 0, count, POLL_BUDGET, 1);
    for (let i = 0; i < done; i++) {
      const bytes = ring.plain.lengths[i]! - frameOffset;
      this.#keep(i * SLOT_BYTES, bytes, new Uint8Array(NetHeader.sizeBytes));
      ledger.completePlain(i, bytes, 0);
    }
    return done;
  }

  receiveFrames(
    ring: DeviceRing,
    first: number,
    count: number,
    bytesMax: number,
    ledger: QueueLedger,
  ): number {
    const [next] = this.waiting;
    if (next === undefined || next.header.some((byte) => byte !== 0)) return 0;
    const { frame } = next;
    copiesMemory.u8.set(frame);
    copies.layFrames(frame.length);
    const how = { fromHeader: 0, toHeader: NetHeader.sizeBytes, unwanted: 0, bytesMax };
    const done = copyFrames({ from: copies, to: ring, ...how }, 0, first, 1, count, count);
    this.strike();
    this.#check();
    if (done === 0) return 0;
    this.waiting.shift();
    return completeSpreadBurst(ring, ledger, first, 1, frame.length, NetHeader.sizeBytes);
  }

  #keep(at: number, bytes: number, header: Uint8Array): void {
    this.#check();
    this.sent.push({ header: header.slice(), frame: copiesMemory.u8.slice(at, at + bytes) });
  }

  #check(): void {
    if (behindCopies.some((byte) => byte !== 0)) throw new FuzzFailure('the guard behind copies was written');
  }
}

interface Shape {
  readonly packed: boolean;
  readonly transmit: boolean;
  readonly mergeable: boolean;
  readonly indirect: boolean;
  readonly eventIdx: boolean;
  readonly queueSize: number;
  readonly chainSegmentsMax: number;
  readonly features: bigint;
  readonly position: number;
  /** The port copies in the window. */
  readonly copies: boolean;
  /** Polls take as many chains as in an emulator, and a table has as many entries as a device looks at. */
  readonly large: boolean;
}

function shapeOf(input: FuzzInput, packed: boolean): Shape {
  const bits = input.u8();
  const size = input.u8();
  const queueSize = packed ? 1 + (size % 70) : 1 << (size % 8);
  const place = input.u16();
  const mergeable = (bits & 2) !== 0;
  const offloads = input.bit() ? OFFLOADS : [];
  return {
    packed,
    transmit: (bits & 1) !== 0,
    mergeable,
    indirect: (bits & 4) !== 0,
    eventIdx: (bits & 8) !== 0,
    queueSize,
    chainSegmentsMax: input.pick(SEGMENTS_MAX),
    features: featureMask([
      ...((bits & 16) !== 0 ? [] : [VirtioFeature.VERSION_1]),
      ...(mergeable ? [NetFeature.MRG_RXBUF] : []),
      ...offloads,
    ]),
    copies: (bits & 32) !== 0,
    large: (bits & 64) !== 0,
    position: packed ? packedPosition(place % queueSize, (place >>> 15) & 1) : place,
  };
}

/** One case as it runs. */
class RingCase {
  readonly #shape: Shape;
  readonly #guarded: GuardedMemory;
  readonly #watch: FuzzWatch;
  readonly #raw: RawRing;
  readonly #block: QueueBlock;
  readonly #port: RacingPort;
  #queue: TransmitQueue | ReceiveQueue | null = null;
  /** The driver has done nothing yet that it must not. */
  #honest = true;
  #given = 0;
  #collected = 0;
  /** How often a process vanished: each time one frame may be lost or repeated. */
  #crashes = 0;

  constructor(input: FuzzInput, packed: boolean, guarded: GuardedMemory, watch: FuzzWatch) {
    this.#guarded = guarded;
    this.#watch = watch;
    const shape = shapeOf(input, packed);
    this.#shape = shape;
    this.#port = shape.copies ? new CopyingPort() : new RacingPort();
    const memory = guarded.driverMemory(0);
    const make = packed ? rawPacked : rawSplit;
    const tableEntries = shape.large ? 4096 : 8;
    this.#raw = make(memory, shape.queueSize, shape.eventIdx, shape.position, MENU, tableEntries);
    this.#block = queueBlock(new ArrayBuffer(statePageSize(2)), 1);
    this.#block.words[0] = shape.position;
    this.#block.words[1] = shape.position;
    this.#open();
  }

  run(input: FuzzInput): void {
    for (let step = 0; step < STEPS_MAX && input.left > 0; step++) this.#step(input);
    this.#poll();
    this.#watchCounters();
  }

  #step(input: FuzzInput): void {
    const port = this.#port;
    switch (input.u8() % 12) {
      case 0:
      case 1:
      case 2:
        this.#add(input);
        break;
      case 3:
      case 4:
      case 5:
        this.#hostile(input);
        break;
      case 6: {
        const frame = new Uint8Array(input.pick(FRAME_SIZES));
        frame.set(input.bytes(Math.min(frame.length, 20)));
        if (port.waiting.length < 8)
          port.push(frame, input.bit() ? input.bytes(NetHeader.sizeBytes) : undefined);
        break;
      }
      case 7:
        port.fullFor = input.u8() % 3;
        port.refusal = input.bit() ? 0 : 5;
        break;
      case 8:
        port.race = () => this.#hostile(input);
        break;
      case 9:
        if (!input.bit()) break;
        this.#crashes++;
        this.#open();
        break;
      default:
        this.#raw.driver.publish();
        this.#poll();
        this.#collect();
    }
  }

  #hostile(input: FuzzInput): void {
    this.#honest = false;
    this.#raw.act(input);
    this.#watch.saw(Saw.ACT);
  }

  /** A chain as a driver may make it, of any shape. */
  #add(input: FuzzInput): void {
    const { transmit, indirect } = this.#shape;
    const bits = input.u8();
    const readable: Uint8Array[] = [];
    if (transmit || (bits & 0x80) !== 0) {
      for (let i = bits & 3; i >= 0; i--) {
        const buffer = new Uint8Array(input.pick(BUFFER_SIZES));
        if (i === (bits & 3)) buffer.set(input.bytes(Math.min(buffer.length, 12 + 14)));
        readable.push(buffer);
      }
    }
    const writable: number[] = [];
    if (!transmit || (bits & 0x40) !== 0)
      for (let i = (bits >> 2) & 3; i >= 0; i--) writable.push(input.pick(BUFFER_SIZES));
    const options = indirect && (bits & 0x20) !== 0 ? { indirectFrom: 0 } : {};
    try {
      if (this.#raw.driver.add({ readable, writable }, options) >= 0) this.#given++;
    } catch (error) {
      if (!(error instanceof RangeError)) throw error; // its memory is full
    }
  }

  #open(): void {
    const { shape, block } = { shape: this.#shape, block: this.#block };
    const { driver } = this.#raw;
    const opened = this.#watch.step(() =>
      openRing({
        packed: shape.packed,
        queueSize: shape.queueSize,
        memory: this.#guarded.memory,
        descriptorAddress: driver.descriptorAddress,
        driverAddress: driver.driverAddress,
        deviceAddress: driver.deviceAddress,
        indirect: shape.indirect,
        readsOnly: shape.transmit,
        eventIdx: shape.eventIdx,
        position: resumePosition(block),
        chainSegmentsMax: shape.chainSegmentsMax,
        journal: block.journal,
        ...ROOMS,
      }),
    );
    if (!isRing(opened)) {
      if (this.#honest) throw new FuzzFailure(`the ring does not open: ${opened.code}`);
      this.#watch.saw(Saw.REFUSED, opened.code.length);
      this.#queue = null;
      return;
    }
    const { features, transmit, mergeable } = shape;
    const options = { ring: opened, port: this.#port, block, features, mtu: 1_500, linkUp: true };
    const receive = { ...options, active: true, filter: null };
    const Receive = mergeable ? SpreadReceiveQueue : ReceiveQueue;
    const queue = transmit ? new TransmitQueue(options) : new Receive(receive);
    this.#watch.step(() => queue.resume());
    this.#watch.saw(Saw.OPENED);
    this.#queue = queue;
  }

  #poll(): void {
    const queue = this.#queue;
    if (queue === null) return;
    const broken = queue.fault !== null;
    const budget = this.#shape.large ? LARGE_POLL_BUDGET : POLL_BUDGET;
    const worked = this.#watch.step(() => queue.poll(budget), budget / POLL_BUDGET);
    this.#watch.step(() => queue.arm());
    this.#watch.step(() => queue.disarm());
    if (broken && worked > 0) throw new FuzzFailure('a broken queue moved something');
    if (this.#honest && queue.fault !== null)
      throw new FuzzFailure(`an honest driver is refused: ${queue.fault.code}`);
    this.#watch.sawSize(Saw.POLLED, worked);
    if (queue.fault !== null) this.#watch.saw(Saw.FAULT, hash(queue.fault.code));
    for (const { header, frame } of this.#port.sent.splice(0)) {
      this.#guarded.reveals(frame);
      this.#guarded.reveals(header);
      if (frame.length > FRAME_BYTES_MAX) throw new FuzzFailure(`a frame of ${frame.length} bytes was sent`);
      this.#watch.sawSize(Saw.SENT, frame.length);
    }
    this.#checkAccount();
  }

  #checkAccount(): void {
    if (this.#shape.mergeable && !this.#shape.transmit) return;
    const { counters } = this.#block;
    const frames = counters[QueueCounter.FRAMES]!;
    const completed = counters[QueueCounter.COMPLETED_DESC]!;
    const dropped = DROPS.reduce<number>((sum, counter) => sum + counters[counter]!, 0);
    if (completed > frames + dropped + this.#crashes)
      throw new FuzzFailure(`${completed} chains completed, ${frames} frames and ${dropped} drops counted`);
  }

  /** What an honest driver gets back. */
  #collect(): void {
    if (!this.#honest) return;
    for (const { readableIntact, lengthBytes, written } of this.#raw.driver.collect()) {
      this.#collected++;
      if (!readableIntact) throw new FuzzFailure('a readable buffer was changed');
      if (lengthBytes > written.length)
        throw new FuzzFailure('more bytes are said to be written than there is room for');
      this.#guarded.reveals(written);
      this.#watch.sawSize(Saw.USED, lengthBytes);
    }
    if (this.#collected > this.#given) throw new FuzzFailure('a chain came back twice');
  }

  #watchCounters(): void {
    const { counters } = this.#block;
    for (const counter of Object.values(QueueCounter))
      if (counters[counter]! > 0) this.#watch.sawSize(Saw.COUNTER + 16 * counter, counters[counter]!);
  }
}

function hash(text: string): number {
  let sum = 0;
  for (const character of text) sum = (Math.imul(sum, 31) + character.charCodeAt(0)) | 0;
  return sum;
}

/** Inputs that send and receive something in each kind of queue, and such as are as much work as there may be. */
function seeds(): Uint8Array[] {
  const add = [0, 0x41, 4, ...Array(26).fill(2), 7];
  const poll = [11];
  const frame = [6, 5, ...Array(20).fill(1), 0];
  const usual = [0, 1, 2, 3, 5, 6, 13, 14, 17].map((bits) => [
    ...[bits, 5, 0, 0, bits & 1, 0],
    ...[...add, ...add, ...frame, ...poll],
    ...[3, 0, 1, 2, 3, 4, 5, 6, 7, 8],
    ...poll,
  ]);
  const largest = [6, 9, ...Array(20).fill(1), 0];
  const large = [70, 68, 69, 102].flatMap((bits) =>
    [0, 1, 4].map((shift) => [
      ...[bits, 63, 0, 0, 0, 4],
      ...[3, 7, shift, 0, 4, 0x80, 0, 3], // tables with one buffer of 12 bytes
      ...Array(7).fill(largest).flat(),
      ...[...poll, ...poll],
    ]),
  );
  return [...usual, ...large].map((bytes) => Uint8Array.from(bytes));
}

export function ringTarget(name: 'split' | 'packed'): FuzzTarget {
  const guarded = new GuardedMemory(REGIONS);
  return {
    name,
    seeds: seeds(),
    run: (bytes, watch) => {
      const input = new FuzzInput(bytes);
      try {
        new RingCase(input, name === 'packed', guarded, watch).run(input);
      } finally {
        guarded.check();
      }
    },
  };
}
