/**
 * segmenter.ts: cuts a TCP or UDP frame with GSO into frames of their final size, for a receiver that takes no other.
 *
 * Theory
 *   The headers are read once into private memory, judged there, and stand in front of every segment, changed where a
 *   segment differs: lengths, IPv4 id and checksum, TCP sequence number and flags, and the checksum over all of it.
 *   The driver left the pseudo-header's sum for the whole frame in the checksum field; each segment's differs from it
 *   by the length alone, whatever the addresses are. Payload is copied piece by piece into private memory, so that
 *   what was summed is what is delivered.
 *
 * Parties
 *   driver   may change the frame meanwhile; then the segments carry what was there when they were made.
 *
 * Invariants
 *   I1  next() never reads beyond the frame as it was measured, nor writes beyond `frame`.
 *   I2  nothing is allocated per frame or segment.
 *
 * Limits  SEGMENTS_MAX segments, SEGMENT_HEADER_BYTES_MAX bytes of headers (limits.ts); more is refused.
 * Spec    virtio 1.3, 5.1.6.2; RFC 791, 8200, 9293, 768.
 */
import {
  EtherType,
  GSO_ECN,
  GsoType,
  IpProtocol,
  Ipv4,
  Ipv6,
  NetHeader,
  NetHeaderFlag,
  Tcp,
  TcpFlag,
  Udp,
} from '@virtnet/wire';
import { foldSum, sumWords } from './checksum.js';
import { SEGMENT_HEADER_BYTES_MAX, SEGMENTS_MAX } from './limits.js';
import { FRAME_BYTES_MAX } from './net-header.js';
import { OFFLOAD_HEAD_BYTES, typeAt } from './receive-offloads.js';

/** Where a frame is read from: a ring's current chain, or private memory. */
export interface ByteSource {
  /** Copies bytes from `offset`; how many there were, at most `length`. */
  gather(offset: number, target: Uint8Array, targetOffset: number, length: number): number;
}

/** Private bytes as a source. */
export class PrivateBytes implements ByteSource {
  readonly bytes: Uint8Array;
  /** Bytes that mean something. */
  length = 0;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }

  gather(offset: number, target: Uint8Array, targetOffset: number, length: number): number {
    const count = Math.max(0, Math.min(length, this.length - offset));
    target.set(this.bytes.subarray(offset, offset + count), targetOffset);
    return count;
  }
}

const { gsoType: GSO_TYPE, gsoSize: GSO_SIZE, csumStart: CSUM_START, csumOffset: CSUM_OFFSET } = NetHeader.at;
const NOTHING: ByteSource = { gather: () => 0 };

export class Segmenter {
  /** The segment next() made: the first bytes of this. */
  readonly frame: Uint8Array;
  readonly #view: DataView;
  /** The frame's own headers. */
  readonly #headers = new Uint8Array(SEGMENT_HEADER_BYTES_MAX);
  readonly #headersView = new DataView(this.#headers.buffer);
  #source = NOTHING;
  #sourceOffset = 0;
  #tcp = false;
  #v4 = false;
  #network = 0;
  #transport = 0;
  #headerBytes = 0;
  #payloadBytes = 0;
  #segmentBytes = 0;
  /** The pseudo-header's sum without a length. */
  #pseudo = 0;
  #count = 0;
  #made = 0;

  /** `frame`: private memory of FRAME_BYTES_MAX bytes for segments. */
  constructor(frame: Uint8Array = new Uint8Array(FRAME_BYTES_MAX)) {
    this.frame = frame;
    this.#view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
  }

  /**
   * Begins with a frame of `frameBytes` that lies `frameOffset` bytes into `source`, under a struct virtio_net_hdr_v1
   * in private memory. Returns the segments it will make; 0 when it is no frame that can be segmented.
   */
  open(source: ByteSource, header: Uint8Array, frameOffset: number, frameBytes: number): number {
    this.#count = 0;
    this.#made = 0;
    const kind = header[GSO_TYPE]! & ~GSO_ECN;
    this.#tcp = kind === GsoType.TCPV4 || kind === GsoType.TCPV6;
    if (!this.#tcp && kind !== GsoType.UDP_L4) return 0;
    if ((header[0]! & NetHeaderFlag.NEEDS_CSUM) === 0 || frameBytes > FRAME_BYTES_MAX) return 0;
    const segmentBytes = word(header, GSO_SIZE);
    if (segmentBytes === 0) return 0;
    const wanted = Math.min(frameBytes, SEGMENT_HEADER_BYTES_MAX);
    if (source.gather(frameOffset, this.#headers, 0, wanted) < wanted) return 0;
    if (!this.#judge(kind, word(header, CSUM_START), word(header, CSUM_OFFSET), wanted)) return 0;
    const payloadBytes = frameBytes - this.#headerBytes;
    const count = Math.max(1, Math.ceil(payloadBytes / segmentBytes));
    if (count > SEGMENTS_MAX) return 0;
    const checksumAt = this.#transport + (this.#tcp ? Tcp.CHECKSUM_AT : Udp.CHECKSUM_AT);
    const whole = this.#headersView.getUint16(checksumAt);
    this.#pseudo = foldSum(whole + (~foldSum(frameBytes - this.#transport) & 0xffff));
    this.#source = source;
    this.#sourceOffset = frameOffset + this.#headerBytes;
    this.#payloadBytes = payloadBytes;
    this.#segmentBytes = segmentBytes;
    this.#count = count;
    return count;
  }

  /** Makes the next segment in `frame`, its checksums complete; its bytes, or 0 when there is none. */
  next(): number {
    const index = this.#made;
    if (index >= this.#count) return 0;
    const from = index * this.#segmentBytes;
    const wanted = Math.min(this.#segmentBytes, this.#payloadBytes - from);
    const headerBytes = this.#headerBytes;
    const payload =
      wanted === 0 ? 0 : this.#source.gather(this.#sourceOffset + from, this.frame, headerBytes, wanted);
    if (payload < wanted) return 0;
    this.#made = index + 1;
    for (let i = 0; i < headerBytes; i++) this.frame[i] = this.#headers[i]!;
    const end = headerBytes + payload;
    this.#finishNetwork(index, end);
    this.#finishTransport(index, from, end);
    return end;
  }

  /** Parses and judges the private headers, of which `known` bytes were read. */
  #judge(kind: number, transport: number, checksumOffset: number, known: number): boolean {
    const headers = this.#headers;
    if (known < OFFLOAD_HEAD_BYTES) return false;
    const network = typeAt(headers) + 2;
    const type = this.#headersView.getUint16(network - 2);
    const v4 = type === EtherType.IPV4 && kind !== GsoType.TCPV6;
    const v6 = type === EtherType.IPV6 && kind !== GsoType.TCPV4;
    const tcp = this.#tcp;
    if (!(v4 || v6) || checksumOffset !== (tcp ? Tcp.CHECKSUM_AT : Udp.CHECKSUM_AT)) return false;
    if (transport + (tcp ? Tcp.HEADER_BYTES_MIN : Udp.HEADER_BYTES) > known) return false;
    if (v4 ? !this.#judgeV4(network, transport) : transport < network + Ipv6.HEADER_BYTES) return false;
    const transportBytes = tcp ? (headers[transport + Tcp.DATA_OFFSET_AT]! >>> 4) << 2 : Udp.HEADER_BYTES;
    if (tcp && transportBytes < Tcp.HEADER_BYTES_MIN) return false;
    if (transport + transportBytes > known) return false;
    this.#v4 = v4;
    this.#network = network;
    this.#transport = transport;
    this.#headerBytes = transport + transportBytes;
    return true;
  }

  #judgeV4(network: number, transport: number): boolean {
    const headers = this.#headers;
    const bytes = (headers[network]! & 0x0f) << 2;
    if (bytes < Ipv4.HEADER_BYTES_MIN || network + bytes !== transport) return false;
    const protocol = this.#tcp ? IpProtocol.TCP : IpProtocol.UDP;
    if (headers[network + Ipv4.PROTOCOL_AT] !== protocol) return false;
    return (this.#headersView.getUint16(network + Ipv4.FRAGMENT_AT) & Ipv4.FRAGMENT_MASK) === 0;
  }

  #finishNetwork(index: number, end: number): void {
    const view = this.#view;
    const network = this.#network;
    if (!this.#v4) {
      view.setUint16(network + Ipv6.PAYLOAD_LENGTH_AT, end - network - Ipv6.HEADER_BYTES);
      return;
    }
    view.setUint16(network + Ipv4.TOTAL_LENGTH_AT, end - network);
    view.setUint16(network + Ipv4.ID_AT, view.getUint16(network + Ipv4.ID_AT) + index);
    view.setUint16(network + Ipv4.CHECKSUM_AT, 0);
    view.setUint16(network + Ipv4.CHECKSUM_AT, ~sumWords(view, network, this.#transport) & 0xffff);
  }

  #finishTransport(index: number, from: number, end: number): void {
    const view = this.#view;
    const transport = this.#transport;
    const checksumAt = transport + (this.#tcp ? Tcp.CHECKSUM_AT : Udp.CHECKSUM_AT);
    if (this.#tcp) {
      const sequence = view.getUint32(transport + Tcp.SEQUENCE_AT);
      view.setUint32(transport + Tcp.SEQUENCE_AT, (sequence + from) >>> 0);
      let flags = view.getUint8(transport + Tcp.FLAGS_AT);
      if (index > 0) flags &= ~TcpFlag.CWR;
      if (index < this.#count - 1) flags &= ~(TcpFlag.FIN | TcpFlag.PSH);
      view.setUint8(transport + Tcp.FLAGS_AT, flags);
    } else view.setUint16(transport + Udp.LENGTH_AT, end - transport);
    view.setUint16(checksumAt, foldSum(this.#pseudo + foldSum(end - transport)));
    // 0 would mean "no checksum" to UDP; to TCP both are the same number.
    view.setUint16(checksumAt, ~sumWords(view, transport, end) & 0xffff || 0xffff);
  }
}

/** A little-endian field of the frame header. */
const word = (header: Uint8Array, at: number): number => header[at]! | (header[at + 1]! << 8);
