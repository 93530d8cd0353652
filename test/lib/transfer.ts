/** Bulk TCP transfers between guest and host, compared by hash. */
import { pinnedNode } from '../../scripts/lib/paths.ts';
import type { Child } from './processes.ts';
import { TRANSFER_PROGRAM } from './programs.ts';
import type { Ends } from './streams.ts';

const SEND_PORT = 6001;
const RECEIVE_PORT = 6002;
const READY_TIMEOUT_MS = 30_000;
const TRANSFER_TIMEOUT_MS = 300_000;

export interface TransferResult {
  readonly direction: 'to guest' | 'from guest';
  readonly bytes: number;
  readonly seconds: number;
  /** Hashes taken at the two ends. */
  readonly sent: string;
  readonly received: string;
}

/** Whether all bytes arrived as they were sent. */
export function isIntact(result: TransferResult, bytes: number): boolean {
  return result.bytes === bytes && result.sent === result.received && /^[0-9a-f]{64}$/.test(result.sent);
}

/** The host's end, serving transfers of `bytes` each. */
export class TransferHost {
  readonly #ends: Ends;
  readonly #address: string;
  readonly #bytes: number;
  readonly #child: Child;

  private constructor(ends: Ends, address: string, bytes: number, child: Child) {
    this.#ends = ends;
    this.#address = address;
    this.#bytes = bytes;
    this.#child = child;
  }

  /** `address` is the host's, as the guest sees it. */
  static async start(ends: Ends, address: string, bytes: number): Promise<TransferHost> {
    const words = [`${bytes}`, `${SEND_PORT}`, `${RECEIVE_PORT}`];
    const child = ends.processes.start(ends.net.inside([pinnedNode, TRANSFER_PROGRAM, ...words]), {
      name: 'transfer',
      stdin: 'pipe',
    });
    await child.printed(/^ready$/m, READY_TIMEOUT_MS);
    return new TransferHost(ends, address, bytes, child);
  }

  async toGuest(): Promise<TransferResult> {
    const { guest } = this.#ends;
    const started = performance.now();
    const here = this.#child.printed(/^sent (\d+) ([0-9a-f]+)$/m, TRANSFER_TIMEOUT_MS, { fromNow: true });
    here.catch(() => {}); // awaited below
    await guest.run(`nc ${this.#address} ${SEND_PORT} </dev/null >/tmp/received`, TRANSFER_TIMEOUT_MS);
    const seconds = (performance.now() - started) / 1000;
    const [bytes = '', received = ''] = (
      await guest.run(
        'stat -c %s /tmp/received; sha256sum </tmp/received; rm /tmp/received',
        TRANSFER_TIMEOUT_MS,
      )
    )
      .replace(/ +-/, '')
      .split('\n');
    return { direction: 'to guest', bytes: Number(bytes), seconds, sent: (await here)[2] ?? '', received };
  }

  async fromGuest(): Promise<TransferResult> {
    const make = `head -c ${this.#bytes} /dev/urandom >/tmp/data; sha256sum </tmp/data`;
    const sent = (await this.#ends.guest.run(make, TRANSFER_TIMEOUT_MS)).replace(/ +-/, '');
    const started = performance.now();
    const here = this.#child.printed(/^received (\d+) ([0-9a-f]+)$/m, TRANSFER_TIMEOUT_MS, { fromNow: true });
    here.catch(() => {}); // awaited below
    await this.#ends.guest.run(
      `nc ${this.#address} ${RECEIVE_PORT} </tmp/data; rm /tmp/data`,
      TRANSFER_TIMEOUT_MS,
    );
    const [, bytes, received = ''] = await here;
    const seconds = (performance.now() - started) / 1000;
    return { direction: 'from guest', bytes: Number(bytes), seconds, sent, received };
  }

  async end(): Promise<void> {
    this.#child.endInput();
    await this.#child.exited;
  }
}
