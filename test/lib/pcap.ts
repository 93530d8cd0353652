/** Reading what tcpdump writes with -w: the classic pcap format, microsecond stamps, either byte order. */

export interface Packet {
  readonly timeUs: number;
  /** Length on the wire; `bytes` may hold less. */
  readonly lengthBytes: number;
  readonly bytes: Buffer;
}

const FILE_HEADER_BYTES = 24;
const PACKET_HEADER_BYTES = 16;
const MAGIC_MICROSECONDS = 0xa1b2c3d4;

/** The packets of a capture; a last packet that is cut off is left out. */
export function parsePcap(file: Buffer): Packet[] {
  if (file.length < FILE_HEADER_BYTES) return [];
  const little = file.readUInt32LE(0) === MAGIC_MICROSECONDS;
  if (!little && file.readUInt32BE(0) !== MAGIC_MICROSECONDS)
    throw new Error('not a pcap file with microsecond stamps');
  const word = (at: number): number => (little ? file.readUInt32LE(at) : file.readUInt32BE(at));
  const packets: Packet[] = [];
  for (let at = FILE_HEADER_BYTES; at + PACKET_HEADER_BYTES <= file.length; ) {
    const captured = word(at + 8);
    const end = at + PACKET_HEADER_BYTES + captured;
    if (end > file.length) break;
    packets.push({
      timeUs: word(at) * 1e6 + word(at + 4),
      lengthBytes: word(at + 12),
      bytes: file.subarray(at + PACKET_HEADER_BYTES, end),
    });
    at = end;
  }
  return packets;
}

const ETHERNET_BYTES = 14;
const UDP_HEADER_BYTES = 8;

/** The payload of an IPv4 UDP packet in an Ethernet frame, null when it is something else. */
export function udpPayload(frame: Buffer): Buffer | null {
  if (frame.length < ETHERNET_BYTES + 20 || frame.readUInt16BE(12) !== 0x0800) return null;
  const headerBytes = ((frame[ETHERNET_BYTES] ?? 0) & 0x0f) * 4;
  if (frame[ETHERNET_BYTES + 9] !== 17) return null;
  return frame.subarray(ETHERNET_BYTES + headerBytes + UDP_HEADER_BYTES);
}
