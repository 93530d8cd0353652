/** objects.ts: what the kernel holds for a device: its socket, its memory, its events, its representor. */
import type { FramePort } from '@virtnet/engine-virtio-net';
import type { DeviceRing } from '@virtnet/engine-virtqueue';
import { Errno, NetHeader, StatePageHeader, statePageSize } from '@virtnet/wire';
import type { DriverMemory } from '../driver-memory.js';
import { SimHandle, SimObject, type SimProcess, type SimWorld } from './world.js';

/** Whoever waits for something of an object. */
export interface Watcher {
  readonly process: SimProcess | null;
  readonly run: () => void;
}

/** An object that becomes ready and wakes who waits for it. */
export class Watched extends SimObject {
  readonly watchers = new Set<Watcher>();
  protected readonly world: SimWorld;

  constructor(world: SimWorld, name: string) {
    super(name);
    this.world = world;
  }

  watch(process: SimProcess | null, run: () => void): () => void {
    const watcher = { process, run };
    this.watchers.add(watcher);
    if (this.ready) this.#wake(watcher);
    return () => this.watchers.delete(watcher);
  }

  protected get ready(): boolean {
    return false;
  }

  protected wake(): void {
    for (const watcher of this.watchers) {
      if (watcher.process?.alive === false) this.watchers.delete(watcher);
      else this.#wake(watcher);
    }
  }

  #wake(watcher: Watcher): void {
    this.world.after(watcher.process, this.world.between(0.005, 0.3), this.name, () => {
      if (this.watchers.has(watcher)) watcher.run();
    });
  }
}

/** An eventfd. */
export class EventObject extends Watched {
  pending = false;

  signal(): void {
    this.pending = true;
    this.wake();
  }

  /** Whether it was signalled since the last look. */
  drain(): boolean {
    const was = this.pending;
    this.pending = false;
    return was;
  }

  protected override get ready(): boolean {
    return this.pending;
  }
}

const QUEUES = 2;

export class PageObject extends SimObject {
  readonly page = new ArrayBuffer(statePageSize(QUEUES));

  constructor(name: string) {
    super(name);
    new DataView(this.page).setUint32(StatePageHeader.at.queueCount, QUEUES, true);
  }
}

export class MemoryObject extends SimObject {
  readonly memory: DriverMemory;

  constructor(name: string, memory: DriverMemory) {
    super(name);
    this.memory = memory;
  }
}

const overflow = new Uint8Array(4096);
/** Frames that wait at a representor; what comes beyond is dropped there, as by a kernel's queue. */
const TAP_FRAMES_MAX = 32;

/** A representor: what the device sent, and what waits to be received. */
export class TapObject extends Watched implements FramePort {
  readonly overflow = overflow;
  readonly waiting: Uint8Array[] = [];
  onSent: (frame: Uint8Array) => void = () => {};
  #full = false;

  /** It is full for a while. */
  block(ms: number): void {
    if (this.#full) return;
    this.#full = true;
    this.world.after(null, ms, this.name, () => {
      this.#full = false;
      this.wake();
    });
  }

  /** A frame comes from the network; false when there is no room for it. */
  push(frame: Uint8Array): boolean {
    if (this.waiting.length >= TAP_FRAMES_MAX) return false;
    this.waiting.push(frame);
    this.wake();
    return true;
  }

  send(ring: DeviceRing, header: Uint8Array, frameOffset: number): number {
    if (this.#full) return -Errno.EAGAIN;
    const frame = new Uint8Array(ring.readableBytes - frameOffset);
    ring.gather(frameOffset, frame, 0, frame.length);
    this.onSent(frame);
    return header.length + frame.length;
  }

  receive(ring: DeviceRing, header: Uint8Array, frameOffset: number): number {
    const frame = this.waiting.shift();
    if (frame === undefined) return -Errno.EAGAIN;
    header.fill(0);
    ring.scatter(frameOffset, frame, 0, frame.length);
    return NetHeader.sizeBytes + frame.length;
  }

  protected override get ready(): boolean {
    return this.waiting.length > 0;
  }
}

/** A request as it lies in the socket, with the descriptors that came with it. */
export interface SocketRequest {
  readonly bytes: Uint8Array;
  readonly objects: ReadonlyMap<string, SimObject>;
}

/** A client's connection. Requests stay in it until they are answered. */
export class ConnectionObject extends Watched {
  readonly requests: SocketRequest[] = [];
  open = true;
  /** The device ended it on purpose. */
  refused = false;
  onReply: (reply: Uint8Array) => void = () => {};

  request(request: SocketRequest): void {
    this.requests.push(request);
    this.wake();
  }

  /** Sends the answer and drops the request: one system call. */
  answer(reply: Uint8Array): void {
    this.requests.shift();
    this.onReply(reply);
  }

  protected override get ready(): boolean {
    return this.requests.length > 0 || !this.open;
  }

  /** The client closes it. */
  hangUp(): void {
    this.open = false;
    this.wake();
  }
}

/** The socket of a function, with who waits to be accepted. */
export class ListenerObject extends Watched {
  readonly backlog: SimHandle[] = [];

  connect(connection: ConnectionObject): void {
    this.backlog.push(new SimHandle(connection, null));
    this.wake();
  }

  /** Nobody can accept any more: who waits is hung up on. */
  close(): void {
    for (const handle of this.backlog.splice(0)) handle.release();
  }

  accept(process: SimProcess): SimHandle | null {
    return this.backlog.shift()?.give(process) ?? null;
  }

  protected override get ready(): boolean {
    return this.backlog.length > 0;
  }
}
