/**
 * shelf-link.ts: connections between emulators and the state keeper, and an emulator's end of them.
 *
 * Theory
 *   A connection loses and reorders nothing, but each message takes its time, what its sender has sent before it died
 *   arrives, what its receiver has not read when it dies is gone, and it may break while both live. The keeper's end is an
 *   object that others may hold: then what a dead keeper had not passed on is still there, and who talks to it hears
 *   of its death a while later. The client follows
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
import { SimHandle, SimObject, type SimProcess, type SimWorld } from './world.js';

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

/** The keeper's end of a connection. */
class KeeperEnd extends SimObject {
  readonly link: ShelfLink;

  constructor(link: ShelfLink) {
    super('end of a connection');
    this.link = link;
  }
}

/** One connection. */
export class ShelfLink {
  readonly keeperEnd = new KeeperEnd(this);
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
    new SimHandle(this.keeperEnd, keeper);
    const [atClient, atKeeper] = this.#ends;
    this.keeperEnd.onGone = () => {
      for (const message of atKeeper.waiting.splice(0)) dropped(message);
    };
    client.mourners.add(() => {
      for (const message of atClient.waiting.splice(0)) dropped(message);
      this.#closed(KEEPER);
    });
    keeper.mourners.add(() => this.#closed(CLIENT));
  }

  get open(): boolean {
    return !this.#broken && this.#ends.every(({ process }) => process.alive);
  }

  get keeperDead(): boolean {
    return !this.#ends[KEEPER].process.alive;
  }

  /** Ends the connection and takes what a dead keeper has left in it. */
  inherit(): Message[] {
    this.break();
    this.#broken = true;
    return this.#ends[KEEPER].waiting.splice(0);
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
    const heldByOthers = index === CLIENT && this.keeperDead && this.keeperEnd.holders > 0 && !this.#broken;
    if (!this.open && !heldByOthers) return false;
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
      const [message] = end.waiting;
      if (message === undefined) return;
      if (end === this.#ends[KEEPER]) {
        // It stays there until it was passed on.
        end.onMessage(received(wrapped(message), end.process));
        this.#world.point();
        if (end.waiting[0] === message) dropped(end.waiting.shift()!);
      } else end.onMessage(received(end.waiting.shift()!, end.process));
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
const KEEPER = 1;
const RECONNECT_MS = [2, 20] as const;

export class SimShelfClient {
  readonly #world: SimWorld;
  readonly #process: SimProcess;
  readonly #address: KeeperAddress;
  readonly #inherits: boolean;
  #link: ShelfLink | null = null;
  #follower: ShelfFollower<SimHandle> | null = null;
  /** Calls back when there is something to upload. */
  #upload: ((ready: () => void) => void) | null = null;
  #put: () => void = () => {};
  #onLost: () => void = () => {};
  #onLease: ((result: number) => void) | null = null;
  /** A keeper has everything of this writer, or will have read it when it has read what was sent. */
  uploaded = false;
  /** A keeper died with what no other process knows now but its heir, and it was answered already. */
  missed = false;
  /** The keeper's end of the writer's connection. */
  #inheritance: SimHandle | null = null;
  #writerPid = 0;
  #waiting: (() => void)[] = [];

  constructor(world: SimWorld, process: SimProcess, address: KeeperAddress, inherits: boolean) {
    this.#world = world;
    this.#process = process;
    this.#address = address;
    this.#inherits = inherits;
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
      this.#inherit();
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
    const message = { kind: ShelfMessageKind.TRANSACTION, argument: 0, operations };
    if (this.#link?.send(CLIENT, message) === true) {
      if (this.#link.keeperDead) this.missed = true;
      return 0;
    }
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
    if (this.#left?.keeperDead === true) this.#inherit();
    this.#forgetEnd();
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

  get #left(): ShelfLink | null {
    const object = this.#inheritance?.object;
    return object instanceof KeeperEnd ? object.link : null;
  }

  /** Whether it knows all that the keeper at the other end of `link` has passed on, and takes what that leaves. */
  isHeirOf(link: ShelfLink | null): boolean {
    return link !== null && this.#left === link && this.inStep;
  }

  #inherit(): void {
    if (this.#inherits)
      for (const message of this.#left?.inherit() ?? []) {
        if (message.kind === ShelfMessageKind.TRANSACTION && this.#follower !== null) {
          this.#world.count('inherited');
          this.#follower.take(received(message, this.#process));
        } else dropped(message);
      }
    this.#forgetEnd();
  }

  #forgetEnd(): void {
    this.#inheritance?.release();
    this.#inheritance = null;
  }

  #control(kind: ShelfMessageKind, argument: number): boolean {
    return this.#link?.send(CLIENT, { kind, argument, operations: [] }) === true;
  }

  #take(link: ShelfLink, message: Message): void {
    if (link !== this.#link) return dropped(message);
    const { kind, argument } = message;
    if (kind === ShelfMessageKind.TRANSACTION && this.#follower === null) return dropped(message);
    const [first] = message.operations;
    if (kind === ShelfMessageKind.WRITER_END && this.#follower !== null && first?.kind === 'put') {
      this.#forgetEnd();
      this.#inheritance = first.handle;
      this.#writerPid = argument;
      return;
    }
    const over = kind === ShelfMessageKind.LEASE_LOST && argument === this.#writerPid;
    if (over || kind === ShelfMessageKind.LEASE_HELD) this.#forgetEnd();
    if (kind === ShelfMessageKind.LEASE) this.#leaseAnswered(link, argument);
    else if (kind === ShelfMessageKind.REFUSED) this.#world.count('refused');
    else this.#follower?.take(message);
  }

  #leaseAnswered(link: ShelfLink, result: number): void {
    if (result === 0) {
      this.#follower = null;
      this.#forgetEnd();
    }
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
    if (this.#onLease !== null)
      this.#inherit(); // it is to succeed the writer
    else if (link.keeperDead)
      this.#world.after(this.#process, this.#world.between(0.01, 1), 'keeper died', () => this.#inherit());
    this.#follower?.disconnected();
    this.#onLost();
    const answer = this.#onLease;
    this.#onLease = null;
    answer?.(-Errno.ENOTCONN);
    this.#world.after(this.#process, this.#world.between(...RECONNECT_MS), 'connect', () => this.#connect());
  }
}
