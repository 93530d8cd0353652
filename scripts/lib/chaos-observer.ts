/**
 * chaos-observer.ts: what can be seen of the service without starting programs for it.
 *
 * Theory
 *   A look after each event must cost little, or it takes the processor from what it looks at. The controller is asked
 *   over the socket that the command line uses; counters of the namespace are read through its holder's /proc; one `ip`
 *   in the namespace, which reads its commands from a pipe, tells all facts of all links; of a log only what is new is
 *   read.
 */
import { closeSync, fstatSync, openSync, readFileSync, readSync } from 'node:fs';
import { basename, join } from 'node:path';
import { RpcClient } from '@virtnet/host-ipc';
import type { Child } from '../../test/lib/processes.ts';
import type { Scene } from '../../test/lib/scene.ts';
import type { EmulatorStatus, Service } from '../../test/lib/service.ts';
import { within } from '../../test/lib/waiting.ts';

const ASK_MS = 5_000;
const STATUS_MS = 1_000;
/** What vfe-vhostd says when a machine lost its connection, and when it lost its own to a function, which it then resets. */
const LOST = ['frontend disconnected', 'function lost'] as const;
const LOST_TAIL = Math.max(...LOST.map((words) => words.length)) - 1;
const LINKS_MS = 60_000;

type AskParams = Parameters<RpcClient['call']>[1] & object;

export interface LinkFacts {
  readonly ifname: string;
  readonly ifindex: number;
  readonly mtu: number;
  readonly carrier_changes: number;
}

export interface LinkCounters {
  /** Frames that came from the function. */
  readonly received: number;
  /** Frames to the function that the kernel dropped. */
  readonly dropped: number;
}

/** A choice of one device, as the command line sends it. */
export const deviceOf = (vuid: string) => ({ all: false, pf: null, vf: null, vuid });

export class Observer {
  readonly #scene: Scene;
  readonly #service: Service;
  readonly #controller: RpcClient;
  readonly #vhostd: RpcClient;
  readonly #ip: Child;
  #printed = '';
  /** Asked one after the other. */
  #linksTold: Promise<unknown> = Promise.resolve();
  #tell: (line: string) => void = () => {};
  #logAt = 0;
  #logTail = '';

  constructor(scene: Scene, service: Service) {
    this.#scene = scene;
    this.#service = service;
    this.#controller = new RpcClient(join(service.root, 'run/virtnet/controller.ipc'));
    this.#vhostd = new RpcClient(join(service.root, 'run/vfe/vhostd.ipc'));
    this.#ip = scene.processes.start(scene.net.inside(['ip', '-j', '-d', '-batch', '-']), {
      name: 'ip',
      stdin: 'pipe',
      onStdout: (chunk) => this.#hear(chunk.toString('latin1')),
    });
  }

  /** What the controller answers to a command of `virtnet`, or of `virtnet-host`. */
  async ask<T>(
    command: string,
    params: Readonly<Record<string, unknown>>,
    deadlineMs: number = ASK_MS,
  ): Promise<T> {
    const request = { command, params } as AskParams;
    const { answer } = (await this.#controller.call('cli.request', request as never, { deadlineMs })) as {
      answer: unknown;
    };
    return answer as T;
  }

  /** What vfe-vhostd answers to `vfe-vhost-cli version`. */
  async vhostVersion(): Promise<string> {
    const request = { command: 'version', params: {} } as const;
    const { answer } = await this.#vhostd.call('vhost.request', request, { deadlineMs: ASK_MS });
    return JSON.stringify(answer);
  }

  /** Whether the emulator that the pid file names serves. */
  serves(): Promise<boolean> {
    return this.#some(
      ({ role, ready, pid }) => role === 'active' && ready && pid === this.#service.pid('emu'),
    );
  }

  /** Whether a standby could take over at once. */
  standbyWarm(): Promise<boolean> {
    return this.#some(({ role, ready }) => role === 'standby' && ready);
  }

  links(): Promise<ReadonlyMap<string, LinkFacts>> {
    const told = this.#linksTold.then(() => this.#askLinks());
    this.#linksTold = told.catch(() => {});
    return told;
  }

  async #askLinks(): Promise<ReadonlyMap<string, LinkFacts>> {
    const { promise, resolve } = Promise.withResolvers<string>();
    this.#tell = resolve;
    this.#ip.write('link show\n');
    const line = await within(Promise.race([promise, this.#ip.exited.then(() => null)]), LINKS_MS);
    if (line === null) throw new Error(`ip does not tell the links; it said:\n${this.#ip.tail}`);
    const links = JSON.parse(line) as LinkFacts[];
    return new Map(links.map((link) => [link.ifname, link]));
  }

  /** Each answer is a line. */
  #hear(text: string): void {
    const lines = (this.#printed + text).split('\n');
    this.#printed = lines.pop() ?? '';
    for (const line of lines) this.#tell(line);
  }

  counters(): ReadonlyMap<string, LinkCounters> {
    const text = readFileSync(`/proc/${this.#scene.net.holderPid}/net/dev`, 'latin1');
    const lines = [...text.matchAll(/^ *([^\s:]+): *(.*)$/gm)];
    return new Map(
      lines.map(([, name = '', words = '']) => {
        const numbers = words.trim().split(/ +/).map(Number);
        return [name, { received: numbers[1] ?? 0, dropped: numbers[11] ?? 0 }];
      }),
    );
  }

  /** What vfe-vhostd has said, since this was last asked, that it has lost: a machine's connection, or its own; or null. */
  lost(): string | null {
    const file = openSync(this.#scene.path('vhostd.log'), 'r');
    try {
      const bytes = Buffer.alloc(Math.max(0, fstatSync(file).size - this.#logAt));
      this.#logAt += readSync(file, bytes, 0, bytes.byteLength, this.#logAt);
      const text = this.#logTail + bytes.toString('utf8');
      const found = LOST.find((words) => text.includes(words)) ?? null;
      this.#logTail = found === null ? text.slice(-LOST_TAIL) : '';
      return found;
    } finally {
      closeSync(file);
    }
  }

  /** Names of the programs that run, each as often as it does. */
  programs(): string {
    const names = this.#scene.processes.marked().map(({ command }) => basename(command.split(' ')[0] ?? ''));
    return names.sort().join(' ');
  }

  async close(): Promise<void> {
    this.#controller.close();
    this.#vhostd.close();
    this.#ip.endInput();
    await this.#ip.exited;
  }

  /** Whether `wanted` holds for what one emulator says; one that hangs is not waited for. */
  async #some(wanted: (status: Omit<EmulatorStatus, 'socket'>) => boolean): Promise<boolean> {
    const clients = (await this.#service.emulatorSockets()).map((path) => new RpcClient(path));
    const answers = clients.map(async (client) => {
      if (!wanted(await client.call('emu.status', {}, { deadlineMs: STATUS_MS }))) throw new Error('not it');
      return true;
    });
    const first = Promise.any(answers).catch(() => false);
    const found = await within(first, STATUS_MS);
    for (const client of clients) client.close();
    return found ?? false;
  }
}

/** Microseconds in which somebody on this machine waited for a processor, since it started; 0 where that is unknown. */
export function processorWaitUs(): number {
  try {
    return Number(/^some .*total=(\d+)/m.exec(readFileSync('/proc/pressure/cpu', 'latin1'))?.[1] ?? 0);
  } catch {
    return 0;
  }
}
