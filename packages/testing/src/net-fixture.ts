/** net-fixture.ts: a transmit or receive queue over a split ring and a port in memory, for tests. */

import {
  type FramePort,
  ReceiveFilter,
  type ReceiveFilterState,
  ReceiveQueue,
  TransmitQueue,
} from '@virtnet/engine-virtio-net';
import { SplitRing } from '@virtnet/engine-virtqueue';
import {
  EtherType,
  featureMask,
  IpProtocol,
  NetFeature,
  NetHeader,
  type QueueBlock,
  QueueCounter,
  queueBlock,
  statePageSize,
  VirtioFeature,
} from '@virtnet/wire';
import { MemoryPort } from './memory-port.js';
import { type SplitFixture, type SplitFixtureOptions, splitFixture } from './split-ring-fixture.js';

export interface NetFixtureOptions extends SplitFixtureOptions {
  /** Bits of NetFeature and VirtioFeature besides VERSION_1. */
  readonly features?: readonly number[];
  readonly legacy?: boolean;
  readonly mtu?: number;
  readonly linkUp?: boolean;
  readonly active?: boolean;
  readonly filter?: Partial<ReceiveFilterState>;
  readonly port?: FramePort;
}

interface NetFixture extends SplitFixture {
  readonly port: MemoryPort;
  readonly block: QueueBlock;
  /** A counter's value. */
  count(counter: QueueCounter): number;
  /** Sum of every reason to drop. */
  drops(): number;
}

export interface TransmitFixture extends NetFixture {
  readonly queue: TransmitQueue;
  /** Queues a frame under a header, framed as `parts` bytes each, the rest last. */
  transmit(frame: Uint8Array, header?: Uint8Array): number;
}

export interface ReceiveFixture extends NetFixture {
  readonly queue: ReceiveQueue;
  /** Posts buffers of these sizes, one chain each. */
  post(...sizes: readonly number[]): void;
}

const DROPS = Object.entries(QueueCounter)
  .filter(([name]) => name.startsWith('DROP_'))
  .map(([, counter]) => counter);

function base(options: NetFixtureOptions) {
  const fixture = splitFixture({ queueSize: 64, ...options });
  const page = new ArrayBuffer(statePageSize(2));
  const block = queueBlock(page, 1);
  block.words[0] = fixture.ring.position;
  block.words[1] = fixture.ring.position;
  const port = new MemoryPort();
  const bits = options.legacy === true ? [] : [VirtioFeature.VERSION_1];
  const queueOptions = {
    ring: fixture.ring,
    port: options.port ?? port,
    block,
    features: featureMask([...bits, ...(options.features ?? [])]),
    mtu: options.mtu ?? 1500,
    linkUp: options.linkUp ?? true,
  };
  const count = (counter: QueueCounter) => block.counters[counter]!;
  const drops = () => DROPS.reduce<number>((sum, counter) => sum + count(counter), 0);
  return { ...fixture, port, block, count, drops, queueOptions };
}

export function transmitFixture(options: NetFixtureOptions = {}): TransmitFixture {
  const { queueOptions, ...fixture } = base(options);
  const queue = new TransmitQueue(queueOptions);
  const transmit = (frame: Uint8Array, header = netHeader({})) => {
    const id = fixture.driver.add({ readable: [header, frame] });
    fixture.driver.publish();
    return id;
  };
  return { ...fixture, queue, transmit };
}

export function receiveFixture(options: NetFixtureOptions = {}): ReceiveFixture {
  const { queueOptions, ...fixture } = base(options);
  const filter = options.filter === undefined ? null : new ReceiveFilter(filterState(options.filter));
  const queue = new ReceiveQueue({ ...queueOptions, active: options.active ?? true, filter });
  const post = (...sizes: readonly number[]) => {
    for (const size of sizes) fixture.driver.add({ writable: [size] });
    fixture.driver.publish();
  };
  return { ...fixture, queue, post };
}

export const OWN_MAC = [0x0c, 0xc4, 0x7a, 0xff, 0x22, 0x93] as const;

export function filterState(fields: Partial<ReceiveFilterState>): ReceiveFilterState {
  return {
    promiscuous: false,
    allMulticast: false,
    allUnicast: false,
    noMulticast: false,
    noUnicast: false,
    noBroadcast: false,
    mac: OWN_MAC,
    unicast: [],
    multicast: [],
    vlans: null,
    ...fields,
  };
}

export interface HeaderFields {
  readonly flags: number;
  readonly gsoType: number;
  readonly hdrLen: number;
  readonly gsoSize: number;
  readonly csumStart: number;
  readonly csumOffset: number;
  readonly numBuffers: number;
}

const NO_FIELDS: HeaderFields = {
  flags: 0,
  gsoType: 0,
  hdrLen: 0,
  gsoSize: 0,
  csumStart: 0,
  csumOffset: 0,
  numBuffers: 0,
};

/** struct virtio_net_hdr_v1 with these fields and zero elsewhere. */
export const netHeader = (fields: Partial<HeaderFields>): Uint8Array =>
  NetHeader.bytes({ ...NO_FIELDS, ...fields });

export const decodeHeader = (bytes: Uint8Array): HeaderFields =>
  NetHeader.decode(new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength));

export interface FrameShape {
  readonly destination?: readonly number[];
  /** VLAN ids, outermost first. */
  readonly vlans?: readonly number[];
  readonly version?: 4 | 6;
  readonly protocol?: 'tcp' | 'udp';
  /** Bytes behind the transport header. */
  readonly payloadBytes?: number;
  /** TCP header in units of 4 bytes. */
  readonly dataOffset?: number;
  /** Makes frames of one shape differ. */
  readonly seed?: number;
}

/** A frame, with where its parts are. Checksum fields hold the pseudo-header's sum, as a driver leaves them. */
export interface ShapedFrame {
  readonly bytes: Uint8Array;
  readonly network: number;
  readonly transport: number;
  readonly payload: number;
  /** Offset of the checksum from `transport`. */
  readonly checksumOffset: number;
}

/** Builds an Ethernet frame with TCP or UDP over IPv4 or IPv6. */
export function shapeFrame(shape: FrameShape = {}): ShapedFrame {
  const { destination = OWN_MAC, vlans = [], version = 4, protocol = 'tcp', payloadBytes = 100 } = shape;
  const { dataOffset = 5, seed = 1 } = shape;
  const tcp = protocol === 'tcp';
  const network = 14 + vlans.length * 4;
  const transport = network + (version === 4 ? 20 : 40);
  const payload = transport + (tcp ? dataOffset * 4 : 8);
  const bytes = new Uint8Array(payload + payloadBytes);
  const view = new DataView(bytes.buffer);
  bytes.set(destination);
  bytes.set([2, 0, 0, 0, 0, seed & 0xff], 6);
  vlans.forEach((id, i) => {
    const outer = vlans.length > 1 && i === 0;
    view.setUint16(12 + i * 4, outer ? EtherType.SERVICE_VLAN : EtherType.VLAN);
    view.setUint16(14 + i * 4, id);
  });
  view.setUint16(network - 2, version === 4 ? EtherType.IPV4 : EtherType.IPV6);
  const transportBytes = bytes.length - transport;
  const number = tcp ? IpProtocol.TCP : IpProtocol.UDP;
  if (version === 4) {
    bytes[network] = 0x45;
    view.setUint16(network + 2, (bytes.length - network) & 0xffff);
    bytes[network + 9] = number;
    bytes.set([10, 0, 0, 1, 10, 0, 0, 2], network + 12);
  } else {
    bytes[network] = 0x60;
    view.setUint16(network + 4, transportBytes & 0xffff);
    bytes[network + 6] = number;
    bytes.set([0xfd, 1], network + 8);
    bytes.set([0xfd, 2], network + 24);
  }
  if (tcp) bytes[transport + 12] = dataOffset << 4;
  else view.setUint16(transport + 4, transportBytes & 0xffff);
  for (let i = payload; i < bytes.length; i++) bytes[i] = (i * 31 + seed * 7) & 0xff;
  const checksumOffset = tcp ? 16 : 6;
  const addresses = bytes.subarray(network + (version === 4 ? 12 : 8), transport);
  view.setUint16(transport + checksumOffset, fold(wordSum(addresses) + number + transportBytes));
  return { bytes, network, transport, payload, checksumOffset };
}

/** Sum of big-endian 16-bit words, an odd last byte padded with zero; exact, not folded. */
export function wordSum(bytes: Uint8Array): number {
  let sum = 0;
  for (let i = 0; i < bytes.length; i += 2) sum += bytes[i]! * 256 + (bytes[i + 1] ?? 0);
  return sum;
}

/** One's complement sum of 16 bits. */
export function fold(sum: number): number {
  let folded = sum;
  while (folded > 0xffff) folded = (folded % 0x1_0000) + Math.floor(folded / 0x1_0000);
  return folded;
}

/** The header a driver or a port sends with a shaped frame whose checksum is open. */
export function checksumHeader(frame: ShapedFrame, fields: Partial<HeaderFields> = {}): Uint8Array {
  return netHeader({ flags: 1, csumStart: frame.transport, csumOffset: frame.checksumOffset, ...fields });
}

export const OFFLOADS_TRANSMIT = [
  NetFeature.CSUM,
  NetFeature.HOST_TSO4,
  NetFeature.HOST_TSO6,
  NetFeature.HOST_ECN,
  NetFeature.HOST_UFO,
  NetFeature.HOST_USO,
] as const;

export const OFFLOADS_RECEIVE = [
  NetFeature.GUEST_CSUM,
  NetFeature.GUEST_TSO4,
  NetFeature.GUEST_TSO6,
  NetFeature.GUEST_ECN,
  NetFeature.GUEST_UFO,
  NetFeature.GUEST_USO4,
  NetFeature.GUEST_USO6,
] as const;

/** The block's own view is what a successor sees; opening a ring there is what it does. */
export function reopen(fixture: SplitFixture, block: QueueBlock): SplitRing {
  const ring = fixture.open(block.words[0]!);
  if (!(ring instanceof SplitRing)) throw new Error('the ring does not open');
  return ring;
}
