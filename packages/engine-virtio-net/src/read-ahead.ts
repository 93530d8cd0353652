/**
 * read-ahead.ts: frames that a port has had read in one go, each into a chain of its own, and that are not the driver's yet.
 *
 * Theory
 *   The kernel is asked for many frames at once, the first into the first of the chains that a ring's scan() has laid out,
 *   and so on. What was read is then given to the driver frame by frame, in the order of the reads, into the chain that is
 *   next by then. That is the one it lies in, unless a read before it found nothing, or a frame before it was dropped:
 *   then it is copied.
 *   Results and headers are private, or belong to whoever outlives the process; a frame itself lies in its chain only.
 *
 * Parties
 *   port    begins a burst, fills `results` and `headers`, says how many reads there were (start).
 *   queue   takes frames until none is left, before it does anything else with the ring.
 *
 * Invariants
 *   I1  a frame that is larger than its chain is nobody's: what found no room was thrown away.
 *   I2  only bytes of chains that scan() has judged are read or written.
 *
 * Limits  BURST_FRAMES_MAX reads. A checksum that is completed for the driver (net-header.ts) is completed where the frame
 *         lies: after a death between that and POSITION it is completed twice, and wrong. The kernel completes them for
 *         drivers that cannot, so that such a frame has waited in the TAP since the driver before.
 */
import type { DeviceRing } from '@virtnet/engine-virtqueue';
import { BURST_FRAMES_MAX, BURST_HEADER_BYTES, Ethernet, NetHeader, QueueCounter } from '@virtnet/wire';
import { refusal } from './refusal.js';

const HEADER_BYTES = NetHeader.sizeBytes;
const NO_ROOM = refusal(QueueCounter.DROP_NO_BUFFER);

export class ReadAhead {
  /** By read: bytes of header and frame, or -errno. */
  readonly results = new Int32Array(BURST_FRAMES_MAX);
  /** By read: the header, BURST_HEADER_BYTES from one to the next. */
  headers: Uint8Array = new Uint8Array(BURST_FRAMES_MAX * BURST_HEADER_BYTES);
  readonly #pieces = new Int32Array(BURST_FRAMES_MAX);
  readonly #offsets = new Int32Array(BURST_FRAMES_MAX);
  readonly #lengths = new Int32Array(BURST_FRAMES_MAX);
  #at = 0;
  #reads = 0;

  /**
   * Notes where reads go: number `first` into chain 0 of the ring's `plain`, and so on, of `chains` chains. Nothing is left of
   * what was read before.
   */
  lay({ plain }: DeviceRing, chains: number, first = 0): void {
    this.#reads = 0;
    this.#at = 0;
    this.#lengths.fill(0);
    for (let i = 0; i < chains && first + i < BURST_FRAMES_MAX; i++) {
      this.#pieces[first + i] = plain.pieces[i]!;
      this.#offsets[first + i] = plain.offsets[i]!;
      this.#lengths[first + i] = plain.lengths[i]!;
    }
  }

  /** There are results of `reads` reads, of which the first `taken` frames are the driver's already. */
  start(reads: number, taken = 0): void {
    this.#reads = Math.min(reads, BURST_FRAMES_MAX);
    this.#at = -1;
    for (let i = 0; i <= taken && this.left; i++) this.advance();
  }

  /** Number of the read whose frame is next. */
  get at(): number {
    return this.#at;
  }

  get left(): boolean {
    return this.#at < this.#reads;
  }

  /** The frame that was next is dealt with. */
  advance(): void {
    do this.#at++;
    while (this.#at < this.#reads && this.results[this.#at]! < 0);
  }

  /** Whether the next frame asks for nothing, has at most `bytesMax` bytes, and lies in its chain as a whole. */
  isPlain(bytesMax: number): boolean {
    const at = this.#at;
    const bytes = this.results[at]!;
    const header = at * BURST_HEADER_BYTES;
    const { headers } = this;
    return (
      headers[header] === 0 &&
      headers[header + NetHeader.at.gsoType] === 0 &&
      bytes >= HEADER_BYTES + Ethernet.HEADER_BYTES &&
      bytes <= this.#lengths[at]! &&
      bytes - HEADER_BYTES <= bytesMax
    );
  }

  /** FramePort.receive of the next frame, which is dealt with by that. */
  take(ring: DeviceRing, header: Uint8Array): number {
    const at = this.#at;
    const bytes = this.results[at]!;
    const { headers } = this;
    this.advance();
    for (let i = 0; i < HEADER_BYTES; i++) header[i] = headers[at * BURST_HEADER_BYTES + i]!;
    if (bytes > this.#lengths[at]!) return NO_ROOM;
    const piece = ring.memory.pieces[this.#pieces[at]!]!;
    const offset = this.#offsets[at]!;
    const first = ring.readableCount;
    if (ring.segmentAddress[first] === piece.address + offset && ring.segmentLength[first]! >= bytes)
      return bytes;
    const length = Math.max(bytes - HEADER_BYTES, 0);
    return ring.scatter(HEADER_BYTES, piece.u8, offset + HEADER_BYTES, length) < length ? NO_ROOM : bytes;
  }

  /** Gives up what is left; how many frames. */
  forget(): number {
    let frames = 0;
    for (; this.left; this.advance()) frames++;
    return frames;
  }
}
