/**
 * function-fixture.ts: a network function in this process, with the part of a program that a driver can see.
 *
 * Theory
 *   Carries effects out as an emulator does, but works only the control queue: the queues that move frames have
 *   fixtures of their own. Ring and memory are real, so that a driver's commands take the whole way.
 *
 * Invariants
 *   I1  an effect is carried out before the access that caused it returns.
 *
 * Limits  the memory it is given; one control command at a time.
 */
import { type Effect, type FunctionOptions, VirtioPciFunction } from '@virtnet/engine-pci';
import {
  CONTROL_REQUEST_BYTES_MAX,
  type ControlChange,
  executeControl,
  hotplugFeatures,
  NetDevice,
  type NetProfile,
} from '@virtnet/engine-virtio-net';
import { GuestMemory, SplitRing } from '@virtnet/engine-virtqueue';
import { HASH_TYPES, hasFeature, VirtioFeature } from '@virtnet/wire';
import { DriverMemory } from './driver-memory.js';
import { type FunctionAccess, inProcess } from './function-access.js';

export interface FunctionFixtureOptions {
  readonly profile?: Partial<NetProfile>;
  readonly msixVectors?: number;
  readonly memoryBytes?: number;
  readonly function?: Partial<FunctionOptions>;
}

const NETWORK_CLASS = 0x020000;
const CHAIN_SEGMENTS_MAX = 64;
const FAULT = -1;

const PROFILE: NetProfile = {
  mac: '0C:C4:7A:FF:22:93',
  mtu: 1500,
  maxQueuePairs: 3,
  maxQueueSize: 64,
  speedMbps: 25_000,
  offeredFeatures: hotplugFeatures({ uso: true, vlan: true }),
  hashTypes: HASH_TYPES,
};

export class FunctionFixture {
  readonly device: NetDevice;
  readonly fn: VirtioPciFunction;
  readonly memory: DriverMemory;
  readonly access: FunctionAccess;
  /** Effects and changes in the order they came. */
  readonly effects: Effect[] = [];
  readonly changes: ControlChange[] = [];
  /** Vectors sent, and -1 for INTx. */
  readonly interrupts: number[] = [];
  /** Queue resets are left open until `completeQueueResets`, when set. */
  holdQueueResets = false;
  #control: SplitRing | null = null;

  constructor(options: FunctionFixtureOptions = {}) {
    this.device = new NetDevice({ ...PROFILE, ...options.profile });
    this.fn = new VirtioPciFunction({
      device: this.device,
      classCode: NETWORK_CLASS,
      msixVectors: options.msixVectors ?? 8,
      ...options.function,
    });
    this.memory = new DriverMemory({ sizeBytes: options.memoryBytes ?? 1 << 20 });
    this.access = inProcess(this.fn, (effect) => this.#carryOut(effect));
  }

  /** Ends every queue reset that was held. */
  completeQueueResets(): void {
    for (const { index, resetting } of this.fn.queues) if (resetting) this.fn.completeQueueReset(index);
  }

  /** Raises the interrupt of a queue or of the configuration. */
  raise(source: number | 'config'): void {
    const target = this.fn.interruptFor(source);
    if (target.kind === 'msix') this.interrupts.push(target.vector);
    else if (target.kind === 'intx') this.interrupts.push(-1);
  }

  #carryOut(effect: Effect): void {
    this.effects.push(effect);
    switch (effect.kind) {
      case 'reset':
      case 'flr':
        this.#control = null;
        return;
      case 'queue-reset':
        if (effect.queue === this.device.controlQueueIndex) this.#control = null;
        if (!this.holdQueueResets) this.fn.completeQueueReset(effect.queue);
        return;
      case 'queue-notify':
        if (effect.queue === this.device.controlQueueIndex) this.#workControl(effect.queue);
        return;
      case 'fire':
        this.interrupts.push(effect.vector);
        return;
      case 'fire-intx':
        this.interrupts.push(-1);
        return;
      default:
        return;
    }
  }

  #open(index: number): SplitRing | null {
    const queue = this.fn.queues[index]!;
    const opened = SplitRing.open({
      queueSize: queue.size,
      memory: new GuestMemory([this.memory.region]),
      descriptorAddress: queue.descriptorAddress,
      driverAddress: queue.driverAddress,
      deviceAddress: queue.deviceAddress,
      indirect: hasFeature(this.fn.driverFeatures, VirtioFeature.INDIRECT_DESC),
      eventIdx: hasFeature(this.fn.driverFeatures, VirtioFeature.EVENT_IDX),
      position: 0,
      chainSegmentsMax: CHAIN_SEGMENTS_MAX,
    });
    if (opened instanceof SplitRing) return opened;
    this.fn.disableQueue(index);
    this.#fault();
    return null;
  }

  #fault(): void {
    if (this.fn.needsReset()) this.raise('config');
  }

  #workControl(index: number): void {
    this.#control ??= this.#open(index);
    const ring = this.#control;
    if (ring === null) return;
    do {
      for (let taken = ring.take(); taken !== 0; taken = ring.take()) {
        if (taken === FAULT) {
          this.#fault();
          return;
        }
        ring.give(this.#execute(ring));
        if (ring.publish()) this.raise(index);
      }
    } while (ring.armKicks());
  }

  /** Executes the current command; returns the bytes written. */
  #execute(ring: SplitRing): number {
    if (ring.writableBytes === 0) return 0;
    const request = new Uint8Array(Math.min(ring.readableBytes, CONTROL_REQUEST_BYTES_MAX + 1));
    ring.gather(0, request, 0, request.length);
    const { ack, extra, changed } = executeControl(this.device, request, {
      isQueueEnabled: (queue) => this.fn.queues[queue]?.enabled ?? false,
    });
    this.changes.push(...changed);
    if (changed.some(({ kind }) => kind === 'config')) this.fn.configChanged();
    const answer = Uint8Array.of(...(extra ?? []), ack);
    return ring.scatter(0, answer, 0, answer.length);
  }
}
