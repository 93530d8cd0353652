/**
 * requests.ts: every request this backend answers, as one table: its payload, its descriptors, its answer.
 *
 * Theory
 *   A row says what a well-formed message looks like. What has no row is not answered: the requests of features that
 *   are never offered (logging, in-flight tracking, configuration space, IOTLB, post-copy) are unknown here.
 *
 * Invariants
 *   I1  a request with a reply of its own gets exactly that one reply, whether or not it carries NEED_REPLY.
 *   I2  any other request gets an acknowledgement exactly when REPLY_ACK is agreed on and it carries NEED_REPLY.
 *
 * Limits  limits.ts
 * Spec    vhost-user.rst, "Front-end message types", "Communication".
 */
import {
  type Decoded,
  VhostUserHeader,
  VhostUserMemoryRegion,
  VhostUserMemoryTable,
  VhostUserProtocolFeature,
  VhostUserRequest,
  VhostUserSingleRegion,
  VhostUserU64,
  VhostUserVringAddress,
  VhostUserVringFd,
  VhostUserVringState,
  viewOf,
} from '@virtnet/wire';
import { PAYLOAD_BYTES_MAX } from './limits.js';

export type VringState = Decoded<typeof VhostUserVringState>;
export type VringAddress = Decoded<typeof VhostUserVringAddress>;
export type RegionDescription = Decoded<typeof VhostUserMemoryRegion>;

/** What a payload decodes to, by its kind. */
export interface PayloadByKind {
  none: null;
  u64: bigint;
  vringState: VringState;
  vringAddress: VringAddress;
  /** `expectsFd` is false when the frontend says that it sends none. */
  vringFd: { readonly index: number; readonly expectsFd: boolean };
  memoryTable: readonly RegionDescription[];
  singleRegion: RegionDescription;
}
export type PayloadKind = keyof PayloadByKind;

/** Descriptors of a request: none; exactly one; one or none; as many as its payload says. */
export type FdRule = 'none' | 'one' | 'optional' | 'as payload';

export interface RequestRule {
  readonly payload: PayloadKind;
  readonly fds: FdRule;
  /** The reply of the request's own; 'none' for a request that is only acknowledged. */
  readonly reply: 'none' | 'u64' | 'vringState';
  /** The protocol feature it belongs to. */
  readonly needs: VhostUserProtocolFeature | null;
}

const R = VhostUserRequest;
const P = VhostUserProtocolFeature;
const rule = <K extends PayloadKind, A extends RequestRule['reply']>(
  payload: K,
  reply: A,
  { fds = 'none', needs = null }: { fds?: FdRule; needs?: VhostUserProtocolFeature | null } = {},
): RequestRule & { readonly payload: K; readonly reply: A } => ({ payload, reply, fds, needs });

export const requestTable = {
  [R.GET_FEATURES]: rule('none', 'u64'),
  [R.SET_FEATURES]: rule('u64', 'none'),
  [R.SET_OWNER]: rule('none', 'none'),
  [R.RESET_OWNER]: rule('none', 'none'),
  [R.SET_MEM_TABLE]: rule('memoryTable', 'none', { fds: 'as payload' }),
  [R.SET_VRING_NUM]: rule('vringState', 'none'),
  [R.SET_VRING_ADDR]: rule('vringAddress', 'none'),
  [R.SET_VRING_BASE]: rule('vringState', 'none'),
  [R.GET_VRING_BASE]: rule('vringState', 'vringState'),
  [R.SET_VRING_KICK]: rule('vringFd', 'none', { fds: 'as payload' }),
  [R.SET_VRING_CALL]: rule('vringFd', 'none', { fds: 'as payload' }),
  [R.SET_VRING_ERR]: rule('vringFd', 'none', { fds: 'as payload' }),
  [R.GET_PROTOCOL_FEATURES]: rule('none', 'u64'),
  [R.SET_PROTOCOL_FEATURES]: rule('u64', 'none'),
  [R.GET_QUEUE_NUM]: rule('none', 'u64', { needs: P.MQ }),
  [R.SET_VRING_ENABLE]: rule('vringState', 'none'),
  [R.NET_SET_MTU]: rule('u64', 'none', { needs: P.NET_MTU }),
  [R.RESET_DEVICE]: rule('none', 'none', { needs: P.RESET_DEVICE }),
  [R.GET_MAX_MEM_SLOTS]: rule('none', 'u64', { needs: P.CONFIGURE_MEM_SLOTS }),
  [R.ADD_MEM_REG]: rule('singleRegion', 'none', { fds: 'one', needs: P.CONFIGURE_MEM_SLOTS }),
  // Some frontends send the region's descriptor along; it is closed unused.
  [R.REM_MEM_REG]: rule('singleRegion', 'none', { fds: 'optional', needs: P.CONFIGURE_MEM_SLOTS }),
  [R.SET_STATUS]: rule('u64', 'none', { needs: P.STATUS }),
  [R.GET_STATUS]: rule('none', 'u64', { needs: P.STATUS }),
} as const;

export type AnsweredRequest = keyof typeof requestTable;
export type PayloadOf<N extends AnsweredRequest> = PayloadByKind[(typeof requestTable)[N]['payload']];

/** The row of a request number; undefined when this backend does not answer it. */
export function ruleOf(request: number): RequestRule | undefined {
  return (requestTable as Partial<Record<number, RequestRule>>)[request];
}

const payloadSizes: Readonly<Record<PayloadKind, readonly [min: number, max: number]>> = {
  none: [0, 0],
  u64: [VhostUserU64.sizeBytes, VhostUserU64.sizeBytes],
  vringState: [VhostUserVringState.sizeBytes, VhostUserVringState.sizeBytes],
  vringAddress: [VhostUserVringAddress.sizeBytes, VhostUserVringAddress.sizeBytes],
  vringFd: [VhostUserU64.sizeBytes, VhostUserU64.sizeBytes],
  memoryTable: [VhostUserMemoryTable.sizeBytes, PAYLOAD_BYTES_MAX],
  singleRegion: [VhostUserSingleRegion.sizeBytes, VhostUserSingleRegion.sizeBytes],
};

/** Whether a payload of this kind may be that long. */
export function payloadSizeFits(kind: PayloadKind, sizeBytes: number): boolean {
  const [min, max] = payloadSizes[kind];
  return sizeBytes >= min && sizeBytes <= max;
}

/** Decodes a payload whose size fits its kind; undefined when it contradicts itself (a table longer than the payload). */
export function decodePayload(kind: PayloadKind, bytes: Uint8Array): PayloadByKind[PayloadKind] | undefined {
  const view = viewOf(bytes);
  switch (kind) {
    case 'none':
      return null;
    case 'u64':
      return VhostUserU64.decode(view).value;
    case 'vringState':
      return VhostUserVringState.decode(view);
    case 'vringAddress':
      return VhostUserVringAddress.decode(view);
    case 'vringFd': {
      const { value } = VhostUserU64.decode(view);
      return {
        index: Number(value & VhostUserVringFd.INDEX_MASK),
        expectsFd: (value & VhostUserVringFd.NO_FD) === 0n,
      };
    }
    case 'memoryTable': {
      const { regionCount } = VhostUserMemoryTable.decode(view);
      const size = VhostUserMemoryRegion.sizeBytes;
      if (VhostUserMemoryTable.sizeBytes + regionCount * size > bytes.length) return undefined;
      return Array.from({ length: regionCount }, (_, i) =>
        VhostUserMemoryRegion.decode(view, VhostUserMemoryTable.sizeBytes + i * size),
      );
    }
    case 'singleRegion': {
      const { padding: _, ...region } = VhostUserSingleRegion.decode(view);
      return region;
    }
  }
}

/** Whether that many descriptors may come with a request of this payload. */
export function descriptorsFit(rule: FdRule, payload: PayloadByKind[PayloadKind], count: number): boolean {
  switch (rule) {
    case 'none':
      return count === 0;
    case 'one':
      return count === 1;
    case 'optional':
      return count <= 1;
    case 'as payload': {
      const { expectsFd } = payload as PayloadByKind['vringFd'];
      return count === (Array.isArray(payload) ? payload.length : expectsFd ? 1 : 0);
    }
  }
}

/** A whole message: header and payload. */
export function encodeMessage(request: number, flags: number, payload: Uint8Array): Uint8Array {
  const message = new Uint8Array(VhostUserHeader.sizeBytes + payload.length);
  VhostUserHeader.encode(viewOf(message), 0, { request, flags, sizeBytes: payload.length });
  message.set(payload, VhostUserHeader.sizeBytes);
  return message;
}
