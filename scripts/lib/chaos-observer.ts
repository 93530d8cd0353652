/**
 * chaos-observer.ts: what can be seen of the service without starting programs for it.
 *
 * Theory
 *   A look after each event must cost little, or it takes the processor from what it looks at. The controller is asked
 *   over the socket that the command line uses; counters of the namespace are read through its holder's /proc; all facts
 *   of all links are one call of `ip`; of a log only what is new is read.
 */
import { closeSync, fstatSync, openSync, readdirSync, readFileSync, readSync } from 'node:fs';
import { basename, join } from 'node:path';
import { RpcClient } from '@virtnet/host-ipc';
import type { Scene } from '../../test/lib/scene.ts';
import type { EmulatorStatus, Service } from '../../test/lib/service.ts';
import { within } from '../../test/lib/waiting.ts';

const ASK_MS = 5_000;
const STATUS_MS = 1_000;
const DISCONNECTED = 'frontend disconnected';

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
  #logAt = 0;
  #logTail = '';

  constructor(scene: Scene, service: Service) {
    this.#scene = scene;
    this.#service = service;
    this.#controller = new RpcClient(join(service.root, 'run/virtnet/controller.ipc'));
  }

  /** What the controller answers to a command of `virtnet`. */
  async ask<T>(command: string, params: Readonly<Record<string, unknown>>): Promise<T> {
    const request = { command, params } as AskParams;
    const { answer } = (await this.#controller.call('cli.request', request as never, {
      deadlineMs: ASK_MS,
    })) as { answer: unknown };
    return answer as T;
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

  async links(): Promise<ReadonlyMap<string, LinkFacts>> {
    const links = JSON.parse(await this.#scene.net.ip('-j -d link show')) as LinkFacts[];
    return new Map(links.map((link) => [link.ifname, link]));
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

  /** Whether vfe-vhostd has said, since it was last asked, that a virtual machine's connection ended. */
  disconnected(): boolean {
    const file = openSync(this.#scene.path('vhostd.log'), 'r');
    try {
      const bytes = Buffer.alloc(Math.max(0, fstatSync(file).size - this.#logAt));
      this.#logAt += readSync(file, bytes, 0, bytes.byteLength, this.#logAt);
      const text = this.#logTail + bytes.toString('utf8');
      this.#logTail = text.slice(-DISCONNECTED.length + 1);
      return text.includes(DISCONNECTED);
    } finally {
      closeSync(file);
    }
  }

  /** Names of the programs that run, each as often as it does. */
  programs(): string {
    const names = this.#scene.processes.marked().map(({ command }) => basename(command.split(' ')[0] ?? ''));
    return names.sort().join(' ');
  }

  close(): void {
    this.#controller.close();
  }

  /** Whether `wanted` holds for what one emulator says; those that are gone, and leave a socket, are not waited for. */
  async #some(wanted: (status: Omit<EmulatorStatus, 'socket'>) => boolean): Promise<boolean> {
    const run = join(this.#service.root, 'run/virtnet');
    const sockets = readdirSync(run).filter((name) => /^emu-\d+\.ipc$/.test(name));
    const clients = sockets.map((name) => new RpcClient(join(run, name)));
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
