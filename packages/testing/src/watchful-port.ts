/**
 * watchful-port.ts: a port that checks whatever a queue hands to it while a hostile driver rewrites it (race-layout.ts).
 *
 * Theory
 *   What a device has read is private by the time a port sees it. So the port can judge it at leisure: every buffer lies in
 *   the slot or the table of the descriptor that the chain's id names, in the direction the id says; a header says nothing
 *   about the frame that is not so; a frame that was copied holds the bytes of its own slots. Whatever is not so was read
 *   twice, or used before it was judged.
 *   Frames are copied to and from private memory in the same ways as by a switch or a sink.
 */
import { type FramePort, PLAIN_MASK } from '@virtnet/engine-virtio-net';
import {
  completeSpreadBurst,
  copyBurst,
  copyFrames,
  type DeviceRing,
  type PlainChains,
  PrivateBuffers,
  PrivateMemory,
  type QueueLedger,
  readChain,
  writeChain,
} from '@virtnet/engine-virtqueue';
import { DescriptorFlag, Errno, Ethernet, GsoType, NetHeader, NetHeaderFlag } from '@virtnet/wire';
import { ID_FLAGS_MASK, ID_INDEX_SHIFT } from './driver-thread-hostile.js';
import { chainRoom, GuardedBytes } from './race-fixture.js';
import { HEAD_BYTES, mayBeEmpty, ownerOf, placeInSlot, SLOTS, slotByte } from './race-layout.js';

const { NEXT, WRITE, INDIRECT } = DescriptorFlag;
const ID_MASK = 0xffff;
const COMPLAINTS_MAX = 5;
/** Buffers that bursts are copied to, each with room for the longest frame of a burst. */
const COPIES = 16;
const COPY_BYTES = 16_384;
/** Frames to receive; such that no length that comes back is one of a table. */
const FRAME_SIZES = [64, 600, 64, 1500, 20, 600, 2984] as const;
const SPREAD_BYTES = 700;
const SPREAD_FRAMES = 8;
const RECEIVED_BYTE = 0x5e;
const EMPTY = -Errno.EAGAIN;

/** A list of buffers in the rings' private memory: a burst's chains, or a chain's segments. */
interface Buffers {
  readonly pieces: ArrayLike<number>;
  readonly offsets: ArrayLike<number>;
  readonly lengths: ArrayLike<number>;
}

const segmentsOf = (ring: DeviceRing): Buffers => ({
  pieces: ring.segmentPiece,
  offsets: ring.segmentOffset,
  lengths: ring.segmentLength,
});

export class WatchfulPort implements FramePort {
  readonly overflow = new Uint8Array(70_000).fill(RECEIVED_BYTE);
  /** What was not as it has to be. */
  readonly complaints: string[] = [];
  /** Frames that went one by one. */
  frames = 0;
  protected readonly copies: PrivateBuffers;
  protected readonly own: PrivateMemory;
  readonly #packed: boolean;
  readonly #guarded: GuardedBytes;
  #next = 0;

  constructor(packed: boolean, inWindow: boolean) {
    this.#packed = packed;
    this.#guarded = new GuardedBytes(COPIES * COPY_BYTES, inWindow);
    const { buffer, byteOffset, sizeBytes } = this.#guarded.shared;
    this.own = new PrivateMemory(sizeBytes, buffer as unknown as ArrayBuffer, byteOffset);
    this.copies = new PrivateBuffers(this.own);
  }

  send(ring: DeviceRing, header: Uint8Array, frameOffset: number): number {
    this.frames++;
    const frameBytes = ring.readableBytes - frameOffset;
    this.checkChains(ring);
    this.checkHeader(header, frameBytes);
    const copied = readChain(ring, frameOffset, this.own, 0, frameBytes);
    if (copied !== frameBytes) this.complain(`${copied} bytes copied of ${frameBytes}`);
    this.#checkCopy(ring, segmentsOf(ring), 0, ring.readableCount, frameOffset, 0);
    return header.length + frameBytes;
  }

  receive(ring: DeviceRing, header: Uint8Array, frameOffset: number): number {
    if (this.#next % 16 === 15) {
      this.#next++;
      return EMPTY;
    }
    this.frames++;
    this.checkChains(ring);
    const bytes = this.nextBytes();
    header.fill(0);
    this.own.u8.fill(RECEIVED_BYTE, 0, bytes);
    const room = Math.max(0, ring.writableBytes - frameOffset);
    const fitted = writeChain(this.own, 0, ring, frameOffset, bytes);
    if (fitted !== Math.min(room, bytes)) this.complain(`${fitted} bytes copied of ${bytes} into ${room}`);
    return NetHeader.sizeBytes + bytes;
  }

  /** Throws when anything around the port's memory was written. */
  check(): void {
    this.#guarded.check('copies');
  }

  protected nextBytes(): number {
    return FRAME_SIZES[this.#next++ % FRAME_SIZES.length]!;
  }

  protected complain(what: string): void {
    if (this.complaints.length < COMPLAINTS_MAX) this.complaints.push(what);
  }

  /**
   * Chain `i` of a burst is one whole buffer of the descriptor that its id names. `answered`: answers may lie in the ring. A
   * driver that takes a link of a packed ring back makes the descriptor behind it a chain, and if that is an answer, its id
   * is that of a former chain.
   */
  checkPlain(ring: DeviceRing, i: number, writable: boolean, answered = false): void {
    const { plain } = ring;
    const { index, flags } = this.#named(plain, i);
    const owner = this.#ownerOf(ring, plain, i, writable);
    const { pages, pieces } = plain;
    if (pages[i] !== ring.memory.pieces[pieces[i]!]?.windowPage) this.complain(`page ${pages[i]}`);
    if (answered && this.#packed) return;
    if (owner !== index) this.complain(`chain of ${index}: a buffer of ${owner}`);
    if (this.#packed && flags !== (writable ? WRITE : 0)) this.complain(`plain chain with flags ${flags}`);
  }

  /** Chain `i` of a burst of frames in tables has buffers of the descriptor that its id names, as long as it all together. */
  checkFrame(ring: DeviceRing, i: number): void {
    const { plain } = ring;
    const { index, flags } = this.#named(plain, i);
    if (this.#packed && flags !== INDIRECT) this.complain(`table with flags ${flags}`);
    const segments = segmentsOf(ring);
    const first = plain.firstSegment(i);
    let bytes = 0;
    for (let segment = first; segment < first + plain.segmentCount(i); segment++) {
      const owner = this.#ownerOf(ring, segments, segment, false);
      if (owner !== index) this.complain(`table of ${index}: a buffer of ${owner}`);
      bytes += segments.lengths[segment]!;
    }
    if (bytes !== plain.lengths[i]) this.complain(`frame of ${plain.lengths[i]} bytes in ${bytes}`);
  }

  /** The frame of chain `i` of a burst has been copied to buffer `i`. */
  protected checkBurstCopy(ring: DeviceRing, i: number, frameOffset: number, inTable: boolean): void {
    const { plain } = ring;
    const at = i * COPY_BYTES;
    if (!inTable) this.#checkCopy(ring, plain, i, 1, frameOffset, at);
    else {
      const first = plain.firstSegment(i);
      this.#checkCopy(ring, segmentsOf(ring), first, plain.segmentCount(i), frameOffset, at);
    }
  }

  #named({ ids }: PlainChains, i: number): { readonly index: number; readonly flags: number } {
    const id = ids[i]! & ID_MASK;
    return this.#packed
      ? { index: id >>> ID_INDEX_SHIFT, flags: id & ID_FLAGS_MASK }
      : { index: id, flags: 0 };
  }

  #address(ring: DeviceRing, { pieces, offsets }: Buffers, i: number): number {
    const piece = ring.memory.pieces[pieces[i]!];
    if (piece === undefined) return -1;
    return (piece.iovaHigh >>> 0) * 2 ** 32 + (piece.iovaLow >>> 0) + offsets[i]!;
  }

  /** Whose buffer it is; -1, and a complaint: nobody's, or not for this. */
  #ownerOf(ring: DeviceRing, buffers: Buffers, i: number, writable: boolean): number {
    const { pieces, offsets, lengths } = buffers;
    const piece = ring.memory.pieces[pieces[i]!];
    const offset = offsets[i]!;
    const length = lengths[i]!;
    const inside = piece !== undefined && offset >= 0 && length > 0 && offset + length <= piece.sizeBytes;
    if (!inside) {
      this.complain(`${length} bytes at ${offset} of piece ${pieces[i]}`);
      return -1;
    }
    if (writable && !piece.writable) this.complain('to be written, in memory that may only be read');
    const address = this.#address(ring, buffers, i);
    const owner = ownerOf(address, length);
    if (owner < 0) this.complain(`${length} bytes at 0x${address.toString(16)}`);
    return owner;
  }

  /** Every segment of what is current belongs to a descriptor of its chain. */
  checkChains(ring: DeviceRing): void {
    const { chainCount, readableCount, writableCount, segmentLength } = ring;
    const segments = readableCount + writableCount;
    let from = 0;
    let written = 0;
    for (let chain = 0; chain < chainCount; chain++) {
      let to = segments;
      if (chain < chainCount - 1) {
        to = Math.max(from, readableCount);
        for (; to < segments && written < chainRoom.chainEnds[chain]!; to++) written += segmentLength[to]!;
      }
      this.#checkChain(ring, from, to, chainCount === 1 ? ring.head : chainRoom.ids[chain]!);
      from = to;
    }
  }

  /** Segments `from` to `to` are those of the chain with this id. */
  #checkChain(ring: DeviceRing, from: number, to: number, id: number): void {
    const size = ring.queueSize;
    const segments = segmentsOf(ring);
    const named = this.#packed ? id >>> ID_INDEX_SHIFT : id;
    if (named >= SLOTS) this.complain(`id ${id}`);
    let first = -1;
    let last = 0;
    let owner = -1;
    for (let i = from; i < to; i++) {
      owner = this.#ownerOf(ring, segments, i, i >= ring.readableCount);
      if (owner < 0) return;
      if (first < 0) first = owner;
      const distance = (owner - first + size) % size;
      if (this.#packed && distance < last) this.complain(`descriptor ${owner} in a chain from ${first} on`);
      last = distance;
    }
    if (first < 0) this.complain('a chain without a buffer');
    if (!this.#packed) {
      if (first !== id && !mayBeEmpty(id)) this.complain(`chain of ${id} begins with a buffer of ${first}`);
      return;
    }
    // The id is that of the last descriptor, and in the same word as its flags.
    if (last > (named - first + size) % size) this.complain(`descriptor ${owner} in a chain up to ${named}`);
    if ((id & NEXT) !== 0) this.complain(`a chain that ends with a link of ${named}`);
    if ((id & INDIRECT) !== 0) {
      if (first !== named || owner !== named)
        this.complain(`table of ${named}: buffers of ${first}, ${owner}`);
    } else if (owner === named && to > ring.readableCount !== ((id & WRITE) !== 0))
      this.complain(`the last buffer of ${named} is not for what its flags say`);
  }

  /** A header asks for nothing that does not lie in its frame. */
  checkHeader(header: Uint8Array, frameBytes: number): void {
    const view = new DataView(header.buffer, header.byteOffset, header.length);
    const { flags, gsoType, hdrLen, gsoSize, csumStart, csumOffset } = NetHeader.decode(view);
    const field = csumStart + csumOffset + 2;
    if ((flags & ~NetHeaderFlag.NEEDS_CSUM) !== 0) this.complain(`flags ${flags}`);
    if (flags === 0) {
      if (header.some((byte) => byte !== 0)) this.complain('a plain header that says something');
    } else if (csumStart < Ethernet.HEADER_BYTES || field > frameBytes)
      this.complain(`a checksum at ${csumStart} + ${csumOffset} of ${frameBytes} bytes`);
    if (gsoType === GsoType.NONE) {
      if (hdrLen !== 0 || gsoSize !== 0) this.complain('sizes of segments without segmentation');
    } else if (gsoType !== GsoType.TCPV4 || gsoSize === 0 || hdrLen > frameBytes || hdrLen < csumStart + 20)
      this.complain(`segmentation ${gsoType} ${gsoSize} ${hdrLen} of ${frameBytes} bytes`);
  }

  /** What was copied to `at` in the port's memory, behind `skip` bytes of these buffers, is what their slots are full of. */
  #checkCopy(
    ring: DeviceRing,
    buffers: Buffers,
    first: number,
    count: number,
    skip: number,
    at: number,
  ): void {
    const { u8 } = this.own;
    let behind = skip;
    let copy = at;
    for (let i = first; i < first + count; i++) {
      const length = buffers.lengths[i]!;
      const from = Math.min(behind, length);
      behind -= from;
      const address = this.#address(ring, buffers, i);
      const owner = ownerOf(address, length);
      const place = owner < 0 ? -1 : placeInSlot(address, owner);
      const wanted = slotByte(owner);
      const known = place < 0 ? length : Math.max(from, HEAD_BYTES - place);
      for (let k = known; k < length; k += 7)
        if (u8[copy + k - from] !== wanted) {
          this.complain(`byte ${k} of a buffer of ${owner} is ${u8[copy + k - from]}`);
          break;
        }
      copy += length - from;
    }
  }
}

/** The same with the short ways. */
export class WatchfulBurstPort extends WatchfulPort {
  /** Frames that went in bursts, in one buffer each and in several. */
  plain = 0;
  spread = 0;
  /** The queue leaves headers to the port, as a port that copies with copyBurst has it. */
  readonly judges: boolean;

  constructor(packed: boolean, inWindow: boolean, judges: boolean) {
    super(packed, inWindow);
    this.judges = judges;
  }

  sendPlain(
    ring: DeviceRing,
    count: number,
    frameOffset: number,
    ledger: QueueLedger,
    bytesMax: number,
  ): number {
    for (let i = 0; i < count; i++) this.checkPlain(ring, i, false, true);
    this.copies.lay(COPY_BYTES, COPY_BYTES, COPIES * COPY_BYTES);
    const unwanted = this.judges ? PLAIN_MASK : 0;
    const how = { fromHeader: frameOffset, toHeader: 0, unwanted, bytesMax };
    const done = copyBurst({ from: ring, to: this.copies, ...how }, 0, 0, Math.min(count, COPIES));
    for (let i = 0; i < done; i++) {
      this.checkBurstCopy(ring, i, frameOffset, false);
      ledger.completePlain(i, ring.plain.lengths[i]! - frameOffset, 0);
    }
    this.plain += done;
    return done;
  }

  sendFrames(ring: DeviceRing, count: number, frameOffset: number, ledger: QueueLedger): number {
    for (let i = 0; i < count; i++) this.checkFrame(ring, i);
    this.copies.lay(COPY_BYTES, COPY_BYTES, COPIES * COPY_BYTES);
    const how = { fromHeader: frameOffset, toHeader: 0, unwanted: 0, bytesMax: COPY_BYTES };
    const done = copyFrames({ from: ring, to: this.copies, ...how }, 0, 0, count, COPIES, 1);
    for (let i = 0; i < done; i++) {
      this.checkBurstCopy(ring, i, frameOffset, true);
      ledger.completePlain(i, ring.plain.lengths[i]! - frameOffset, 0);
    }
    this.spread += done;
    return done;
  }

  receivePlain(ring: DeviceRing, count: number, bytesMax: number, ledger: QueueLedger): number {
    for (let i = 0; i < count; i++) this.checkPlain(ring, i, true, true);
    const bytes = this.nextBytes();
    this.own.u8.fill(RECEIVED_BYTE, 0, bytes);
    this.copies.lay(bytes, 0, 0);
    const how = { fromHeader: 0, toHeader: NetHeader.sizeBytes, unwanted: 0, bytesMax };
    const done = copyBurst({ from: this.copies, to: ring, ...how }, 0, 0, count);
    for (let i = 0; i < done; i++) ledger.completePlain(i, bytes, bytes + NetHeader.sizeBytes);
    this.plain += done;
    return done;
  }

  receiveFrames(
    ring: DeviceRing,
    first: number,
    count: number,
    bytesMax: number,
    ledger: QueueLedger,
  ): number {
    this.own.u8.fill(RECEIVED_BYTE, 0, SPREAD_BYTES);
    this.copies.layFrames(SPREAD_BYTES);
    const how = { fromHeader: 0, toHeader: NetHeader.sizeBytes, unwanted: 0, bytesMax };
    const done = copyFrames({ from: this.copies, to: ring, ...how }, 0, first, SPREAD_FRAMES, count, count);
    this.spread += done;
    return completeSpreadBurst(ring, ledger, first, done, SPREAD_BYTES, NetHeader.sizeBytes);
  }
}
