/**
 * netns.ts: a network namespace of one's own, so that no test touches the machine's network.
 *
 * Theory
 *   A holder process unshares its network and mount namespace, mounts a /sys that shows the new network, and sleeps.
 *   Programs enter with nsenter. The namespace has no name anywhere: it goes away with its last process.
 *
 * Invariants
 *   I1  nothing is left on the machine when the holder and all that entered have ended.
 *   I2  TAPs and bridges are created inside only.
 *
 * Limits  Needs CAP_SYS_ADMIN, of the machine or of a user namespace (unshare -Ur).
 */
import { readlinkSync } from 'node:fs';
import type { Child, Output, Processes } from './processes.ts';
import { until } from './waiting.ts';

export interface Link {
  readonly ifname: string;
  readonly ifindex: number;
  readonly address: string;
  readonly mtu: number;
  readonly operstate: string;
  readonly flags: readonly string[];
  readonly master?: string;
}

export class NetworkNamespace {
  readonly #processes: Processes;
  readonly #holder: Child;

  private constructor(processes: Processes, holder: Child) {
    this.#processes = processes;
    this.#holder = holder;
  }

  static async create(processes: Processes): Promise<NetworkNamespace> {
    // The mount of /sys may be refused in a container; only programs that read /sys/class/net miss it.
    const script =
      'mount -t sysfs sysfs /sys 2>/dev/null; ip link set lo up && echo held && exec sleep infinity';
    const holder = processes.start(
      ['unshare', '--net', '--mount', '--propagation', 'private', 'sh', '-c', script],
      { name: 'network namespace' },
    );
    await holder.printed(/held/, 30_000);
    const own = readlinkSync('/proc/self/ns/net');
    if (readlinkSync(`/proc/${holder.pid}/ns/net`) === own)
      throw new Error('the holder is still in our network');
    return new NetworkNamespace(processes, holder);
  }

  /** A process in the namespace, for as long as it exists. */
  get holderPid(): number {
    return this.#holder.pid;
  }

  /** The command line that runs `command` inside. */
  inside(command: readonly string[], cwd = '/'): string[] {
    const at = `/proc/${this.#holder.pid}/ns`;
    return ['nsenter', `--net=${at}/net`, `--mount=${at}/mnt`, `--wd=${cwd}`, '--', ...command];
  }

  output(command: readonly string[], options: Parameters<Processes['output']>[1] = {}): Promise<Output> {
    return this.#processes.output(this.inside(command), options);
  }

  run(command: readonly string[], options: Parameters<Processes['output']>[1] = {}): Promise<string> {
    return this.#processes.run(this.inside(command), options);
  }

  /** `ip <words>`, words separated by blanks. */
  ip(words: string): Promise<string> {
    return this.run(['ip', ...words.split(' ')]);
  }

  /** A bridge that is up, without spanning tree, IPv6 chatter and multicast snooping. */
  async bridge(name: string, address: string): Promise<void> {
    await this.ip(`link add ${name} type bridge forward_delay 0 stp_state 0 mcast_snooping 0`);
    await this.quiet(name);
    await this.ip(`addr add ${address} dev ${name}`);
    await this.ip(`link set ${name} up`);
  }

  /** Puts `device` into `bridge` and sets it up. */
  async enslave(device: string, bridge: string): Promise<void> {
    await this.quiet(device);
    await this.ip(`link set ${device} master ${bridge} up`);
  }

  /** No router solicitations and neighbour probes of the kernel's own between the frames a test counts. */
  async quiet(device: string): Promise<void> {
    await this.output(['sysctl', '-qw', `net.ipv6.conf.${device}.disable_ipv6=1`]);
  }

  async links(): Promise<Link[]> {
    return JSON.parse(await this.ip('-j link show')) as Link[];
  }

  async link(name: string): Promise<Link | null> {
    return (await this.links()).find((link) => link.ifname === name) ?? null;
  }

  waitForLink(name: string, timeoutMs = 30_000): Promise<Link> {
    return until(`interface ${name}`, timeoutMs, () => this.link(name));
  }

  async end(): Promise<void> {
    await this.#holder.end('SIGKILL');
  }
}
