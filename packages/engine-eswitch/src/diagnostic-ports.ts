/**
 * diagnostic-ports.ts: ends of the line for measuring: what is sent ends in private memory, what is received is made up.
 *
 * Theory
 *   A sink copies every frame it is sent into private memory, as a switch or a kernel would have to, and goes round in
 *   some of it, as they would in a pool of buffers. A source gives frames of one size for as long as somebody reads:
 *   copies of one frame that asks for nothing, with a broadcast destination so that every filter takes it.
 */
import type { FramePort } from '@virtnet/engine-virtio-net';
import {
  completeBurst,
  copyBetween,
  copyToBurst,
  type DeviceRing,
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
  readonly #memory: PrivateMemory;
  /** Where the last frame may begin. */
  readonly #last: number;
  #at = 0;

  constructor(memory: PrivateMemory = new PrivateMemory(SINK_BYTES)) {
    this.#memory = memory;
    this.#last = memory.piece.sizeBytes - SLOT_BYTES;
  }

  send(ring: DeviceRing, _header: Uint8Array, frameOffset: number): number {
    const bytes = ring.readableBytes - frameOffset;
    const swallowed = readChain(ring, frameOffset, this.#memory, this.#at, Math.min(bytes, SLOT_BYTES));
    this.#at = behind(this.#at, swallowed, this.#last);
    return NetHeader.sizeBytes + bytes;
  }

  sendPlain(ring: DeviceRing, count: number, frameOffset: number, ledger: QueueLedger): number {
    const { offsets, lengths, pieces: places } = ring.plain;
    const { pieces } = ring.memory;
    const { piece } = this.#memory;
    const last = this.#last;
    let at = this.#at;
    let done = 0;
    for (; done < count; done++) {
      const bytes = (lengths[done]! - frameOffset) | 0;
      if (bytes > SLOT_BYTES) break;
      copyBetween(pieces[places[done]!]!, (offsets[done]! + frameOffset) | 0, piece, at, bytes);
      at = behind(at, bytes, last);
    }
    this.#at = at;
    completeBurst(ring, ledger, done, frameOffset, 0);
    return done;
  }

  receive(): number {
    return -Errno.EAGAIN;
  }
}

export class SourcePort implements FramePort {
  readonly overflow = new Uint8Array(SLOT_BYTES);
  readonly #sink: SinkPort;
  readonly #memory: PrivateMemory;
  readonly #bytes: number;

  /** Frames of `bytes` bytes, Ethernet header included; frames sent are swallowed by `sink`. */
  constructor(bytes: number, sink: SinkPort, memory: PrivateMemory = new PrivateMemory(SLOT_BYTES)) {
    this.#sink = sink;
    this.#memory = memory;
    this.#bytes = Math.max(Ethernet.HEADER_BYTES, Math.min(bytes, SLOT_BYTES));
    const frame = memory.u8;
    frame.fill(0xff, 0, 6);
    frame.set([2, 0, 0, 0, 0, 1, 0x88, 0xb5], 6); // EtherType for local experiments
    for (let i = Ethernet.HEADER_BYTES; i < this.#bytes; i++) frame[i] = i & 0xff;
  }

  send(ring: DeviceRing, header: Uint8Array, frameOffset: number): number {
    return this.#sink.send(ring, header, frameOffset);
  }

  sendPlain(ring: DeviceRing, count: number, frameOffset: number, ledger: QueueLedger): number {
    return this.#sink.sendPlain(ring, count, frameOffset, ledger);
  }

  receivePlain(ring: DeviceRing, count: number, bytesMax: number, ledger: QueueLedger): number {
    const bytes = this.#bytes;
    if (bytes > bytesMax) return 0;
    const done = copyToBurst(this.#memory.piece, bytes, ring, NetHeader.sizeBytes, count);
    completeBurst(ring, ledger, done, NetHeader.sizeBytes, NetHeader.sizeBytes + bytes);
    return done;
  }

  receive(ring: DeviceRing, header: Uint8Array, frameOffset: number): number {
    for (let i = 0; i < NetHeader.sizeBytes; i++) header[i] = 0;
    const written = writeChain(this.#memory, 0, ring, frameOffset, this.#bytes);
    if (written < this.#bytes) this.overflow.set(this.#memory.u8.subarray(written, this.#bytes));
    return NetHeader.sizeBytes + this.#bytes;
  }
}
