/**
 * device-ring.ts: what a queue's owner may ask of the device's end of a ring, split or packed.
 *
 * Theory
 *   take() makes the next available chain current and lays its buffers out as segments, readable ones first, every
 *   address already translated and bounded. The owner reads (gather), writes (scatter, or straight to the process
 *   addresses) and then either hands the chain back (give) or leaves it where it was (untake). What was given becomes
 *   visible to the driver with publish(), once per burst.
 *   A frame may need more than one chain: extend() adds the next one behind what is current, and giveFilled() hands
 *   back those that were filled, all at once.
 *   The short way past all that: scan() lays a burst of simple chains out at once, plain.answer() gives them back one by
 *   one, and advance() tells the ring how many there were.
 *
 * States            no chain -> current (take, then extend) -> no chain (give, giveFilled, untake);
 *                   any -> broken (take finds a fault whose remedy is needs-reset)
 *   broken -> any   Prohibited. A ring that lied once is not asked again; the owner opens a new one after a reset.
 *
 * Invariants
 *   I1  chains are given in the order they were taken; what is not given is taken again.
 *   I2  the segment arrays, counts and bytes belong to the current chains and change with the next take() or extend().
 *   I3  no method allocates, throws or uses a BigInt, whatever the driver wrote (`fault` excepted: it describes).
 *
 * Limits  queueSize chains outstanding; chainSegmentsMax segments a chain (a buffer that crosses two pieces of memory
 *         is two segments, a descriptor without a byte counts as one).
 */
import type { FrameDemands } from './copy-window.js';
import type { RingFault, RingFaultCode } from './fault.js';
import type { GuestMemory } from './guest-memory.js';
import type { PlainChains } from './plain-chains.js';

export interface DeviceRing {
  readonly queueSize: number;
  readonly memory: GuestMemory;
  /**
   * Resume token, a signed 32-bit number: opening a ring with it continues after the last given chain. It changes with
   * give() and, for a packed ring, with publish().
   */
  readonly position: number;

  /** Where the segments are in the memory of rooms (ring-room.ts); -1: elsewhere. */
  readonly segmentPlace: number;
  /** Segments of what is current: `readableCount` readable ones, then `writableCount` writable ones. */
  readonly segmentAddress: Float64Array;
  readonly segmentLength: Uint32Array;
  /** Index into memory.pieces, and offset in bytes inside that piece. */
  readonly segmentPiece: Int32Array;
  readonly segmentOffset: Int32Array;
  readonly readableCount: number;
  readonly writableCount: number;
  readonly readableBytes: number;
  readonly writableBytes: number;
  /** Descriptor index (split) or buffer id (packed) of the chain taken last. */
  readonly head: number;
  /** Chains that are current. */
  readonly chainCount: number;

  /** What the last take() that returned -1 found; null before. */
  readonly faultCode: RingFaultCode | null;
  /** The same with its facts. Allocates. */
  readonly fault: RingFault | null;

  /**
   * Goes on at `position`, before anything is taken, of a ring that was opened without one; null. What is wrong when it is
   * no position of this ring, which is then not to be used.
   */
  resumeAt(position: number): RingFault | null;
  /**
   * Segments of the chain now current, at least 1; 0 when none is available; -1 on a fault. After a fault whose
   * remedy is skip-chain the chain has no segments but can be given back with give(0).
   */
  take(): number;
  /**
   * Adds the next available chain to what is current. False, and nothing changed, when there is none, or none that
   * can be added: one with a fault or without a writable byte is left for the next take().
   */
  extend(): boolean;
  /** How many of the current chains the first `writtenBytes` writable bytes lie in; at least 1. */
  chainsFor(writtenBytes: number): number;
  /** Copies readable bytes from `offset` into private memory; returns how many there were, at most `length`. */
  gather(offset: number, target: Uint8Array, targetOffset: number, length: number): number;
  /**
   * Reads the first 4 * `count` readable bytes as little-endian words if the first segment holds them all: the short
   * way to a header. False otherwise, and nothing read.
   */
  readWords(target: Int32Array, count: number): boolean;
  /** The same for the first writable bytes. False, and nothing written, if the first writable segment is too short. */
  writeWords(source: Int32Array, count: number): boolean;
  /** Copies private bytes into writable segments from `offset`; returns how many found room. */
  scatter(offset: number, source: Uint8Array, sourceOffset: number, length: number): number;
  /** Like gather, from the writable segments: what was written, or what the driver made of it since. */
  readBack(offset: number, target: Uint8Array, targetOffset: number, length: number): number;
  /** Hands the current chain back with `writtenBytes` in its writable segments; not yet visible to the driver. */
  give(writtenBytes: number): void;
  /**
   * Hands back those current chains that the first `writtenBytes` writable bytes lie in, and forgets the others.
   * Returns how many were handed back.
   */
  giveFilled(writtenBytes: number): number;
  /**
   * Lays out, in `plain`, the next available chains that are a single buffer in one piece of memory, for the device to
   * write or to read; how many, at most `most` and PLAIN_CHAINS_MAX. It ends in front of the first chain that is
   * anything else, and finds no faults: that is take()'s. Takes nothing, and nothing stays current. Where the answers
   * would not find room, those given before are made visible.
   */
  scan(most: number, writable: boolean): number;
  /**
   * The same of chains that are tables of readable buffers, frames in several pieces, as far as WebAssembly can do it: their
   * segments are listed, `plain` knows which of them are a chain's (firstSegment, segmentCount), and a chain's length is
   * that of all of them. The headers are judged by then.
   */
  scanFrames(most: number, demands: FrameDemands): number;
  /** What scan() or scanFrames() found, until the next of them, take() or give(); publish() leaves it as it is. */
  readonly plain: PlainChains;
  /** The next `count` chains of `plain` are answered: they are given. Before anything else is done with the ring. */
  advance(count: number): void;
  /** Chains that were given since the ring's position was `position`, of a ring whose chains are one entry each. */
  chainsSince(position: number): number;
  /** Forgets what is current; the next take() begins with the same chain again. */
  untake(): void;

  /** Makes every given chain visible; true when the driver wants an interrupt for what was not visible before. */
  publish(): boolean;
  /**
   * Whether the driver still wants the interrupt that publish() said last it does; changes nothing. A driver that has set
   * its wish anew since then looks at the ring afterwards, and sees what had been published.
   */
  wantsInterrupt(): boolean;
  /** Entries waiting, at most queueSize. */
  available(): number;
  /** Asks the driver not to kick. */
  suppressKicks(): void;
  /** Asks the driver to kick; true when entries are waiting already, in which case no kick may come for them. */
  armKicks(): boolean;
}
