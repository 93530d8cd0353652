/**
 * net-header.ts: judges the header in front of every frame (virtio 1.3, 5.1.6.2 and 5.1.6.4).
 *
 * Theory
 *   On transmit the header is the driver's word: it is copied once into private memory, judged against the frame and
 *   the features, and rewritten so that the port only sees fields that mean something. On receive it is the port's
 *   word, and restricted to what the driver said it can take; a checksum the driver can not complete is completed.
 *   hdr_len is never believed: with GSO it is worked out anew, else it is 0 (failure F11).
 *
 * Parties
 *   driver   may change the frame while we look at it. So only the private header is binding; what is read of the
 *            frame (EtherType, protocol, data offset) decides whether to drop it, never how far memory is accessed.
 *
 * Invariants
 *   I1  after a verdict of 0, csumStart + csumOffset + 2 and hdrLen lie within the frame as it was measured.
 *   I2  nothing is allocated per frame, except for a checksum we complete ourselves.
 *
 * Limits  FRAME_BYTES_MAX; up to TAGS_MAX VLAN tags are looked through.
 */
import type { DeviceRing } from '@virtnet/engine-virtqueue';
import {
  CHECKSUM_BYTES,
  Ethernet,
  EtherType,
  GSO_ECN,
  GsoType,
  hasFeature,
  IpProtocol,
  Ipv4,
  Ipv6,
  NET_HEADER_HASH_AT,
  NET_HEADER_HASH_BYTES,
  NET_HEADER_LEGACY_BYTES,
  NetFeature,
  NetHeader,
  NetHeaderFlag,
  QueueCounter,
  Tcp,
  Udp,
  VirtioFeature,
} from '@virtnet/wire';
import { FlowHash, HASHED_BYTES_MAX, type HashSettings } from './flow-hash.js';
import { UNTAGGED } from './receive-filter.js';

/** Why a frame is dropped, or 0. Counter 0 is no drop. */
export type HeaderVerdict = 0 | typeof QueueCounter.DROP_HEADER | typeof QueueCounter.DROP_MTU;

/** VLAN tags a frame may have in front of its protocol. */
const TAGS_MAX = 2;

/** Largest frame: 65,535 bytes of IPv6 payload, its header, Ethernet header and two tags. */
export const FRAME_BYTES_MAX =
  65_535 + Ipv6.HEADER_BYTES + Ethernet.HEADER_BYTES + TAGS_MAX * Ethernet.TAG_BYTES;

const ACCEPT = 0;
const { DROP_HEADER, DROP_MTU } = QueueCounter;
const { NEEDS_CSUM, DATA_VALID } = NetHeaderFlag;
const { flags: FLAGS, gsoType: GSO_TYPE, hdrLen: HDR_LEN, gsoSize: GSO_SIZE } = NetHeader.at;
const { csumStart: CSUM_START, csumOffset: CSUM_OFFSET, numBuffers: NUM_BUFFERS } = NetHeader.at;
const HEADER_WORDS = NetHeader.sizeBytes / 4;
/** What a header asks for with, in its first word; a frame without any of it is plain. */
export const PLAIN_MASK = NEEDS_CSUM | 0xff00;
const ETHERNET_BYTES = Ethernet.HEADER_BYTES;

/** IP versions a kind of GSO may come with. */
const Family = { NONE: 0, V4: 1, V6: 2, BOTH: 3 } as const;
const FAMILY_BITS = 2;
/** GsoTypes a word has room for. */
const FAMILY_KINDS = 16;

/** Bytes of a frame up to its EtherType, all tags included. */
const HEAD_BYTES = ETHERNET_BYTES + TAGS_MAX * Ethernet.TAG_BYTES;
/** Bytes summed at a time; even, so that words stay aligned. */
const CHECKSUM_CHUNK_BYTES = 2048;

/** Where the header of one frame is: struct virtio_net_hdr_v1, and what HASH_REPORT adds to it. */
class HeaderMemory {
  readonly whole: Uint8Array;
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly words: Int32Array;

  constructor() {
    // A buffer made first stays outside the collected heap.
    const memory = new ArrayBuffer(NET_HEADER_HASH_BYTES);
    this.whole = new Uint8Array(memory);
    this.bytes = new Uint8Array(memory, 0, NetHeader.sizeBytes);
    this.view = new DataView(memory);
    this.words = new Int32Array(memory);
  }
}

// Of the thread and not of a queue: they hold nothing between two calls, and an idle queue shall cost little.
const head = new Uint8Array(HEAD_BYTES);
const chunk = new Uint8Array(CHECKSUM_CHUNK_BYTES);

// Likewise: a frame has its header from when it is read until it is sent, or in its chain. One from a driver to others has
// one of each. A header with a hash is the queue's own: behind that nothing may be left of another queue's.
const transmitted = new HeaderMemory();
const received = new HeaderMemory();

/** Size in bytes of the header in the driver's buffers (5.1.6.1): it follows from the features alone (failure F3). */
export function headerBytes(features: bigint): number {
  if (hasFeature(features, NetFeature.HASH_REPORT)) return NET_HEADER_HASH_BYTES;
  const modern = hasFeature(features, VirtioFeature.VERSION_1) || hasFeature(features, NetFeature.MRG_RXBUF);
  return modern ? NetHeader.sizeBytes : NET_HEADER_LEGACY_BYTES;
}

const isTag = (type: number): boolean => type === EtherType.VLAN || type === EtherType.SERVICE_VLAN;
const word = (bytes: Uint8Array, at: number): number => (bytes[at]! << 8) | bytes[at + 1]!;

/** Bytes of VLAN tags at the start of a frame. */
function tagBytes(): number {
  let bytes = 0;
  while (bytes < TAGS_MAX * Ethernet.TAG_BYTES && isTag(word(head, Ethernet.TYPE_AT + bytes))) {
    bytes += Ethernet.TAG_BYTES;
  }
  return bytes;
}

/** What both directions share: the private header and the judgement of what it asks for. */
abstract class FrameHeader {
  /** Size in bytes in the driver's buffers, which is where the frame begins there. */
  readonly frameOffset: number;
  /** struct virtio_net_hdr_v1, private, of the frame that is dealt with: other queues of the thread use the same. */
  readonly bytes: Uint8Array;
  protected readonly whole: Uint8Array;
  protected readonly view: DataView;
  /** The same memory as words, the short way in and out of a ring. Both machines we run on are little-endian. */
  protected readonly words: Int32Array;
  /** The IP versions a GsoType may come with, FAMILY_BITS for each from the lowest. */
  #families = 0;
  readonly #ecn: boolean;
  /** Longest frame without GSO and tags. */
  readonly plainBytesMax: number;

  /** `mtu` 0: frames of any size. */
  constructor(features: bigint, mtu: number, ecn: number, shared: HeaderMemory) {
    this.frameOffset = headerBytes(features);
    const { whole, bytes, view, words } =
      this.frameOffset === NET_HEADER_HASH_BYTES ? new HeaderMemory() : shared;
    this.whole = whole;
    this.bytes = bytes;
    this.view = view;
    this.words = words;
    this.#ecn = hasFeature(features, ecn);
    this.plainBytesMax = mtu === 0 ? FRAME_BYTES_MAX : mtu + ETHERNET_BYTES;
  }

  /** Some kind of GSO is allowed. */
  protected get segments(): boolean {
    return this.#families !== 0;
  }

  protected allow(features: bigint, feature: number, gso: GsoType, families: number): void {
    if (hasFeature(features, feature)) this.#families |= families << (gso * FAMILY_BITS);
  }

  /** Copies bytes of the current chain's frame into private memory. */
  protected abstract peek(ring: DeviceRing, at: number, target: Uint8Array, length: number): number;

  /** Whether a frame without GSO is within the MTU, tags not counted (failure F16). */
  protected fits(ring: DeviceRing, frameBytes: number): HeaderVerdict {
    const excess = frameBytes - this.plainBytesMax;
    if (excess <= 0) return ACCEPT;
    if (excess > TAGS_MAX * Ethernet.TAG_BYTES) return DROP_MTU;
    this.peek(ring, 0, head, HEAD_BYTES);
    return excess <= tagBytes() ? ACCEPT : DROP_MTU;
  }

  /** Whether the checksum the header asks for lies behind the Ethernet header and inside the frame (failure F8). */
  protected checksumInside(frameBytes: number): boolean {
    const start = this.view.getUint16(CSUM_START, true);
    const field = start + this.view.getUint16(CSUM_OFFSET, true);
    return start >= ETHERNET_BYTES && field + CHECKSUM_BYTES <= frameBytes;
  }

  /** Judges a frame with GSO, whose checksum request is sound already, and works hdr_len out (failures F9, F10). */
  protected judgeGso(ring: DeviceRing, frameBytes: number): HeaderVerdict {
    const { view } = this;
    const kind = this.bytes[GSO_TYPE]! & ~GSO_ECN;
    const families =
      kind < FAMILY_KINDS ? (this.#families >>> (kind * FAMILY_BITS)) & Family.BOTH : Family.NONE;
    const tcp = kind === GsoType.TCPV4 || kind === GsoType.TCPV6;
    if (families === Family.NONE) return DROP_HEADER;
    if ((this.bytes[GSO_TYPE]! & GSO_ECN) !== 0 && !(tcp && this.#ecn)) return DROP_HEADER;
    if ((this.bytes[FLAGS]! & NEEDS_CSUM) === 0 || view.getUint16(GSO_SIZE, true) === 0) return DROP_HEADER;
    if (view.getUint16(CSUM_OFFSET, true) !== (tcp ? Tcp.CHECKSUM_AT : Udp.CHECKSUM_AT)) return DROP_HEADER;

    if (this.peek(ring, 0, head, HEAD_BYTES) < HEAD_BYTES) return DROP_HEADER;
    const network = ETHERNET_BYTES + tagBytes();
    const type = word(head, network - 2);
    const family = type === EtherType.IPV4 ? Family.V4 : type === EtherType.IPV6 ? Family.V6 : Family.NONE;
    if ((families & family) === 0) return DROP_HEADER;
    const transport = view.getUint16(CSUM_START, true);
    const networkBytes = family === Family.V4 ? Ipv4.HEADER_BYTES_MIN : Ipv6.HEADER_BYTES;
    if (transport < network + networkBytes) return DROP_HEADER;
    if (family === Family.V4) {
      this.peek(ring, network + Ipv4.PROTOCOL_AT, head, 1);
      if (head[0] !== (tcp ? IpProtocol.TCP : IpProtocol.UDP)) return DROP_HEADER;
    }
    let transportBytes: number = Udp.HEADER_BYTES;
    if (tcp) {
      if (this.peek(ring, transport + Tcp.DATA_OFFSET_AT, head, 1) === 0) return DROP_HEADER;
      transportBytes = (head[0]! >>> 4) << 2;
      if (transportBytes < Tcp.HEADER_BYTES_MIN) return DROP_HEADER;
    }
    const all = transport + transportBytes;
    if (all > frameBytes || all > 0xffff) return DROP_HEADER;
    view.setUint16(HDR_LEN, all, true);
    return ACCEPT;
  }

  /** Makes the header say what is true of a frame that asks for nothing. */
  protected clear(): void {
    for (let i = 0; i < HEADER_WORDS; i++) this.words[i] = 0;
  }

  protected clearChecksum(): void {
    this.view.setUint16(CSUM_START, 0);
    this.view.setUint16(CSUM_OFFSET, 0);
  }

  protected clearGso(): void {
    this.view.setUint16(HDR_LEN, 0);
    this.view.setUint16(GSO_SIZE, 0);
  }
}

/** The header of frames from the driver. */
export class TransmitHeader extends FrameHeader {
  readonly #copied: number;
  readonly #checksum: boolean;

  constructor(features: bigint, mtu: number) {
    super(features, mtu, NetFeature.HOST_ECN, transmitted);
    this.#copied = Math.min(this.frameOffset, NetHeader.sizeBytes);
    this.#checksum = hasFeature(features, NetFeature.CSUM);
    this.allow(features, NetFeature.HOST_TSO4, GsoType.TCPV4, Family.V4);
    this.allow(features, NetFeature.HOST_TSO6, GsoType.TCPV6, Family.V6);
    this.allow(features, NetFeature.HOST_UFO, GsoType.UDP, Family.BOTH);
    this.allow(features, NetFeature.HOST_USO, GsoType.UDP_L4, Family.BOTH);
  }

  /** Reads the header of the current chain, once, and judges it; 0 when the frame may be sent under `bytes`. */
  read(ring: DeviceRing): HeaderVerdict {
    const { bytes, view } = this;
    const frameBytes = ring.readableBytes - this.frameOffset;
    if (frameBytes < ETHERNET_BYTES || frameBytes > FRAME_BYTES_MAX) return DROP_HEADER;
    // Behind a legacy header the last two bytes are the frame's; num_buffers, where they land, is overwritten below.
    if (!ring.readWords(this.words, HEADER_WORDS)) ring.gather(0, bytes, 0, this.#copied);
    const flags = bytes[FLAGS]! & NEEDS_CSUM; // any other bit is to be ignored (5.1.6.2.2)
    const gso = bytes[GSO_TYPE]!;
    if (flags === 0 && gso === GsoType.NONE) {
      this.clear();
      return this.fits(ring, frameBytes);
    }
    bytes[FLAGS] = flags;
    view.setUint16(NUM_BUFFERS, 0);
    // GSO without a checksum request ends here or in judgeGso.
    if (!this.#checksum || !this.checksumInside(frameBytes)) return DROP_HEADER;
    if (gso !== GsoType.NONE) return this.judgeGso(ring, frameBytes);
    this.clearGso();
    return this.fits(ring, frameBytes);
  }

  protected override peek(ring: DeviceRing, at: number, target: Uint8Array, length: number): number {
    return ring.gather(this.frameOffset + at, target, 0, length);
  }
}

/** The header of frames to the driver. */
export class ReceiveHeader extends FrameHeader {
  readonly #checksum: boolean;
  readonly #hash: FlowHash | null;

  /** `mtu` matters when the driver was told it (MTU negotiated), `hash` when it takes hashes (HASH_REPORT). */
  constructor(features: bigint, mtu: number, hash: HashSettings | null = null) {
    super(features, hasFeature(features, NetFeature.MTU) ? mtu : 0, NetFeature.GUEST_ECN, received);
    this.#checksum = hasFeature(features, NetFeature.GUEST_CSUM);
    const reports = hash !== null && hasFeature(features, NetFeature.HASH_REPORT);
    this.#hash = reports && hash.types !== 0 ? new FlowHash(hash) : null;
    this.allow(features, NetFeature.GUEST_TSO4, GsoType.TCPV4, Family.V4);
    this.allow(features, NetFeature.GUEST_TSO6, GsoType.TCPV6, Family.V6);
    this.allow(features, NetFeature.GUEST_UFO, GsoType.UDP, Family.BOTH);
    this.allow(features, NetFeature.GUEST_USO4, GsoType.UDP_L4, Family.V4);
    this.allow(features, NetFeature.GUEST_USO6, GsoType.UDP_L4, Family.V6);
  }

  /** Longest frame that is delivered, tags included; 0: any may be, by its size. */
  get frameBytesMax(): number {
    return this.plainBytesMax === FRAME_BYTES_MAX || this.segments
      ? 0
      : this.plainBytesMax + TAGS_MAX * Ethernet.TAG_BYTES;
  }

  /** Judges what the port put into `bytes` about a frame of `frameBytes` in the current chain; 0 to deliver it. */
  judge(ring: DeviceRing, frameBytes: number): HeaderVerdict {
    const { bytes, view } = this;
    if (frameBytes < ETHERNET_BYTES) return DROP_HEADER;
    const flags = bytes[FLAGS]! & (NEEDS_CSUM | DATA_VALID); // RSC_INFO is for RSC_EXT, which is not offered
    const gso = bytes[GSO_TYPE]!;
    let kept = flags;
    if ((flags & NEEDS_CSUM) === 0) this.clearChecksum();
    else if (!this.checksumInside(frameBytes)) return DROP_HEADER;
    if (gso === GsoType.NONE) {
      const verdict = this.fits(ring, frameBytes);
      if (verdict !== ACCEPT) return verdict;
      this.clearGso();
    } else if (!this.#checksum || this.judgeGso(ring, frameBytes) !== ACCEPT) return DROP_HEADER;
    if (!this.#checksum) {
      if ((flags & NEEDS_CSUM) !== 0) this.#completeChecksum(ring, frameBytes);
      this.clearChecksum();
      kept = 0;
    }
    bytes[FLAGS] = kept;
    view.setUint16(NUM_BUFFERS, 1, true); // one buffer a frame, unless setBuffers says otherwise (failure F5)
    if (this.#hash !== null) this.#report(ring, this.#hash);
    return ACCEPT;
  }

  /** Says over how many buffers a judged frame is spread. */
  setBuffers(count: number): void {
    this.view.setUint16(NUM_BUFFERS, count, true);
  }

  /** Puts the hash of the frame into the header. */
  #report(ring: DeviceRing, hash: FlowHash): void {
    const { view } = this;
    hash.calculate(chunk, this.peek(ring, 0, chunk, HASHED_BYTES_MAX));
    view.setInt32(NET_HEADER_HASH_AT.value, hash.value, true);
    view.setUint16(NET_HEADER_HASH_AT.report, hash.report, true);
  }

  /** Writes the header in front of the frame; the last thing written into a chain. */
  write(ring: DeviceRing): void {
    const { frameOffset } = this;
    const whole = frameOffset % 4 === 0 && ring.writeWords(this.words, frameOffset / 4);
    if (!whole) ring.scatter(0, this.whole, 0, frameOffset);
  }

  /** The first bytes of the frame in the current chain, for a filter; valid until the next call. */
  headOf(ring: DeviceRing): Uint8Array {
    this.peek(ring, 0, head, HEAD_BYTES);
    return head;
  }

  /** Sums the frame from csumStart on and stores the result: the field holds the pseudo-header's sum already. */
  #completeChecksum(ring: DeviceRing, frameBytes: number): void {
    const { view } = this;
    const start = view.getUint16(CSUM_START, true);
    let sum = 0;
    for (let at = start; at < frameBytes; ) {
      const count = this.peek(ring, at, chunk, Math.min(chunk.length, frameBytes - at));
      if (count === 0) return;
      if (count % 2 === 1) chunk[count] = 0; // only the last chunk is odd, and it is never full
      for (let i = 0; i < count; i += 2) sum += word(chunk, i);
      sum = (sum & 0xffff) + (sum >>> 16);
      at += count;
    }
    sum = (sum & 0xffff) + (sum >>> 16);
    const result = ~((sum & 0xffff) + (sum >>> 16)) & 0xffff || 0xffff; // 0 would mean "no checksum" to UDP
    head[0] = result >>> 8;
    head[1] = result & 0xff;
    const field = start + view.getUint16(CSUM_OFFSET, true);
    ring.scatter(this.frameOffset + field, head, 0, CHECKSUM_BYTES);
  }

  protected override peek(ring: DeviceRing, at: number, target: Uint8Array, length: number): number {
    return ring.readBack(this.frameOffset + at, target, 0, length);
  }
}

/**
 * VLAN id of a frame whose first bytes are `head`, or UNTAGGED, for a filter. Drivers filter customers' VLANs (802.1Q): none
 * adds one of a provider (802.1ad), and a frame that begins with such a tag is untagged for them.
 */
export function vlanOf(head: Uint8Array): number {
  if (word(head, Ethernet.TYPE_AT) !== EtherType.VLAN) return UNTAGGED;
  return word(head, ETHERNET_BYTES) & Ethernet.VLAN_ID_MASK;
}
