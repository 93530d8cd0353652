/**
 * The packet of a numbered stream: the 16 bytes Linux's pktgen puts in front of its payload, so that one reader does
 * for the guest's sender (pktgen) and for ours. Big endian: magic, sequence, seconds, microseconds.
 */
const MAGIC = 0xbe9be955;
export const STREAM_PACKET_BYTES = 16;

export interface StreamPacket {
  readonly sequence: number;
  /** Departure by the sender's wall clock. */
  readonly sentUs: number;
}

export function writeStreamPacket(packet: Buffer, sequence: number, sentUs: number): void {
  packet.writeUInt32BE(MAGIC, 0);
  packet.writeUInt32BE(sequence, 4);
  packet.writeUInt32BE(Math.floor(sentUs / 1e6), 8);
  packet.writeUInt32BE(Math.floor(sentUs % 1e6), 12);
}

export function readStreamPacket(packet: Buffer): StreamPacket | null {
  if (packet.length < STREAM_PACKET_BYTES || packet.readUInt32BE(0) !== MAGIC) return null;
  return { sequence: packet.readUInt32BE(4), sentUs: packet.readUInt32BE(8) * 1e6 + packet.readUInt32BE(12) };
}

/** Wall clock in microseconds, the finest Node has. */
export function wallClockUs(): number {
  return (performance.timeOrigin + performance.now()) * 1000;
}
