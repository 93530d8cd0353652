/**
 * switched-receive-queue.ts: a receive queue that is given its frames, by a switch.
 *
 * Theory
 *   Nobody polls for its frames: whoever transmits delivers them here, straight into the next chain the driver made
 *   available. So the queue asks for no kicks; new buffers are found when they are needed. What the driver does not
 *   want (link, filter) is dropped before a byte is copied. A driver without a buffer loses the frame, under a counter
 *   of its own: nobody waits for it, or one slow guest would stop all others. A chain that can hold no frame is given back
 *   and the next one taken, but not for ever: the driver may make them available again meanwhile.
 *   For plain frames (port.ts of engine-virtio-net) the ring's simple chains are laid out in advance; whatever does not
 *   fit that goes the long way, chain by chain, and what was laid out is forgotten. Of a burst all frames are copied first,
 *   which a successor may do again, and then completed one by one.
 *
 * Parties
 *   switch   delivers, then flushes once per burst, on the thread that owns both rings.
 *
 * Invariants
 *   I1  a frame that is not delivered is counted once here, under its reason, and its chain stays.
 *   I2  no used element names bytes that were not written.
 *   I3  the stores around the copy follow queue-ledger.ts; with those of the transmit queue around them a crash repeats
 *       at most the one frame that was being delivered, and loses none.
 *   I4  the queue is marked (UNDER_WORK) while its ring is worked and no longer, beside the sender's: of all receivers of a
 *       burst a crash leaves the mark of the one whose ring it was in, or of none.
 *
 * Limits  UNPUBLISHED_MAX chains before the driver is shown them, and at most as many more of one burst. REFUSALS_MAX
 *         chains given back without a frame between two flushes; what comes behind them has no buffer.
 * Spec    virtio 1.3, 5.1.6.4.
 */
import {
  type HashSettings,
  PLAIN_MASK,
  type QueueOptions,
  type ReceiveFilter,
  ReceiveHeader,
  ReceiveOffloads,
  type RssSettings,
} from '@virtnet/engine-virtio-net';
import {
  type Crossing,
  completeCrossing,
  completeSpreadCrossing,
  copyBetween,
  copyBurst,
  copyFrames,
  type DeviceRing,
  FrameRoom,
  PLAIN_CHAINS_MAX,
  type QueueLedger,
  QueueWait,
  WorkedQueue,
  writePlainHeader,
} from '@virtnet/engine-virtqueue';
import {
  Ethernet,
  hasFeature,
  NetFeature,
  NetHeader,
  QueueCounter,
  QueueWord,
  WorkMark,
} from '@virtnet/wire';
import { REFUSALS_MAX } from './limits.js';
import type { SwitchedFrame } from './switched-frame.js';

export interface SwitchedReceiveOptions extends Omit<QueueOptions, 'port'> {
  /** Whether steering may choose this queue now. */
  readonly active: boolean;
  /** null: every frame is wanted. */
  readonly filter: ReceiveFilter | null;
  /** Whether frames are counted by size; default false. */
  readonly countSizes?: boolean;
  /** Which hashes frames carry; default none. */
  readonly hash?: HashSettings | null;
  /** Which queue of the function a frame goes to, the same for all of them; default the one of the sender's pair. */
  readonly rss?: RssSettings | null;
  /** Without `rss`, frames of a flow go to the pair that answered it last; the same for all queues of the function. */
  readonly follows?: boolean;
  /** What the owner knows the queue by. */
  readonly slot: number;
  /** What the queue is marked with while it is given frames; default WorkMark.SOMEBODY. */
  readonly mark?: number;
}

/** A burst's worth of chains: the driver may begin with it while more is delivered. */
const UNPUBLISHED_MAX = PLAIN_CHAINS_MAX;

export class SwitchedReceiveQueue extends WorkedQueue {
  readonly slot: number;
  readonly active: boolean;
  readonly rss: RssSettings | null;
  readonly follows: boolean;
  readonly offloads: ReceiveOffloads;
  /** Every frame is wanted: nobody need know what it is. */
  readonly wantsAll: boolean;
  /** Frames were delivered, or refused, since the last flush. The switch's. */
  touched = false;
  /** Chains given back since the last flush because they can hold no frame. */
  refused = 0;
  readonly #header: ReceiveHeader;
  readonly #linkUp: boolean;
  readonly #filter: ReceiveFilter | null;
  readonly #countSizes: boolean;
  /** A frame may fill several chains (MRG_RXBUF). */
  readonly #mergeable: boolean;
  readonly #frameRoom = new FrameRoom(this.ring, this.ledger);
  #unpublished = 0;
  readonly #shortWay: boolean;
  readonly #crossing: Crossing;
  readonly #mark: number;
  /** Chains laid out in the ring's `plain`, the next of them, and those given. */
  #plainCount = 0;
  #plainNext = 0;
  #plainGiven = 0;
  /** How many are laid out at a time: fewer while they are often forgotten. */
  #stretch = PLAIN_CHAINS_MAX;

  constructor(options: SwitchedReceiveOptions) {
    super(options.ring, options.block);
    this.slot = options.slot;
    this.#mark = options.mark ?? WorkMark.SOMEBODY;
    this.active = options.active;
    this.rss = options.rss ?? null;
    this.follows = options.follows === true;
    this.offloads = new ReceiveOffloads(options.features);
    this.#header = new ReceiveHeader(options.features, options.mtu, options.hash ?? null);
    this.#linkUp = options.linkUp;
    this.#filter = options.filter;
    this.#countSizes = options.countSizes === true;
    this.#mergeable = hasFeature(options.features, NetFeature.MRG_RXBUF);
    this.wantsAll = options.linkUp && (options.filter === null || options.filter.acceptsAll);
    this.#shortWay = this.#header.frameOffset === NetHeader.sizeBytes;
    this.#crossing = {
      from: this.ring, // until there is a sender
      fromHeader: 0,
      to: this.ring,
      toHeader: NetHeader.sizeBytes,
      unwanted: PLAIN_MASK,
      bytesMax: this.#header.plainBytesMax,
    };
    this.waitsFor = QueueWait.PORT;
  }

  /** Nothing moves by itself here; the counters are brought up to date. */
  override poll(): number {
    if (this.fault === null) this.ledger.turn();
    return 0;
  }

  /** Whether the driver wants such frames. */
  accepts(frame: SwitchedFrame): boolean {
    return this.wantsAll || this.#unwanted(frame) === 0;
  }

  /** The same of one frame, which is counted if it is not wanted. */
  wants(frame: SwitchedFrame): boolean {
    const reason = this.#unwanted(frame);
    if (reason === 0) return true;
    this.ledger.count(reason);
    return false;
  }

  #unwanted(frame: SwitchedFrame): 0 | QueueCounter {
    if (!this.#linkUp) return QueueCounter.DROP_LINK_DOWN;
    return this.#filter?.accepts(frame.head, frame.vlan) ?? 0;
  }

  /** Copies a wanted plain frame into the next chain, if that is simple and long enough; else nothing happens. */
  deliverPlain(frame: SwitchedFrame): boolean {
    const before = this.#enter();
    const taken = this.#takePlain(frame);
    this.#leave(before);
    return taken;
  }

  #takePlain({ piece, offset, bytes }: SwitchedFrame): boolean {
    if (this.#plainNext === this.#plainCount && !this.#layOut()) return false;
    const { ring, ledger } = this;
    const { offsets, lengths, pieces: places } = ring.plain;
    const { frameOffset, plainBytesMax } = this.#header;
    const chain = this.#plainNext;
    if (bytes > lengths[chain]! - frameOffset || bytes > plainBytesMax) return false;
    const target = ring.memory.pieces[places[chain]!]!;
    const at = offsets[chain]!;
    if (chain === this.#plainGiven) ledger.begin();
    writePlainHeader(target.view, at);
    copyBetween(piece, offset, target, at + frameOffset, bytes);
    if (this.#countSizes) ledger.countSize(bytes);
    this.#plainNext = chain + 1;
    ledger.completePlain(chain, bytes, frameOffset + bytes);
    if (++this.#unpublished >= UNPUBLISHED_MAX) this.#publish();
    return true;
  }

  /**
   * The same for a burst: `count` chains of the sender's `plain` from `first` on, behind `frameOffset` bytes each. Each is
   * completed in the sender's ledger as well. How many, up to one that is not for the short way or not plain, or has more
   * than `bytesMax` bytes.
   */
  deliverBurst(
    from: DeviceRing,
    first: number,
    count: number,
    frameOffset: number,
    bytesMax: number,
    sender: QueueLedger,
  ): number {
    const before = this.#enter();
    const { ledger } = this;
    const crossing = this.#crossing;
    crossing.bytesMax = Math.min(bytesMax, this.#header.plainBytesMax);
    crossing.from = from;
    crossing.fromHeader = frameOffset;
    let done = 0;
    while (done < count) {
      if (this.#plainNext === this.#plainCount && !this.#layOut()) break;
      const next = this.#plainNext;
      const most = Math.min(count - done, this.#plainCount - next, UNPUBLISHED_MAX - this.#unpublished);
      const copied = copyBurst(crossing, first + done, next, most);
      if (copied > 0 && next === this.#plainGiven) ledger.begin(); // until here everything can be done again
      completeCrossing(crossing, sender, ledger, first + done, next, copied);
      if (this.#countSizes) this.#countBurst(crossing, first + done, copied);
      done += copied;
      this.#plainNext = next + copied;
      this.#unpublished += copied;
      if (this.#unpublished >= UNPUBLISHED_MAX) this.#publish();
      if (copied < most) break;
    }
    this.#leave(before);
    return done;
  }

  /** The same for frames in several pieces (DeviceRing.scanFrames), which may fill several chains. */
  deliverFrames(
    from: DeviceRing,
    first: number,
    count: number,
    frameOffset: number,
    sender: QueueLedger,
  ): number {
    const before = this.#enter();
    const { ledger } = this;
    const { plainBytesMax, frameOffset: header } = this.#header;
    const { lengths } = from.plain;
    const crossing = this.#crossing;
    crossing.bytesMax = plainBytesMax;
    crossing.from = from;
    crossing.fromHeader = frameOffset;
    let done = 0;
    while (done < count) {
      if (!this.#holds(lengths[first + done]! - frameOffset + header)) break;
      const next = this.#plainNext;
      const buffers = this.#plainCount - next;
      const most = this.#mergeable ? buffers : 1;
      const copied = copyFrames(crossing, first + done, next, count - done, buffers, most);
      if (copied === 0) break;
      if (next === this.#plainGiven) ledger.begin(); // until here everything can be done again
      const chains = completeSpreadCrossing(crossing, sender, ledger, first + done, next, copied);
      if (this.#countSizes) this.#countBurst(crossing, first + done, copied);
      done += copied;
      this.#plainNext = next + chains;
      this.#unpublished += chains;
      if (this.#unpublished >= UNPUBLISHED_MAX) this.#publish();
    }
    this.#leave(before);
    return done;
  }

  /** Whether a frame of `needed` bytes with its header fits what is laid out; if that is too little, it is laid out anew. */
  #holds(needed: number): boolean {
    if (this.#room(needed)) return true;
    if (!this.#mergeable && this.#plainNext < this.#plainCount) return false;
    for (let most = this.#stretch; ; most = Math.min(4 * most, PLAIN_CHAINS_MAX)) {
      if (!this.#layOut(most)) return false;
      if (this.#room(needed)) return true;
      if (!this.#mergeable || this.#plainCount < most || most === PLAIN_CHAINS_MAX) return false;
    }
  }

  #room(needed: number): boolean {
    const { lengths } = this.ring.plain;
    const end = this.#mergeable ? this.#plainCount : Math.min(this.#plainNext + 1, this.#plainCount);
    let room = 0;
    for (let chain = this.#plainNext; chain < end && room < needed; chain++) room += lengths[chain]!;
    return room >= needed;
  }

  #countBurst({ from, fromHeader }: Crossing, first: number, count: number): void {
    const { lengths } = from.plain;
    for (let i = first; i < first + count; i++) this.ledger.countSize(lengths[i]! - fromHeader);
  }

  #layOut(most = this.#stretch): boolean {
    if (!this.#shortWay || this.fault !== null) return false;
    this.#endPlain();
    this.#plainNext = 0;
    this.#plainGiven = 0;
    this.#plainCount = this.ring.scan(most, true);
    this.#stretch = Math.min(2 * this.#stretch, PLAIN_CHAINS_MAX);
    return this.#plainCount > 0;
  }

  /** Copies a wanted frame into the next chain that takes it. False when the driver has none, or too many that do not. */
  deliver(frame: SwitchedFrame): boolean {
    const before = this.#enter();
    if (this.#plainCount > 0) this.#stretch = this.#plainNext + 1;
    this.#endPlain();
    this.#plainNext = 0;
    this.#plainGiven = 0;
    this.#plainCount = 0;
    const taken = this.#take();
    if (taken) this.#fill(frame);
    else this.ledger.count(QueueCounter.DROP_NO_DESC);
    this.#leave(before);
    return taken;
  }

  /** Takes the next chain that can hold a frame, or the beginning of one; those in front of it go back. */
  #take(): boolean {
    const { ring } = this;
    const least = this.#header.frameOffset + (this.#mergeable ? 0 : Ethernet.HEADER_BYTES);
    while (this.refused < REFUSALS_MAX && this.fault === null) {
      const segments = ring.take();
      if (segments === 0) return false;
      if (segments > 0 && ring.writableBytes >= least) return true;
      this.#refuse(segments);
    }
    return false;
  }

  /** Drops what is left of a frame for which there was no buffer. */
  countMissing(frames: number): void {
    for (let i = 0; i < frames; i++) this.ledger.count(QueueCounter.DROP_NO_DESC);
  }

  /** Drops a frame that asks to be segmented and cannot be. */
  countMalformed(): void {
    this.ledger.count(QueueCounter.DROP_HEADER);
  }

  /** Shows the driver what was delivered. */
  flush(): void {
    const before = this.#enter();
    this.touched = false;
    this.refused = 0;
    this.#endPlain();
    this.ledger.turn();
    this.#publish();
    this.#leave(before);
  }

  /** Marks the queue, beside its sender's; what it was marked with, as it is when the reader of its own TAP delivers. */
  #enter(): number {
    const { words } = this.ledger;
    const before = words[QueueWord.UNDER_WORK]!;
    words[QueueWord.UNDER_WORK] = this.#mark;
    return before;
  }

  #leave(before: number): void {
    this.ledger.words[QueueWord.UNDER_WORK] = before;
  }

  #fill(frame: SwitchedFrame): void {
    const { ring, ledger } = this;
    const header = this.#header;
    const { bytes } = frame;
    const needed = header.frameOffset + bytes;
    if (this.#mergeable ? !this.#frameRoom.reach(needed) : ring.writableBytes < needed) {
      ledger.count(QueueCounter.DROP_NO_BUFFER);
      ring.untake();
      return;
    }
    ledger.begin();
    const copied = frame.copyTo(ring, header.frameOffset);
    for (let i = 0; i < NetHeader.sizeBytes; i++) header.bytes[i] = frame.header[i]!;
    const reason = copied < bytes ? QueueCounter.DROP_HEADER : header.judge(ring, bytes);
    if (reason !== 0) {
      ledger.count(reason);
      ledger.keep();
      return;
    }
    if (this.#countSizes) ledger.countSize(bytes);
    if (this.#mergeable) {
      const chains = ring.chainsFor(needed);
      header.setBuffers(chains);
      header.write(ring);
      ledger.completeSpread(bytes, needed);
      this.#unpublished += chains;
    } else {
      header.write(ring);
      ledger.completeFrame(bytes, needed);
      this.#unpublished++;
    }
    if (this.#unpublished >= UNPUBLISHED_MAX) this.#publish();
  }

  /** A chain that can hold no frame, or none at all. */
  #refuse(segments: number): void {
    const { ledger } = this;
    if (segments > 0) {
      ledger.count(QueueCounter.BAD_DESC_ERRORS);
      ledger.completeDrop(QueueCounter.DROP_BAD_CHAIN);
    } else if (!ledger.refuse()) {
      this.stop();
      return;
    }
    this.refused++;
    if (++this.#unpublished >= UNPUBLISHED_MAX) this.#publish();
  }

  /** Ends the burst of plain frames, if one was begun: before anything else is done with the ring. */
  #endPlain(): void {
    const count = this.#plainNext - this.#plainGiven;
    if (count === 0) return;
    this.#plainGiven = this.#plainNext;
    this.ledger.endPlain(count);
  }

  #publish(): void {
    if (this.#unpublished === 0) return;
    this.#endPlain();
    this.#unpublished = 0;
    if (this.ledger.publish()) this.interrupt = true;
  }
}
