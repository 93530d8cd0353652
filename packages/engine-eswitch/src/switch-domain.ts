/**
 * switch-domain.ts: the functions that reach each other without the kernel, and how their frames do.
 *
 * Theory
 *   All queues of a domain are worked by one thread. A transmit queue's poll sends each frame through its port here:
 *   the switch decides where it goes, and it is copied from the sender's chain straight into a chain of each
 *   receiver's ring. Nothing is queued in between and no lock is needed. Receivers that were touched are shown their
 *   frames once per burst (flush). Plain frames (port.ts of engine-virtio-net) that follow each other with the same
 *   addresses are switched once, and delivered as a burst.
 *   The transmit queue pair chooses the receive queue, so the frames of a flow stay in order; what comes in through the
 *   uplink has none, and is spread by the hash of its flow. A function can have its flows followed (aarfs): what it sends
 *   is noted, and the answer goes to the pair that sent. Before all of this goes what the receiver's driver says (RSS). A
 *   frame larger than the receiver takes is segmented on the way; an open checksum is completed by the receiver's header (net-header.ts).
 *
 * Parties
 *   owner    the worker's loop: attaches queues, calls begin() before and flush() after the poll of a transmit queue, or of a
 *            reader that receives or gives, which ends its poll when the credit is spent.
 *   uplink   a port like any other whose other side is the owner's: what nobody here has learned to be elsewhere
 *            reaches it too. What it does not take is the sender's to count: a frame that nobody else was given as a drop,
 *            with the uplink's reason; a copy of another one as UPLINK_MISSED. What came in through it and nobody may
 *            receive is a drop of its own, in the block its reader has for that.
 *   TAP      of a single function whose driver steers: the owner has read the frame and nothing is switched (give).
 *
 * Invariants
 *   I1  a burst ends when its credit is used up: a frame costs one for each copy, and for each chain that a receiver had
 *       for it and that holds none, so that flooding to a thousand functions, or cutting a frame into a thousand, takes its
 *       time from its sender, or from whoever sends through the uplink.
 *   I2  a full or broken receiver, or uplink, never keeps a frame from the others, nor the sender's ring from moving.
 *
 * Limits  PORTS_MAX ports; BURST_CREDIT copies a burst, and the last frame's.
 */
import {
  counterOfRefusal,
  FlowHash,
  FRAME_BYTES_MAX,
  type FramePort,
  HASHED_BYTES_MAX,
  ReceiveSteering,
  type RssSettings,
  refusal,
  Segmenter,
} from '@virtnet/engine-virtio-net';
import { type DeviceRing, PrivateMemory, type QueueLedger } from '@virtnet/engine-virtqueue';
import { Errno, GsoType, HashReport, HashType, NetHeader, NetHeaderFlag, QueueCounter } from '@virtnet/wire';
import { Eswitch, type EswitchOptions, Verdict } from './eswitch.js';
import { FlowTable } from './flow-table.js';
import { BURST_CREDIT, UPLINK_PORT } from './limits.js';
import { SwitchedFrame } from './switched-frame.js';
import type { SwitchedReceiveQueue } from './switched-receive-queue.js';

export interface DomainOptions extends EswitchOptions {
  /** Private memory of FRAME_BYTES_MAX bytes for segments; absent: some of its own. */
  readonly segment?: PrivateMemory;
  /** A receive queue was touched: its interrupt and fault want looking at. */
  settled(queue: SwitchedReceiveQueue): void;
}

/** The receive queues of one port. */
interface Receivers {
  /** By queue pair. */
  readonly all: (SwitchedReceiveQueue | null)[];
  /** Those that may be chosen automatically, by pair. */
  active: SwitchedReceiveQueue[];
  /** How the driver chooses, as the queue says that was attached last; null: it does not. */
  rss: RssSettings | null;
  /** The same, ready for use; made when the first frame comes. */
  steering: ReceiveSteering | null;
  /** With which pairs the function answered; null: its flows are not followed. */
  flows: FlowTable | null;
}

/** What send() answers for each verdict that is no destination. */
const REFUSALS = new Int32Array(-Verdict.BAD_SOURCE + 1);
REFUSALS[-Verdict.NO_DESTINATION] = refusal(QueueCounter.DROP_NO_DESTINATION);
REFUSALS[-Verdict.SAME_PORT] = refusal(QueueCounter.DROP_SAME_PORT);
REFUSALS[-Verdict.RESERVED] = refusal(QueueCounter.DROP_NOT_SWITCHED);
REFUSALS[-Verdict.BAD_SOURCE] = refusal(QueueCounter.DROP_NOT_SWITCHED);

const NO_DESTINATION = REFUSALS[-Verdict.NO_DESTINATION]!;
const FULL = -Errno.EAGAIN;

/** What became of a copy: somebody at its port may receive. Otherwise it is a refusal. */
const REACHED = 0;
const UPLINK_FULL = refusal(QueueCounter.DROP_TAP_AGAIN);
const UPLINK_FAILED = refusal(QueueCounter.DROP_TAP_ERROR);

/** Addresses and ports as the frame has them; extension headers change nothing. */
const FLOW_TYPES =
  HashType.IPV4 | HashType.TCPV4 | HashType.UDPV4 | HashType.IPV6 | HashType.TCPV6 | HashType.UDPV6;
const FLOW_KEY_BYTES = 40;
/** Tells flows of the same addresses and ports under different protocols apart. */
const REPORT_FACTOR = 0x9e37_79b1 | 0;
const NO_FLOW = 0;
/** Instead of a pair: the frame comes from none. */
const ANY_PAIR = -1;

/** A key that follows from 32 bits nobody can guess. */
function flowKey(seed: number): number[] {
  let state = seed | 0;
  return Array.from({ length: FLOW_KEY_BYTES }, () => {
    state = (state + 0x6d2b_79f5) | 0;
    const mixed = Math.imul(state ^ (state >>> 15), 0x2c1b_3c6d);
    return (mixed ^ (mixed >>> 12)) >>> 24;
  });
}

/** Who receives the frames of `pair` where nobody else decides; null: nobody. */
function receiverOf({ active }: Receivers, pair: number): SwitchedReceiveQueue | null {
  const count = active.length;
  return count === 0 ? null : active[pair < count ? pair : pair % count]!;
}

const GSO_TYPE = NetHeader.at.gsoType;
const { BYTES, FRAMES, STATIONS_REFUSED, UPLINK_MISSED } = QueueCounter;

export class SwitchDomain {
  readonly eswitch: Eswitch;
  readonly #settled: (queue: SwitchedReceiveQueue) => void;
  readonly #ports: (Receivers | undefined)[] = [];
  /** The first `#touchedCount` places; an array that is emptied and filled again would be allocated anew each time. */
  readonly #touched: (SwitchedReceiveQueue | null)[] = [];
  #touchedCount = 0;
  readonly #segmenter: Segmenter;
  readonly #segmentMemory: PrivateMemory;
  readonly #frame = new SwitchedFrame();
  readonly #segment = new SwitchedFrame();
  /** First bytes of the frame whose flow matters. */
  readonly #head = new PrivateMemory(HASHED_BYTES_MAX);
  readonly #flowHash: FlowHash;
  #now = 0;
  #uplink: FramePort | null = null;
  /** The uplink did not take its copy of the frame last forwarded, and another port did. */
  #uplinkMissed = false;
  #credit = BURST_CREDIT;

  constructor(options: DomainOptions) {
    this.eswitch = new Eswitch(options);
    this.#flowHash = new FlowHash({ types: FLOW_TYPES, key: flowKey(options.seed) });
    this.#settled = options.settled;
    this.#segmentMemory = options.segment ?? new PrivateMemory(FRAME_BYTES_MAX);
    this.#segmenter = new Segmenter(this.#segmentMemory.u8);
  }

  /** Lets `queue` receive the frames of its pair, in place of the one that did. */
  attach(port: number, pair: number, queue: SwitchedReceiveQueue): void {
    const receivers = this.#receivers(port);
    receivers.all[pair] = queue;
    receivers.rss = queue.rss;
    receivers.steering = null;
    receivers.flows = queue.follows ? (receivers.flows ?? new FlowTable()) : null;
    this.#steer(receivers);
  }

  /** Tells the time in whole seconds, from any beginning, never backwards: stations and flows age. */
  tick(seconds: number): void {
    this.#now = seconds;
    this.eswitch.tick(seconds);
  }

  /** Takes a receive queue out; its driver has been shown everything by then. */
  detach(port: number, pair: number): void {
    const receivers = this.#ports[port];
    const queue = receivers?.all[pair];
    if (receivers === undefined || queue === null || queue === undefined) return;
    receivers.all[pair] = null;
    this.#steer(receivers);
    const at = this.#touched.indexOf(queue);
    if (at >= 0) this.#touched[at] = null;
    queue.flush();
  }

  /** The function behind a port is gone. */
  remove(port: number): void {
    this.#ports[port] = undefined;
    this.eswitch.remove(port);
  }

  /** Lets functions send through `port`, whether it receives or not. */
  open(port: number): void {
    this.#receivers(port);
  }

  /** Adds or, with null, removes the port to the outside. */
  setUplink(uplink: FramePort | null): void {
    this.#uplink = uplink;
    if (uplink !== null) this.eswitch.add(UPLINK_PORT);
    else this.eswitch.remove(UPLINK_PORT);
  }

  /** Frames may leave for the outside. */
  get hasUplink(): boolean {
    return this.#uplink !== null;
  }

  /**
   * A frame in private memory came in through the uplink, whose block has `counters`: one of its frames when somebody may
   * receive it, else one of its drops.
   */
  receive(
    memory: PrivateMemory,
    offset: number,
    bytes: number,
    header: Uint8Array,
    counters: Float64Array,
  ): void {
    const frame = this.#frame;
    frame.fromMemory(memory, offset, bytes, header);
    const sent = this.#forward(this.eswitch.decide(UPLINK_PORT, frame.head), UPLINK_PORT, ANY_PAIR, frame);
    if (this.eswitch.refused) counters[STATIONS_REFUSED] = counters[STATIONS_REFUSED]! + 1;
    const counter = sent < 0 ? counterOfRefusal(sent) : FRAMES;
    counters[counter] = counters[counter]! + 1;
    if (sent >= 0) counters[BYTES] = counters[BYTES]! + bytes;
  }

  /** A frame in private memory is for the function at `port`, wherever it came from; false when nobody receives it. */
  give(port: number, memory: PrivateMemory, offset: number, bytes: number, header: Uint8Array): boolean {
    const frame = this.#frame;
    frame.fromMemory(memory, offset, bytes, header);
    return this.#sendTo(port, 0, frame) === REACHED;
  }

  /** FramePort.send of `pair` of `port`, whose queue has `counters`. */
  send(
    port: number,
    pair: number,
    ring: DeviceRing,
    header: Uint8Array,
    frameOffset: number,
    counters: Float64Array,
  ): number {
    if (this.#credit <= 0) return FULL;
    const frame = this.#frame;
    frame.fromRing(ring, header, frameOffset);
    const flows = this.#followedOf(port);
    if (flows !== null) this.#note(flows, pair, frame);
    const sent = this.#forward(this.eswitch.decide(port, frame.head), port, pair, frame);
    if (this.#uplinkMissed) counters[UPLINK_MISSED] = counters[UPLINK_MISSED]! + 1;
    if (this.eswitch.refused) counters[STATIONS_REFUSED] = counters[STATIONS_REFUSED]! + 1;
    return sent;
  }

  /** FramePort.sendPlain of `pair` of `port`. */
  sendPlain(
    port: number,
    pair: number,
    ring: DeviceRing,
    count: number,
    frameOffset: number,
    ledger: QueueLedger,
  ): number {
    const { offsets, lengths, pieces: places } = ring.plain;
    const { pieces } = ring.memory;
    const frame = this.#frame;
    const flows = this.#followedOf(port);
    let alone = 0; // frames in front of it have been tried as a burst
    for (let i = 0; i < count; i++) {
      if (this.#credit <= 0) return i;
      const bytes = lengths[i]! - frameOffset;
      frame.fromPiece(pieces[places[i]!]!, offsets[i]! + frameOffset, bytes);
      const verdict = this.eswitch.decide(port, frame.head);
      // The uplink takes frames out of rings only.
      if (this.#uplink !== null && (verdict === UPLINK_PORT || verdict === Verdict.FLOOD)) return i;
      const queue = i >= alone && flows === null ? this.#onlyReceiver(verdict, pair) : null;
      if (queue?.accepts(frame) === true && !this.eswitch.refused) {
        const alike = frame.alike(ring, i, Math.min(count - i, this.#credit), frameOffset);
        this.#touch(queue);
        const done = queue.deliverBurst(ring, i, alike, frameOffset, FRAME_BYTES_MAX, ledger);
        alone = i + alike; // what is left of them, because a buffer is missing or odd, goes one by one
        if (done > 0) {
          this.#credit -= done;
          i += done - 1;
          continue;
        }
      }
      if (flows !== null) this.#note(flows, pair, frame);
      if (this.eswitch.refused) ledger.count(STATIONS_REFUSED);
      const sent = this.#forward(verdict, port, pair, frame);
      if (sent < 0) ledger.dropPlain(i, counterOfRefusal(sent));
      else ledger.completePlain(i, bytes, 0);
    }
    return count;
  }

  /** FramePort.sendFrames of `pair` of `port`: to a known station, from one that is known here. */
  sendFrames(
    port: number,
    pair: number,
    ring: DeviceRing,
    count: number,
    frameOffset: number,
    ledger: QueueLedger,
  ): number {
    if (this.#followedOf(port) !== null) return 0;
    const frame = this.#frame;
    for (let i = 0; i < count; ) {
      const most = Math.min(count - i, this.#credit);
      if (most <= 0 || !frame.fromPieces(ring, i, frameOffset)) return i;
      // Nothing is learned yet: what does not go this way is decided on when it goes the other.
      const queue = this.#onlyReceiver(this.eswitch.known(port, frame.head), pair);
      if (queue?.accepts(frame) !== true) return i;
      this.eswitch.decide(port, frame.head); // the station was heard
      const alike = frame.alikeInPieces(ring, i, most, frameOffset);
      this.#touch(queue);
      const done = queue.deliverFrames(ring, i, alike, frameOffset, ledger);
      this.#credit -= done;
      i += done;
      if (done < alike) return i;
    }
    return count;
  }

  /** Who receives every frame of `pair` at a port, whatever is in it; null: that is not known beforehand. */
  #onlyReceiver(port: number, pair: number): SwitchedReceiveQueue | null {
    const receivers = port < 0 ? undefined : this.#ports[port];
    if (receivers === undefined || receivers.rss !== null) return null;
    return receivers.flows === null || receivers.active.length < 2 ? receiverOf(receivers, pair) : null;
  }

  /** The same straight into the receive queue of the pair itself. */
  loop(port: number, pair: number, ring: DeviceRing, header: Uint8Array, frameOffset: number): number {
    const frame = this.#frame;
    frame.fromRing(ring, header, frameOffset);
    const answer = this.#sendTo(port, pair, frame);
    return answer === REACHED ? NetHeader.sizeBytes + frame.bytes : answer;
  }

  /** Whom looped frames are delivered to next, a driver that wants all of them; null: that is seen frame by frame. */
  loopedTo(port: number, pair: number): SwitchedReceiveQueue | null {
    const receivers = this.#ports[port];
    if (receivers === undefined || receivers.rss !== null) return null;
    const queue = receiverOf(receivers, pair);
    if (queue === null || !queue.wantsAll) return null;
    this.#touch(queue);
    return queue;
  }

  /** Before a poll of a transmit queue or a reader. */
  begin(): void {
    this.#credit = BURST_CREDIT;
  }

  /** The credit is used up: whoever gives frames stops until the next burst. Ports see to that themselves. */
  get spent(): boolean {
    return this.#credit <= 0;
  }

  /** After it: shows every receiver its frames. */
  flush(): void {
    const touched = this.#touched;
    for (let i = 0; i < this.#touchedCount; i++) {
      const queue = touched[i];
      touched[i] = null;
      if (queue === null || queue === undefined) continue;
      queue.flush();
      this.#settled(queue);
    }
    this.#touchedCount = 0;
  }

  #forward(verdict: number, source: number, pair: number, frame: SwitchedFrame): number {
    this.#uplinkMissed = false;
    const answer =
      verdict >= 0
        ? this.#sendTo(verdict, pair, frame)
        : verdict === Verdict.FLOOD
          ? this.#flood(source, pair, frame)
          : REFUSALS[-verdict]!;
    return answer === REACHED ? NetHeader.sizeBytes + frame.bytes : answer;
  }

  /** Where nobody was reached, the uplink's reason goes before that there is nobody. */
  #flood(source: number, pair: number, frame: SwitchedFrame): number {
    const { ports } = this.eswitch;
    let reached = false;
    let refused = NO_DESTINATION;
    for (let i = 0; i < ports.length; i++) {
      const port = ports[i]!;
      if (port === source) continue;
      const answer = this.#sendTo(port, pair, frame);
      if (answer === REACHED) reached = true;
      else if (port === UPLINK_PORT) refused = answer;
    }
    if (!reached) return refused;
    this.#uplinkMissed = refused !== NO_DESTINATION;
    return REACHED;
  }

  /** REACHED when somebody at `port` may receive: what became of the frame is the receiver's to count. Or a refusal. */
  #sendTo(port: number, pair: number, frame: SwitchedFrame): number {
    if (port === UPLINK_PORT) return this.#sendOut(frame);
    const receivers = this.#ports[port];
    const queue = receivers === undefined ? null : this.#receiverOf(receivers, pair, frame);
    if (queue === null) return NO_DESTINATION;
    this.#deliver(queue, frame);
    return REACHED;
  }

  /** The same through the uplink, which keeps nothing: what it does not take now is lost. */
  #sendOut({ ring, header, offset }: SwitchedFrame): number {
    this.#credit--;
    // What came in through the uplink is never sent there, so the frame lies in a ring.
    if (ring === null || this.#uplink === null) return NO_DESTINATION;
    const sent = this.#uplink.send(ring, header, offset);
    if (sent >= 0) return REACHED;
    return sent === FULL ? UPLINK_FULL : UPLINK_FAILED;
  }

  /** Who receives a frame by the driver's choice; null: a queue that is not worked now. */
  #steeredTo(rss: RssSettings, receivers: Receivers, frame: SwitchedFrame): SwitchedReceiveQueue | null {
    receivers.steering ??= new ReceiveSteering(rss);
    const length = frame.read(this.#head);
    return receivers.all[receivers.steering.pairOf(this.#head.u8, length)] ?? null;
  }

  #receiverOf(receivers: Receivers, pair: number, frame: SwitchedFrame): SwitchedReceiveQueue | null {
    const { rss, flows, active, all } = receivers;
    if (rss !== null) return this.#steeredTo(rss, receivers, frame);
    if (active.length < 2 || (flows === null && pair !== ANY_PAIR))
      return receiverOf(receivers, Math.max(pair, 0));
    const flow = this.#flowOf(frame, false);
    const answered = flows === null || flow === NO_FLOW ? -1 : flows.find(flow, this.#now);
    const queue = answered < 0 ? null : all[answered];
    if (queue?.active === true) return queue;
    return receiverOf(receivers, pair === ANY_PAIR ? flow >>> 0 : pair);
  }

  /** Where it is noted how a function answers; null where that does not matter. */
  #followedOf(port: number): FlowTable | null {
    const sender = this.#ports[port];
    return sender === undefined || sender.rss !== null || sender.active.length < 2 ? null : sender.flows;
  }

  #note(flows: FlowTable, pair: number, frame: SwitchedFrame): void {
    const flow = this.#flowOf(frame, true);
    if (flow !== NO_FLOW) flows.note(flow, pair, this.#now);
  }

  /** What the frame's flow, or, reversed, that of its answer, is known by; NO_FLOW when it is of none. */
  #flowOf(frame: SwitchedFrame, reversed: boolean): number {
    const hash = this.#flowHash;
    hash.calculate(this.#head.u8, frame.read(this.#head), reversed);
    if (hash.report === HashReport.NONE) return NO_FLOW;
    return hash.value ^ Math.imul(hash.report, REPORT_FACTOR) || 1;
  }

  #deliver(queue: SwitchedReceiveQueue, frame: SwitchedFrame): void {
    this.#credit--;
    this.#touch(queue);
    if (!queue.wantsAll && !queue.wants(frame)) return;
    if (frame.plain && queue.deliverPlain(frame)) return;
    const gsoType = frame.header[GSO_TYPE]!;
    if (gsoType === GsoType.NONE || queue.offloads.takes(gsoType, frame.head)) this.#give(queue, frame);
    else this.#cut(queue, frame);
  }

  /** The long way, chain by chain. False: no buffer. */
  #give(queue: SwitchedReceiveQueue, frame: SwitchedFrame): boolean {
    const { refused } = queue;
    const given = queue.deliver(frame);
    this.#credit -= queue.refused - refused;
    return given;
  }

  #touch(queue: SwitchedReceiveQueue): void {
    if (queue.touched) return;
    queue.touched = true;
    this.#touched[this.#touchedCount++] = queue;
  }

  /** Delivers a frame in segments of their final size. */
  #cut(queue: SwitchedReceiveQueue, frame: SwitchedFrame): void {
    const segmenter = this.#segmenter;
    const segment = this.#segment;
    const count = segmenter.open(frame, frame.header, 0, frame.bytes);
    if (count === 0) queue.countMalformed();
    this.#credit -= count;
    for (let i = 1; i <= count; i++) {
      const bytes = segmenter.next();
      if (bytes === 0) return; // the sender took the frame back meanwhile
      segment.fromMemory(this.#segmentMemory, 0, bytes, null);
      segment.header[NetHeader.at.flags] = NetHeaderFlag.DATA_VALID;
      if (this.#give(queue, segment)) continue;
      queue.countMissing(count - i);
      return;
    }
  }

  #receivers(port: number): Receivers {
    let receivers = this.#ports[port];
    if (receivers === undefined) {
      receivers = { all: [], active: [], rss: null, steering: null, flows: null };
      this.#ports[port] = receivers;
      this.eswitch.add(port);
    }
    return receivers;
  }

  #steer(receivers: Receivers): void {
    receivers.active = receivers.all.filter((queue) => queue?.active === true) as SwitchedReceiveQueue[];
  }
}
