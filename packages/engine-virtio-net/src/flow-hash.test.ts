import { HASH_TYPES, HashReport, HashType, IpProtocol } from '@virtnet/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FlowHash, HASHED_BYTES_MAX } from './flow-hash.js';

const { TCP, UDP } = IpProtocol;
const ICMP = 1;

/** The key and the results that Microsoft published to verify implementations with. */
const KEY = [
  ...[0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0],
  ...[0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c],
  ...[0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa],
];
type Vector = readonly [
  source: string,
  sourcePort: number,
  target: string,
  targetPort: number,
  ip: number,
  tcp: number,
];
const IPV4: readonly Vector[] = [
  ['66.9.149.187', 2794, '161.142.100.80', 1766, 0x323e8fc2, 0x51ccc178],
  ['199.92.111.2', 14230, '65.69.140.83', 4739, 0xd718262a, 0xc626b0ea],
  ['24.19.198.95', 12898, '12.22.207.184', 38024, 0xd2d0a5de, 0x5c2b394a],
  ['38.27.205.30', 48228, '209.142.163.6', 2217, 0x82989176, 0xafc7327f],
  ['153.39.163.191', 44251, '202.188.127.2', 1303, 0x5d1809c5, 0x10e828a2],
];
const IPV6: readonly Vector[] = [
  ['3ffe:2501:200:1fff::7', 2794, '3ffe:2501:200:3::1', 1766, 0x2cc18cd5, 0x40207d3d],
  ['3ffe:501:8::260:97ff:fe40:efab', 14230, 'ff02::1', 4739, 0x0f0c461c, 0xdde51bbf],
  ['3ffe:1900:4545:3:200:f8ff:fe21:67cf', 44251, 'fe80::200:f8ff:fe21:67cf', 38024, 0x4b61e985, 0x02d1feef],
];

const u16 = (value: number) => [value >> 8, value & 0xff];

function address(text: string): number[] {
  if (text.includes('.')) return text.split('.').map(Number);
  const [head, tail] = text.split('::') as [string, string?];
  const words = (part: string) =>
    part === '' ? [] : part.split(':').flatMap((word) => u16(Number.parseInt(word, 16)));
  const before = words(head);
  const after = tail === undefined ? [] : words(tail);
  return [...before, ...new Array(16 - before.length - after.length).fill(0), ...after];
}

const ports = ([, source, , target]: Vector) => [...u16(source), ...u16(target)];

interface Shape {
  readonly protocol?: number;
  readonly fragment?: number;
  readonly options?: number;
  readonly tags?: readonly number[];
}

function ethernet(type: number, payload: readonly number[], tags: readonly number[] = []): Uint8Array {
  const head = [...new Array(12).fill(2), ...tags.flatMap((tag) => [...u16(tag), 0, 7]), ...u16(type)];
  return Uint8Array.from([...head, ...payload, ...new Array(20).fill(0x5a)]);
}

function ipv4(vector: Vector, { protocol = TCP, fragment = 0, options = 0, tags }: Shape = {}): Uint8Array {
  const head = [0x45 + options, 0, 0, 0, 0, 0, ...u16(fragment), 64, protocol, 0, 0];
  const addresses = [...address(vector[0]), ...address(vector[2])];
  return ethernet(0x0800, [...head, ...addresses, ...new Array(4 * options).fill(1), ...ports(vector)], tags);
}

/** Extension headers are given with their kind; each knows the next. */
function ipv6(
  vector: Vector,
  protocol: number,
  extensions: readonly (readonly [kind: number, body: readonly number[]])[] = [],
): Uint8Array {
  const kinds = [...extensions.map(([kind]) => kind), protocol];
  const bodies = extensions.flatMap(([, body], i) => [kinds[i + 1]!, ...body]);
  const head = [0x60, 0, 0, 0, 0, 0, kinds[0]!, 64, ...address(vector[0]), ...address(vector[2])];
  return ethernet(0x86dd, [...head, ...bodies, ...ports(vector)]);
}

function hashOf(frame: Uint8Array, types = HASH_TYPES, length = frame.length): readonly [number, number] {
  const hash = new FlowHash({ types, key: KEY });
  hash.calculate(frame, Math.min(length, HASHED_BYTES_MAX));
  return [hash.value >>> 0, hash.report];
}

describe('RSS-1 RSS-3 hash of a frame', () => {
  it.each(IPV4)('IPv4 %s:%i to %s:%i', (...vector) => {
    const [ip, tcp] = [vector[4], vector[5]];
    expect(hashOf(ipv4(vector))).toEqual([tcp, HashReport.TCPV4]);
    expect(hashOf(ipv4(vector, { protocol: UDP }))).toEqual([tcp, HashReport.UDPV4]);
    expect(hashOf(ipv4(vector, { protocol: ICMP }))).toEqual([ip, HashReport.IPV4]);
    expect(hashOf(ipv4(vector, { options: 2 }))).toEqual([tcp, HashReport.TCPV4]);
    expect(hashOf(ipv4(vector, { tags: [0x8100] }))).toEqual([tcp, HashReport.TCPV4]);
    expect(hashOf(ipv4(vector, { tags: [0x88a8, 0x8100] }))).toEqual([tcp, HashReport.TCPV4]);
  });

  it.each(IPV6)('IPv6 %s:%i to %s:%i', (...vector) => {
    const [ip, tcp] = [vector[4], vector[5]];
    expect(hashOf(ipv6(vector, TCP))).toEqual([tcp, HashReport.TCPV6]);
    expect(hashOf(ipv6(vector, UDP))).toEqual([tcp, HashReport.UDPV6]);
    expect(hashOf(ipv6(vector, 58))).toEqual([ip, HashReport.IPV6]);
  });

  const [four] = IPV4 as [Vector];
  const [six] = IPV6 as [Vector];

  it('a type that is not enabled is not used: the next less specific one is, or none', () => {
    expect(hashOf(ipv4(four), HashType.IPV4)).toEqual([four[4], HashReport.IPV4]);
    expect(hashOf(ipv4(four), HashType.UDPV4 | HashType.IPV4)).toEqual([four[4], HashReport.IPV4]);
    expect(hashOf(ipv4(four), HashType.UDPV4 | HashType.IPV6)).toEqual([0, HashReport.NONE]);
    expect(hashOf(ipv6(six, TCP), HashType.IPV6)).toEqual([six[4], HashReport.IPV6]);
    expect(hashOf(ipv6(six, TCP), HashType.IPV4 | HashType.TCPV4)).toEqual([0, HashReport.NONE]);
    expect(hashOf(ipv4(four), 0)).toEqual([0, HashReport.NONE]);
  });

  it.each([0x2000, 0x0001, 0x3fff])('a fragment (%i) has no ports: its addresses are hashed', (fragment) => {
    expect(hashOf(ipv4(four, { fragment }))).toEqual([four[4], HashReport.IPV4]);
    expect(hashOf(ipv4(four, { fragment }), HashType.TCPV4)).toEqual([0, HashReport.NONE]);
    const inner = [0, ...u16(8), 0, 0, 0, 1];
    expect(hashOf(ipv6(six, TCP, [[44, inner]]), HASH_TYPES & 0x3f)).toEqual([six[4], HashReport.IPV6]);
  });

  it('IPv6 extension headers are skipped, unless their own types are enabled', () => {
    const hop = [0, [0, 1, 4, 0, 0, 0, 0]] as const;
    const frame = ipv6(six, TCP, [hop, hop]);
    expect(hashOf(frame, HashType.TCPV6 | HashType.IPV6)).toEqual([six[5], HashReport.TCPV6]);
    expect(hashOf(frame)).toEqual([six[5], HashReport.TCPV6_EX]);
    expect(hashOf(ipv6(six, UDP, [hop]))).toEqual([six[5], HashReport.UDPV6_EX]);
    expect(hashOf(frame, HashType.IP_EX | HashType.TCPV6)).toEqual([six[4], HashReport.IPV6_EX]);
  });

  it('IPv6 home address and type 2 routing header: these addresses instead of those of the header', () => {
    const other: Vector = ['2001:db8::5', six[1], '2001:db8::6', six[3], 0, 0];
    const home = [60, [2, 1, 0, 0xc9, 16, ...address(six[0]), 0]] as const;
    const options = [home[0], [2, ...home[1].slice(1, 3), 0xc9, 16, ...address(six[0]), 0, 0]] as const;
    const routing = [43, [2, 2, 1, 0, 0, 0, 0, ...address(six[2])]] as const;
    const frame = ipv6(other, TCP, [options, routing]);
    expect(hashOf(frame)).toEqual([six[5], HashReport.TCPV6_EX]);
    expect(hashOf(frame, HashType.IP_EX)).toEqual([six[4], HashReport.IPV6_EX]);
    const plain = hashOf(ipv6(other, TCP), HashType.TCPV6);
    expect(hashOf(frame, HashType.TCPV6)).toEqual(plain);
  });

  it('reversed it is the hash of the answer', () => {
    const turned = ([source, from, target, to]: Vector): Vector => [target, to, source, from, 0, 0];
    const hash = new FlowHash({ types: HASH_TYPES, key: KEY });
    const reversed = (frame: Uint8Array) => {
      hash.calculate(frame, frame.length, true);
      return [hash.value >>> 0, hash.report];
    };
    for (const vector of IPV4)
      for (const shape of [{}, { protocol: UDP }, { protocol: ICMP }, { fragment: 1 }])
        expect(reversed(ipv4(turned(vector), shape))).toEqual(hashOf(ipv4(vector, shape)));
    for (const vector of IPV6)
      for (const protocol of [TCP, UDP, ICMP])
        expect(reversed(ipv6(turned(vector), protocol))).toEqual(hashOf(ipv6(vector, protocol)));
    hash.calculate(ipv4(four), HASHED_BYTES_MAX);
    expect(hash.value >>> 0, 'and the next is not, unless it is asked for').toBe(four[5]);
  });

  it('what is no IP, or is cut off, has no hash; ports that are cut off do not count', () => {
    expect(hashOf(ethernet(0x0806, new Array(46).fill(1)))).toEqual([0, HashReport.NONE]);
    const frame = ipv4(four);
    expect(hashOf(frame, HASH_TYPES, 33)).toEqual([0, HashReport.NONE]);
    expect(hashOf(frame, HASH_TYPES, 34)).toEqual([four[4], HashReport.IPV4]);
    expect(hashOf(ipv6(six, TCP), HASH_TYPES, 53)).toEqual([0, HashReport.NONE]);
    expect(hashOf(ipv6(six, TCP), HASH_TYPES, 56)).toEqual([six[4], HashReport.IPV6]);
  });

  it('any bytes at all end in some hash or none', () => {
    const reports = Object.values(HashReport) as number[];
    const head = fc.constantFrom([0x08, 0x00], [0x86, 0xdd]);
    fc.assert(
      fc.property(head, fc.uint8Array({ maxLength: 220 }), fc.nat(HASH_TYPES), (type, bytes, types) => {
        const frame = Uint8Array.from([...new Array(12).fill(0), ...type, ...bytes]);
        expect(reports).toContain(hashOf(frame, types)[1]);
      }),
      { numRuns: 2000 },
    );
  });
});
