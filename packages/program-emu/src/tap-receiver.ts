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
import { burstHeaders, type ReadTable, readOfBurst } from '@virtnet/host-linux';
import { BurstWord, Errno, NetHeader, QueueCounter } from '@virtnet/wire';
import { QueueBursts } from './queue-bursts.js';
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
  readonly #bursts: QueueBursts<ReadTable>;
  /** Of the queue's page; null: not needed yet. */
  #headers: Uint8Array | null = null;
  /** Frames since none waited, and how many there were before that. */
  #run = 0;
  #last = 0;

  /** `pageAddress`: of the queue's page, 0 when it has none. Without it, or without a table, all frames are read one by one. */
  constructor(fd: number, table: ReadTable | null, pageAddress: number) {
    super(fd);
    this.#fd = fd;
    this.#bursts = new QueueBursts(table, pageAddress);
  }

  get expected(): number {
    const frames = Math.max(this.#run, this.#last);
    return this.#bursts.possible && frames >= BURST_LEAST ? 2 * frames : 0;
  }

  close(): void {
    this.#bursts.close();
  }

  override receive(ring: DeviceRing, header: Uint8Array, frameOffset: number): number {
    if (ahead.left) return ahead.take(ring, header);
    const bytes = super.receive(ring, header, frameOffset);
    if (bytes < 0) this.#noMore();
    else this.#came(1);
    return bytes;
  }

  readAhead(ring: DeviceRing, count: number, ledger: QueueLedger): boolean {
    const { ring: kernel, table, pageAddress } = this.#bursts;
    ahead.lay(ring, kernel === null ? 0 : count);
    if (kernel === null) return true;
    const { offsets, lengths, pieces: places } = ring.plain;
    const { pieces } = ring.memory;
    for (let i = 0; i < count; i++) {
      const address = pieces[places[i]!]!.address + offsets[i]! + HEADER_BYTES;
      table!.set(i, pageAddress, address, lengths[i]! - HEADER_BYTES);
    }
    kernel.describe(ledger.burst);
    ledger.beginKernelReads(count);
    kernel.run(this.#fd, count);
    const { results } = kernel;
    let frames = 0;
    for (let i = 0; i < count; i++) {
      const result = results[i]!;
      ahead.results[i] = result;
      if (result >= 0) frames++;
      else if (result !== -Errno.EAGAIN) ledger.count(QueueCounter.DROP_TAP_ERROR);
    }
    this.#headers ??= burstHeaders(pageAddress);
    ahead.headers = this.#headers;
    ahead.start(count);
    if (kernel.broken) this.close();
    this.#came(frames);
    const more = results[count - 1]! >= 0;
    if (!more) this.#noMore();
    return more;
  }

  readBefore(ring: DeviceRing, chains: number, settled: number, burst: Uint32Array, reads: number): void {
    ahead.lay(ring, chains, settled);
    const page = this.#bursts.page();
    if (page === null) return;
    readOfBurst(new Uint32Array(page), burst, reads, ahead.results);
    ahead.headers = burstHeaders(this.#bursts.pageAddress);
    ahead.start(reads, settled + burst[BurstWord.DROPPED]!);
  }

  #came(frames: number): void {
    this.#run = Math.min(this.#run + frames, RUN_MAX);
  }

  #noMore(): void {
    this.#last = this.#run;
    this.#run = 0;
  }
}
