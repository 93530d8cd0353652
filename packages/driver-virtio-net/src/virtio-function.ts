/**
 * virtio-function.ts: the driver of one virtio-net PCI function, over vfio-user.
 *
 * Theory
 *   A driver that never touches a ring. It negotiates features and tells the function where the rings are, which
 *   eventfds kick it and which it is to signal. From then on driver and function meet in guest memory, and this object
 *   is only asked for changes.
 *   Interrupts: vector n belongs to data queue n; a control queue has none; the vector behind the data queues, when there is one, to changes of the
 *   configuration. The MSI-X table is left as it is, because eventfds take the place of messages.
 *
 * States
 *   probed -> initialised (DRIVER_OK with the first ring) -> initialised again. Initialising begins with a reset, after
 *   which the function knows no ring.
 *
 * Invariants
 *   I1  methods answer 0 (or a position) or the negative errno of a refusal; they reject only when the connection failed
 *       (isConnectionFailure).
 *   I2  a ring is enabled last: its position, eventfds and steering are known before it can be worked.
 *
 * Limits  FUNCTION_TIMEOUT_MS per request; RESET_POLLS_MAX.
 * Spec    virtio 1.3, 3.1.1 (initialisation), 4.1.5 (PCI).
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { VfioUserClient } from '@virtnet/server-vfio-user';
import type { RingSetup } from '@virtnet/server-vhost-user';
import {
  DeviceStatus,
  Errno,
  hasFeature,
  MsixControl,
  NetConfig,
  NetFeature,
  NetStatus,
  NO_VECTOR,
  PciMsix,
  u16,
  VfioPciIrq,
} from '@virtnet/wire';
import {
  allowMemoryAccess,
  type FunctionProfile,
  type ProbedFunction,
  probeFunction,
  readConfigU16,
  type SavedProbe,
  writeConfigU16,
} from './function-probe.js';
import { FunctionRegisters } from './function-registers.js';
import { RESET_POLL_MS, RESET_POLLS_MAX } from './limits.js';
import { Refusal, refusalOf } from './refusal.js';

const FEATURE_WORD_BITS = 32n;
const FEATURE_WORD_MASK = (1n << FEATURE_WORD_BITS) - 1n;

/** A ring to start. `enabled` null: not switched by us, commands of the control queue say which rings are used. */
export type FunctionRing = Omit<RingSetup, 'enabled'> & { readonly enabled: boolean | null };

export class VirtioFunction {
  readonly profile: FunctionProfile;
  readonly #client: VfioUserClient;
  readonly #probed: ProbedFunction;
  /** Queues that have a kick eventfd. */
  readonly #kicked = new Set<number>();

  private constructor(client: VfioUserClient, probed: ProbedFunction) {
    this.#client = client;
    this.#probed = probed;
    this.profile = probed.profile;
  }

  /** Takes the function over; it is reset. Rejects with a FunctionFault or a VfioUserError. */
  static async probe(client: VfioUserClient): Promise<VirtioFunction> {
    return new VirtioFunction(client, await probeFunction(client));
  }

  /** Goes on with a function that a process which died had probed, and which was not reset since. */
  static resume(
    client: VfioUserClient,
    profile: FunctionProfile,
    { common, msixAt }: SavedProbe,
  ): VirtioFunction {
    const registers = new FunctionRegisters(client, common);
    const pairs = profile.dataQueues >> 1;
    return new VirtioFunction(client, { profile, common: registers, device: null, pairs, msixAt });
  }

  /** For a successor. */
  get probe(): SavedProbe {
    const { common, msixAt } = this.#probed;
    return { common: common.part, msixAt };
  }

  map(iova: bigint, sizeBytes: number, fd: number, fdOffset: number): Promise<number> {
    return refusalOf(this.#client.dmaMap({ iova, sizeBytes, fd, fdOffset, readable: true, writable: true }));
  }

  unmap(iova: bigint, sizeBytes: number): Promise<number> {
    return refusalOf(this.#client.dmaUnmap({ iova, sizeBytes }));
  }

  unmapAll(): Promise<number> {
    return refusalOf(this.#client.dmaUnmapAll());
  }

  /**
   * Resets the function and negotiates `features`. `configFd` will be signalled when its configuration or its own
   * state changes, if there is a vector left for that. -EBUSY: the reset does not end; -EOPNOTSUPP: features refused.
   */
  initialise(features: bigint, configFd: number): Promise<number> {
    return refusalOf(this.#initialise(features, configFd));
  }

  /** On a function that was resumed: these rings run, and `configFd` is signalled instead of the predecessor's. */
  rejoin(running: Iterable<number>, configFd: number): Promise<number> {
    for (const index of running) this.#kicked.add(index);
    return this.tellsOfChanges
      ? refusalOf(this.#assignVector(this.profile.dataQueues, configFd))
      : Promise.resolve(0);
  }

  /** Takes every eventfd and all memory away and resets: what a predecessor left half done is gone. */
  async clear(): Promise<number> {
    for (let index = 0; index < this.profile.dataQueues; index++) this.#kicked.add(index);
    return Math.min(await this.reset(), await this.unmapAll());
  }

  /** Stops a ring that may or may not run, and tells where it stands. */
  async position(index: number): Promise<number> {
    let position = 0;
    const errno = await refusalOf(
      this.#client.queueBaseGet(index).then((base) => {
        position = base;
      }),
    );
    return errno < 0 ? errno : position;
  }

  /** Whether a ring was started and not stopped since. */
  async isStarted(index: number): Promise<boolean> {
    const { common } = this.#probed;
    await common.writeU16('queueSelect', index);
    return (await common.readU16('queueEnable')) === 1;
  }

  /** Whether a driver drives it, as it does from the first ring to a reset. */
  async isDriven(): Promise<boolean> {
    return ((await this.#probed.common.readU8('deviceStatus')) & DeviceStatus.DRIVER_OK) !== 0;
  }

  /** Whether the function has a vector left that tells of changes of its configuration. */
  get tellsOfChanges(): boolean {
    return this.profile.vectors > this.profile.dataQueues;
  }

  /** Queue pairs it has. */
  get pairs(): number {
    return this.#probed.pairs;
  }

  /** Whether its link is up; of a function that has no link status, or was resumed, it is. */
  async linkUp(): Promise<boolean> {
    const { device } = this.#probed;
    if (device === null || !hasFeature(this.profile.features, NetFeature.STATUS)) return true;
    return ((await device.read(NetConfig.at.status, u16)) & NetStatus.LINK_UP) !== 0;
  }

  /** Whether the function says that it cannot go on without a reset. */
  async needsReset(): Promise<boolean> {
    return ((await this.#probed.common.readU8('deviceStatus')) & DeviceStatus.NEEDS_RESET) !== 0;
  }

  /** Starts a ring on the initialised function. `kickFd` is what its driver signals. -EFAULT: ring not reachable. */
  startRing(setup: FunctionRing, kickFd: number): Promise<number> {
    return refusalOf(this.#startRing(setup, kickFd));
  }

  /** Stops a ring and takes its eventfds back. The position it would go on from, or a negative errno. */
  async stopRing(index: number): Promise<number> {
    let position = 0;
    const asked = this.#client.queueBaseGet(index).then((base) => {
      position = base;
    });
    const errno = await refusalOf(asked);
    await refusalOf(this.#assignVector(index, null));
    await this.setKick(index, null);
    return errno < 0 ? errno : position;
  }

  setCall(index: number, fd: number | null): Promise<number> {
    return refusalOf(this.#assignVector(index, fd));
  }

  setKick(index: number, fd: number | null): Promise<number> {
    return refusalOf(this.#assignKick(index, fd));
  }

  setEnabled(index: number, enabled: boolean): Promise<number> {
    return refusalOf(this.#client.queueEnable(index, enabled));
  }

  /** Back to the state after power-on, without eventfds; memory stays mapped. */
  async reset(): Promise<number> {
    const errno = await refusalOf(this.#client.reset());
    const disable = { index: VfioPciIrq.MSIX, start: 0, count: 0, action: 'trigger', data: 'none' } as const;
    await refusalOf(this.#client.setIrqs(disable));
    for (const index of [...this.#kicked]) await this.setKick(index, null);
    return errno;
  }

  /** Gives the connection up; the function then resets itself. */
  disconnect(): void {
    this.#client.close();
  }

  async #initialise(features: bigint, configFd: number): Promise<void> {
    const { common } = this.#probed;
    await this.#resetStatus();
    await allowMemoryAccess(this.#client);
    await this.#enableMsix();
    await this.#addStatus(DeviceStatus.ACKNOWLEDGE);
    await this.#addStatus(DeviceStatus.DRIVER);
    for (const [select, word] of [features & FEATURE_WORD_MASK, features >> FEATURE_WORD_BITS].entries()) {
      await common.writeU32('driverFeatureSelect', select);
      await common.writeU32('driverFeature', Number(word));
    }
    await this.#addStatus(DeviceStatus.FEATURES_OK);
    const status = await common.readU8('deviceStatus');
    if ((status & DeviceStatus.FEATURES_OK) === 0) throw new Refusal(Errno.EOPNOTSUPP);
    const { dataQueues } = this.profile;
    if (!this.tellsOfChanges) return;
    await this.#assignVector(dataQueues, configFd);
    await common.writeU16('configVector', dataQueues);
  }

  async #startRing(setup: FunctionRing, kickFd: number): Promise<void> {
    const { common } = this.#probed;
    const { index } = setup;
    await common.writeU16('queueSelect', index);
    await common.writeU16('queueSize', setup.size);
    await common.writeU64('queueDescriptor', setup.descriptorAddress);
    await common.writeU64('queueDriver', setup.driverAddress);
    await common.writeU64('queueDevice', setup.deviceAddress);
    const vector = index < this.profile.dataQueues ? index : NO_VECTOR;
    await common.writeU16('queueVector', vector);
    if ((await common.readU16('queueVector')) !== vector) throw new Refusal(Errno.ENOSPC);
    await this.#client.queueBaseSet(index, setup.base);
    if (vector !== NO_VECTOR) await this.#assignVector(vector, setup.callFd);
    await this.#assignKick(index, kickFd);
    if (setup.enabled !== null) await this.#client.queueEnable(index, setup.enabled);
    await common.writeU16('queueEnable', 1);
    // A ring that the function cannot reach stays disabled.
    if ((await common.readU16('queueEnable')) !== 1) throw new Refusal(Errno.EFAULT);
    await this.#addStatus(DeviceStatus.DRIVER_OK);
  }

  async #resetStatus(): Promise<void> {
    const { common } = this.#probed;
    await common.writeU8('deviceStatus', 0);
    for (let polls = 0; (await common.readU8('deviceStatus')) !== 0; polls++) {
      if (polls === RESET_POLLS_MAX) throw new Refusal(Errno.EBUSY);
      await sleep(RESET_POLL_MS);
    }
  }

  async #addStatus(bit: number): Promise<void> {
    const { common } = this.#probed;
    const status = await common.readU8('deviceStatus');
    if ((status & bit) === 0) await common.writeU8('deviceStatus', status | bit);
  }

  async #enableMsix(): Promise<void> {
    const at = this.#probed.msixAt + PciMsix.at.control;
    const control = await readConfigU16(this.#client, at);
    await writeConfigU16(this.#client, at, (control | MsixControl.ENABLE) & ~MsixControl.FUNCTION_MASK);
  }

  async #assignKick(index: number, fd: number | null): Promise<void> {
    await this.#client.queueKick(index, fd);
    if (fd === null) this.#kicked.delete(index);
    else this.#kicked.add(index);
  }

  async #assignVector(vector: number, fd: number | null): Promise<void> {
    const fds = fd === null ? [] : [fd];
    const set = {
      index: VfioPciIrq.MSIX,
      start: vector,
      count: 1,
      action: 'trigger',
      data: 'eventfd',
      fds,
    } as const;
    await this.#client.setIrqs(set);
  }
}
