/** udp-frame.fixture.ts: an Ethernet frame with a UDP datagram over IPv4, which the kernel accepts. */
import { EtherType, IpProtocol } from '@virtnet/wire';
import { fold, wordSum } from '../net-fixture.js';

const ETHERNET_BYTES = 14;
const IPV4_BYTES = 20;
const UDP_BYTES = 8;
export const IPV4_UDP_HEADER_BYTES = IPV4_BYTES + UDP_BYTES;

export interface UdpFrame {
  readonly destination: Uint8Array;
  readonly source: Uint8Array;
  readonly from: string;
  readonly to: string;
  readonly fromPort: number;
  readonly toPort: number;
  readonly payload: Uint8Array;
  /** Absent: no tag. */
  readonly vlan?: number;
}

export function udpFrame({ vlan, ...frame }: UdpFrame): Uint8Array {
  const bytes = untagged(frame);
  if (vlan === undefined) return bytes;
  const tag = [EtherType.VLAN >> 8, EtherType.VLAN & 0xff, vlan >> 8, vlan & 0xff];
  return Uint8Array.from([...bytes.subarray(0, 12), ...tag, ...bytes.subarray(12)]);
}

function untagged({ destination, source, from, to, fromPort, toPort, payload }: UdpFrame): Uint8Array {
  const bytes = new Uint8Array(ETHERNET_BYTES + IPV4_UDP_HEADER_BYTES + payload.length);
  const view = new DataView(bytes.buffer);
  bytes.set(destination);
  bytes.set(source, 6);
  view.setUint16(12, EtherType.IPV4);
  const ip = ETHERNET_BYTES;
  bytes[ip] = 0x45;
  view.setUint16(ip + 2, IPV4_UDP_HEADER_BYTES + payload.length);
  bytes[ip + 8] = 64;
  bytes[ip + 9] = IpProtocol.UDP;
  bytes.set(from.split('.').map(Number), ip + 12);
  bytes.set(to.split('.').map(Number), ip + 16);
  view.setUint16(ip + 10, ~fold(wordSum(bytes.subarray(ip, ip + IPV4_BYTES))) & 0xffff);
  const udp = ip + IPV4_BYTES;
  view.setUint16(udp, fromPort);
  view.setUint16(udp + 2, toPort);
  view.setUint16(udp + 4, UDP_BYTES + payload.length); // the checksum stays 0: none (RFC 768)
  bytes.set(payload, udp + UDP_BYTES);
  return bytes;
}
