/**
 * testpmd.ts: DPDK's test program as an independent driver (virtio-user) or device (vhost) of virtio-net.
 *
 * Theory
 *   dpdk-testpmd runs interactively; a command's answer is what it prints before the next prompt. Memory comes from
 *   a memfd (`--no-huge`), so no huge pages are needed and nothing is left in a file system.
 *
 * Limits  One command at a time.
 */
import { randomBytes } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { NetworkNamespace } from './netns.ts';
import type { Child, Exit, Processes } from './processes.ts';
import { within } from './waiting.ts';

const PROMPT = 'testpmd> ';
const START_TIMEOUT_MS = 120_000;
const COMMAND_TIMEOUT_MS = 30_000;
/** On a busy machine it is long in giving its memory back. */
const END_TIMEOUT_MS = 120_000;

export interface TestpmdOptions {
  readonly processes: Processes;
  readonly net: NetworkNamespace;
  readonly directory: string;
  /** `--vdev` arguments, one port each. */
  readonly devices: readonly string[];
  /** Words after `--`, without `-i`. */
  readonly options?: readonly string[];
  readonly memoryMegabytes?: number;
  /** Buffers in its pool. */
  readonly mbufs?: number;
  /** It tells where the rings of its virtio-user ports lie, see {@link Testpmd.ringAddress}. */
  readonly tellsRings?: boolean;
  /** Processor its forwarding thread is bound to; default: it floats. */
  readonly processor?: number;
  readonly name?: string;
}

export interface PortStatistics {
  readonly rxPackets: number;
  readonly rxBytes: number;
  readonly rxMissed: number;
  readonly rxErrors: number;
  readonly txPackets: number;
  readonly txBytes: number;
  readonly txErrors: number;
}

/** Options of a virtio-user port, in DPDK's words. */
export interface VirtioUser {
  readonly path: string;
  /** Number of the device, for a testpmd with several. */
  readonly index?: number;
  readonly queues?: number;
  readonly queueSize?: number;
  readonly mergeable?: boolean;
  readonly inOrder?: boolean;
  readonly packed?: boolean;
  readonly mac?: string;
  /** Listen on the socket instead of connecting to it. */
  readonly server?: boolean;
}

export function virtioUser(port: VirtioUser): string {
  const words = [
    `net_virtio_user${port.index ?? 0},path=${port.path}`,
    `queues=${port.queues ?? 1},queue_size=${port.queueSize ?? 256}`,
    `mrg_rxbuf=${port.mergeable === true ? 1 : 0},in_order=${port.inOrder === true ? 1 : 0}`,
    `packed_vq=${port.packed === true ? 1 : 0}`,
    ...(port.mac === undefined ? [] : [`mac=${port.mac}`]),
    ...(port.server === true ? ['server=1'] : []),
  ];
  return words.join(',');
}

/** Name of testpmd's forwarding thread. */
export const FORWARDING_THREAD = 'rte-worker-1';

/** What the driver says of each queue that it sets up; the last word counts, for it may begin again. */
const QUEUE_SET_UP = /setting up queue: (\d+) [\s\S]*?vq_ring_virt_mem: 0x([0-9a-f]+)/g;

export class Testpmd {
  readonly child: Child;
  /** Everything it printed, if it tells where its rings lie. */
  #said = '';

  private constructor(child: Child) {
    this.child = child;
  }

  static async start(options: TestpmdOptions): Promise<Testpmd> {
    const runtime = join(options.directory, 'dpdk');
    mkdirSync(runtime, { recursive: true });
    const name = options.name ?? 'testpmd';
    const command = [
      ...[
        'stdbuf',
        '-oL',
        'dpdk-testpmd',
        '--no-pci',
        '--no-huge',
        '-m',
        `${options.memoryMegabytes ?? 256}`,
        '--no-telemetry',
        ...(options.tellsRings === true ? ['--log-level=pmd.net.virtio.init:debug'] : []),
      ],
      // stdbuf: answers would sit in stdio's buffer while the prompt is written at once.
      // Two threads: one for commands, one for forwarding; by default neither is pinned on a small machine.
      ...['--lcores', lcores(options.processor), '--file-prefix', `vn${randomBytes(4).toString('hex')}`],
      ...options.devices.flatMap((device) => ['--vdev', device]),
      ...['--', '-i', `--total-num-mbufs=${options.mbufs ?? 16_384}`, ...(options.options ?? [])],
    ];
    const child = options.processes.start(options.net.inside(command), {
      name,
      stdin: 'pipe',
      env: { RUNTIME_DIRECTORY: runtime, XDG_RUNTIME_DIR: runtime },
      log: join(options.directory, `${name}.log`),
    });
    const testpmd = new Testpmd(child);
    if (options.tellsRings === true)
      child.onText((text) => {
        testpmd.#said += text;
      });
    await testpmd.#prompt('its start', START_TIMEOUT_MS);
    return testpmd;
  }

  /** Where the descriptors of a queue of its only port begin, in its own address space. Needs `tellsRings`. */
  ringAddress(queue: number): number {
    const told = [...this.#said.matchAll(QUEUE_SET_UP)].findLast(([, number]) => Number(number) === queue);
    if (told === undefined) throw new Error(`testpmd did not say where the ring of queue ${queue} is`);
    return Number.parseInt(told[2]!, 16);
  }

  /** Types a command and returns what it prints. */
  async command(text: string, timeoutMs = COMMAND_TIMEOUT_MS): Promise<string> {
    const prompt = this.#prompt(text, timeoutMs);
    this.child.write(`${text}\n`);
    return (await prompt).replace(`${text}\r\n`, '');
  }

  /** What it prints up to its next prompt. Only stdout counts: messages of drivers go to stderr at any time. */
  async #prompt(what: string, timeoutMs: number): Promise<string> {
    let answer = '';
    let stop: () => void = () => {};
    const done = new Promise<string>((resolve) => {
      stop = this.child.onText((chunk) => {
        answer += chunk;
        if (answer.endsWith(PROMPT)) resolve(answer.slice(0, -PROMPT.length));
      }, 'stdout');
    });
    try {
      const result = await within(Promise.race([done, this.child.exited.then(() => null)]), timeoutMs);
      if (result === null) throw new Error(`testpmd did not finish "${what}"; it said:\n${this.child.tail}`);
      return result;
    } finally {
      stop();
    }
  }

  /**
   * Sets the forwarding mode and starts it; `firstBursts`: bursts of frames it sends first. A mode ending in ` retry`
   * waits where a transmit ring is full, as long as `set burst tx` says; others drop.
   */
  async forward(mode: string, firstBursts = 0): Promise<void> {
    await this.command(`set fwd ${mode}`);
    const answer = await this.command(firstBursts > 0 ? `start tx_first ${firstBursts}` : 'start');
    if (/error|fail|not started/i.test(answer)) throw new Error(`testpmd would not start ${mode}: ${answer}`);
  }

  async stop(): Promise<string> {
    return this.command('stop');
  }

  async statistics(port = 0): Promise<PortStatistics> {
    const text = await this.command(`show port stats ${port}`);
    const number = (name: string): number => {
      const match = new RegExp(`${name}:\\s*(\\d+)`).exec(text);
      if (match?.[1] === undefined) throw new Error(`no ${name} in: ${text}`);
      return Number(match[1]);
    };
    return {
      rxPackets: number('RX-packets'),
      rxBytes: number('RX-bytes'),
      rxMissed: number('RX-missed'),
      rxErrors: number('RX-errors'),
      txPackets: number('TX-packets'),
      txBytes: number('TX-bytes'),
      txErrors: number('TX-errors'),
    };
  }

  /** Ends it in order: stops forwarding, closes ports, lets the backend see a clean disconnect. */
  async quit(): Promise<Exit> {
    this.child.write('stop\nquit\n');
    const exit = await within(this.child.exited, END_TIMEOUT_MS);
    return exit ?? this.child.end('SIGKILL');
  }
}

function lcores(processor: number | undefined): string {
  return processor === undefined ? '(0,1)@(0-1)' : `0@(0-1),1@${processor}`;
}
