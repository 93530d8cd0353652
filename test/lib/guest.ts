/**
 * guest.ts: a Linux guest in QEMU whose network device is served over vhost-user.
 *
 * Theory
 *   QEMU runs without acceleration (TCG), so the tests do not depend on /dev/kvm. Guest memory is a shared memfd, as
 *   vhost-user needs. The function interrupts with INTx: with MSI-X, QEMU 7.2 without KVM ends with SIGSEGV when a
 *   vhost-user device starts (virtio_pci_set_guest_notifiers uses KVM's tables there). The kernel and its initramfs are those of scripts/setup. Commands go through guest-channel.ts;
 *   the console goes to a file, which is the evidence when a guest dies.
 *
 * Invariants
 *   I1  the device in the guest has the MAC of the function; QEMU and our device would otherwise disagree about it.
 */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { guestImage } from '../../scripts/lib/guest-image.ts';
import { qemuWithVfioUser } from '../../scripts/lib/qemu-vfio-user.ts';
import { type CommandResult, GuestChannel } from './guest-channel.ts';
import type { NetworkNamespace } from './netns.ts';
import type { Child, Exit, Processes } from './processes.ts';

const BOOT_TIMEOUT_MS = 120_000;
const COMMAND_TIMEOUT_MS = 60_000;
/**
 * QEMU 7.2 was seen to end with it, once, while a guest booted: of its devices only its own serial one has MSI-X. Such a
 * machine is started once more.
 */
const FAULT_OF_QEMU = 'msix_table_mmio_write: Assertion';
/** virtio 2.1: ACKNOWLEDGE, DRIVER, DRIVER_OK and FEATURES_OK, and neither FAILED nor NEEDS_RESET. */
const DRIVER_READY = 0x0f;
const TROUBLE = 'virtio|eth[0-9]|watchdog|link (is|becomes)|reset|call trace|BUG|hung';

export interface GuestOptions {
  readonly processes: Processes;
  readonly net: NetworkNamespace;
  /** Existing directory for sockets and logs; short, for sockets live in it. */
  readonly directory: string;
  readonly name?: string;
  readonly vhostSocket: string;
  /** The function's own socket: a newer QEMU connects to it over vfio-user, and vhost-user is not used. */
  readonly vfioUserSocket?: string;
  /** Who listens on the vhost-user socket. */
  readonly vhostServer: 'qemu' | 'backend';
  readonly mac: string;
  /** Queue pairs offered to the guest. */
  readonly queuePairs?: number;
  readonly queueSize?: number;
  readonly cpus?: number;
  readonly memoryMegabytes?: number;
  /** Let the guest load virtio_net while it boots (default). */
  readonly drivers?: boolean;
  /** Start the machine again when the guest reboots; otherwise QEMU ends. */
  readonly reboots?: boolean;
  /** Additional words of the virtio-net-pci device, such as `packed=on`. */
  readonly deviceOptions?: string;
  /** More words of QEMU's command line, such as another device. */
  readonly more?: readonly string[];
}

/** What the guest saw since a LinkWatch began. All empty or zero when nothing happened to its device. */
export interface LinkEvents {
  /** Times the carrier went up or down. */
  readonly carrierChanges: number;
  /** Messages of the kernel about the interface (`ip monitor link`). */
  readonly monitored: readonly string[];
  /** Signs of a device reset: a new interface, a status other than "driver ready", a problem in the kernel log. */
  readonly resets: readonly string[];
}

export class Guest {
  readonly qemu: Child;
  readonly #channel: GuestChannel;
  readonly #console: string;
  #watches = 0;

  private constructor(qemu: Child, channel: GuestChannel, consoleLog: string) {
    this.qemu = qemu;
    this.#channel = channel;
    this.#console = consoleLog;
  }

  /** Starts QEMU; `booted` tells when the guest answers. */
  static async start(options: GuestOptions): Promise<Guest> {
    const image = guestImage(() => {});
    const name = options.name ?? 'guest';
    const at = (suffix: string): string => join(options.directory, `${name}.${suffix}`);
    const channel = await GuestChannel.listen(at('commands'));
    const pairs = options.queuePairs ?? 1;
    const size = options.queueSize ?? 256;
    const memory = `${options.memoryMegabytes ?? 512}M`;
    const device = [
      `virtio-net-pci,netdev=net0,mac=${options.mac},romfile=,vectors=0`, // see Theory
      `rx_queue_size=${size},tx_queue_size=${size}`,
      ...(pairs > 1 ? ['mq=on'] : []),
      ...(options.deviceOptions === undefined ? [] : [options.deviceOptions]),
    ];
    const kernel = [
      'console=ttyS0 quiet panic=-1 no_timer_check tsc=reliable mitigations=off random.trust_cpu=on',
      ...(options.drivers === false ? ['virtnet.drivers=no'] : []),
    ];
    const command = [
      [...qemuProgram(options), '-nodefaults', '-no-user-config', '-display', 'none'],
      [
        '-machine',
        'q35,accel=tcg,memory-backend=mem',
        '-cpu',
        'max',
        '-smp',
        `${options.cpus ?? 1}`,
        '-m',
        memory,
      ],
      ['-object', `memory-backend-memfd,id=mem,size=${memory},share=on`],
      ['-kernel', image.kernel, '-initrd', image.initramfs, '-append', kernel.join(' ')],
      ['-serial', `file:${at('console')}`],
      ['-device', 'virtio-serial-pci', '-chardev', `socket,id=commands,path=${at('commands')}`],
      ['-device', 'virtserialport,chardev=commands,name=virtnet.commands'],
      options.vfioUserSocket === undefined
        ? [
            ['-chardev', `socket,id=vhost,path=${options.vhostSocket},${chardevMode(options.vhostServer)}`],
            ['-netdev', `vhost-user,id=net0,chardev=vhost,queues=${pairs}`, '-device', device.join(',')],
          ].flat()
        : ['-device', vfioUserDevice(options.vfioUserSocket)],
      options.reboots === true ? [] : ['-no-reboot'],
      options.more ?? [],
    ].flat();
    const qemu = options.processes.start(options.net.inside(command), {
      name: `QEMU ${name}`,
      log: at('qemu.log'),
    });
    void qemu.exited.then(() => channel.close());
    return new Guest(qemu, channel, at('console'));
  }

  static async boot(options: GuestOptions): Promise<Guest> {
    const guest = await Guest.start(options);
    try {
      await guest.booted();
      return guest;
    } catch (error) {
      if (!guest.qemu.tail.includes(FAULT_OF_QEMU)) throw error;
    }
    const second = await Guest.start({ ...options, name: `${options.name ?? 'guest'}-again` });
    await second.booted();
    return second;
  }

  /** Waits until the guest answers; `count` 2 waits for the boot after the first reboot. */
  async booted(count = 1, timeoutMs = BOOT_TIMEOUT_MS): Promise<void> {
    const gone = this.qemu.exited.then(() => false);
    if (await Promise.race([this.#channel.booted(count, timeoutMs), gone])) return;
    const { exit } = this.qemu;
    const ended = exit === null ? 'runs' : `ended with ${exit.signal ?? exit.code}`;
    throw new Error(
      `the guest did not come up; QEMU ${ended}: ${this.qemu.tail}\nconsole:\n${this.console().slice(-3_000)}`,
    );
  }

  /** Runs a shell command and returns its exit code and output, whatever they are. */
  async result(command: string, timeoutMs = COMMAND_TIMEOUT_MS): Promise<CommandResult> {
    const result = await this.#channel.command(command, timeoutMs);
    if (result !== null) return result;
    const state = this.qemu.exit === null ? `within ${timeoutMs} ms` : 'because QEMU ended';
    throw new Error(
      `the guest did not answer ${state}: ${command}\n${this.qemu.tail}${this.console().slice(-2_000)}`,
    );
  }

  /** Runs a shell command that has to succeed; returns its output without the last newline. */
  async run(command: string, timeoutMs = COMMAND_TIMEOUT_MS): Promise<string> {
    const { code, output } = await this.result(command, timeoutMs);
    const text = output.toString('utf8').trimEnd();
    if (code !== 0) throw new Error(`in the guest, ${command} failed (${code}):\n${text}`);
    return text;
  }

  /** Reboots without goodbye; `booted` tells when it is back. */
  reboot(): void {
    void this.#channel.command('reboot -f', COMMAND_TIMEOUT_MS); // it does not live to answer
  }

  /** Gives the interface an address, sets it up and waits for its carrier. */
  async address(address: string, device = 'eth0'): Promise<void> {
    await this.run(
      `ip addr add ${address} dev ${device} && ip link set ${device} up && ` +
        `for i in $(seq 100); do [ $(cat /sys/class/net/${device}/operstate) = up ] && exit 0; usleep 50000; done; exit 1`,
    );
  }

  /** Starts to watch an interface. The returned function tells what happened since; it can be asked again. */
  async watchLink(device = 'eth0'): Promise<() => Promise<LinkEvents>> {
    const log = `/tmp/monitor.${device}.${this.#watches++}`;
    const state = (): Promise<string> =>
      this.run(`cd /sys/class/net/${device} && cat carrier_changes ifindex device/status && dmesg | wc -l`);
    await this.run(`/usr/bin/ip monitor link dev ${device} >${log} 2>&1 & sleep 0.1`);
    const [changes = '', ifindex = '', , logLines = ''] = (await state()).split('\n');
    return async () => {
      const [changesNow = '', ifindexNow = '', status = ''] = (await state()).split('\n');
      const kernel = await this.run(
        `dmesg | tail -n +${Number(logLines) + 1} | grep -iE '${TROUBLE}' || true`,
      );
      const resets = kernel.split('\n').filter(Boolean);
      if (ifindexNow !== ifindex) resets.push(`${device} is another interface than before`);
      if (Number(status) !== DRIVER_READY) resets.push(`the device status is ${status}`);
      return {
        carrierChanges: Number(changesNow) - Number(changes),
        monitored: (await this.run(`cat ${log}`)).split('\n').filter(Boolean),
        resets,
      };
    };
  }

  console(): string {
    try {
      return readFileSync(this.#console, 'latin1');
    } catch {
      return '';
    }
  }

  /** Ends QEMU the way an operator does. */
  async end(signal: NodeJS.Signals = 'SIGTERM'): Promise<Exit> {
    const exit = await this.qemu.end(signal);
    this.#channel.close();
    return exit;
  }
}

function qemuProgram(options: GuestOptions): readonly string[] {
  return options.vfioUserSocket === undefined ? ['qemu-system-x86_64'] : qemuWithVfioUser(() => {});
}

function vfioUserDevice(path: string): string {
  return JSON.stringify({ driver: 'vfio-user-pci', socket: { type: 'unix', path } });
}

function chardevMode(server: 'qemu' | 'backend'): string {
  return server === 'qemu' ? 'server=on,wait=off' : 'reconnect=1';
}
