/** Bulk TCP transfers between guest and host, compared by hash. */
import { pinnedNode } from '../../scripts/lib/paths.ts';
import type { Child } from './processes.ts';
import { TRANSFER_PROGRAM } from './programs.ts';
import type { Ends } from './streams.ts';

const SEND_PORT = 6001;
const RECEIVE_PORT = 6002;
const READY_TIMEOUT_MS = 30_000;
/** Patience with a transfer of no bytes, and with each MiB: a guest that is emulated on a busy machine takes long. */
const TRANSFER_TIMEOUT_MS = 300_000;
const MIB_TIMEOUT_MS = 1_500;

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

/** How long a transfer of `bytes`, or hashing them, may take. */
export function transferTimeoutMs(bytes: number): number {
  return TRANSFER_TIMEOUT_MS + (bytes / 2 ** 20) * MIB_TIMEOUT_MS;
}

/** In words, with its throughput. */
export function describeTransfer({ direction, bytes, seconds, received }: TransferResult): string {
  const mib = bytes / 2 ** 20;
  const rate = `${(mib / seconds).toFixed(1)} MiB/s`;
  return `${direction}: ${mib} MiB in ${seconds.toFixed(1)} s, ${rate}, sha256 ${received.slice(0, 16)}`;
}

/** The host's end, serving transfers of `bytes` each. */
export class TransferHost {
  readonly #ends: Ends;
  readonly #address: string;
  readonly #bytes: number;
  readonly #child: Child;
  readonly #timeoutMs: number;

  private constructor(ends: Ends, address: string, bytes: number, child: Child) {
    this.#ends = ends;
    this.#address = address;
    this.#bytes = bytes;
    this.#child = child;
    this.#timeoutMs = transferTimeoutMs(bytes);
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
    const here = this.#child.printed(/^sent (\d+) ([0-9a-f]+)$/m, this.#timeoutMs, { fromNow: true });
    here.catch(() => {}); // awaited below
    await guest.run(`nc ${this.#address} ${SEND_PORT} </dev/null >/tmp/received`, this.#timeoutMs);
    const seconds = (performance.now() - started) / 1000;
    const [bytes = '', received = ''] = (
      await guest.run('stat -c %s /tmp/received; sha256sum </tmp/received; rm /tmp/received', this.#timeoutMs)
    )
      .replace(/ +-/, '')
      .split('\n');
    return { direction: 'to guest', bytes: Number(bytes), seconds, sent: (await here)[2] ?? '', received };
  }

  async fromGuest(): Promise<TransferResult> {
    const make = `head -c ${this.#bytes} /dev/urandom >/tmp/data; sha256sum </tmp/data`;
    const sent = (await this.#ends.guest.run(make, this.#timeoutMs)).replace(/ +-/, '');
    const started = performance.now();
    const here = this.#child.printed(/^received (\d+) ([0-9a-f]+)$/m, this.#timeoutMs, { fromNow: true });
    here.catch(() => {}); // awaited below
    await this.#ends.guest.run(
      `nc ${this.#address} ${RECEIVE_PORT} </tmp/data; rm /tmp/data`,
      this.#timeoutMs,
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
