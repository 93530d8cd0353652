/** tcpdump on an interface inside the namespace. Needs real root: tcpdump gives its rights up, which a user namespace refuses. */

import type { NetworkNamespace } from './netns.ts';
import { type Packet, parsePcap } from './pcap.ts';
import type { Child, Processes } from './processes.ts';
import { within } from './waiting.ts';

const START_TIMEOUT_MS = 30_000;
const END_TIMEOUT_MS = 30_000;

export interface CaptureOptions {
  /** Ends by itself after so many packets. */
  readonly count?: number;
  /** What enters the host through the interface, what leaves it, or both. */
  readonly direction?: 'in' | 'out' | 'inout';
  readonly snapBytes?: number;
  /** Packets are handed over as they come; false: within a second or so, which takes less from who is measured. */
  readonly atOnce?: boolean;
}

export class HostCapture {
  readonly #child: Child;
  readonly #chunks: Buffer[];

  private constructor(child: Child, chunks: Buffer[]) {
    this.#child = child;
    this.#chunks = chunks;
  }

  static async start(
    on: { readonly processes: Processes; readonly net: NetworkNamespace },
    device: string,
    filter: readonly string[],
    options: CaptureOptions = {},
  ): Promise<HostCapture> {
    const chunks: Buffer[] = [];
    const words = [
      ...[
        '-i',
        device,
        '-n',
        '-p',
        '-s',
        `${options.snapBytes ?? 128}`,
        '-B',
        '16384',
        ...(options.atOnce === false ? [] : ['--immediate-mode']),
        '-U',
        '-w',
        '-',
      ],
      ...[
        '-Q',
        options.direction ?? 'inout',
        ...(options.count === undefined ? [] : ['-c', `${options.count}`]),
      ],
    ];
    const child = on.processes.start(on.net.inside(['tcpdump', ...words, ...filter]), {
      name: 'tcpdump',
      onStdout: (chunk) => chunks.push(chunk),
    });
    await child.printed(/listening on/, START_TIMEOUT_MS);
    return new HostCapture(child, chunks);
  }

  /** Waits until the wanted number of packets was captured; false when it takes too long. */
  async full(timeoutMs: number): Promise<boolean> {
    return (
      (await within(this.#child.exited, timeoutMs)) !== null &&
      (await within(this.#child.drained, timeoutMs)) !== null
    );
  }

  /** What was captured so far. */
  packets(): Packet[] {
    return parsePcap(Buffer.concat(this.#chunks));
  }

  /** Ends the capture and returns all of it; throws when the kernel had no room for a packet. */
  async finish(): Promise<Packet[]> {
    await this.#child.end('SIGTERM', END_TIMEOUT_MS);
    await this.#child.drained;
    const dropped = /(\d+) packets? dropped by kernel/.exec(this.#child.tail)?.[1];
    if (dropped !== '0') throw new Error(`tcpdump missed ${dropped} packets: ${this.#child.tail}`);
    return this.packets();
  }
}
