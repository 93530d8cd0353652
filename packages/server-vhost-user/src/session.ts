/**
 * session.ts: one frontend's conversation with the backend, without a socket.
 *
 * Theory
 *   A message is checked against its row of the request table, decoded and handed to its handler. Handlers change what
 *   is known about rings and memory and tell the device. A ring starts as soon as it is complete (see vring.ts),
 *   whatever came last; a change of memory stops the rings whose parts it moves and starts them again afterwards.
 *
 * Parties
 *   transport   hands in whole messages, one at a time, and sends what `handle` answers.
 *   device      works the rings; it borrows descriptors.
 *
 * Ownership
 *   Every descriptor handed to `handle` belongs to the session: it is stored, or closed before `handle` settles. What
 *   is stored is closed when replaced, and all of it by `close`, after the device has let go.
 *
 * Invariants
 *   I1  a fault ends the session; nothing but `close` may be called after it.
 *   I2  the device knows exactly the regions of the table and exactly the rings that are `running`.
 *
 * Limits  limits.ts; rings: the device's queueCount.
 * Spec    vhost-user.rst
 */
import {
  Errno,
  hasFeature,
  VhostFeature,
  VhostUserFlags,
  VhostUserProtocolFeature,
  VhostUserRequest,
  VhostUserU64,
  VhostUserVringState,
  VirtioFeature,
} from '@virtnet/wire';
import type { VhostBackendDevice } from './device.js';
import type { VhostUserFault } from './faults.js';
import { PROTOCOL_FEATURES } from './features.js';
import { MEMORY_REGIONS_MAX, MTU_BYTES_MIN } from './limits.js';
import type { GuestRegion } from './memory-table.js';
import {
  type AnsweredRequest,
  decodePayload,
  descriptorsFit,
  encodeMessage,
  type PayloadOf,
  payloadSizeFits,
  ruleOf,
  type VringState,
} from './requests.js';
import { hex, type SavedSession, type SessionSnapshot, unhex } from './saved-session.js';
import { SessionMemory } from './session-memory.js';
import { type AcceptedFeatures, type SessionPorts, SessionRings } from './session-rings.js';
import type { RingSetup } from './vring.js';

/** A message as the transport read it. */
export interface VhostUserMessage {
  readonly request: number;
  readonly flags: number;
  readonly payload: Uint8Array;
  readonly fds: readonly number[];
}

/** What became of a message: bytes to send, nothing to send, or the end of the session. */
export type Outcome = { readonly reply: Uint8Array | null } | { readonly fault: VhostUserFault };

export interface SessionCounters {
  /** Messages handled. */
  messages: number;
  /** Requests answered with a negative acknowledgement. */
  refused: number;
}

/** A number for an acknowledgement (0 or -errno), a bigint for a u64 reply, a state for a vring reply. */
type Answer = number | bigint | VringState;
type Handlers = {
  readonly [N in AnsweredRequest]: (payload: PayloadOf<N>, fds: number[]) => Answer | Promise<Answer>;
};

const R = VhostUserRequest;
const REPLY_FLAGS = VhostUserFlags.VERSION | VhostUserFlags.REPLY;

export class VhostUserSession {
  readonly counters: SessionCounters = { messages: 0, refused: 0 };
  readonly #device: VhostBackendDevice;
  readonly #ports: SessionPorts;
  readonly #rings: SessionRings;
  readonly #memory: SessionMemory;
  readonly #handlers: Handlers;
  #protocolFeatures = 0n;
  #status = 0;

  constructor(device: VhostBackendDevice, ports: SessionPorts) {
    this.#device = device;
    this.#ports = ports;
    this.#memory = new SessionMemory(device, ports);
    this.#rings = new SessionRings(device, this.#memory.table, ports);
    this.#handlers = this.#makeHandlers();
  }

  /** The rings that the device was told to work. */
  get ringSetups(): readonly RingSetup[] {
    return this.#rings.setups();
  }

  /** The memory that the device was told of. */
  get regions(): readonly GuestRegion[] {
    return this.#memory.table.regions;
  }

  /** What was said so far. Not while a message is being handled. */
  save(): SessionSnapshot {
    const fds = new Map<string, number>();
    const features = this.#rings.features;
    return {
      session: {
        protocolFeatures: hex(this.#protocolFeatures),
        status: this.#status,
        features: features === null ? null : hex(features.accepted),
        regions: this.#memory.save(fds),
        rings: this.#rings.save(fds),
      },
      fds,
    };
  }

  /**
   * Makes a new session know what a former one saved; the device is not told anything. Descriptors are asked for by
   * name, and those that were given are the session's. False: it makes no sense, and only closeFds() may follow.
   */
  restore(saved: SavedSession, take: (name: string) => number | undefined): boolean {
    this.#protocolFeatures = unhex(saved.protocolFeatures);
    this.#status = saved.status;
    const features = saved.features === null ? null : acceptedFeatures(unhex(saved.features));
    return this.#memory.restore(saved.regions, take) && this.#rings.restore(saved.rings, features, take);
  }

  /** Handles one message; takes its descriptors over. */
  async handle(message: VhostUserMessage): Promise<Outcome> {
    const fds = [...message.fds];
    try {
      return await this.#handle(message, fds);
    } finally {
      for (const fd of fds) this.#ports.closeFd(fd);
    }
  }

  /** The device broke: tells the frontend on the error eventfd of every running ring. */
  reportBroken(errno: number): void {
    this.#rings.lostAll(errno);
  }

  /** The frontend is gone: the device lets go of everything, then every descriptor is closed. */
  async close(): Promise<void> {
    await this.#device.release();
    this.closeFds();
  }

  /** Closes every descriptor; the device knows none of them. */
  closeFds(): void {
    this.#rings.closeAll();
    this.#memory.closeAll();
  }

  async #handle(message: VhostUserMessage, fds: number[]): Promise<Outcome> {
    const { request, flags, payload } = message;
    this.counters.messages++;
    if ((flags & VhostUserFlags.VERSION_MASK) !== VhostUserFlags.VERSION)
      return { fault: { code: 'BAD_VERSION', flags } };
    if ((flags & VhostUserFlags.REPLY) !== 0) return { fault: { code: 'UNEXPECTED_REPLY', request } };
    const rule = ruleOf(request);
    if (rule === undefined) return { fault: { code: 'UNKNOWN_REQUEST', request } };
    if (rule.needs !== null && !this.#agreed(rule.needs))
      return { fault: { code: 'NOT_NEGOTIATED', request } };
    const sizeFault: Outcome = { fault: { code: 'PAYLOAD_SIZE', request, sizeBytes: payload.length } };
    if (!payloadSizeFits(rule.payload, payload.length)) return sizeFault;
    const decoded = decodePayload(rule.payload, payload);
    if (decoded === undefined) return sizeFault;
    if (!descriptorsFit(rule.fds, decoded, fds.length))
      return { fault: { code: 'DESCRIPTOR_COUNT', request, count: fds.length } };

    // Before the handler: SET_PROTOCOL_FEATURES itself is answered by the rules it found.
    const acknowledge =
      (flags & VhostUserFlags.NEED_REPLY) !== 0 && this.#agreed(VhostUserProtocolFeature.REPLY_ACK);
    const handler = this.#handlers[request as AnsweredRequest] as (
      p: typeof decoded,
      fds: number[],
    ) => Answer | Promise<Answer>;
    const answer = await handler(decoded, fds);
    if (typeof answer === 'bigint') return this.#reply(request, VhostUserU64.bytes({ value: answer }));
    if (typeof answer === 'object') return this.#reply(request, VhostUserVringState.bytes(answer));
    if (answer < 0) {
      this.counters.refused++;
      // A request with a reply of its own has no way to say no.
      if (!acknowledge || rule.reply !== 'none')
        return { fault: { code: 'REFUSED', request, errno: -answer } };
      this.#ports.declined(request, -answer);
    }
    return acknowledge
      ? this.#reply(request, VhostUserU64.bytes({ value: BigInt(-answer) }))
      : { reply: null };
  }

  #reply(request: number, payload: Uint8Array): Outcome {
    return { reply: encodeMessage(request, REPLY_FLAGS, payload) };
  }

  #agreed(feature: VhostUserProtocolFeature): boolean {
    return hasFeature(this.#protocolFeatures, feature);
  }

  #makeHandlers(): Handlers {
    const rings = this.#rings;
    const { profile } = this.#device;
    return {
      [R.GET_FEATURES]: () => profile.features,
      [R.SET_FEATURES]: (features) => this.#setFeatures(features),
      [R.GET_PROTOCOL_FEATURES]: () => PROTOCOL_FEATURES,
      [R.SET_PROTOCOL_FEATURES]: (features) => {
        if ((features & ~PROTOCOL_FEATURES) !== 0n) return -Errno.EINVAL;
        this.#protocolFeatures = features;
        return 0;
      },
      [R.GET_QUEUE_NUM]: () => BigInt(profile.queueCount),
      [R.GET_MAX_MEM_SLOTS]: () => BigInt(MEMORY_REGIONS_MAX),
      [R.SET_OWNER]: () => 0,
      [R.RESET_OWNER]: () => rings.stopAll(),
      [R.RESET_DEVICE]: () => this.#resetDevice(),
      [R.SET_STATUS]: (status) => this.#setStatus(status),
      [R.GET_STATUS]: () => BigInt(this.#status),
      [R.NET_SET_MTU]: (mtu) =>
        mtu >= BigInt(MTU_BYTES_MIN) && mtu <= BigInt(profile.mtuMaxBytes) ? 0 : -Errno.EINVAL,
      [R.SET_MEM_TABLE]: (regions, fds) =>
        this.#memory.replace(
          regions.map((region) => ({ ...region, fd: fds.shift()! })),
          rings,
        ),
      [R.ADD_MEM_REG]: (region, fds) => this.#memory.add({ ...region, fd: fds.shift()! }, rings),
      [R.REM_MEM_REG]: (region) => this.#memory.remove(region, rings),
      [R.SET_VRING_NUM]: ({ index, value }) => rings.setSize(index, value),
      [R.SET_VRING_ADDR]: (addresses) => rings.setAddresses(addresses),
      [R.SET_VRING_BASE]: ({ index, value }) => rings.setBase(index, value),
      [R.GET_VRING_BASE]: async ({ index }) => {
        const base = await rings.stop(index);
        return base < 0 ? base : { index, value: base };
      },
      [R.SET_VRING_KICK]: ({ index }, fds) => rings.setKick(index, fds),
      [R.SET_VRING_CALL]: ({ index }, fds) => rings.setCall(index, fds),
      [R.SET_VRING_ERR]: ({ index }, fds) => rings.setError(index, fds),
      [R.SET_VRING_ENABLE]: ({ index, value }) => rings.setEnabled(index, value),
    };
  }

  #setFeatures(features: bigint): number | Promise<number> {
    if ((features & ~this.#device.profile.features) !== 0n) return -Errno.EINVAL;
    return this.#rings.setFeatures(acceptedFeatures(features));
  }

  async #setStatus(status: bigint): Promise<number> {
    if (status > 0xffn) return -Errno.EINVAL;
    this.#status = Number(status);
    // Status 0 is the driver's reset: nothing may be worked after the answer.
    return this.#status === 0 ? this.#rings.stopAll() : 0;
  }

  async #resetDevice(): Promise<number> {
    this.#status = 0;
    const result = await this.#device.reset();
    this.#rings.forget();
    return result;
  }
}

function acceptedFeatures(accepted: bigint): AcceptedFeatures {
  return {
    accepted,
    packed: hasFeature(accepted, VirtioFeature.RING_PACKED),
    enabledFromStart: !hasFeature(accepted, VhostFeature.PROTOCOL_FEATURES),
  };
}
