/** queue-bursts.ts: the ring for bursts (burst-ring.ts of host-linux) of one queue, made when the first burst comes. */
import { BurstRing, viewAt } from '@virtnet/host-linux';
import { BURST_PAGE_BYTES } from '@virtnet/wire';

export class QueueBursts<Table extends Parameters<typeof BurstRing.open>[0]> {
  readonly table: Table | null;
  /** Of the queue's page, 0 when it has none. */
  readonly pageAddress: number;
  /** null: there is none yet, or there can be none. */
  #ring: BurstRing | null = null;
  #possible: boolean;

  /** Without a page or a table there are no bursts. */
  constructor(table: Table | null, pageAddress: number) {
    this.table = table;
    this.pageAddress = pageAddress;
    this.#possible = table !== null && pageAddress !== 0;
  }

  /** Whether there is a ring, or may be one. */
  get possible(): boolean {
    return this.#possible;
  }

  /** null: frames go one by one. */
  get ring(): BurstRing | null {
    return this.#ring ?? this.#open();
  }

  /** The queue's page; null when it has none. */
  page(): ArrayBuffer | null {
    return this.pageAddress === 0 ? null : viewAt(BigInt(this.pageAddress), BURST_PAGE_BYTES);
  }

  close(): void {
    this.#ring?.close();
    this.#ring = null;
    this.#possible = false;
  }

  #open(): BurstRing | null {
    if (!this.#possible) return null;
    const opened = BurstRing.open(this.table!, this.pageAddress);
    this.#ring = typeof opened === 'number' ? null : opened;
    this.#possible = this.#ring !== null;
    return this.#ring;
  }
}
