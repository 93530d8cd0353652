/** session-fixture.ts: a session with a device that remembers, descriptors that are only numbers, and a frontend's words. */
import {
  featureMask,
  NetFeature,
  VhostUserFlags,
  VhostUserProtocolFeature,
  VhostUserRequest,
  VhostUserU64,
  VhostUserVringState,
  VirtioFeature,
  viewOf,
} from '@virtnet/wire';
import { expect } from 'vitest';
import type { BackendProfile } from '../device.js';
import { frontendPayload as payload } from '../frontend.js';
import type { RegionDescription, VringAddress } from '../requests.js';
import { type Outcome, VhostUserSession } from '../session.js';
import { RecordingDevice } from './recording-device.js';

const R = VhostUserRequest;
const P = VhostUserProtocolFeature;
const OFFER = featureMask([
  NetFeature.CSUM,
  NetFeature.MQ,
  NetFeature.CTRL_VQ,
  NetFeature.MRG_RXBUF,
  VirtioFeature.VERSION_1,
  VirtioFeature.RING_PACKED,
  VirtioFeature.EVENT_IDX,
]);
const PROTOCOL = featureMask([P.MQ, P.REPLY_ACK, P.CONFIGURE_MEM_SLOTS, P.STATUS, P.RESET_DEVICE, P.NET_MTU]);
export const MIB = 1n << 20n;
export const USER = 0x7f00_0000_0000n;
export const HEADER = 12;
/** A descriptor that is no eventfd. */
export const NO_EVENTFD = 666;

export class SessionFixture {
  readonly device: RecordingDevice;
  readonly session: VhostUserSession;
  /** Descriptors handed out and not closed. */
  readonly open = new Set<number>();
  /** Which file a descriptor is of; those without an entry are of the same. */
  readonly files = new Map<number, string>();
  readonly signalled: number[] = [];
  readonly lost: number[] = [];
  /** Requests not granted, with their errno. */
  readonly declined: [number, number][] = [];
  #lastFd = 1000;

  constructor(profile: Partial<BackendProfile> = {}) {
    this.device = new RecordingDevice(OFFER, profile);
    this.session = new VhostUserSession(this.device, {
      closeFd: (fd) => {
        if (!this.open.delete(fd)) throw new Error(`descriptor ${fd} closed twice`);
      },
      usableEventfd: (fd) => fd !== NO_EVENTFD,
      signal: (fd) => void this.signalled.push(fd),
      sameFile: (a, b) => this.files.get(a) === this.files.get(b),
      ringLost: (index) => void this.lost.push(index),
      declined: (request, errno) => void this.declined.push([request, errno]),
    });
  }

  /** A descriptor that counts as open until the session closes it. */
  fd(): number {
    this.open.add(++this.#lastFd);
    return this.#lastFd;
  }

  say(
    request: number,
    bytes: Uint8Array = new Uint8Array(),
    fds: number[] = [],
    flags = 0,
  ): Promise<Outcome> {
    return this.session.handle({ request, flags: VhostUserFlags.VERSION | flags, payload: bytes, fds });
  }

  /** The acknowledgement of a request sent with NEED_REPLY. */
  async acknowledged(request: number, bytes?: Uint8Array, fds?: number[]): Promise<number> {
    const outcome = await this.say(request, bytes, fds, VhostUserFlags.NEED_REPLY);
    return Number(u64Of(outcome));
  }

  async agree(
    features = this.device.profile.features & ~featureMask([VirtioFeature.RING_PACKED]),
  ): Promise<void> {
    await this.say(R.SET_PROTOCOL_FEATURES, payload.u64(PROTOCOL));
    await this.say(R.SET_OWNER);
    expect(await this.acknowledged(R.SET_FEATURES, payload.u64(features))).toBe(0);
  }

  async shareMemory(): Promise<void> {
    const memory = this.fd();
    this.files.set(memory, 'ram');
    expect(await this.acknowledged(R.SET_MEM_TABLE, payload.memoryTable([region(0n)]), [memory])).toBe(0);
  }

  async describeRing(index: number, base = 0): Promise<void> {
    expect(await this.acknowledged(R.SET_VRING_NUM, payload.vringState(index, 256))).toBe(0);
    expect(await this.acknowledged(R.SET_VRING_BASE, payload.vringState(index, base))).toBe(0);
    expect(await this.acknowledged(R.SET_VRING_ADDR, payload.vringAddress(ringAddresses(index)))).toBe(0);
  }

  async startRing(index: number, base = 0): Promise<void> {
    await this.describeRing(index, base);
    expect(await this.acknowledged(R.SET_VRING_KICK, payload.vringFd(index, true), [this.fd()])).toBe(0);
  }

  async stopRing(index: number): Promise<number> {
    const outcome = await this.say(R.GET_VRING_BASE, payload.vringState(index, 0));
    return VhostUserVringState.decode(viewOf(replyOf(outcome)), HEADER).value;
  }
}

export function replyOf(outcome: Outcome): Uint8Array {
  if (!('reply' in outcome) || outcome.reply === null)
    throw new Error(`no reply: ${JSON.stringify(outcome)}`);
  return outcome.reply;
}

export const u64Of = (outcome: Outcome) => VhostUserU64.decode(viewOf(replyOf(outcome)), HEADER).value;
export const faultOf = (outcome: Outcome) => ('fault' in outcome ? outcome.fault.code : 'none');

/** A mebibyte of guest memory. */
export function region(guestAddress: bigint): RegionDescription {
  return { guestAddress, sizeBytes: MIB, userAddress: USER + guestAddress, mmapOffset: 0n };
}

/** Addresses of ring `index`, far enough apart for 256 entries. */
export function ringAddresses(index: number): VringAddress {
  const at = USER + BigInt(index) * 0x8000n;
  return { index, flags: 0, descriptor: at, available: at + 0x2000n, used: at + 0x4000n, log: 0n };
}
