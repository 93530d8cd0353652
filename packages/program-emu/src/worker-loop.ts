/**
 * worker-loop.ts: one datapath worker, an endless synchronous loop.
 *
 * Theory
 *   Queues are either busy or asleep. A busy queue is polled every turn with its kicks suppressed; one that stays
 *   empty for IDLE_TURNS_MAX turns (more after a stream of frames) arms its notifications, looks once more, and goes to
 *   sleep. What wakes a queue: its kick event or doorbell, and for the representor's side readiness of the TAP
 *   (edge-triggered, so nothing is drained). With no busy queue the thread sleeps in epoll and costs no CPU.
 *   Where the driver steers (RSS), a TAP is read for all receive queues of its function, which then are given frames as
 *   those of a switch are (tap-reader.ts).
 *   Where interrupts are moderated, one may wait while its queue is busy or asleep: it is looked at each turn, and a
 *   timer ends a sleep for it.
 *
 * Parties
 *   main     tells configurations through the mailbox; owns every descriptor.
 *   driver   owns the rings' memory and may be hostile at any instant.
 *
 * Invariants
 *   I1  no lost wake-up: a queue sleeps only after armKicks() found nothing, and the thread only after the mailbox
 *       agreed (mailbox.ts I1).
 *   I2  between two messages' handling no queue is half worked: configurations change between polls only.
 *   I3  a queue that faulted is reported once and not polled again until it is configured anew.
 *   I4  an interrupt that waits is sent before its queue is let go of: nobody would remember it. Else it is sent when it is
 *       due, unless the driver suppresses interrupts by then.
 *
 * Limits  POLL_BUDGET frames a queue and turn.
 */

import type { InterruptModeration, QueueOptions } from '@virtnet/engine-virtio-net';
import { GuestMemory, type RingFault, resumePosition } from '@virtnet/engine-virtqueue';
import { type Arena, Epoll, eventfdSignal, laneAt, type ProgressLane } from '@virtnet/host-linux';
import type { MailboxReceiver } from '@virtnet/host-workers';
import { EpollEvent, type QueueBlock, QueueCounter, QueueWord, queueBlock, WorkMark } from '@virtnet/wire';
import {
  type QueueConfig,
  REPORT_INTERRUPT,
  type UplinkConfig,
  type WorkerMessage,
  type WorkerReport,
} from './datapath-protocol.js';
import { memoryRegions } from './device-memory.js';
import {
  EVENT_LOOK_FRAMES,
  EVENT_LOOK_SHIFT,
  IDLE_QUEUES_SHIFT,
  IDLE_TURNS_MAX,
  IDLE_TURNS_MORE,
  MADE_AHEAD_MAX,
  POLL_BUDGET,
  STREAM_CREDIT,
  STREAM_CREDIT_MAX,
} from './limits.js';
import { PageViews } from './page-views.js';
import { PendingInterrupts } from './pending-interrupts.js';
import { isMade, type MadeQueue, QueueMaker } from './queue-maker.js';
import { SCRATCH_BYTES, Scratch } from './scratch.js';
import { type SwitchedQueue, Switching } from './switching.js';
import { type Entry, moderationOf, readerEntry } from './worker-entry.js';

/** Low bits of an epoll token say what became ready, the others which slot or TAP. */
const TokenKind = { WAKE: 0, KICK: 1, TAP: 2, UPLINK: 3 } as const;
const TOKEN_SHIFT = 2;

/** Most turns between two looks at the descriptors while queues are busy. */
const EVENT_LOOK_TURNS = 8;
/** Turns between two looks at the clock. */
const CLOCK_LOOK_TURNS = 256;
/** What main says is heard between two turns, so that queues are worked while others are still being told of. */
const MESSAGES_A_TURN = 4;

/** A queue and what works it; as long as it is kept, it is somebody else's. */
interface Ahead {
  readonly device: number;
  readonly config: QueueConfig;
  /** null: it is made when it holds. */
  readonly made: { readonly block: QueueBlock; readonly queue: MadeQueue | RingFault } | null;
}

/** Memory that regions' offsets refer to: the arena, or what stands for it. */
export type Memories = Pick<Arena, 'locate'>;

/** The two queues that share one TAP descriptor. */
interface TapUse {
  readonly fd: number;
  readonly index: number;
  receiveSlot: number;
  transmitSlot: number;
  /** What reads it for all receive queues of the function; null: the receive queue does, for itself. */
  reader: Entry | null;
}

/** As how many turns one counts among so many busy queues: what is meant is a time, and each of them takes its part. */
const idleWeight = (busy: number): number => Math.max(1, busy >> IDLE_QUEUES_SHIFT);

function openEpoll(): Epoll {
  const epoll = Epoll.create();
  if (typeof epoll === 'number') throw new Error(`epoll_create1: errno ${-epoll}`);
  return epoll;
}

export class WorkerLoop {
  readonly #arena: Memories;
  readonly #mailbox: MailboxReceiver<WorkerMessage>;
  readonly #report: (report: WorkerReport) => void;
  readonly #lane: ProgressLane;
  /** What a queue is marked with while it is worked. */
  readonly #mark: number;
  readonly #epoll = openEpoll();
  readonly #maker = new QueueMaker();
  /** Ports that have something to close, by slot. */
  readonly #closing = new Map<number, NonNullable<MadeQueue['closing']>>();
  readonly #memories = new Map<number, GuestMemory>();
  readonly #pages = new PageViews();
  readonly #entries: (Entry | null)[] = [];
  /** What slots will hold. */
  readonly #ahead = new Map<number, Ahead>();
  #madeAhead = 0;
  readonly #busy: Entry[] = [];
  readonly #tapByFd = new Map<number, TapUse>();
  readonly #taps: (TapUse | null)[] = [];
  readonly #switching: Switching;
  readonly #uplinks: (Entry | null)[] = [];
  readonly #pending = new PendingInterrupts<Entry>(this.#epoll, TokenKind.WAKE);
  readonly #sendPending = (entry: Entry) => this.#sendWanted(entry);
  /** Frames since the descriptors were looked at, as far as they count. */
  #unlooked = 0;
  #stopped = false;

  constructor(
    arena: Memories,
    mailbox: MailboxReceiver<WorkerMessage>,
    wakeFd: number,
    report: (report: WorkerReport) => void,
    lane: ProgressLane = laneAt(0n, 0),
    scratch = new Scratch({ buffer: new ArrayBuffer(SCRATCH_BYTES), byteOffset: 0, address: 0 }),
  ) {
    this.#lane = lane;
    this.#mark = WorkMark.LANE + lane.index;
    this.#arena = arena;
    this.#mailbox = mailbox;
    this.#report = report;
    const settled = (slot: number) => this.#afterPoll(this.#entries[slot] ?? null);
    this.#switching = new Switching(scratch, settled, this.#mark);
    if (wakeFd >= 0) this.#epoll.add(wakeFd, EpollEvent.IN | EpollEvent.EDGE, TokenKind.WAKE);
  }

  /** Runs until a 'stop' message. */
  run(): void {
    let turn = 0;
    while (!this.#stopped) {
      this.#mailbox.beat();
      this.#lane.beat();
      if (this.#mailbox.pending) {
        this.drainMailbox();
        if (this.#stopped) return;
      }
      if (!this.awake) {
        this.#settlePending();
        if (this.#mailbox.goToSleep()) {
          if (this.#pending.count > 0) this.#pending.setTimer(performance.now());
          this.#lane.fallAsleep();
          this.takeEvents(-1);
          this.#lane.wakeUp();
          this.#mailbox.wokeUp();
          this.#switching.tick();
        }
        continue;
      }
      this.turn();
      turn = (turn + 1) | 0;
      if (turn % CLOCK_LOOK_TURNS === 0) this.#switching.tick();
      if (this.#unlooked < EVENT_LOOK_FRAMES && turn % EVENT_LOOK_TURNS !== 0) continue;
      this.#unlooked = 0;
      this.takeEvents(0);
    }
  }

  /** Some queue is busy. */
  get awake(): boolean {
    return this.#busy.length > 0;
  }

  /** Polls every busy queue once; frames moved. */
  turn(): number {
    const busy = this.#busy;
    const idle = idleWeight(busy.length);
    let worked = 0;
    for (let i = busy.length - 1; i >= 0; i--) {
      const entry = busy[i]!;
      const frames = this.#work(entry);
      worked += frames;
      if (frames > 0) {
        const toKernel = entry.toKernel || entry.domain?.hasUplink === true;
        this.#unlooked += toKernel ? frames : frames >> EVENT_LOOK_SHIFT;
        entry.idleTurns = 0;
        if (entry.streak < IDLE_TURNS_MORE) entry.streak += frames;
        // What was spent beyond what there was is no debt: what comes now may be a stream.
        entry.credit = Math.min(Math.max(entry.credit, 0) + frames * STREAM_CREDIT, STREAM_CREDIT_MAX);
      } else if (entry.faulted || (this.#longIdle(entry, idle) && !this.#arm(entry))) {
        entry.busy = false;
        entry.streak = 0;
        entry.credit = 0;
        busy[i] = busy[busy.length - 1]!;
        busy.pop();
      }
    }
    this.#settlePending();
    return worked;
  }

  /** Counts a turn without a frame, as `weight` of them; whether there were enough. */
  #longIdle(entry: Entry, weight: number): boolean {
    entry.idleTurns += weight;
    entry.credit -= weight;
    return entry.credit < 0 && entry.idleTurns > IDLE_TURNS_MAX + Math.min(entry.streak, IDLE_TURNS_MORE);
  }

  drainMailbox(): void {
    this.#mailbox.drainMessages((message) => this.handle(message), MESSAGES_A_TURN);
    this.#mailbox.drainDoorbells((slot) => this.#kicked(slot));
  }

  handle(message: WorkerMessage): void {
    switch (message.kind) {
      case 'memory':
        if (message.regions === null) {
          this.#memories.delete(message.device);
          this.#switching.forget(message.device);
        } else {
          const regions = memoryRegions(message.regions, this.#arena);
          this.#memories.set(message.device, new GuestMemory(regions));
        }
        break;
      case 'queue':
        this.#detach(message.slot);
        if (message.config === null) break;
        if (message.ahead === true) this.#keep(message.slot, message.device, message.config);
        else this.#attach(message.slot, { device: message.device, config: message.config, made: null });
        break;
      case 'begin':
        for (const slot of message.slots) this.#begin(slot);
        break;
      case 'uplink':
        this.#setUplink(message.domain, message.uplink);
        break;
      case 'sync':
        this.#report({ kind: 'synced', id: message.id });
        break;
      case 'several':
        for (const each of message.messages) this.handle(each);
        break;
      case 'stop':
        this.#stopped = true;
        break;
    }
  }

  close(): void {
    this.#pending.close();
    for (const port of this.#closing.values()) port.close();
    this.#maker.close();
    this.#epoll.close();
  }

  #kicked(slot: number): void {
    const entry = this.#entries[slot];
    if (entry === null || entry === undefined) return;
    if (!entry.busy) {
      entry.words[QueueWord.UNDER_WORK] = this.#mark;
      entry.queue.noteKick();
      entry.words[QueueWord.UNDER_WORK] = 0;
    }
    this.wake(slot);
  }

  #work(entry: Entry): number {
    const { queue, domain, words } = entry;
    words[QueueWord.UNDER_WORK] = this.#mark;
    domain?.begin();
    const frames = queue.poll(POLL_BUDGET);
    domain?.flush();
    words[QueueWord.UNDER_WORK] = 0;
    this.#afterPoll(entry);
    return frames;
  }

  #arm({ queue, words }: Entry): boolean {
    words[QueueWord.UNDER_WORK] = this.#mark;
    const work = queue.arm();
    words[QueueWord.UNDER_WORK] = 0;
    return work;
  }

  /** Interrupts the driver, and tells of a fault, as a queue asks for. */
  #afterPoll(entry: Entry | null): void {
    if (entry === null) return;
    const { queue } = entry;
    if (entry.moderation !== null) {
      this.#moderate(entry, entry.moderation);
    } else if (queue.interrupt) {
      queue.interrupt = false;
      this.#interrupt(entry);
    }
    if (queue.fault !== null) this.#onFault(entry, queue.fault);
  }

  #moderate(entry: Entry, moderation: InterruptModeration): void {
    const { queue } = entry;
    const wanted = queue.interrupt;
    if (!wanted && !moderation.pending) {
      moderation.note(false, 0, entry.block!.counters[QueueCounter.FRAMES]!);
      return;
    }
    queue.interrupt = false;
    if (!moderation.note(wanted, performance.now(), entry.block!.counters[QueueCounter.FRAMES]!))
      this.#pending.add(entry);
    else if (wanted) this.#send(entry);
    else this.#sendWanted(entry);
  }

  #settlePending(): void {
    if (this.#pending.count > 0) this.#pending.settle(performance.now(), this.#sendPending);
  }

  /** The same of an interrupt that has waited: a driver that has come back to the ring by itself may suppress it. */
  #sendWanted(entry: Entry): void {
    const { words } = entry;
    const marked = words[QueueWord.UNDER_WORK]!;
    words[QueueWord.UNDER_WORK] = this.#mark; // the driver's memory is looked at
    const wanted = entry.queue.wantsInterrupt();
    words[QueueWord.UNDER_WORK] = marked;
    if (wanted) {
      this.#send(entry);
      return;
    }
    this.#pending.remove(entry);
    entry.moderation!.forget();
  }

  /** Interrupts the driver of a queue with moderation. */
  #send(entry: Entry): void {
    const { words, counters } = entry.block!;
    const moderation = entry.moderation!;
    this.#pending.remove(entry);
    this.#interrupt(entry);
    if (moderation.sent(performance.now(), counters[QueueCounter.BYTES]!))
      words[QueueWord.MODERATION_LEVEL] = moderation.level;
  }

  #interrupt(entry: Entry): void {
    const fd = entry.config?.interruptFd ?? -1;
    if (fd >= 0) {
      eventfdSignal(fd);
      entry.queue.countInterrupt();
    } else if (fd === REPORT_INTERRUPT) {
      this.#report({ kind: 'interrupt', slot: entry.slot });
    }
  }

  #onFault(entry: Entry, fault: RingFault): void {
    if (entry.faulted) return;
    entry.faulted = true;
    this.#report({ kind: 'fault', slot: entry.slot, fault });
  }

  /** Views and objects are made: what the page and the rings say is their owner's until `begin`. */
  #keep(slot: number, device: number, config: QueueConfig): void {
    this.#pages.at(config.pageAddress, config.pageBytes);
    const made = this.#madeAhead < MADE_AHEAD_MAX ? this.#make(device, slot, config) : null;
    if (made !== null) this.#madeAhead++;
    this.#ahead.set(slot, { device, config, made });
  }

  /** What is kept for the slot, which is kept no longer. */
  #unkeep(slot: number): Ahead | undefined {
    const ahead = this.#ahead.get(slot);
    this.#ahead.delete(slot);
    if (ahead !== undefined && ahead.made !== null) this.#madeAhead--;
    return ahead;
  }

  #begin(slot: number): void {
    const ahead = this.#unkeep(slot);
    if (ahead === undefined) throw new Error(`nothing was told ahead for slot ${slot}`);
    this.#attach(slot, ahead);
  }

  #make(device: number, slot: number, config: QueueConfig): NonNullable<Ahead['made']> {
    const block = queueBlock(this.#pages.at(config.pageAddress, config.pageBytes), config.queue);
    const memory = this.#memories.get(device) ?? new GuestMemory([]);
    return { block, queue: this.#maker.make(slot, config, block, memory) };
  }

  #attach(slot: number, { device, config, made }: Ahead): void {
    const { block, queue } = made ?? this.#make(device, slot, config);
    if (!isMade(queue)) {
      this.#report({ kind: 'fault', slot, fault: queue });
      return;
    }
    block.words[QueueWord.UNDER_WORK] = this.#mark;
    this.#open(device, slot, config, block, queue);
    block.words[QueueWord.UNDER_WORK] = 0;
  }

  #open(device: number, slot: number, config: QueueConfig, block: QueueBlock, made: MadeQueue): void {
    const { ring, options, closing } = made;
    const fault = ring.resumeAt(resumePosition(block));
    if (fault !== null) {
      this.#report({ kind: 'fault', slot, fault });
      return;
    }
    if (closing !== null) this.#closing.set(slot, closing);
    const { queue, domain } =
      made.queue === null
        ? this.#switchedQueue(device, slot, config, options)
        : { queue: made.queue, domain: null };
    const entry: Entry = {
      slot,
      device,
      config,
      queue,
      domain,
      moderation: moderationOf(config, block),
      block,
      words: block.words,
      toKernel: config.tapFd >= 0,
      idleTurns: 0,
      streak: 0,
      credit: 0,
      busy: false,
      faulted: false,
    };
    this.#entries[slot] = entry;
    this.#useTap(device, config, slot, block);
    if (config.kickFd >= 0) {
      this.#epoll.add(config.kickFd, EpollEvent.IN | EpollEvent.EDGE, (slot << TOKEN_SHIFT) | TokenKind.KICK);
    }
    queue.resume();
    if (config.signalAtOnce) queue.interrupt = true;
    if (entry.moderation !== null && queue.interrupt) {
      queue.interrupt = false;
      this.#interrupt(entry); // for what another has done: nobody knows since when it waits
    }
    this.wake(slot);
  }

  /** Makes a queue that frames are given to, or that gives them to others. */
  #switchedQueue(
    device: number,
    slot: number,
    config: QueueConfig,
    options: Omit<QueueOptions, 'port'>,
  ): SwitchedQueue {
    if (config.switched !== null) return this.#switching.open(device, slot, config, config.switched, options);
    return { queue: this.#switching.openSteered(device, slot, config, options), domain: null };
  }

  #setUplink(domain: number, uplink: UplinkConfig | null): void {
    const { before, now } = this.#switching.setUplink(
      domain,
      uplink === null
        ? null
        : { fd: uplink.fd, block: queueBlock(this.#pages.at(uplink.pageAddress, uplink.pageBytes), 0) },
    );
    if (before !== null) {
      const index = this.#uplinks.findIndex((entry) => entry?.queue === before);
      this.#epoll.remove(before.fd);
      this.#rest(this.#uplinks[index]!);
      this.#uplinks[index] = null;
    }
    if (now === null) return;
    const free = this.#uplinks.indexOf(null);
    const index = free < 0 ? this.#uplinks.length : free;
    const entry = readerEntry(now);
    this.#uplinks[index] = entry;
    this.#epoll.add(now.fd, EpollEvent.IN | EpollEvent.EDGE, (index << TOKEN_SHIFT) | TokenKind.UPLINK);
    this.#wakeEntry(entry);
  }

  #detach(slot: number): void {
    this.#unkeep(slot);
    const entry = this.#entries[slot];
    if (entry === null || entry === undefined || entry.config === null) return;
    const { config, device } = entry;
    this.#entries[slot] = null;
    if (entry.moderation?.pending === true) this.#send(entry);
    if (config.kickFd >= 0) this.#epoll.remove(config.kickFd);
    this.#leaveTap(config, slot);
    this.#closing.get(slot)?.close();
    this.#closing.delete(slot);
    if (config.switched !== null || config.rss !== null) this.#switching.close(device, config);
    this.#rest(entry);
  }

  #rest(entry: Entry): void {
    const at = this.#busy.indexOf(entry);
    if (at >= 0) this.#busy.splice(at, 1);
  }

  #useTap(device: number, config: QueueConfig, slot: number, block: QueueBlock): void {
    if (config.tapFd < 0) return;
    let use = this.#tapByFd.get(config.tapFd);
    if (use === undefined) {
      let index = this.#taps.indexOf(null);
      if (index < 0) index = this.#taps.length;
      use = { fd: config.tapFd, index, receiveSlot: -1, transmitSlot: -1, reader: null };
      this.#taps[index] = use;
      this.#tapByFd.set(config.tapFd, use);
      const events = EpollEvent.IN | EpollEvent.OUT | EpollEvent.EDGE;
      this.#epoll.add(config.tapFd, events, (index << TOKEN_SHIFT) | TokenKind.TAP);
    }
    if (config.direction === 'receive') use.receiveSlot = slot;
    else use.transmitSlot = slot;
    if (config.rss === null) this.#leaveReader(use);
    else {
      use.reader ??= readerEntry(this.#switching.steeredTap(device, use.fd, block), device, block.words);
      this.#wakeEntry(use.reader);
    }
  }

  #leaveReader(use: TapUse): void {
    if (use.reader !== null) this.#rest(use.reader);
    use.reader = null;
  }

  #leaveTap(config: QueueConfig, slot: number): void {
    const use = this.#tapByFd.get(config.tapFd);
    if (use === undefined) return;
    if (use.receiveSlot === slot) use.receiveSlot = -1;
    if (use.transmitSlot === slot) use.transmitSlot = -1;
    if (use.receiveSlot >= 0 || use.transmitSlot >= 0) return;
    this.#leaveReader(use);
    this.#epoll.remove(use.fd);
    this.#tapByFd.delete(use.fd);
    this.#taps[use.index] = null;
  }

  /** Wakes the queues that something happened to; waits for that up to `timeoutMs`, -1: for ever. */
  takeEvents(timeoutMs: number): void {
    const count = this.#epoll.wait(timeoutMs);
    for (let i = 0; i < count; i++) {
      const token = this.#epoll.token(i);
      const which = token >>> TOKEN_SHIFT;
      switch (token & ((1 << TOKEN_SHIFT) - 1)) {
        case TokenKind.KICK:
          this.#kicked(which);
          break;
        case TokenKind.TAP: {
          const use = this.#taps[which];
          if (use === null || use === undefined) break;
          const events = this.#epoll.events(i);
          const readable = (events & ~EpollEvent.OUT) !== 0;
          if (readable && use.reader !== null) this.#wakeEntry(use.reader);
          else if (readable && use.receiveSlot >= 0) this.wake(use.receiveSlot);
          if ((events & EpollEvent.OUT) !== 0 && use.transmitSlot >= 0) this.wake(use.transmitSlot);
          break;
        }
        case TokenKind.UPLINK: {
          const uplink = this.#uplinks[which];
          if (uplink !== null && uplink !== undefined) this.#wakeEntry(uplink);
          break;
        }
        default: // the wake-up itself: the mailbox is looked at in the next turn
      }
    }
  }

  /** Makes queue `slot` busy. */
  wake(slot: number): void {
    const entry = this.#entries[slot];
    if (entry !== null && entry !== undefined && !entry.faulted) this.#wakeEntry(entry);
  }

  #wakeEntry(entry: Entry): void {
    entry.idleTurns = 0;
    if (entry.busy) return;
    entry.busy = true;
    const { queue, words } = entry;
    words[QueueWord.UNDER_WORK] = this.#mark;
    queue.disarm();
    words[QueueWord.UNDER_WORK] = 0;
    this.#busy.push(entry);
  }
}
