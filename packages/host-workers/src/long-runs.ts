/**
 * long-runs.ts: a Piscina pool of threads that each run one task for as long as the process lives.
 *
 * Theory
 *   Piscina is built for request and answer, with an Atomics wait between tasks that would stop everything else in a
 *   thread. A datapath worker is one long run, so this pool has a fixed size, one task per thread, waiting by Atomics
 *   off, and is ended through each worker's own mailbox. The threads start, and read their file, while whoever wants
 *   them makes what the runs are given.
 *
 * Invariants
 *   I1  `count` runs on `count` threads: no run waits for another.
 *   I2  a run that ends or throws is reported once, through `onEnd`.
 *
 * Limits  RUNS_MAX threads.
 */
import { MessageChannel, type MessagePort } from 'node:worker_threads';
import { Piscina } from 'piscina';
import { createControl } from './mailbox.js';

/** More threads than any machine this runs on gains from. */
export const RUNS_MAX = 64;

/** What a worker's function is given. */
export interface RunStart<Data> {
  readonly index: number;
  readonly port: MessagePort;
  readonly control: SharedArrayBuffer;
  readonly data: Data;
}

export interface Run {
  readonly index: number;
  readonly port: MessagePort;
  readonly control: SharedArrayBuffer;
}

type TransferList = NonNullable<NonNullable<Parameters<Piscina['run']>[1]>['transferList']>;

/** Piscina derives its list type from the wrong overload of postMessage; the value is a plain array. */
function transferring(port: MessagePort): TransferList {
  return [port] as unknown as TransferList;
}

export class LongRuns<Data> {
  readonly #pool: Piscina;
  readonly #count: number;
  readonly #ports: MessagePort[] = [];
  readonly #ends: Promise<void>[] = [];

  /** Starts `count` threads, which read `filename`. */
  constructor(filename: string, count: number) {
    if (!Number.isInteger(count) || count < 1 || count > RUNS_MAX) {
      throw new RangeError(`worker count ${count} is outside 1..${RUNS_MAX}`);
    }
    this.#count = count;
    this.#pool = new Piscina({
      filename,
      minThreads: count,
      maxThreads: count,
      concurrentTasksPerWorker: 1,
      atomics: 'disabled',
      recordTiming: false,
    });
  }

  /**
   * Begins a run of the default export of the file on each thread. To be called once.
   * `onEnd(index, error)` is told when one ends; `error` is null when it was asked to.
   */
  begin(data: (index: number) => Data, onEnd: (index: number, error: Error | null) => void): readonly Run[] {
    return Array.from({ length: this.#count }, (_, index) => {
      const channel = new MessageChannel();
      const control = createControl();
      const start: RunStart<Data> = { index, port: channel.port2, control, data: data(index) };
      this.#ends.push(
        this.#pool.run(start, { transferList: transferring(channel.port2) }).then(
          () => onEnd(index, null),
          (error: Error) => onEnd(index, error),
        ),
      );
      this.#ports.push(channel.port1);
      return { index, port: channel.port1, control };
    });
  }

  /** Waits until every run has ended by itself, then releases the threads. */
  async finished(): Promise<void> {
    await Promise.all(this.#ends);
    for (const port of this.#ports) port.close();
    await this.#pool.destroy();
  }
}
