/** Ethernet frames for drivers that are not a kernel. */

export interface UdpFrame {
  readonly destinationMac: string;
  readonly sourceMac: string;
  readonly destination: string;
  readonly source: string;
  readonly port: number;
  readonly payload: Uint8Array;
}

const ETHERNET_BYTES = 14;
const IP_BYTES = 20;
const UDP_BYTES = 8;

/** IPv4 UDP without a UDP checksum, which IPv4 allows. */
export function udpFrame(options: UdpFrame): Buffer {
  const { payload, port } = options;
  const frame = Buffer.alloc(ETHERNET_BYTES + IP_BYTES + UDP_BYTES + payload.length);
  macBytes(options.destinationMac).copy(frame, 0);
  macBytes(options.sourceMac).copy(frame, 6);
  frame.writeUInt16BE(0x0800, 12);
  const ip = frame.subarray(ETHERNET_BYTES, ETHERNET_BYTES + IP_BYTES);
  ip[0] = 0x45;
  ip.writeUInt16BE(IP_BYTES + UDP_BYTES + payload.length, 2);
  ip[8] = 64;
  ip[9] = 17;
  addressBytes(options.source).copy(ip, 12);
  addressBytes(options.destination).copy(ip, 16);
  ip.writeUInt16BE(~onesComplementSum(ip) & 0xffff, 10);
  const udp = frame.subarray(ETHERNET_BYTES + IP_BYTES);
  udp.writeUInt16BE(port, 0);
  udp.writeUInt16BE(port, 2);
  udp.writeUInt16BE(UDP_BYTES + payload.length, 4);
  Buffer.from(payload).copy(udp, UDP_BYTES);
  return frame;
}

/** RFC 1071, over whole 16-bit words. */
export function onesComplementSum(bytes: Buffer): number {
  let sum = 0;
  for (let at = 0; at < bytes.length; at += 2) sum += bytes.readUInt16BE(at);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return sum;
}

export function macBytes(mac: string): Buffer {
  return Buffer.from(mac.replaceAll(':', ''), 'hex');
}

function addressBytes(address: string): Buffer {
  return Buffer.from(address.split('.').map(Number));
}

/** The frame with an 802.1Q tag. */
export function withVlan(frame: Buffer, id: number): Buffer {
  const tag = Buffer.alloc(4);
  tag.writeUInt16BE(0x8100, 0);
  tag.writeUInt16BE(id, 2);
  return Buffer.concat([frame.subarray(0, 12), tag, frame.subarray(12)]);
}
