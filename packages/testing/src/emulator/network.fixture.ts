/**
 * network.fixture.ts: a network namespace of one's own with a process in it that sends and receives datagrams, so that
 * a test sees what really went through a representor.
 */
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { NetHeader } from '@virtnet/wire';
import { IPV4_UDP_HEADER_BYTES, udpFrame } from './udp-frame.fixture.js';

/** Every payload begins with its number, big endian. */
export const NUMBER_BYTES = 4;
export const HOST_ADDRESS = '10.9.0.1';
export const GUEST_ADDRESS = '10.9.0.2';
export const PORT = 4000;
const NO_OFFLOAD = new Uint8Array(NetHeader.sizeBytes);

interface SocketOrder {
  readonly id: number;
  /** Local address and port. */
  readonly address: string;
  readonly port: number;
}
export interface SendOrder extends SocketOrder {
  readonly kind: 'send';
  readonly to: string;
  readonly toPort: number;
  readonly numbers: readonly number[];
  /** Of each payload. */
  readonly bytes: number;
  readonly multicast: boolean;
}
interface TapOrder {
  readonly id: number;
  /** A TAP of the agent's own. */
  readonly tap: string;
}
/** Sends a frame as it is. */
export interface RawOrder extends TapOrder {
  readonly kind: 'raw';
  /** struct virtio_net_hdr_v1. */
  readonly header: readonly number[];
  readonly frame: readonly number[];
}
/** Says which frames the agent takes as they are, as TunOffload bits. */
export interface OffloadOrder extends TapOrder {
  readonly kind: 'offloads';
  readonly offloads: number;
}
/** Reads the frames that wait. */
export interface TakeOrder extends TapOrder {
  readonly kind: 'take';
}
export type Order =
  | SendOrder
  | RawOrder
  | OffloadOrder
  | TakeOrder
  | (SocketOrder & { readonly kind: 'listen' });
/** An order without the id, which is given when it is sent. */
type Unnumbered<O> = O extends Order ? Omit<O, 'id'> : never;
export type Report =
  | { readonly kind: 'ready' }
  /** `frames`: those taken, each behind its header. */
  | { readonly kind: 'done'; readonly id: number; readonly frames?: readonly (readonly number[])[] }
  | { readonly kind: 'seen'; readonly numbers: readonly number[] }
  | { readonly kind: 'failed'; readonly reason: string };

const agentFile = fileURLToPath(new URL('../../dist/emulator/network-agent.fixture.js', import.meta.url));

/** Why network namespaces cannot be made here; null when they can. */
export function namespaceObstacle(): string | null {
  const attempt = spawnSync('unshare', ['-n', 'test', '-c', '/dev/net/tun']);
  if (attempt.error) return 'unshare is not installed';
  return attempt.status === 0 ? null : 'no network namespace or no /dev/net/tun';
}

/** A command line that ends with us, whatever ends us. */
export const mortal = (command: readonly string[]): readonly string[] => [
  '--pdeathsig',
  'KILL',
  '--',
  ...command,
];

export class Network {
  readonly #holder: ChildProcess;
  #agent: ChildProcess | null = null;
  #nextOrder = 1;
  readonly #open = new Map<number, (frames: readonly (readonly number[])[]) => void>();
  /** Numbers that came through the representor, in order. */
  readonly seen: number[] = [];

  private constructor(holder: ChildProcess) {
    this.#holder = holder;
  }

  static async open(): Promise<Network> {
    const script = 'ip link set lo up && echo held && exec sleep infinity';
    const holder = spawn('setpriv', mortal(['unshare', '--net', 'sh', '-c', script]), {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    await once(holder.stdout!, 'data');
    const network = new Network(holder);
    network.run('sysctl', '-qw', 'net.ipv6.conf.default.disable_ipv6=1');
    return network;
  }

  /** Runs `command` inside, to be given to spawn('setpriv', ...). */
  inside(command: readonly string[]): readonly string[] {
    return mortal(['nsenter', `--net=/proc/${this.#holder.pid}/ns/net`, '--', ...command]);
  }

  run(...command: readonly string[]): string {
    return execFileSync('setpriv', this.inside(command), { encoding: 'utf8' });
  }

  /** `ip <words>`, words separated by blanks. */
  ip(words: string): string {
    return this.run('ip', ...words.split(' '));
  }

  exists(name: string): boolean {
    return (JSON.parse(this.ip('-j link show')) as { ifname: string }[]).some(
      ({ ifname }) => ifname === name,
    );
  }

  mac(name: string): Uint8Array {
    const [link] = JSON.parse(this.ip(`-j link show dev ${name}`)) as { address: string }[];
    return Uint8Array.from(link!.address.split(':'), (byte) => Number.parseInt(byte, 16));
  }

  hasCarrier(name: string): boolean {
    const [link] = JSON.parse(this.ip(`-j link show dev ${name}`)) as { flags: string[] }[];
    return link!.flags.includes('LOWER_UP');
  }

  /** Gives a representor the host's address, and the guest's neighbours without any question. */
  address(name: string, guestMac: string, host = HOST_ADDRESS, guest = GUEST_ADDRESS): void {
    this.ip(`addr add ${host}/24 dev ${name}`);
    this.ip(`link set ${name} up`);
    this.neighbour(name, guest, guestMac);
  }

  neighbour(name: string, address: string, mac: string): void {
    this.ip(`neigh replace ${address} lladdr ${mac} dev ${name} nud permanent`);
  }

  /** A bridge with these ports, which has the host's address and knows the guest. */
  bridge(name: string, ports: readonly string[], guestMac: string): void {
    this.ip(`link add ${name} type bridge forward_delay 0 stp_state 0 mcast_snooping 0`);
    for (const port of ports) this.ip(`link set ${port} master ${name} up`);
    this.address(name, guestMac);
  }

  /** Receives numbered datagrams at PORT from now on. */
  async listen(): Promise<void> {
    await this.#order({ kind: 'listen', address: '0.0.0.0', port: PORT });
  }

  /** Sends numbered datagrams; resolves when the kernel has them. */
  async send(
    numbers: readonly number[],
    {
      to = GUEST_ADDRESS,
      from = HOST_ADDRESS,
      bytes = NUMBER_BYTES,
      multicast = false,
      port = PORT + 1,
    } = {},
  ): Promise<void> {
    await this.#order({ kind: 'send', address: from, port, to, toPort: PORT, numbers, bytes, multicast });
  }

  /** Sends a frame as it is through a TAP, which is made when it is used first and then stays. */
  async sendRaw(tap: string, frame: Uint8Array, header: Uint8Array = NO_OFFLOAD): Promise<void> {
    await this.#order({ kind: 'raw', tap, header: [...header], frame: [...frame] });
  }

  /** Says what takeRaw() takes as it is (TunOffload bits); nothing at first. */
  async setOffloads(tap: string, offloads: number): Promise<void> {
    await this.#order({ kind: 'offloads', tap, offloads });
  }

  /** Frames that went to such a TAP since the last call, each behind its header. */
  async takeRaw(tap: string): Promise<Uint8Array[]> {
    return (await this.#order({ kind: 'take', tap })).map((frame) => Uint8Array.from(frame));
  }

  async #order(order: Unnumbered<Order>): Promise<readonly (readonly number[])[]> {
    const agent = this.#agent ?? (await this.#startAgent());
    const id = this.#nextOrder++;
    return new Promise((resolve) => {
      this.#open.set(id, resolve);
      agent.send({ ...order, id });
    });
  }

  async #startAgent(): Promise<ChildProcess> {
    const agent = spawn('setpriv', this.inside([process.execPath, agentFile]), {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    });
    this.#agent = agent;
    await once(agent, 'message');
    agent.on('message', (message) => {
      const report = message as Report;
      if (report.kind === 'seen') this.seen.push(...report.numbers);
      else if (report.kind === 'failed') throw new Error(`network agent: ${report.reason}`);
      else if (report.kind === 'done') {
        this.#open.get(report.id)?.(report.frames ?? []);
        this.#open.delete(report.id);
      }
    });
    return agent;
  }

  async close(): Promise<void> {
    for (const child of [this.#agent, this.#holder]) {
      if (child === null || child.exitCode !== null || child.signalCode !== null) continue;
      const exit = once(child, 'exit');
      child.kill('SIGKILL');
      await exit;
    }
  }
}

/** A frame from the guest's PORT to the host's PORT or `toPort`, with a tag if there is a `vlan`. */
export function numberedFrame(
  number: number,
  destination: Uint8Array,
  source: Uint8Array,
  { vlan, toPort = PORT }: { readonly vlan?: number; readonly toPort?: number } = {},
): Uint8Array {
  const payload = new Uint8Array(Math.max(NUMBER_BYTES, 18));
  new DataView(payload.buffer).setUint32(0, number);
  const addresses = { from: GUEST_ADDRESS, to: HOST_ADDRESS, fromPort: PORT, toPort };
  return udpFrame({ destination, source, ...addresses, payload, ...(vlan === undefined ? {} : { vlan }) });
}

/** The number in a frame that the host sent; -1 for anything else. `tagged`: behind a VLAN tag. */
export function numberOf(frame: Uint8Array, tagged = false): number {
  const at = 14 + (tagged ? 4 : 0) + IPV4_UDP_HEADER_BYTES;
  if (frame.length < at + NUMBER_BYTES) return -1;
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
  return view.getUint16(at - 6) === PORT ? view.getUint32(at) : -1;
}
