/**
 * control-queue.ts: executes control commands (virtio 1.3, 5.1.6.5).
 *
 * Theory
 *   A command is class, command and data, already copied out of the driver's memory. A table says which feature each
 *   needs and how many bytes of data it has; its function makes the new control state, or refuses. Every command is a
 *   setting: executing it twice is the same as once, so a successor may repeat one whose end it does not know.
 *
 * Invariants
 *   I1  a refused command changes nothing.
 *   I2  no request throws, whatever its bytes.
 *
 * Limits    CONTROL_REQUEST_BYTES_MAX; what is longer is refused.
 * Not here  the ring and used.len (the caller's).
 */
import {
  ControlAck,
  ControlAnnounce,
  ControlClass,
  ControlGuestOffloads,
  ControlMac,
  ControlMq,
  ControlNotfCoal,
  ControlRx,
  ControlVlan,
  HASH_KEY_BYTES_MAX,
  MAC_BYTES,
  NetControlHeader,
  NetFeature,
  VLAN_IDS,
  viewOf,
} from '@virtnet/wire';
import { type Coalescing, type CoalescingClass, coalescingOf, withClass, withQueue } from './coalescing.js';
import { type ControlState, isTableLength, macTable, type ReceiveModes } from './control-state.js';
import { RECEIVE_OFFLOADS } from './features.js';
import { CONTROL_REQUEST_BYTES_MAX } from './limits.js';
import { isStationMac } from './mac-address.js';
import type { NetDevice } from './net-device.js';
import { QUEUES_PER_PAIR } from './net-profile.js';

/** What a command has changed; the caller carries it out before it acknowledges. */
export type ControlChange =
  /** Which frames the driver wants: give `filterState()` to the datapath. */
  | { readonly kind: 'filter' }
  /** The device configuration: raise its generation. */
  | { readonly kind: 'config' }
  /** Which queue pairs may get frames. */
  | { readonly kind: 'queue-pairs'; readonly pairs: number }
  /** What the driver takes on received frames: give `receiveOffloads()` to the port. */
  | { readonly kind: 'offloads'; readonly offloads: bigint }
  /** How often the driver wants to be notified: give `coalescing()` of each queue to the datapath. */
  | { readonly kind: 'coalescing' }
  /** Which hashes received frames carry: give `hashSettings()` to the datapath. */
  | { readonly kind: 'hash' }
  /** Which queue a received frame goes to: give `rssSettings()` to the datapath. */
  | { readonly kind: 'steering' };

export interface ControlResult {
  readonly ack: ControlAck;
  /** Result data in front of the acknowledgement, of commands that have any. */
  readonly extra?: Uint8Array;
  readonly changed: readonly ControlChange[];
}

/** What the transport knows. */
export interface ControlContext {
  /** Whether the driver has enabled a queue. */
  isQueueEnabled(queue: number): boolean;
}

interface Call {
  readonly device: NetDevice;
  readonly data: Uint8Array;
  readonly view: DataView;
  readonly context: ControlContext;
}

/** null refuses; bytes are an answer of a command that changes nothing. */
type Run = (call: Call) => readonly ControlChange[] | Uint8Array | null;

interface Command {
  readonly needs: NetFeature;
  /** Bytes of data; null when the command looks itself. */
  readonly dataBytes: number | null;
  readonly run: Run;
}

const OFFLOADS_BYTES = 8;
const COALESCING_BYTES = 8;
/** Index and a reserved field in front. */
const QUEUE_COALESCING_AT = 4;
const U16_BYTES = 2;
const U32_BYTES = 4;
const ERROR: ControlResult = { ack: ControlAck.ERR, changed: [] };
const ALL_ENABLED: ControlContext = { isQueueEnabled: () => true };

function change(device: NetDevice, fields: Partial<ControlState>): void {
  device.control = { ...device.control, ...fields };
}

const mode =
  (name: keyof ReceiveModes): Run =>
  ({ device, data }) => {
    change(device, { modes: { ...device.control.modes, [name]: data[0] !== 0 } });
    return [{ kind: 'filter' }];
  };

/** One table: its addresses, and where the next begins; null when it is cut off. */
function table(
  data: Uint8Array,
  view: DataView,
  at: number,
): { readonly addresses: Uint8Array; readonly end: number } | null {
  if (data.length - at < U32_BYTES) return null;
  const entries = view.getUint32(at, true);
  const first = at + U32_BYTES;
  // Compared as a quotient: the product of a hostile count must not be trusted to any width.
  if (entries > Math.floor((data.length - first) / MAC_BYTES)) return null;
  const end = first + entries * MAC_BYTES;
  return { addresses: data.subarray(first, end), end };
}

const setMacTable: Run = ({ device, data, view }) => {
  const unicast = table(data, view, 0);
  const multicast = unicast === null ? null : table(data, view, unicast.end);
  if (unicast === null || multicast === null || multicast.end !== data.length) return null;
  change(device, { unicast: macTable(unicast.addresses), multicast: macTable(multicast.addresses) });
  return [{ kind: 'filter' }];
};

const setMac: Run = ({ device, data }) => {
  if (!isStationMac(data)) return null;
  change(device, { mac: [...data] });
  return [{ kind: 'filter' }, { kind: 'config' }];
};

const setVlan =
  (on: boolean): Run =>
  ({ device, view }) => {
    const id = view.getUint16(0, true);
    if (id >= VLAN_IDS) return null;
    const vlans = new Set(device.control.vlans);
    if (on) vlans.add(id);
    else vlans.delete(id);
    change(device, { vlans });
    return [{ kind: 'filter' }];
  };

const acknowledgeAnnouncement: Run = ({ device }) => (device.announced() ? [{ kind: 'config' }] : []);

const setQueuePairs: Run = ({ device, view, context }) => {
  const pairs = view.getUint16(0, true);
  if (pairs < 1 || pairs > device.queuePairs) return null;
  for (let queue = 0; queue < pairs * QUEUES_PER_PAIR; queue++)
    if (!context.isQueueEnabled(queue)) return null;
  change(device, { activePairs: pairs, rss: null });
  return [{ kind: 'queue-pairs', pairs }];
};

const HASH_KEY_LENGTH_AT = U32_BYTES + 4 * U16_BYTES;

const setHash: Run = ({ device, data, view }) => {
  if (data.length <= HASH_KEY_LENGTH_AT) return null;
  const types = view.getUint32(0, true);
  const keyBytes = data[HASH_KEY_LENGTH_AT]!;
  const key = data.subarray(HASH_KEY_LENGTH_AT + 1);
  if ((types & ~device.profile.hashTypes) !== 0) return null;
  if (keyBytes > HASH_KEY_BYTES_MAX || key.length !== keyBytes) return null;
  // Of the ways to use several queues the one of the last command holds (5.1.6.5.5): RSS has its hashes from RSS_CONFIG.
  change(device, { hash: { types, key: [...key] }, rss: null });
  return [{ kind: 'hash' }];
};

/** Types, mask, and the queue for frames without a hash. */
const RSS_TABLE_AT = U32_BYTES + 2 * U16_BYTES;

/** Judged whole before anything is set. */
const setRss: Run = ({ device, data, view, context }) => {
  if (data.length < RSS_TABLE_AT) return null;
  const types = view.getUint32(0, true);
  const entries = view.getUint16(U32_BYTES, true) + 1;
  const tailAt = RSS_TABLE_AT + entries * U16_BYTES;
  const keyAt = tailAt + U16_BYTES + 1;
  if (!isTableLength(entries) || data.length < keyAt) return null;
  const key = data.subarray(keyAt);
  const keyBytes = data[keyAt - 1]!;
  if ((types & ~device.profile.hashTypes) !== 0) return null;
  if (keyBytes > HASH_KEY_BYTES_MAX || key.length !== keyBytes || (keyBytes === 0 && types !== 0))
    return null;
  const receives = (pair: number): boolean =>
    pair < device.queuePairs && context.isQueueEnabled(pair * QUEUES_PER_PAIR);
  const unclassified = view.getUint16(U32_BYTES + U16_BYTES, true);
  const table = Array.from({ length: entries }, (_, i) => view.getUint16(RSS_TABLE_AT + i * U16_BYTES, true));
  if (!receives(unclassified) || !table.every(receives)) return null;
  const pairs = view.getUint16(tailAt, true);
  if (pairs < 1 || pairs > device.queuePairs) return null;
  for (let pair = 0; pair < pairs; pair++)
    if (!context.isQueueEnabled(pair * QUEUES_PER_PAIR + 1)) return null;
  const hash = { types, key: [...key] };
  change(device, { activePairs: pairs, hash, rss: { ...hash, table, unclassified } });
  return [{ kind: 'queue-pairs', pairs }, { kind: 'hash' }, { kind: 'steering' }];
};

const setOffloads: Run = ({ device, view }) => {
  const offloads = view.getBigUint64(0, true);
  if ((offloads & ~(device.features & RECEIVE_OFFLOADS)) !== 0n) return null;
  change(device, { offloads });
  return [{ kind: 'offloads', offloads: device.receiveOffloads() }];
};

const readCoalescing = (view: DataView, at: number): Coalescing => ({
  packets: view.getUint32(at, true),
  usecs: view.getUint32(at + U32_BYTES, true),
});

const coalesceClass =
  (which: CoalescingClass): Run =>
  ({ device, view }) => {
    change(device, { coalescing: withClass(device.control.coalescing, which, readCoalescing(view, 0)) });
    return [{ kind: 'coalescing' }];
  };

/** The enabled data queue a command names; null for any other. */
function namedQueue({ device, view, context }: Call): number | null {
  const queue = view.getUint16(0, true);
  const role = device.roleOf(queue);
  if (role !== 'receive' && role !== 'transmit') return null;
  return context.isQueueEnabled(queue) ? queue : null;
}

const coalesceQueue: Run = (call) => {
  const queue = namedQueue(call);
  if (queue === null) return null;
  const { device, view } = call;
  const coalescing = readCoalescing(view, QUEUE_COALESCING_AT);
  change(device, { coalescing: withQueue(device.control.coalescing, queue, coalescing) });
  return [{ kind: 'coalescing' }];
};

const getCoalescing: Run = (call) => {
  const queue = namedQueue(call);
  if (queue === null) return null;
  const { packets, usecs } = coalescingOf(call.device.control.coalescing, queue);
  const answer = new Uint8Array(COALESCING_BYTES);
  const view = viewOf(answer);
  view.setUint32(0, packets, true);
  view.setUint32(U32_BYTES, usecs, true);
  return answer;
};

/** The two bytes in front of a command as one key. */
const key = (controlClass: number, command: number): number => (controlClass << 8) | command;

const rx = (command: ControlRx, name: keyof ReceiveModes, needs: NetFeature): [number, Command] => [
  key(ControlClass.RX, command),
  { needs, dataBytes: 1, run: mode(name) },
];

const COMMANDS: ReadonlyMap<number, Command> = new Map<number, Command>([
  rx(ControlRx.PROMISC, 'promiscuous', NetFeature.CTRL_RX),
  rx(ControlRx.ALLMULTI, 'allMulticast', NetFeature.CTRL_RX),
  rx(ControlRx.ALLUNI, 'allUnicast', NetFeature.CTRL_RX_EXTRA),
  rx(ControlRx.NOMULTI, 'noMulticast', NetFeature.CTRL_RX_EXTRA),
  rx(ControlRx.NOUNI, 'noUnicast', NetFeature.CTRL_RX_EXTRA),
  rx(ControlRx.NOBCAST, 'noBroadcast', NetFeature.CTRL_RX_EXTRA),
  [
    key(ControlClass.MAC, ControlMac.TABLE_SET),
    { needs: NetFeature.CTRL_RX, dataBytes: null, run: setMacTable },
  ],
  [
    key(ControlClass.MAC, ControlMac.ADDR_SET),
    { needs: NetFeature.CTRL_MAC_ADDR, dataBytes: MAC_BYTES, run: setMac },
  ],
  [
    key(ControlClass.VLAN, ControlVlan.ADD),
    { needs: NetFeature.CTRL_VLAN, dataBytes: U16_BYTES, run: setVlan(true) },
  ],
  [
    key(ControlClass.VLAN, ControlVlan.DEL),
    { needs: NetFeature.CTRL_VLAN, dataBytes: U16_BYTES, run: setVlan(false) },
  ],
  [
    key(ControlClass.ANNOUNCE, ControlAnnounce.ACK),
    { needs: NetFeature.GUEST_ANNOUNCE, dataBytes: 0, run: acknowledgeAnnouncement },
  ],
  [
    key(ControlClass.MQ, ControlMq.VQ_PAIRS_SET),
    { needs: NetFeature.MQ, dataBytes: U16_BYTES, run: setQueuePairs },
  ],
  [
    key(ControlClass.MQ, ControlMq.HASH_CONFIG),
    { needs: NetFeature.HASH_REPORT, dataBytes: null, run: setHash },
  ],
  [key(ControlClass.MQ, ControlMq.RSS_CONFIG), { needs: NetFeature.RSS, dataBytes: null, run: setRss }],
  [
    key(ControlClass.GUEST_OFFLOADS, ControlGuestOffloads.SET),
    { needs: NetFeature.CTRL_GUEST_OFFLOADS, dataBytes: OFFLOADS_BYTES, run: setOffloads },
  ],
  [
    key(ControlClass.NOTF_COAL, ControlNotfCoal.TX_SET),
    { needs: NetFeature.NOTF_COAL, dataBytes: COALESCING_BYTES, run: coalesceClass('transmit') },
  ],
  [
    key(ControlClass.NOTF_COAL, ControlNotfCoal.RX_SET),
    { needs: NetFeature.NOTF_COAL, dataBytes: COALESCING_BYTES, run: coalesceClass('receive') },
  ],
  [
    key(ControlClass.NOTF_COAL, ControlNotfCoal.VQ_SET),
    {
      needs: NetFeature.VQ_NOTF_COAL,
      dataBytes: QUEUE_COALESCING_AT + COALESCING_BYTES,
      run: coalesceQueue,
    },
  ],
  [
    key(ControlClass.NOTF_COAL, ControlNotfCoal.VQ_GET),
    { needs: NetFeature.VQ_NOTF_COAL, dataBytes: QUEUE_COALESCING_AT, run: getCoalescing },
  ],
]);

/**
 * Executes one command. `request` is the device-readable part of the command, header included, in private memory.
 * Without a context every queue counts as enabled.
 */
export function executeControl(
  device: NetDevice,
  request: Uint8Array,
  context: ControlContext = ALL_ENABLED,
): ControlResult {
  if (request.length < NetControlHeader.sizeBytes || request.length > CONTROL_REQUEST_BYTES_MAX) return ERROR;
  const header = NetControlHeader.decode(viewOf(request));
  const command = COMMANDS.get(key(header.class, header.command));
  if (command === undefined || !device.has(command.needs)) return ERROR;
  const data = request.subarray(NetControlHeader.sizeBytes);
  if (command.dataBytes !== null && data.length !== command.dataBytes) return ERROR;
  const result = command.run({ device, data, view: viewOf(data), context });
  if (result === null) return ERROR;
  if (result instanceof Uint8Array) return { ack: ControlAck.OK, extra: result, changed: [] };
  return { ack: ControlAck.OK, changed: result };
}
