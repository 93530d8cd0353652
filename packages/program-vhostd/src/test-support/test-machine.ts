/**
 * test-machine.ts: a virtual machine for tests, as vhost-user sees one: memory, rings' places, a frontend.
 */
import { readSync, writeSync } from 'node:fs';
import { close, connect, eventfd, memfdCreate, type Poller } from '@virtnet/host-linux';
import {
  frontendPayload as payload,
  type RegionDescription,
  VhostUserFrontend,
} from '@virtnet/server-vhost-user';
import { featureMask, VhostFeature, VhostUserRequest } from '@virtnet/wire';

const R = VhostUserRequest;
export const MIB = 1n << 20n;
const USER = 0x7f00_0000_0000n;
const RING_BYTES = 0x8000n;
export const RING_SIZE = 256;

export class TestMachine {
  readonly memory = memfdCreate('guest', Number(MIB));
  readonly frontend: VhostUserFrontend;
  readonly kicks = new Map<number, number>();
  readonly calls = new Map<number, number>();
  readonly errors = new Map<number, number>();

  constructor(fd: number, poller: Poller) {
    this.frontend = new VhostUserFrontend(fd, poller);
  }

  static connect(path: string, poller: Poller): TestMachine {
    const fd = connect(path, 'stream');
    if (fd < 0) throw new Error(`connect: ${fd}`);
    return new TestMachine(fd, poller);
  }

  /** What QEMU 7.2 says when it finds a backend. The features on offer. */
  async greet(): Promise<bigint> {
    const { frontend } = this;
    const features = await frontend.getU64(R.GET_FEATURES);
    frontend.post(R.SET_PROTOCOL_FEATURES, payload.u64(await frontend.getU64(R.GET_PROTOCOL_FEATURES)));
    await frontend.getU64(R.GET_QUEUE_NUM);
    await frontend.getU64(R.GET_MAX_MEM_SLOTS);
    frontend.post(R.SET_OWNER);
    return features;
  }

  region(guestAddress = 0n, more: Partial<RegionDescription> = {}): RegionDescription {
    return { guestAddress, sizeBytes: MIB, userAddress: USER + guestAddress, mmapOffset: 0n, ...more };
  }

  setFeatures(features: bigint): Promise<number> {
    return this.frontend.acknowledged(R.SET_FEATURES, payload.u64(features));
  }

  shareMemory(): Promise<number> {
    return this.frontend.acknowledged(R.ADD_MEM_REG, payload.singleRegion(this.region()), [this.memory]);
  }

  /** What QEMU 7.2 says for each ring when the guest's driver is ready. The last acknowledgement. */
  async startRing(index: number, { base = 0, polled = false } = {}): Promise<number> {
    const { frontend } = this;
    const at = USER + BigInt(index) * RING_BYTES;
    const addresses = {
      index,
      flags: 0,
      descriptor: at,
      available: at + 0x2000n,
      used: at + 0x4000n,
      log: 0n,
    };
    await frontend.acknowledged(R.SET_VRING_ENABLE, payload.vringState(index, 1));
    await frontend.acknowledged(R.SET_VRING_NUM, payload.vringState(index, RING_SIZE));
    await frontend.acknowledged(R.SET_VRING_BASE, payload.vringState(index, base));
    await frontend.acknowledged(R.SET_VRING_ADDR, payload.vringAddress(addresses));
    const kick = this.#eventfd(this.kicks, index);
    const result = await frontend.acknowledged(
      R.SET_VRING_KICK,
      payload.vringFd(index, !polled),
      polled ? [] : [kick],
    );
    if (result !== 0) return result;
    return frontend.acknowledged(R.SET_VRING_CALL, payload.vringFd(index, true), [
      this.#eventfd(this.calls, index),
    ]);
  }

  watchErrors(index: number): Promise<number> {
    return this.frontend.acknowledged(R.SET_VRING_ERR, payload.vringFd(index, true), [
      this.#eventfd(this.errors, index),
    ]);
  }

  /** Greets, shares memory, and starts `rings` rings as a guest that accepts everything would. */
  async boot(rings: number): Promise<void> {
    const features = await this.greet();
    await this.setFeatures(features);
    await this.shareMemory();
    for (let index = 0; index < rings; index++) {
      const result = await this.startRing(index);
      if (result !== 0) throw new Error(`ring ${index}: ${result}`);
    }
  }

  /** What the device would have written by now. */
  setUsedIndex(ring: number, value: number): void {
    const bytes = Uint8Array.of(value & 0xff, value >> 8);
    writeSync(this.memory, bytes, 0, 2, ring * Number(RING_BYTES) + 0x4000 + 2);
  }

  usedIndexAt(ring: number): number {
    const bytes = new Uint8Array(2);
    readSync(this.memory, bytes, 0, 2, ring * Number(RING_BYTES) + 0x4000 + 2);
    return bytes[0]! | (bytes[1]! << 8);
  }

  /** As when QEMU is killed. */
  kill(): void {
    this.frontend.close();
    for (const fd of [this.memory, ...this.kicks.values(), ...this.calls.values(), ...this.errors.values()])
      close(fd);
  }

  #eventfd(map: Map<number, number>, index: number): number {
    const known = map.get(index);
    if (known !== undefined) return known;
    const fd = eventfd();
    map.set(index, fd);
    return fd;
  }
}

/** Where ring `index` of a TestMachine lies in guest memory. */
export function ringPlace(index: number): bigint[] {
  const at = BigInt(index) * RING_BYTES;
  return [at, at + 0x2000n, at + 0x4000n];
}

/** What a machine accepts that wants no vhost-user extras. */
export const withoutProtocolFeatures = (features: bigint) =>
  features & ~featureMask([VhostFeature.PROTOCOL_FEATURES]);
