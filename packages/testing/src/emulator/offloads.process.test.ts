/**
 * Frames larger than the MTU through a representor, both ways: whole where the receiver agreed, else in segments whose
 * checksums are right, and nothing else that it did not agree on (failure F13); before and behind a successor (F14), up
 * to the largest there are (F18).
 */
import { FRAME_BYTES_MAX, hotplugFeatures, RECEIVE_OFFLOADS } from '@virtnet/engine-virtio-net';
import { supportsUso } from '@virtnet/host-linux';
import {
  featureMask,
  GSO_ECN,
  GsoType,
  NetFeature,
  NetHeader,
  NetHeaderFlag,
  TunOffload,
} from '@virtnet/wire';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  checksumHeader,
  decodeHeader,
  type FrameShape,
  fold,
  type HeaderFields,
  type ShapedFrame,
  shapeFrame,
  wordSum,
} from '../net-fixture.js';
import { EmulatorService, eventually, type Hotplugged } from './emulator-service.fixture.js';
import { Guest } from './guest.fixture.js';
import { namespaceObstacle } from './network.fixture.js';

const obstacle = namespaceObstacle();
const { GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, GUEST_ECN, GUEST_USO4, GUEST_USO6 } = NetFeature;
const BRIDGE = 'br0';
/** The bridge's other port, where the test is. */
const SIDE = 'side0';
/** Nobody's address: the bridge sends the frame to all ports. */
const ELSEWHERE = [2, 0, 0, 0, 0, 250];
const SEGMENT_BYTES = 1000;
const PAYLOAD_BYTES = 3500;
const MTU_FRAME_BYTES = 1514;
/** Room for the largest segment with its headers. */
const BUFFER_BYTES = 66_000;
const BUFFERS = 32;
/** Largest frame that Linux gives an interface whole, one tag beside it not counted. */
const FORWARDED_BYTES_MAX = 65_535;
const ACK_CWR = 0x90;
const HOP_LIMIT = 64;

interface Kind {
  readonly shape: FrameShape;
  readonly gsoType: number;
}
const KINDS = {
  'an open checksum': { shape: { payloadBytes: 700 }, gsoType: GsoType.NONE },
  'TCP over IPv4': { shape: {}, gsoType: GsoType.TCPV4 },
  'TCP over IPv6': { shape: { version: 6 }, gsoType: GsoType.TCPV6 },
  'TCP with ECN': { shape: {}, gsoType: GsoType.TCPV4 | GSO_ECN },
  'UDP over IPv4': { shape: { protocol: 'udp' }, gsoType: GsoType.UDP_L4 },
  'UDP over IPv6': { shape: { protocol: 'udp', version: 6 }, gsoType: GsoType.UDP_L4 },
} as const satisfies Record<string, Kind>;
type KindName = keyof typeof KINDS;
/** Those that the kernel has. */
const NAMES = (Object.keys(KINDS) as KindName[]).filter((name) => !name.startsWith('UDP') || supportsUso());
const USO_BITS = supportsUso() ? TunOffload.USO4 | TunOffload.USO6 : 0;
const ALL_OFFLOADS = TunOffload.CSUM | TunOffload.TSO4 | TunOffload.TSO6 | TunOffload.TSO_ECN | USO_BITS;

interface Arrival {
  readonly header: HeaderFields;
  readonly frame: Uint8Array;
}

/** A frame of that kind; `seed`, in the sender's address, tells it from others. */
function shaped(kind: Kind, seed: number, destination?: readonly number[]): ShapedFrame {
  const shape = { payloadBytes: PAYLOAD_BYTES, ...kind.shape, seed };
  const frame = shapeFrame(destination === undefined ? shape : { ...shape, destination });
  const { bytes, network, transport } = frame;
  if (kind.shape.protocol !== 'udp') bytes[transport + 13] = ACK_CWR;
  if (kind.shape.version === 6) bytes[network + 7] = HOP_LIMIT;
  else {
    bytes[network + 8] = HOP_LIMIT;
    new DataView(bytes.buffer).setUint16(
      network + 10,
      ~fold(wordSum(bytes.subarray(network, transport))) & 0xffff,
    );
  }
  return frame;
}

const headerOf = (kind: Kind, frame: ShapedFrame): Uint8Array =>
  checksumHeader(frame, {
    gsoType: kind.gsoType,
    ...(kind.gsoType === GsoType.NONE ? {} : { gsoSize: SEGMENT_BYTES, hdrLen: frame.payload }),
  });

/** Lengths and checksums are right; `open`: the transport's may be left to the receiver, and says so. */
function expectSound({ header, frame }: Arrival, sent: ShapedFrame, kind: Kind, open: boolean): void {
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
  const { network, transport } = sent;
  const v4 = kind.shape.version !== 6;
  const udp = kind.shape.protocol === 'udp';
  const segment = frame.subarray(transport);
  if (v4) {
    expect(view.getUint16(network + 2), 'IPv4 length').toBe(frame.length - network);
    expect(fold(wordSum(frame.subarray(network, transport))), 'IPv4 checksum').toBe(0xffff);
  } else expect(view.getUint16(network + 4), 'IPv6 length').toBe(segment.length);
  if (udp) expect(view.getUint16(transport + 4), 'UDP length').toBe(segment.length);
  const addresses = frame.subarray(network + (v4 ? 12 : 8), network + (v4 ? 20 : 40));
  const pseudo = fold(wordSum(addresses) + (udp ? 17 : 6) + segment.length);
  if ((header.flags & NetHeaderFlag.NEEDS_CSUM) === 0) {
    expect(fold(pseudo + wordSum(segment)), 'checksum').toBe(0xffff);
    return;
  }
  expect(open, 'a checksum was left open').toBe(true);
  expect([header.csumStart, header.csumOffset]).toEqual([transport, sent.checksumOffset]);
  expect(view.getUint16(transport + sent.checksumOffset), 'sum of the pseudo-header').toBe(pseudo);
}

/** `sent` arrived as one frame, with all that was asked for it. */
function expectWhole(arrivals: readonly Arrival[], sent: ShapedFrame, kind: Kind): void {
  expect(arrivals).toHaveLength(1);
  const [{ header, frame }] = arrivals as [Arrival];
  expect(header).toMatchObject({
    flags: NetHeaderFlag.NEEDS_CSUM,
    gsoType: kind.gsoType,
    csumStart: sent.transport,
    csumOffset: sent.checksumOffset,
    ...(kind.gsoType === GsoType.NONE ? {} : { gsoSize: SEGMENT_BYTES }),
  });
  expect(frame).toEqual(sent.bytes);
}

/** `sent` arrived in frames of their final size. */
function expectSegments(arrivals: readonly Arrival[], sent: ShapedFrame, kind: Kind, open: boolean): void {
  const payload = sent.bytes.subarray(sent.payload);
  const count = kind.gsoType === GsoType.NONE ? 1 : Math.ceil(payload.length / SEGMENT_BYTES);
  expect(arrivals).toHaveLength(count);
  for (const arrival of arrivals) {
    expect(arrival.header.gsoType).toBe(GsoType.NONE);
    expect(arrival.frame.length).toBeLessThanOrEqual(MTU_FRAME_BYTES);
    expectSound(arrival, sent, kind, open);
  }
  expect(arrivals.flatMap(({ frame }) => [...frame.subarray(sent.payload)])).toEqual([...payload]);
}

/** Nothing of `sent` is missing: the kernel decides whether it is whole, for what it forwards is limited. */
function expectAll(arrivals: readonly Arrival[], sent: ShapedFrame, kind: Kind): void {
  const head = sent.bytes.subarray(0, sent.network);
  for (const arrival of arrivals) {
    expect([...arrival.frame.subarray(0, sent.network)]).toEqual([...head]);
    expectSound(arrival, sent, kind, true);
  }
  const payload = Buffer.concat(arrivals.map(({ frame }) => frame.subarray(sent.payload)));
  expect(payload.equals(sent.bytes.subarray(sent.payload))).toBe(true);
}

describe.skipIf(obstacle !== null)(`large frames${obstacle ? `: ${obstacle}` : ''}`, () => {
  let service: EmulatorService;
  let device: Hotplugged;
  let guest: Guest;
  let seed = 0;

  beforeAll(async () => {
    service = await EmulatorService.start({ standby: false });
    device = await service.hotplug();
    await service.network.sendRaw(SIDE, new Uint8Array(0));
    service.network.bridge(BRIDGE, [device.representor, SIDE], device.mac);
  }, 60_000);
  afterAll(() => service.end());
  afterEach(() => guest.close());

  const start = async (features?: bigint) => {
    const agreed = features === undefined ? {} : { features };
    guest = await Guest.start(service, device, { hostInterface: BRIDGE, ...agreed });
    await guest.driver.postReceive(0, BUFFERS, BUFFER_BYTES);
    await eventually('carrier', () => service.network.hasCarrier(device.representor));
  };

  /** Collects what comes of a frame until all of it is there. */
  async function collect(sent: ShapedFrame, take: () => Promise<Arrival[]> | Arrival[]): Promise<Arrival[]> {
    const got: Arrival[] = [];
    let bytes = 0;
    await eventually('the whole payload', async () => {
      for (const arrival of await take()) {
        if (arrival.frame[11] !== sent.bytes[11] || arrival.frame[6] !== sent.bytes[6]) continue;
        got.push(arrival);
        bytes += arrival.frame.length - sent.payload;
      }
      return bytes >= sent.bytes.length - sent.payload;
    });
    return got;
  }

  /** What the driver gets of a frame that the network sends it. */
  async function toDriver(sent: ShapedFrame, kind: Kind): Promise<Arrival[]> {
    await service.network.sendRaw(SIDE, sent.bytes, headerOf(kind, sent));
    const arrivals = await collect(sent, async () => {
      const got = await guest.driver.received(0);
      await guest.driver.postReceive(0, got.length, BUFFER_BYTES);
      return got;
    });
    return arrivals;
  }

  /** What the network gets of a frame that the driver sends. */
  async function toNetwork(sent: ShapedFrame, kind: Kind): Promise<Arrival[]> {
    expect(await guest.driver.transmit(0, sent.bytes, headerOf(kind, sent))).toBe(true);
    return collect(sent, async () =>
      (await service.network.takeRaw(SIDE)).map((bytes) => ({
        header: decodeHeader(bytes),
        frame: bytes.subarray(NetHeader.sizeBytes),
      })),
    );
  }

  /** Sends one frame of every kind to the driver; those of `whole` come as they are. */
  async function expectReceived(whole: readonly KindName[], openChecksums = true): Promise<void> {
    for (const name of NAMES) {
      const kind: Kind = KINDS[name];
      const sent = shaped(kind, ++seed);
      const arrivals = await toDriver(sent, kind);
      if (whole.includes(name)) expectWhole(arrivals, sent, kind);
      else expectSegments(arrivals, sent, kind, openChecksums);
    }
  }

  /** The driver sends one frame of every kind, to a network that takes any. */
  async function expectSent(): Promise<void> {
    await service.network.setOffloads(SIDE, ALL_OFFLOADS);
    for (const name of NAMES) {
      const kind: Kind = KINDS[name];
      const sent = shaped(kind, ++seed, ELSEWHERE);
      expectWhole(await toNetwork(sent, kind), sent, kind);
    }
  }

  it('what the driver agreed to receive arrives whole, UDP_L4 and ECN included', async () => {
    await start();
    expect(guest.driver.features & RECEIVE_OFFLOADS).toBe(
      hotplugFeatures({ uso: supportsUso() }) & RECEIVE_OFFLOADS,
    );
    await expectReceived(NAMES);
  });

  it('without GUEST_USO4 and GUEST_USO6 datagrams come in segments, and TCP as before', async () => {
    await start(~featureMask([GUEST_USO4, GUEST_USO6]));
    await expectReceived(['an open checksum', 'TCP over IPv4', 'TCP over IPv6', 'TCP with ECN']);
  });

  it('only UDP', async () => {
    await start(featureMask([GUEST_CSUM, GUEST_USO4, GUEST_USO6]));
    await expectReceived(['an open checksum', 'UDP over IPv4', 'UDP over IPv6']);
  });

  it('UDP over one IP version, which the kernel does not tell from the other: segments', async () => {
    await start(featureMask([GUEST_CSUM, GUEST_USO4]));
    await expectReceived(['an open checksum']);
  });

  it('TCP over one IP version, without ECN', async () => {
    await start(featureMask([GUEST_CSUM, GUEST_TSO4]));
    await expectReceived(['an open checksum', 'TCP over IPv4']);
  });

  it('F13 a driver without any of it: segments of at most the MTU, every checksum complete', async () => {
    await start(0n);
    await expectReceived([], false);
  });

  it('switched at run time (CTRL_GUEST_OFFLOADS)', async () => {
    await start();
    const agreed = guest.driver.features & RECEIVE_OFFLOADS;
    await guest.driver.setOffloads(agreed & ~featureMask([GUEST_USO4, GUEST_USO6]));
    await expectReceived(['an open checksum', 'TCP over IPv4', 'TCP over IPv6', 'TCP with ECN']);
    await guest.driver.setOffloads(agreed & ~featureMask([GUEST_TSO4, GUEST_TSO6, GUEST_ECN]));
    await expectReceived(['an open checksum', 'UDP over IPv4', 'UDP over IPv6']);
    await guest.driver.setOffloads(0n);
    await expectReceived([], false);
    await guest.driver.setOffloads(agreed);
    await expectReceived(NAMES);
  });

  it.each(NAMES)(
    'NET-5 sent by the driver: %s, whole to who takes it, and in segments to who does not',
    async (name) => {
      await start();
      const kind: Kind = KINDS[name];
      for (const offloads of [ALL_OFFLOADS, 0]) {
        await service.network.setOffloads(SIDE, offloads);
        const sent = shaped(kind, ++seed, ELSEWHERE);
        const arrivals = await toNetwork(sent, kind);
        if (offloads === 0) expectSegments(arrivals, sent, kind, false);
        else expectWhole(arrivals, sent, kind);
      }
    },
  );

  const successions: Readonly<Record<string, () => Promise<void>>> = {
    'kill -9': async () => {
      await service.startStandby();
      await service.killActive();
    },
    'a planned handover': async () => {
      await service.handOver(await service.startReserve());
    },
  };

  it.each(Object.entries(successions))(
    'F14 behind %s: whole what is agreed on, in segments what was switched off, and the next driver has its own',
    async (_, succeed) => {
      await start();
      await succeed();
      await expectReceived(NAMES);
      await expectSent();
      const agreed = guest.driver.features & RECEIVE_OFFLOADS;
      await guest.driver.setOffloads(agreed & ~featureMask([GUEST_TSO4, GUEST_TSO6, GUEST_ECN]));
      await succeed();
      await expectReceived(['an open checksum', 'UDP over IPv4', 'UDP over IPv6']);
      await expectSent();
      await guest.driver.setOffloads(agreed);
      await expectReceived(NAMES);
      guest.close();
      await start(0n);
      await expectReceived([], false);
    },
    60_000,
  );

  describe.each([
    ['TCP over IPv4', 4],
    ['TCP over IPv6', 6],
  ] as const)('F18 the largest %s there is', (name, version) => {
    it.each([0, 1, 2])('behind %i tags: nothing is cut off, either way', async (tags) => {
      const vlans = [5, 6].slice(0, tags);
      const payloadBytes = 65_535 - (version === 4 ? 40 : 20);
      const { gsoType } = KINDS[name];
      const kind = { shape: { version, vlans, payloadBytes }, gsoType };
      await start();
      await service.network.setOffloads(SIDE, ALL_OFFLOADS);
      const inward = shaped(kind, ++seed);
      if (version === 6) expect(inward.bytes).toHaveLength(FRAME_BYTES_MAX - (2 - tags) * 4);
      expectAll(await toDriver(inward, kind), inward, kind);
      const outward = shaped(kind, ++seed, ELSEWHERE);
      expectAll(await toNetwork(outward, kind), outward, kind);
    });

    it.each([0, 1])('that the kernel leaves whole, behind %i tags: it comes whole', async (tags) => {
      const headers = 14 + (version === 4 ? 40 : 60);
      const shape = { version, vlans: [5].slice(0, tags), payloadBytes: FORWARDED_BYTES_MAX - headers };
      const kind = { ...KINDS[name], shape };
      await start();
      await service.network.setOffloads(SIDE, ALL_OFFLOADS);
      const inward = shaped(kind, ++seed);
      expectWhole(await toDriver(inward, kind), inward, kind);
      const outward = shaped(kind, ++seed, ELSEWHERE);
      expectWhole(await toNetwork(outward, kind), outward, kind);
    });
  });
});
