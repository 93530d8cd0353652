/**
 * shelf-link.ts: connections between emulators and the state keeper, and an emulator's end of them.
 *
 * Theory
 *   A connection loses and reorders nothing, but each message takes its time, what its sender has sent before it died
 *   arrives, what its receiver has not read when it dies is gone, and it may break while both live. The client follows
 *   host-ipc's ShelfClient: it connects again by itself, a writer then takes the lease again and uploads everything, a
 *   subscriber is told everything anew. What a subscriber knows is engine-recovery's ShelfFollower.
 */
import {
  type FollowerEvents,
  ShelfFollower,
  type ShelfMessage,
  type ShelfOperation,
} from '@virtnet/engine-recovery';
import { Errno, LeaseMode, ShelfMessageKind } from '@virtnet/wire';
import { SimHandle, type SimProcess, type SimWorld } from './world.js';

export type Message = ShelfMessage<SimHandle>;
export type Operation = ShelfOperation<SimHandle>;

/** A copy for a message: its handles are the message's. */
function wrapped(message: Message): Message {
  const operations = message.operations.map((operation) =>
    operation.kind === 'put' && operation.handle !== null
      ? { ...operation, handle: new SimHandle(operation.handle.object, null) }
      : operation,
  );
  return { ...message, operations };
}

function dropped({ operations }: Message): void {
  for (const operation of operations) if (operation.kind === 'put') operation.handle?.release();
}

function received(message: Message, by: SimProcess): Message {
  for (const operation of message.operations) if (operation.kind === 'put') operation.handle?.give(by);
  return message;
}

interface End {
  /** Sent to it and not read. */
  readonly waiting: Message[];
  process: SimProcess;
  onMessage(message: Message): void;
  onEnd(): void;
  ended: boolean;
}

/** One connection. */
export class ShelfLink {
  readonly #world: SimWorld;
  readonly #ends: readonly [End, End];
  #broken = false;

  constructor(world: SimWorld, client: SimProcess, keeper: SimProcess) {
    this.#world = world;
    const end = (process: SimProcess): End => ({
      waiting: [],
      process,
      onMessage: () => {},
      onEnd: () => {},
      ended: false,
    });
    this.#ends = [end(client), end(keeper)];
    for (const [index, { process }] of this.#ends.entries())
      process.mourners.add(() => {
        for (const message of this.#ends[index]!.waiting.splice(0)) dropped(message);
        this.#closed((1 - index) as 0 | 1);
      });
  }

  get open(): boolean {
    return !this.#broken && this.#ends.every(({ process }) => process.alive);
  }

  /** Messages that were sent and not read, by end: client, keeper. */
  get unread(): readonly [number, number] {
    return [this.#ends[0].waiting.length, this.#ends[1].waiting.length];
  }

  on(index: 0 | 1, onMessage: End['onMessage'], onEnd: End['onEnd']): void {
    Object.assign(this.#ends[index], { onMessage, onEnd });
  }

  /** Sends from end `index`; false when nobody can read it any more. */
  send(index: 0 | 1, message: Message): boolean {
    if (!this.open) return false;
    const to = this.#ends[(1 - index) as 0 | 1];
    to.waiting.push(wrapped(message));
    this.#world.after(to.process, this.#world.between(0.01, 0.8), 'shelf', () => this.#read(to, 1));
    return true;
  }

  /** Reads everything that was sent to end `index`, its end included. */
  readAll(index: 0 | 1): void {
    const end = this.#ends[index];
    this.#read(end, Number.POSITIVE_INFINITY);
    if (!this.open) this.#end(end);
  }

  /** Both ends live, and yet it ends; what was sent is still read. */
  break(): void {
    if (!this.open) return;
    this.#broken = true;
    this.#closed(0);
    this.#closed(1);
  }

  /** End `index` closes it; what was sent to it is not read any more. */
  close(index: 0 | 1): void {
    this.#ends[index].ended = true;
    for (const message of this.#ends[index].waiting.splice(0)) dropped(message);
    this.break();
  }

  #closed(index: 0 | 1): void {
    const end = this.#ends[index];
    this.#world.after(end.process, this.#world.between(0.01, 1), 'shelf end', () => {
      this.#read(end, Number.POSITIVE_INFINITY);
      this.#end(end);
    });
  }

  #read(end: End, most: number): void {
    for (let count = 0; count < most && !end.ended; count++) {
      const message = end.waiting.shift();
      if (message === undefined) return;
      end.onMessage(received(message, end.process));
    }
  }

  #end(end: End): void {
    if (end.ended) return;
    end.ended = true;
    end.onEnd();
  }
}

/** Where the keeper listens. */
export interface KeeperAddress {
  connect(client: SimProcess): ShelfLink | null;
}

const CLIENT = 0;
const RECONNECT_MS = [2, 20] as const;

export class SimShelfClient {
  readonly #world: SimWorld;
  readonly #process: SimProcess;
  readonly #address: KeeperAddress;
  #link: ShelfLink | null = null;
  #follower: ShelfFollower<SimHandle> | null = null;
  /** Calls back when there is something to upload. */
  #upload: ((ready: () => void) => void) | null = null;
  #put: () => void = () => {};
  #onLost: () => void = () => {};
  #onLease: ((result: number) => void) | null = null;
  /** A keeper has everything of this writer, or will have read it when it has read what was sent. */
  uploaded = false;
  /** A keeper died with what only this process knows now, which was answered already. */
  missed = false;
  #waiting: (() => void)[] = [];

  constructor(world: SimWorld, process: SimProcess, address: KeeperAddress) {
    this.#world = world;
    this.#process = process;
    this.#address = address;
  }

  get connected(): boolean {
    return this.#link !== null;
  }

  /** What is known here is what the keeper knows. */
  get inStep(): boolean {
    return this.connected && this.#follower?.synced === true;
  }

  /** As ShelfClient.kept. */
  get kept(): boolean {
    return this.uploaded || this.#upload === null;
  }

  whenKept(action: () => void): void {
    this.#waiting.push(action);
  }

  get link(): ShelfLink | null {
    return this.#link;
  }

  start(events: FollowerEvents<SimHandle>, onLost: () => void): void {
    this.#onLost = onLost;
    this.#follower = new ShelfFollower(events);
    this.#connect();
  }

  /** As ShelfClient.start, when the connection has just been lost. */
  reconnect(): void {
    this.#connect();
  }

  /** As ShelfClient.lease: `when` calls back as soon as there is something to upload, which `put` then puts. */
  lease(when: (ready: () => void) => void, put: () => void, onResult: (result: number) => void): void {
    const adopt = this.#follower?.synced === true && this.connected;
    this.#upload = when;
    this.#put = put;
    if (this.#link === null) {
      this.#follower = null;
      onResult(-Errno.ENOTCONN);
      return;
    }
    this.#onLease = onResult;
    this.#takeLease(adopt);
  }

  /** 0 or -errno; handles stay the caller's. */
  transaction(operations: readonly Operation[]): number {
    if (this.#upload === null) return -Errno.EPERM;
    if (this.#link?.send(CLIENT, { kind: ShelfMessageKind.TRANSACTION, argument: 0, operations }) === true)
      return 0;
    this.uploaded = false;
    return -Errno.ENOTCONN;
  }

  /** As ShelfClient.bury. */
  bury(pid: number): void {
    this.#control(ShelfMessageKind.BURY, pid);
  }

  #connect(): void {
    if (this.connected) return;
    const link = this.#address.connect(this.#process);
    if (link === null) {
      const [least, most] = RECONNECT_MS;
      this.#world.after(this.#process, this.#world.between(least, most), 'connect', () => this.#connect());
      return;
    }
    this.#link = link;
    link.on(
      CLIENT,
      (message) => this.#take(link, message),
      () => this.#lost(link),
    );
    this.#follower?.connected();
    if (this.#upload !== null) {
      this.#follower = null;
      this.#takeLease(false);
    } else if (this.#follower !== null) this.#control(ShelfMessageKind.SUBSCRIBE, 0);
  }

  #takeLease(adopt: boolean): void {
    const asked = this.#control(ShelfMessageKind.LEASE, adopt ? LeaseMode.ADOPT : LeaseMode.UPLOAD);
    this.uploaded = adopt && asked;
    if (adopt) return this.#told();
    const link = this.#link;
    this.#upload?.(() => {
      this.#put();
      if (link !== this.#link) return;
      this.uploaded = this.#control(ShelfMessageKind.COMPLETE, 0);
      if (this.uploaded) this.missed = false;
      this.#told();
    });
  }

  #told(): void {
    if (this.uploaded) for (const action of this.#waiting.splice(0)) action();
  }

  #control(kind: ShelfMessageKind, argument: number): boolean {
    return this.#link?.send(CLIENT, { kind, argument, operations: [] }) === true;
  }

  #take(link: ShelfLink, message: Message): void {
    if (link !== this.#link) return dropped(message);
    const { kind, argument } = message;
    if (kind === ShelfMessageKind.TRANSACTION && this.#follower === null) return dropped(message);
    if (kind === ShelfMessageKind.LEASE) this.#leaseAnswered(link, argument);
    else if (kind === ShelfMessageKind.REFUSED) this.#world.count('refused');
    else this.#follower?.take(message);
  }

  #leaseAnswered(link: ShelfLink, result: number): void {
    if (result === 0) this.#follower = null;
    const answer = this.#onLease;
    this.#onLease = null;
    answer?.(result);
    if (result < 0) {
      link.close(CLIENT);
      this.#lost(link);
    }
  }

  #lost(link: ShelfLink): void {
    if (link !== this.#link) return;
    this.#link = null;
    this.uploaded = false;
    this.#follower?.disconnected();
    this.#onLost();
    const answer = this.#onLease;
    this.#onLease = null;
    answer?.(-Errno.ENOTCONN);
    this.#world.after(this.#process, this.#world.between(...RECONNECT_MS), 'connect', () => this.#connect());
  }
}
