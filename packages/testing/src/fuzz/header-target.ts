/**
 * header-target.ts: the header in front of every frame, in both directions, over frames of any shape.
 *
 * Invariants checked
 *   I1  what is accepted asks for nothing outside the frame, and for nothing that was not agreed on.
 *   I2  a driver without GUEST_CSUM gets a frame whose checksum is right and a header that asks for nothing.
 *   I3  no judgement throws, or takes longer than STEP_MS_MAX.
 *   I4  nothing outside the driver's memory is read or written, and of a received frame only its checksum changes.
 */
import { FRAME_BYTES_MAX, ReceiveHeader, TransmitHeader } from '@virtnet/engine-virtio-net';
import {
  featureMask,
  GSO_ECN,
  GsoType,
  hasFeature,
  NetFeature,
  NetHeader,
  NetHeaderFlag,
  VirtioFeature,
} from '@virtnet/wire';
import { decodeHeader, fold, type HeaderFields, shapeFrame, wordSum } from '../net-fixture.js';
import { ChainFixture, CUT_REGION, split } from './chain-fixture.js';
import { FuzzInput } from './fuzz-input.js';
import { FuzzFailure, type FuzzTarget, type FuzzWatch } from './fuzzer.js';
import { GuardedMemory } from './guarded-memory.js';

const TRANSMIT = [
  NetFeature.CSUM,
  NetFeature.HOST_TSO4,
  NetFeature.HOST_TSO6,
  NetFeature.HOST_ECN,
  NetFeature.HOST_UFO,
  NetFeature.HOST_USO,
] as const;
const RECEIVE = [
  NetFeature.GUEST_CSUM,
  NetFeature.GUEST_TSO4,
  NetFeature.GUEST_TSO6,
  NetFeature.GUEST_ECN,
  NetFeature.GUEST_UFO,
  NetFeature.GUEST_USO4,
  NetFeature.GUEST_USO6,
  NetFeature.MTU,
] as const;
const GSO_TYPES = [0, 1, 3, 4, 5, 0x81, 0x84, 2, 0x80, 0x85, 6, 0xff] as const;
const LENGTHS = [0, 13, 14, 20, 54, 60, 1_514, 1_515, 1_522, 1_523, 65_550, FRAME_BYTES_MAX + 1] as const;
const MTU = 1_500;
const Saw = { TRANSMIT: 1, RECEIVE: 2, GSO: 3 } as const;

/** Features that let a kind of GSO in; any of them, for the IP versions are judged by their own tests. */
const ALLOWS: Readonly<Record<number, readonly number[]>> = {
  [GsoType.TCPV4]: [NetFeature.HOST_TSO4, NetFeature.GUEST_TSO4],
  [GsoType.TCPV6]: [NetFeature.HOST_TSO6, NetFeature.GUEST_TSO6],
  [GsoType.UDP]: [NetFeature.HOST_UFO, NetFeature.GUEST_UFO],
  [GsoType.UDP_L4]: [NetFeature.HOST_USO, NetFeature.GUEST_USO4, NetFeature.GUEST_USO6],
};

function featuresOf(input: FuzzInput, choices: readonly number[]): bigint {
  const bits = input.u8();
  const legacy = input.u8() > 224 ? [] : [VirtioFeature.VERSION_1];
  return featureMask([...legacy, ...choices.filter((_, i) => ((bits >> i) & 1) === 1)]);
}

/** A frame that looks like TCP or UDP, somewhat damaged, or any bytes. */
function frameOf(input: FuzzInput): { readonly bytes: Uint8Array; readonly transport: number } {
  const bits = input.u8();
  if ((bits & 0x80) !== 0) {
    const bytes = new Uint8Array(input.pick(LENGTHS));
    bytes.set(input.bytes(Math.min(bytes.length, 64)));
    return { bytes, transport: input.u8() };
  }
  const { bytes, transport } = shapeFrame({
    vlans: [[], [5], [5, 6], [7]][bits & 3]!,
    version: (bits & 4) === 0 ? 4 : 6,
    protocol: (bits & 8) === 0 ? 'tcp' : 'udp',
    payloadBytes: [0, 1, 100, 1_446, 1_461, 3_001, 9_000, 60_000][input.u8() & 7]!,
    dataOffset: input.bit() ? 5 : 5 + (input.u8() % 11),
  });
  if ((bits & 0x10) !== 0) bytes[input.u8() % bytes.length] = input.u8();
  return (bits & 0x20) === 0 ? { bytes, transport } : { bytes: bytes.subarray(0, input.u16()), transport };
}

function headerOf(input: FuzzInput, transport: number): Uint8Array {
  if (input.u8() > 200) return input.bytes(NetHeader.sizeBytes);
  return NetHeader.bytes({
    flags: input.u8() & 7,
    gsoType: input.pick(GSO_TYPES),
    hdrLen: input.bit() ? 0 : input.u16(),
    gsoSize: input.bit() ? 1_448 : input.u16(),
    csumStart: input.u8() < 200 ? transport : input.u16(),
    csumOffset: [16, 6, 16, 6, input.u16()][input.u8() % 5]!,
    numBuffers: input.u8() & 1,
  });
}

/** Whether what was let through asks for nothing it may not. */
function checkHeader(fields: HeaderFields, frameBytes: number, features: bigint, flagsAllowed: number): void {
  const fail = (what: string): never => {
    throw new FuzzFailure(`accepted with ${what}: ${JSON.stringify(fields)} of ${frameBytes} bytes`);
  };
  if ((fields.flags & ~flagsAllowed) !== 0) fail('flags that mean nothing');
  if ((fields.flags & NetHeaderFlag.NEEDS_CSUM) !== 0) {
    if (fields.csumStart < 14) fail('a checksum over the Ethernet header');
    if (fields.csumStart + fields.csumOffset + 2 > frameBytes) fail('a checksum outside the frame');
  } else if (fields.csumStart !== 0 || fields.csumOffset !== 0) fail('places of no checksum');
  if (fields.gsoType === GsoType.NONE) {
    if (fields.hdrLen !== 0 || fields.gsoSize !== 0) fail('sizes of no segments');
    if (frameBytes > FRAME_BYTES_MAX) fail('too many bytes');
    return;
  }
  const allows = ALLOWS[fields.gsoType & ~GSO_ECN] ?? [];
  if (!allows.some((feature) => hasFeature(features, feature))) fail('segments of a kind not agreed on');
  if (fields.gsoSize === 0) fail('segments of no size');
  if (fields.hdrLen > frameBytes || fields.hdrLen < 14 + 20 + 8) fail('headers that cannot be');
  if ((fields.flags & NetHeaderFlag.NEEDS_CSUM) === 0) fail('segments without a checksum');
}

function transmit(chains: ChainFixture, input: FuzzInput, watch: FuzzWatch): void {
  const features = featuresOf(input, TRANSMIT);
  const header = new TransmitHeader(features, input.bit() ? MTU : 0);
  const frame = frameOf(input);
  const sent = headerOf(input, frame.transport).subarray(0, header.frameOffset);
  const whole = new Uint8Array([...sent, ...frame.bytes]);
  if (!chains.take({ readable: split(whole, input) })) return;
  const verdict = watch.step(() => header.read(chains.ring));
  watch.saw(Saw.TRANSMIT, verdict);
  if (verdict === 0) {
    const fields = decodeHeader(header.bytes);
    watch.saw(Saw.GSO, (fields.flags << 8) | fields.gsoType);
    checkHeader(fields, frame.bytes.length, features, NetHeaderFlag.NEEDS_CSUM);
    if (fields.numBuffers !== 0) throw new FuzzFailure('a frame to send says num_buffers');
  }
  chains.give(0);
}

function receive(chains: ChainFixture, input: FuzzInput, watch: FuzzWatch): void {
  const features = featuresOf(input, RECEIVE);
  const header = new ReceiveHeader(features, MTU);
  const { frameOffset } = header;
  const frame = frameOf(input);
  const came = headerOf(input, frame.transport);
  const room = frameOffset + frame.bytes.length;
  const sizes = split(new Uint8Array(room), input).map((part) => part.length);
  if (!chains.take({ writable: sizes })) return;
  const { ring } = chains;
  header.bytes.set(came);
  ring.scatter(frameOffset, frame.bytes, 0, frame.bytes.length);
  const verdict = watch.step(() => header.judge(ring, frame.bytes.length));
  watch.saw(Saw.RECEIVE, verdict);
  if (verdict !== 0) {
    chains.give(0);
    return;
  }
  watch.step(() => header.write(ring));
  const { written } = chains.give(room);
  const fields = decodeHeader(header.bytes);
  watch.saw(Saw.GSO, (fields.flags << 8) | fields.gsoType);
  checkHeader(fields, frame.bytes.length, features, NetHeaderFlag.NEEDS_CSUM | NetHeaderFlag.DATA_VALID);
  if (
    Buffer.compare(
      written.subarray(0, Math.min(12, frameOffset)),
      header.bytes.subarray(0, Math.min(12, frameOffset)),
    ) !== 0
  )
    throw new FuzzFailure('the driver got another header than was judged');
  checkFrame(written.subarray(frameOffset), frame.bytes, decodeHeader(came), features);
}

function checkFrame(got: Uint8Array, sent: Uint8Array, asked: HeaderFields, features: bigint): void {
  const expected = sent.slice();
  const open = (asked.flags & NetHeaderFlag.NEEDS_CSUM) !== 0;
  const completed = open && !hasFeature(features, NetFeature.GUEST_CSUM);
  if (completed) {
    const sum = ~fold(wordSum(sent.subarray(asked.csumStart))) & 0xffff || 0xffff;
    new DataView(expected.buffer).setUint16(asked.csumStart + asked.csumOffset, sum);
  }
  if (Buffer.compare(got, expected) !== 0) throw new FuzzFailure('the driver got another frame than came');
}

const seed = (...bytes: readonly number[]): Uint8Array => Uint8Array.from(bytes);

export function headerTarget(): FuzzTarget {
  const guarded = new GuardedMemory([CUT_REGION]);
  return {
    name: 'header',
    seeds: [
      seed(0, 0, 0, 0, 0, 2),
      seed(0, 255, 0, 0, 0, 2, 0, 0, 1, 1, 0, 0, 0, 0, 0),
      seed(0, 255, 0, 0, 4, 5, 0, 0, 1, 3, 0, 0, 0, 0, 0),
      seed(1, 0, 0, 0, 2, 0, 0, 1, 0, 0, 0, 0, 0, 0),
      seed(1, 255, 0, 8, 5, 0, 0, 1, 4, 0, 0, 0, 1, 0),
    ],
    run: (bytes, watch) => {
      const input = new FuzzInput(bytes);
      const chains = new ChainFixture(guarded);
      try {
        if (input.bit()) receive(chains, input, watch);
        else transmit(chains, input, watch);
      } finally {
        guarded.check();
      }
    },
  };
}
