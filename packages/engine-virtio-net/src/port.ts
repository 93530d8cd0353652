/**
 * port.ts: the representor's side of a queue pair, as the queues see it.
 *
 * Theory
 *   A port moves one frame at a time between a ring's current chain and whatever stands behind it (a TAP, a switch).
 *   The frame never passes through a buffer of the queue's: the port works on the chain's segments. The frame header
 *   does: it lies in private memory, so that what was judged is what is used.
 *   A plain frame is one whose header asks for nothing and which lies in one piece of memory, as most do. A port may have
 *   a short way for a burst of them, without chains and headers; it completes them in the queue's ledger, too.
 *
 * Parties
 *   queue    owns the ring and the header; judges, counts, gives chains back.
 *   port     touches the current chain's segments during a call, and not after.
 *
 * Invariants
 *   I1  `header` is always the NetHeader.sizeBytes bytes of struct virtio_net_hdr_v1, whatever header the driver
 *       negotiated, and the same array in every call of one queue; its memory does not move.
 *   I2  a port never throws: a result below 0 is a negative errno.
 *   I3  -EAGAIN means that nothing happened.
 *
 * Limits  one frame a call.
 */
import type { DeviceRing, QueueLedger } from '@virtnet/engine-virtqueue';
import type { ReadAhead } from './read-ahead.js';

export interface FramePort {
  /** Where `receive` leaves the end of a frame that the segments had no room for. */
  readonly overflow: Uint8Array;

  /**
   * Sends the frame in the chain's readable segments, which begins `frameOffset` bytes into them, under `header`.
   * Returns bytes sent, header included; -EAGAIN when the port is full; another -errno, or a refusal(), when it does
   * not take the frame.
   */
  send(ring: DeviceRing, header: Uint8Array, frameOffset: number): number;

  /**
   * Receives one frame into the chain's writable segments, `frameOffset` bytes into them, and its header into
   * `header`. Returns the bytes of header and whole frame: more than the chain holds, if only by one, when the frame
   * did not fit; what found no room is then the first bytes of `overflow`, until the next call. -EAGAIN when no frame waits;
   * another -errno on failure; a refusal() when the frame cannot be had as a whole.
   */
  receive(ring: DeviceRing, header: Uint8Array, frameOffset: number): number;

  /**
   * Sends plain frames: the first `count` chains of the ring's `plain`, behind `frameOffset` bytes each. Each is
   * completed, or dropped, in `ledger`, where the burst is begun and ended by the caller. Returns how many; it ends in
   * front of one that has to go the long way, or when the port is full.
   */
  sendPlain?(
    ring: DeviceRing,
    count: number,
    frameOffset: number,
    ledger: QueueLedger,
    bytesMax: number,
  ): number;

  /**
   * The same of plain frames in several pieces, which DeviceRing.scanFrames has laid out. What it leaves in front goes the
   * long way.
   */
  sendFrames?(ring: DeviceRing, count: number, frameOffset: number, ledger: QueueLedger): number;

  /**
   * Nobody has looked at the headers and lengths of frames that `sendPlain` is given: it ends in front of one that is not
   * plain, or not of an Ethernet header to `bytesMax` bytes. As copyBurst does, which has to read the frame anyway.
   */
  readonly judges?: boolean;

  /**
   * Of a port whose `sendPlain` has the kernel send bursts: how many frames of the last one of a former owner, which had
   * `count` and of which `burst` tells (BurstWord), were sent and not settled.
   */
  sentBefore?(burst: Uint32Array, count: number): number;

  /**
   * Receives plain frames of at most `bytesMax` bytes into the first `count` chains of the ring's `plain`, each behind the
   * header of one in one buffer (writePlainHeader). Each is completed in `ledger`, where the burst is begun and ended by
   * the caller. Returns how many; it ends in front of a chain that the next frame does not fit in, of a frame that has to
   * go the long way, or when no frame waits.
   */
  receivePlain?(ring: DeviceRing, count: number, bytesMax: number, ledger: QueueLedger): number;

  /**
   * The same of frames that each fill as many buffers as they need, of the first `count` chains from `first` on. Returns how
   * many chains they are in.
   */
  receiveFrames?(
    ring: DeviceRing,
    first: number,
    count: number,
    bytesMax: number,
    ledger: QueueLedger,
  ): number;

  /** Of a port that has the kernel read many frames in one call: what was read and is not the driver's yet. */
  readonly ahead?: ReadAhead;
  /** How many frames are likely to wait; 0: too few for such a call. */
  readonly expected?: number;

  /**
   * Has frames read into the first `count` chains of the ring's `plain`, behind the room for a header: they are in `ahead`
   * then, and receive() gives them. Says in `ledger` before by what a successor tells how far the kernel came. Whether
   * more may wait.
   */
  readAhead?(ring: DeviceRing, count: number, ledger: QueueLedger): boolean;

  /**
   * Puts into `ahead` what a former owner, who is dead, had read by `reads` reads and not settled. `burst` tells of it
   * (BurstWord); `settled` chains of its burst are answered, and the `chains` behind them are the first of the ring's `plain`.
   */
  readBefore?(ring: DeviceRing, chains: number, settled: number, burst: Uint32Array, reads: number): void;
}
