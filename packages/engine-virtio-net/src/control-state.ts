/**
 * control-state.ts: what the driver has set through the control queue, as a value.
 *
 * Theory
 *   A change makes a new value, so that a command either takes effect as a whole or not at all. The datapath gets a
 *   plain copy (ReceiveFilterState), which crosses to another thread as it is.
 *
 * Invariants
 *   I1  activePairs is 1 without MQ and RSS; vlans is null exactly without CTRL_VLAN.
 *   I2  offloads is a subset of the receive offloads agreed on.
 *   I3  rss is null without RSS, and names queue pairs that exist.
 *
 * Saved   everything here.
 * Limits  MAC_TABLE_ENTRIES_MAX addresses a table, VLAN_IDS ids.
 */
import {
  HASH_KEY_BYTES_MAX,
  HASH_TYPES,
  hasFeature,
  hex64,
  MAC_BYTES,
  NetFeature,
  type PlainReader,
  RSS_TABLE_ENTRIES_MAX,
  VLAN_IDS,
} from '@virtnet/wire';
import {
  type CoalescingState,
  INITIAL_COALESCING,
  parseCoalescing,
  type SavedCoalescing,
  saveCoalescing,
} from './coalescing.js';
import { RECEIVE_OFFLOADS } from './features.js';
import { type HashSettings, NO_HASHES } from './flow-hash.js';
import { MAC_TABLE_ENTRIES_MAX } from './limits.js';
import { formatMac, isStationMac, parseMac } from './mac-address.js';
import type { RssSettings } from './receive-steering.js';

/** Receive modes (5.1.6.5.1). */
export interface ReceiveModes {
  readonly promiscuous: boolean;
  readonly allMulticast: boolean;
  readonly allUnicast: boolean;
  readonly noMulticast: boolean;
  readonly noUnicast: boolean;
  readonly noBroadcast: boolean;
}

/** One table of MAC_TABLE_SET. */
export interface MacTable {
  /** The driver gave more than is kept: frames of this kind are all taken. */
  readonly overflow: boolean;
  /** MAC_BYTES an address. */
  readonly addresses: readonly number[];
}

export interface ControlState {
  readonly mac: readonly number[];
  readonly modes: ReceiveModes;
  readonly unicast: MacTable;
  readonly multicast: MacTable;
  /** Ids added; null without CTRL_VLAN. */
  readonly vlans: ReadonlySet<number> | null;
  readonly activePairs: number;
  /** Feature bits of the receive offloads switched on. */
  readonly offloads: bigint;
  readonly coalescing: CoalescingState;
  /** Which hashes frames tell. */
  readonly hash: HashSettings;
  /** Which receive queue a frame goes to; null: steering is automatic. */
  readonly rss: RssSettings | null;
}

const EMPTY_TABLE: MacTable = { overflow: false, addresses: [] };

/** Nothing is filtered until the driver says otherwise. */
const INITIAL_MODES: ReceiveModes = {
  promiscuous: true,
  allMulticast: false,
  allUnicast: false,
  noMulticast: false,
  noUnicast: false,
  noBroadcast: false,
};

/** The state right after `features` were agreed on. */
export function initialControlState(mac: Uint8Array, features: bigint): ControlState {
  return {
    mac: [...mac],
    modes: INITIAL_MODES,
    unicast: EMPTY_TABLE,
    multicast: EMPTY_TABLE,
    vlans: hasFeature(features, NetFeature.CTRL_VLAN) ? new Set() : null,
    activePairs: 1,
    offloads: features & RECEIVE_OFFLOADS,
    coalescing: INITIAL_COALESCING,
    hash: NO_HASHES,
    rss: null,
  };
}

/** A table as it is kept. `addresses` holds whole addresses. */
export function macTable(addresses: Uint8Array): MacTable {
  const overflow = addresses.length > MAC_TABLE_ENTRIES_MAX * MAC_BYTES;
  return overflow ? { overflow, addresses: [] } : { overflow, addresses: [...addresses] };
}

interface SavedTable {
  readonly overflow: boolean;
  readonly addresses: readonly string[];
}

/** Control state as JSON can carry it. */
export interface SavedControlState {
  readonly mac: string;
  readonly modes: ReceiveModes;
  readonly unicast: SavedTable;
  readonly multicast: SavedTable;
  readonly vlans: readonly number[] | null;
  readonly activePairs: number;
  readonly offloads: string;
  readonly coalescing: SavedCoalescing;
  readonly hash: HashSettings;
  readonly rss: RssSettings | null;
}

function saveTable({ overflow, addresses }: MacTable): SavedTable {
  const texts: string[] = [];
  for (let at = 0; at < addresses.length; at += MAC_BYTES)
    texts.push(formatMac(addresses.slice(at, at + MAC_BYTES)));
  return { overflow, addresses: texts };
}

export function saveControlState(state: ControlState): SavedControlState {
  return {
    mac: formatMac(state.mac),
    modes: state.modes,
    unicast: saveTable(state.unicast),
    multicast: saveTable(state.multicast),
    vlans: state.vlans === null ? null : [...state.vlans].sort((a, b) => a - b),
    activePairs: state.activePairs,
    offloads: hex64(state.offloads),
    coalescing: saveCoalescing(state.coalescing),
    hash: state.hash,
    rss: state.rss,
  };
}

function readMac(value: unknown, path: string, reader: PlainReader): Uint8Array {
  const bytes = typeof value === 'string' ? parseMac(value) : null;
  if (bytes === null) reader.problem(path, 'not a MAC address');
  return bytes ?? new Uint8Array(MAC_BYTES);
}

function readTable(value: unknown, path: string, reader: PlainReader): MacTable {
  const fields = reader.object(value, path);
  const addresses = reader
    .list(fields.addresses, `${path}.addresses`, MAC_TABLE_ENTRIES_MAX)
    .flatMap((mac, i) => [...readMac(mac, `${path}.addresses[${i}]`, reader)]);
  return { overflow: reader.boolean(fields.overflow, `${path}.overflow`), addresses };
}

function readModes(value: unknown, reader: PlainReader): ReceiveModes {
  const fields = reader.object(value, 'modes');
  const mode = (name: keyof ReceiveModes): boolean => reader.boolean(fields[name], `modes.${name}`);
  return {
    promiscuous: mode('promiscuous'),
    allMulticast: mode('allMulticast'),
    allUnicast: mode('allUnicast'),
    noMulticast: mode('noMulticast'),
    noUnicast: mode('noUnicast'),
    noBroadcast: mode('noBroadcast'),
  };
}

function readVlans(value: unknown, filtered: boolean, reader: PlainReader): ReadonlySet<number> | null {
  if (!filtered) {
    if (value !== null) reader.problem('vlans', 'not null without a VLAN filter');
    return null;
  }
  const ids = reader.list(value, 'vlans', VLAN_IDS);
  return new Set(ids.map((id, i) => reader.integer(id, `vlans[${i}]`, 0, VLAN_IDS - 1)));
}

/** A record of before there were hashes has none. */
function readHash(value: unknown, reader: PlainReader): HashSettings {
  return value === undefined ? NO_HASHES : hashOf(value, 'hash', reader);
}

function hashOf(value: unknown, path: string, reader: PlainReader): HashSettings {
  const fields = reader.object(value, path);
  const key = reader.list(fields.key, `${path}.key`, HASH_KEY_BYTES_MAX);
  return {
    types: reader.integer(fields.types, `${path}.types`, 0, HASH_TYPES),
    key: key.map((byte, i) => reader.integer(byte, `${path}.key[${i}]`, 0, 0xff)),
  };
}

/** A record of before there was RSS has none. */
function readRss(
  value: unknown,
  agreed: boolean,
  queuePairs: number,
  reader: PlainReader,
): RssSettings | null {
  if (value === undefined || value === null) return null;
  if (!agreed) reader.problem('rss', 'not agreed on');
  const fields = reader.object(value, 'rss');
  const pairs = reader.list(fields.table, 'rss.table', RSS_TABLE_ENTRIES_MAX);
  const table = pairs.map((pair, i) => reader.integer(pair, `rss.table[${i}]`, 0, queuePairs - 1));
  if (!isTableLength(table.length)) reader.problem('rss.table', 'its length is no power of two');
  const unclassified = reader.integer(fields.unclassified, 'rss.unclassified', 0, queuePairs - 1);
  return { ...hashOf(value, 'rss', reader), table, unclassified };
}

/** How many entries an indirection table may have. */
export function isTableLength(entries: number): boolean {
  return entries > 0 && entries <= RSS_TABLE_ENTRIES_MAX && (entries & (entries - 1)) === 0;
}

/** Reads what was saved under `features`; problems are noted in `reader`. */
export function parseControlState(
  value: unknown,
  features: bigint,
  maxQueuePairs: number,
  reader: PlainReader,
): ControlState {
  const fields = reader.object(value, 'control');
  const mac = readMac(fields.mac, 'mac', reader);
  if (!isStationMac(mac)) reader.problem('mac', 'not the address of an interface');
  const offloads = reader.hex64(fields.offloads, 'offloads');
  if ((offloads & ~(features & RECEIVE_OFFLOADS)) !== 0n) reader.problem('offloads', 'not agreed on');
  const rssAgreed = hasFeature(features, NetFeature.RSS);
  const pairsMax = rssAgreed || hasFeature(features, NetFeature.MQ) ? maxQueuePairs : 1;
  return {
    mac: [...mac],
    modes: readModes(fields.modes, reader),
    unicast: readTable(fields.unicast, 'unicast', reader),
    multicast: readTable(fields.multicast, 'multicast', reader),
    vlans: readVlans(fields.vlans, hasFeature(features, NetFeature.CTRL_VLAN), reader),
    activePairs: reader.integer(fields.activePairs, 'activePairs', 1, pairsMax),
    offloads,
    coalescing: parseCoalescing(fields.coalescing, 2 * pairsMax, reader),
    hash: readHash(fields.hash, reader),
    rss: readRss(fields.rss, rssAgreed, pairsMax, reader),
  };
}
