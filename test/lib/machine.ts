/**
 * machine.ts: a Debian system with an init of its own, in a container, to install packages and start services in.
 *
 * Theory
 *   systemd-nspawn boots the cached root (scripts/lib/systemd-root.ts) under an overlay in memory, in the network
 *   namespace of the scene, so that representors are where the scene's other programs are, and with no way to any other network.
 *   This machine's own root and init are not involved: where there is no systemd the container gets a control group of
 *   its own, which goes with it. Commands are run inside by nsenter.
 *
 * Invariants
 *   I1  `end` leaves no process, mount, control group or file; the kernel ends the processes with the first of them.
 *
 * Limits  root only.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync, rmdirSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { systemdRoot } from '../../scripts/lib/systemd-root.ts';
import type { Child, Output } from './processes.ts';
import type { Scene } from './scene.ts';
import { until } from './waiting.ts';

const BOOT_TIMEOUT_MS = 120_000;
const COMMAND_TIMEOUT_MS = 120_000;
const HALT_TIMEOUT_MS = 30_000;
/** Where control groups may be; of those that exist, all but the last on a hybrid one. */
const CGROUPS = ['/sys/fs/cgroup/unified', '/sys/fs/cgroup/systemd', '/sys/fs/cgroup'];

export class Machine {
  readonly #scene: Scene;
  readonly #container: Child;
  readonly #init: number;

  private constructor(scene: Scene, container: Child, init: number) {
    this.#scene = scene;
    this.#container = container;
    this.#init = init;
  }

  /** Boots; resolves when everything is started. It ends with the scene. */
  static async boot(scene: Scene): Promise<Machine> {
    const name = `vn-${scene.processes.mark}`;
    const groups = existsSync('/run/systemd/system') ? [] : ownControlGroups(name);
    const script = 'for group in $CONTROL_GROUPS; do echo $$ >"$group/cgroup.procs" || exit; done; exec "$@"';
    const namespace = readlinkSync(`/proc/${scene.net.holderPid}/ns/net`);
    const container = scene.processes.start(
      [
        ...['sh', '-c', script, 'sh', 'systemd-nspawn', '--quiet', '--boot', '--console=pipe'],
        ...[`--machine=${name}`, `--directory=${systemdRoot}`, '--volatile=overlay', '--register=no'],
        ...(groups.length === 0 ? [] : ['--keep-unit']),
        `--network-namespace-path=/proc/${scene.net.holderPid}/ns/net`,
        // Device lists and address lists of units are programs for the kernel.
        ...['--capability=CAP_BPF,CAP_PERFMON,CAP_NET_ADMIN', '--system-call-filter=bpf'],
      ],
      {
        name: 'systemd-nspawn',
        env: { SYSTEMD_NSPAWN_UNIFIED_HIERARCHY: '1', CONTROL_GROUPS: groups.join(' ') },
        log: scene.path('machine.log'),
      },
    );
    scene.atEnd(async () => {
      await container.end('SIGTERM', HALT_TIMEOUT_MS);
      await until('the control groups are empty', HALT_TIMEOUT_MS, () => groups.every(removeControlGroup));
      rmSync(`/run/systemd/nspawn/propagate/${name}`, { recursive: true, force: true });
    });
    const init = await until('the init of the container', BOOT_TIMEOUT_MS, () => {
      if (container.exit !== null) throw new Error(`systemd-nspawn ended: ${container.tail}`);
      return childrenOf(container.pid).find((pid) => commandOf(pid) === 'systemd');
    });
    const machine = new Machine(scene, container, init);
    if (readlinkSync(`/proc/${init}/ns/net`) !== namespace)
      throw new Error('not in the network of the scene');
    await until('the system runs', BOOT_TIMEOUT_MS, async () => {
      const { stdout } = await machine.output('systemctl is-system-running');
      return /running|degraded/.test(stdout);
    });
    return machine;
  }

  /** Where its files are for programs of this machine. */
  get root(): string {
    return `/proc/${this.#init}/root`;
  }

  /** Runs a shell script inside. */
  output(script: string, timeoutMs = COMMAND_TIMEOUT_MS): Promise<Output> {
    if (this.#container.exit !== null) throw new Error(`the container ended: ${this.#container.tail}`);
    return this.#scene.processes.output(
      [
        'nsenter',
        '-t',
        `${this.#init}`,
        '-m',
        '-u',
        '-i',
        '-n',
        '-p',
        '-C',
        '-r',
        '-w',
        '--',
        'sh',
        '-c',
        script,
      ],
      { timeoutMs },
    );
  }

  /** The same; throws when it fails, and returns what was printed. */
  async run(script: string, timeoutMs = COMMAND_TIMEOUT_MS): Promise<string> {
    const { code, stdout, stderr } = await this.output(script, timeoutMs);
    if (code !== 0) throw new Error(`${script} failed (${code}): ${stdout}${stderr}`);
    return stdout;
  }

  /** Installs the package in `file` of this machine. */
  async install(file: string): Promise<string> {
    const inside = `/root/${basename(file)}`;
    await this.#scene.processes.run(['cp', file, join(this.root, inside)]);
    try {
      return await this.run(`dpkg -i ${inside} 2>&1`);
    } finally {
      rmSync(join(this.root, inside));
    }
  }

  /** A property of a unit, as systemd has it. */
  async property(unit: string, name: string): Promise<string> {
    return (await this.run(`systemctl show -P ${name} ${unit}`)).trim();
  }

  async mainPid(unit: string): Promise<number> {
    return Number(await this.property(unit, 'MainPID'));
  }

  /** Waits until the unit is active with another main process than `former`; its pid. */
  restarted(unit: string, former: number, timeoutMs = BOOT_TIMEOUT_MS): Promise<number> {
    return until(`${unit} runs anew`, timeoutMs, async () => {
      const pid = await this.mainPid(unit);
      return pid !== former && (await this.property(unit, 'ActiveState')) === 'active' && pid;
    });
  }
}

function ownControlGroups(name: string): string[] {
  const roots = CGROUPS.filter((root) => existsSync(join(root, 'cgroup.procs')));
  return roots.map((root) => {
    const group = join(root, name);
    mkdirSync(group);
    return group;
  });
}

/** True when it is gone. */
function removeControlGroup(group: string): boolean {
  if (!existsSync(group)) return true;
  const inner = readdirSync(group, { withFileTypes: true }).filter((entry) => entry.isDirectory());
  if (!inner.every(({ name }) => removeControlGroup(join(group, name)))) return false;
  try {
    rmdirSync(group);
    return true;
  } catch {
    return false; // its last process is just ending
  }
}

function childrenOf(pid: number): number[] {
  const words = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim();
  return words === '' ? [] : words.split(' ').map(Number);
}

function commandOf(pid: number): string {
  return readFileSync(`/proc/${pid}/comm`, 'utf8').trim();
}
