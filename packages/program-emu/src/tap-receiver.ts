/**
 * tap-receiver.ts: one queue of a representor TAP, for a driver that receives.
 *
 * Theory
 *   Frames are read one by one until many come in a row: then as many as are likely to wait are read by one system call
 *   (burst-reader.ts of host-linux), straight into the driver's buffers. The kernel says in the queue's page of the state
 *   page's file what it has read, and leaves the headers there, so that a successor goes on with those frames. A read
 *   that finds nothing costs a tenth of one that does, so twice as many are tried as came before. The ring for bursts is
 *   made when the first of them is read.
 *
 * Invariants
 *   I1  nothing is left in `ahead` between two polls: all queues of a thread share it.
 */
import { ReadAhead } from '@virtnet/engine-virtio-net';
import type { DeviceRing, QueueLedger } from '@virtnet/engine-virtqueue';
import { BurstRing, burstHeaders, type ReadTable, readOfBurst, viewAt } from '@virtnet/host-linux';
import { BURST_PAGE_BYTES, BurstWord, Errno, NetHeader, QueueCounter } from '@virtnet/wire';
import { TapPort } from './tap-port.js';

/** Fewer frames in a row are read one by one. */
const BURST_LEAST = 8;
const HEADER_BYTES = NetHeader.sizeBytes;
/** Frames in a row are not counted further. */
const RUN_MAX = 1024;

// Of the thread and not of a port, as in tap-port.ts.
const ahead = new ReadAhead();

export class TapReceiver extends TapPort {
  readonly ahead = ahead;
  readonly #fd: number;
  readonly #table: ReadTable | null;
  readonly #pageAddress: number;
  #headers: Uint8Array | null = null;
  /** null: there is none yet, or there can be none. */
  #ring: BurstRing | null = null;
  #possible: boolean;
  /** Frames since none waited, and how many there were before that. */
  #run = 0;
  #last = 0;

  /** `pageAddress`: of the queue's page, 0 when it has none. Without it, or without a table, all frames are read one by one. */
  constructor(fd: number, table: ReadTable | null, pageAddress: number) {
    super(fd);
    this.#fd = fd;
    this.#table = table;
    this.#pageAddress = pageAddress;
    this.#possible = table !== null && pageAddress !== 0;
  }

  get expected(): number {
    const frames = Math.max(this.#run, this.#last);
    return this.#possible && frames >= BURST_LEAST ? 2 * frames : 0;
  }

  close(): void {
    this.#ring?.close();
    this.#ring = null;
    this.#possible = false;
  }

  override receive(ring: DeviceRing, header: Uint8Array, frameOffset: number): number {
    if (ahead.left) return ahead.take(ring, header);
    const bytes = super.receive(ring, header, frameOffset);
    if (bytes < 0) this.#noMore();
    else this.#came(1);
    return bytes;
  }

  readAhead(ring: DeviceRing, count: number, ledger: QueueLedger): boolean {
    const kernel = this.#ring ?? this.#open();
    ahead.lay(ring, kernel === null ? 0 : count);
    if (kernel === null) return true;
    const { offsets, lengths, pieces: places } = ring.plain;
    const { pieces } = ring.memory;
    const table = this.#table!;
    for (let i = 0; i < count; i++) {
      const address = pieces[places[i]!]!.address + offsets[i]! + HEADER_BYTES;
      table.set(i, this.#pageAddress, address, lengths[i]! - HEADER_BYTES);
    }
    kernel.describe(ledger.burst);
    ledger.beginKernelReads(count);
    kernel.send(this.#fd, count);
    const { results } = kernel;
    let frames = 0;
    for (let i = 0; i < count; i++) {
      const result = results[i]!;
      ahead.results[i] = result;
      if (result >= 0) frames++;
      else if (result !== -Errno.EAGAIN) ledger.count(QueueCounter.DROP_TAP_ERROR);
    }
    ahead.headers = this.#headers!;
    ahead.start(count);
    if (kernel.broken) this.close();
    this.#came(frames);
    const more = results[count - 1]! >= 0;
    if (!more) this.#noMore();
    return more;
  }

  readBefore(ring: DeviceRing, chains: number, settled: number, burst: Uint32Array, reads: number): void {
    ahead.lay(ring, chains, settled);
    if (this.#pageAddress === 0) return;
    const page = new Uint32Array(viewAt(BigInt(this.#pageAddress), BURST_PAGE_BYTES));
    readOfBurst(page, burst, reads, ahead.results);
    ahead.headers = burstHeaders(this.#pageAddress);
    ahead.start(reads, settled + burst[BurstWord.DROPPED]!);
  }

  #came(frames: number): void {
    this.#run = Math.min(this.#run + frames, RUN_MAX);
  }

  #noMore(): void {
    this.#last = this.#run;
    this.#run = 0;
  }

  #open(): BurstRing | null {
    if (!this.#possible) return null;
    const opened = BurstRing.open(this.#table!, this.#pageAddress);
    this.#ring = typeof opened === 'number' ? null : opened;
    this.#possible = this.#ring !== null;
    if (this.#possible) this.#headers = burstHeaders(this.#pageAddress);
    return this.#ring;
  }
}
