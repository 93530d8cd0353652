/**
 * world.ts: the usual stage: the service with one function, its representor in a bridge, and a guest on it.
 *
 *   guest 10.77.0.2 -- virtio_net -- QEMU -- vhost-user -- vfe-vhostd -- vfio-user -- emulator -- representor -- bridge 10.77.0.1
 */
import { featureMask } from '@virtnet/wire';
import { Guest, type GuestOptions } from './guest.ts';
import type { Scene } from './scene.ts';
import { type Hotplugged, Service } from './service.ts';
import type { Ends } from './streams.ts';
import { until } from './waiting.ts';

export const MAC = '0C:C4:7A:FF:22:93';
export const HOST_ADDRESS = '10.77.0.1';
export const GUEST_ADDRESS = '10.77.0.2';
export const BRIDGE = 'br0';

export interface WorldOptions {
  readonly queuePairs?: number;
  readonly queueSize?: number;
  /** Bits the function offers besides those it does anyway. */
  readonly features?: readonly number[];
  /** Of the function, its representor and the bridge; default 1500. */
  readonly mtu?: number;
  /** Who listens on the vhost-user socket: QEMU (vfe-vhostd --client) or vfe-vhostd. */
  readonly vhostServer?: 'qemu' | 'backend';
  readonly guest?: Partial<GuestOptions>;
  /** vfe-vhostd-ha runs, too. */
  readonly keeper?: boolean;
  /** QEMU connects to the function over vfio-user; vfe-vhostd is not started. */
  readonly vfioUser?: boolean;
}

/** The service with a function in a bridge and bound to vfe-vhostd, without a guest yet. */
export class World {
  readonly scene: Scene;
  readonly service: Service;
  readonly device: Hotplugged;
  /** MAC of the bridge, where the guest's packets go. */
  readonly bridgeMac: string;
  readonly #options: WorldOptions;
  #guest: Guest | null = null;
  #guests = 0;

  private constructor(
    scene: Scene,
    service: Service,
    device: Hotplugged,
    bridgeMac: string,
    options: WorldOptions,
  ) {
    this.scene = scene;
    this.service = service;
    this.device = device;
    this.bridgeMac = bridgeMac;
    this.#options = options;
  }

  static async open(scene: Scene, options: WorldOptions = {}): Promise<World> {
    const service = await Service.start(scene);
    await scene.net.bridge(BRIDGE, `${HOST_ADDRESS}/24`);
    const queues = 2 * (options.queuePairs ?? 1) + 1;
    const { mtu, queueSize = 256 } = options;
    const device = await service.hotplug({
      mac: MAC,
      queues,
      queueSize,
      addFeatures: featureMask(options.features ?? []),
      ...(mtu === undefined ? {} : { mtu }),
    });
    await scene.net.enslave(device.sf_rep_net_device, BRIDGE);
    if (mtu !== undefined) await scene.net.ip(`link set ${BRIDGE} mtu ${mtu}`);
    if (options.vfioUser !== true) {
      if (options.keeper === true) await service.startVhostdKeeper();
      await service.startVhostd((options.vhostServer ?? 'qemu') === 'qemu' ? 'client' : 'server');
      await service.addVhost(device.bdf, scene.path('vhost.sock'));
    }
    const bridge = await scene.net.waitForLink(BRIDGE);
    return new World(scene, service, device, bridge.address, options);
  }

  get vhostSocket(): string {
    return this.scene.path('vhost.sock');
  }

  get guest(): Guest {
    if (this.#guest === null) throw new Error('no guest was booted');
    return this.#guest;
  }

  get ends(): Ends {
    return { processes: this.scene.processes, net: this.scene.net, guest: this.guest };
  }

  /** Starts QEMU; the guest is waited for by `guest.booted()`. */
  async startGuest(options: Partial<GuestOptions> = {}): Promise<Guest> {
    this.#guests += 1;
    this.#guest = await Guest.start({
      processes: this.scene.processes,
      net: this.scene.net,
      directory: this.scene.directory,
      name: `guest${this.#guests}`,
      vhostSocket: this.vhostSocket,
      vhostServer: this.#options.vhostServer ?? 'qemu',
      mac: MAC,
      queuePairs: this.#options.queuePairs ?? 1,
      queueSize: this.#options.queueSize ?? 256,
      ...(this.#options.vfioUser === true ? { vfioUserSocket: this.service.socket(this.device.bdf) } : {}),
      ...this.#options.guest,
      ...options,
    });
    return this.#guest;
  }

  /** Boots a guest, gives it its address and waits until it reaches the host. */
  async bootGuest(options: Partial<GuestOptions> = {}): Promise<Guest> {
    const guest = await this.startGuest(options);
    this.scene.atEnd(async () => void (await guest.end()));
    await guest.booted();
    await guest.address(`${GUEST_ADDRESS}/24`);
    await this.reachable();
    // Else the host asks for it again within a stream, and drops what it sends when a guest without a processor does not answer.
    await this.scene.net.ip(`neigh replace ${GUEST_ADDRESS} lladdr ${MAC} dev ${BRIDGE} nud permanent`);
    return guest;
  }

  /** Waits for an answer to a ping from the guest; without one, what guest and host say about it is in the error. */
  async reachable(timeoutMs = 60_000): Promise<void> {
    try {
      await until('an answer to a ping', timeoutMs, async () => {
        const { code } = await this.guest.result(`/usr/bin/ping -c 1 -W 1 ${HOST_ADDRESS}`);
        return code === 0;
      });
    } catch (error) {
      throw new Error(`${error instanceof Error ? error.message : error}\n${await this.facts()}`);
    }
  }

  /** Counters and states along the way of a packet. */
  async facts(): Promise<string> {
    const guest = await this.guest.result(
      'cat /proc/net/dev; ip address show eth0; grep virtio /proc/interrupts; cat /proc/net/snmp; dmesg | tail -n 5',
    );
    const sockets = await this.scene.net.run(['cat', '/proc/net/snmp']);
    const host = await this.scene.net.run(['ip', '-s', 'link']);
    const fdb = await this.scene.net.run(['bridge', 'fdb', 'show']);
    const device = await this.service.virtnet('query', '-p', '0');
    return [guest.output.toString('utf8'), host, sockets, fdb, device.stdout].join('\n---\n');
  }
}
