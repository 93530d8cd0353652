/**
 * diagnostic-ports.ts: ends of the line for measuring: what is sent ends in private memory, what is received is made up.
 *
 * Theory
 *   A sink copies every frame it is sent into private memory, as a switch or a kernel would have to, and uses some of it
 *   again and again, as they would a pool of buffers: one by one it goes round there, a burst begins in front. A source gives frames of one size for as long as somebody reads:
 *   copies of one frame that asks for nothing, with a broadcast destination so that every filter takes it.
 */
import { type FramePort, PLAIN_MASK } from '@virtnet/engine-virtio-net';
import {
  type Copying,
  completeBurst,
  completeSpreadBurst,
  copyBurst,
  copyFrames,
  type DeviceRing,
  type Pieces,
  PLAIN_CHAINS_MAX,
  PrivateBuffers,
  PrivateMemory,
  type QueueLedger,
  readChain,
  writeChain,
} from '@virtnet/engine-virtqueue';
import { Errno, Ethernet, NetHeader } from '@virtnet/wire';

/** Largest frame: 64 KiB of IPv6 payload with its headers. */
const SLOT_BYTES = 66 * 1024;
/** What a sink goes round in: buffers for a burst or two, and the largest frame behind them. */
export const SINK_BYTES = 128 * 1024 + SLOT_BYTES;
const CACHE_LINE_MASK = 63;

/** Where the next frame goes behind one of `bytes` bytes: from the beginning again, if it would begin behind `last`. */
function behind(at: number, bytes: number, last: number): number {
  const next = (at + bytes + CACHE_LINE_MASK) & ~CACHE_LINE_MASK;
  return next > last ? 0 : next;
}

/** For ports that give no frame. */
const NO_OVERFLOW = new Uint8Array(0);

export class SinkPort implements FramePort {
  readonly overflow = NO_OVERFLOW;
  readonly judges = true;
  readonly #memory: PrivateMemory;
  /** Where the last frame may begin. */
  readonly #last: number;
  #at = 0;
  readonly #buffers: PrivateBuffers;
  readonly #copying: Copying & { from: Pieces };

  constructor(memory: PrivateMemory = new PrivateMemory(SINK_BYTES)) {
    this.#memory = memory;
    this.#last = memory.piece.sizeBytes - SLOT_BYTES;
    const buffers = new PrivateBuffers(memory);
    this.#buffers = buffers;
    this.#copying = {
      from: buffers,
      fromHeader: 0,
      to: buffers,
      toHeader: 0,
      unwanted: PLAIN_MASK,
      bytesMax: 0,
    };
  }

  send(ring: DeviceRing, _header: Uint8Array, frameOffset: number): number {
    const bytes = ring.readableBytes - frameOffset;
    const swallowed = readChain(ring, frameOffset, this.#memory, this.#at, Math.min(bytes, SLOT_BYTES));
    this.#at = behind(this.#at, swallowed, this.#last);
    return NetHeader.sizeBytes + bytes;
  }

  sendPlain(
    ring: DeviceRing,
    count: number,
    frameOffset: number,
    ledger: QueueLedger,
    bytesMax: number,
  ): number {
    this.#copying.bytesMax = Math.min(bytesMax, SLOT_BYTES);
    return this.#swallow(ring, count, frameOffset, ledger, false);
  }

  sendFrames(ring: DeviceRing, count: number, frameOffset: number, ledger: QueueLedger): number {
    this.#copying.bytesMax = SLOT_BYTES;
    return this.#swallow(ring, count, frameOffset, ledger, true);
  }

  /** Frames in one buffer each, or in pieces. */
  #swallow(
    ring: DeviceRing,
    count: number,
    frameOffset: number,
    ledger: QueueLedger,
    pieces: boolean,
  ): number {
    const { lengths } = ring.plain;
    const copying = this.#copying;
    copying.from = ring;
    copying.fromHeader = frameOffset;
    const buffers = this.#buffers;
    let done = 0;
    for (let longer = true; longer && done < count; ) {
      const left = count - done;
      done += pieces
        ? copyFrames(copying, done, 0, left, PLAIN_CHAINS_MAX, 1)
        : copyBurst(copying, done, 0, left);
      longer = done < count && lengths[done]! - frameOffset > buffers.bytes && buffers.bytes < SLOT_BYTES;
      if (longer) this.#layOut(lengths[done]! - frameOffset);
    }
    completeBurst(ring, ledger, done, frameOffset, 0);
    return done;
  }

  /** Buffers for frames of so many bytes; for longer ones than there may be, of SLOT_BYTES. */
  #layOut(bytes: number): void {
    const stride = Math.min((bytes + CACHE_LINE_MASK) & ~CACHE_LINE_MASK, SLOT_BYTES);
    this.#buffers.lay(stride, stride, this.#last);
  }

  receive(): number {
    return -Errno.EAGAIN;
  }
}

export class SourcePort implements FramePort {
  readonly judges = true;
  readonly overflow = new Uint8Array(SLOT_BYTES);
  readonly #sink: SinkPort;
  readonly #memory: PrivateMemory;
  readonly #bytes: number;
  readonly #buffers: PrivateBuffers;
  readonly #copying: Copying & { from: Pieces };

  /**
   * Frames of `bytes` bytes, Ethernet header included; frames sent are swallowed by `sink`. `memory` and the buffers in it may
   * be those of other sources as well.
   */
  constructor(
    bytes: number,
    sink: SinkPort,
    memory: PrivateMemory = new PrivateMemory(SLOT_BYTES),
    from: PrivateBuffers = new PrivateBuffers(memory),
  ) {
    this.#sink = sink;
    this.#memory = memory;
    this.#bytes = Math.max(Ethernet.HEADER_BYTES, Math.min(bytes, SLOT_BYTES));
    const frame = memory.u8;
    frame.fill(0xff, 0, 6);
    frame.set([2, 0, 0, 0, 0, 1, 0x88, 0xb5], 6); // EtherType for local experiments
    for (let i = Ethernet.HEADER_BYTES; i < this.#bytes; i++) frame[i] = i & 0xff;
    this.#buffers = from;
    this.#copying = {
      from,
      fromHeader: 0,
      to: from,
      toHeader: NetHeader.sizeBytes,
      unwanted: 0,
      bytesMax: SLOT_BYTES,
    };
  }

  send(ring: DeviceRing, header: Uint8Array, frameOffset: number): number {
    return this.#sink.send(ring, header, frameOffset);
  }

  sendPlain(
    ring: DeviceRing,
    count: number,
    frameOffset: number,
    ledger: QueueLedger,
    bytesMax: number,
  ): number {
    return this.#sink.sendPlain(ring, count, frameOffset, ledger, bytesMax);
  }

  receivePlain(ring: DeviceRing, count: number, bytesMax: number, ledger: QueueLedger): number {
    const bytes = this.#bytes;
    if (bytes > bytesMax) return 0;
    if (!this.#buffers.holds(bytes)) this.#buffers.lay(bytes, 0, 0);
    this.#copying.to = ring;
    const done = copyBurst(this.#copying, 0, 0, count);
    completeBurst(ring, ledger, done, NetHeader.sizeBytes, NetHeader.sizeBytes + bytes);
    return done;
  }

  sendFrames(ring: DeviceRing, count: number, frameOffset: number, ledger: QueueLedger): number {
    return this.#sink.sendFrames(ring, count, frameOffset, ledger);
  }

  receiveFrames(
    ring: DeviceRing,
    first: number,
    count: number,
    bytesMax: number,
    ledger: QueueLedger,
  ): number {
    const bytes = this.#bytes;
    if (bytes > bytesMax) return 0;
    this.#buffers.layFrames(bytes);
    const copying = this.#copying;
    copying.to = ring;
    const frames = copyFrames(copying, 0, first, PLAIN_CHAINS_MAX, count, count);
    return completeSpreadBurst(ring, ledger, first, frames, bytes, NetHeader.sizeBytes);
  }

  receive(ring: DeviceRing, header: Uint8Array, frameOffset: number): number {
    for (let i = 0; i < NetHeader.sizeBytes; i++) header[i] = 0;
    const written = writeChain(this.#memory, 0, ring, frameOffset, this.#bytes);
    if (written < this.#bytes) this.overflow.set(this.#memory.u8.subarray(written, this.#bytes));
    return NetHeader.sizeBytes + this.#bytes;
  }
}
