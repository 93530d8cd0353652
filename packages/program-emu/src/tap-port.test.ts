import type { DeviceRing } from '@virtnet/engine-virtqueue';
import { GuestMemory, SplitRing } from '@virtnet/engine-virtqueue';
import { Arena, close, Receiver, send } from '@virtnet/host-linux';
import { Errno, NetHeader } from '@virtnet/wire';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CHAIN_SEGMENTS_MAX } from './limits.js';
import { TapPort } from './tap-port.js';
import { pairOfSockets } from './test-support/test-device.js';
import { TestMemory, TestRing } from './test-support/test-ring.js';

const H = NetHeader.sizeBytes;
const run = (length: number, from = 0) => Uint8Array.from({ length }, (_, i) => (from + i) & 0xff);

describe('TAP port', () => {
  let memory: TestMemory;
  let driver: TestRing;
  let ring: DeviceRing;
  let tap: number;
  let network: number;
  let port: TapPort;
  const receiver = new Receiver(128 * 1024, 1);
  const arrived = () => {
    const got = receiver.receive(network);
    return typeof got === 'number' ? got : got.bytes.slice();
  };
  beforeEach(() => {
    const arena = Arena.reserve(2 ** 24);
    memory = new TestMemory(1 << 20, { arena });
    driver = new TestRing(memory, 256);
    const opened = SplitRing.open({
      ...driver.addresses,
      memory: new GuestMemory([memory.region]),
      indirect: false,
      eventIdx: false,
      position: 0,
      chainSegmentsMax: CHAIN_SEGMENTS_MAX,
    });
    if (!(opened instanceof SplitRing)) throw new Error(opened.code);
    ring = opened;
    [tap, network] = pairOfSockets();
    port = new TapPort(tap);
  });
  afterEach(() => {
    close(tap);
    close(network);
    memory.close();
  });
  const take = (readable: readonly Uint8Array[], writable: readonly number[] = []) => {
    driver.add(readable, writable);
    driver.publish();
    expect(ring.take()).toBe(readable.length + writable.length);
  };

  it('send: header from private memory, then the segments behind the driver’s own header, as one frame', () => {
    take([run(H + 5, 100), run(7, 50)]);
    expect(port.send(ring, run(H), H)).toBe(H + 12);
    expect(arrived()).toEqual(Uint8Array.from([...run(H), ...run(5, 100 + H), ...run(7, 50)]));
  });

  it('send: a driver’s header spread over segments is skipped wherever it ends', () => {
    take([run(5), run(7), run(3, 200)]);
    expect(port.send(ring, run(H, 9), H)).toBe(H + 3);
    expect(arrived()).toEqual(Uint8Array.from([...run(H, 9), ...run(3, 200)]));
    ring.give(0);
    take([run(5), run(8, 60), run(3, 200)]);
    expect(port.send(ring, run(H, 9), H)).toBe(H + 4);
    expect(arrived()).toEqual(Uint8Array.from([...run(H, 9), 67, ...run(3, 200)]));
  });

  it(`send: ${CHAIN_SEGMENTS_MAX} segments are one frame`, () => {
    take(Array.from({ length: CHAIN_SEGMENTS_MAX }, (_, i) => run(H, i)));
    expect(port.send(ring, run(H), H)).toBe(H * CHAIN_SEGMENTS_MAX);
    expect((arrived() as Uint8Array).length).toBe(H * CHAIN_SEGMENTS_MAX);
  });

  it('receive: the header into private memory, the frame behind the room for it, in whatever segments', () => {
    take([], [H + 3, 2, 50]);
    send(network, Uint8Array.from([...run(H, 7), ...run(9, 100)]));
    const header = new Uint8Array(H);
    expect(port.receive(ring, header, H)).toBe(H + 9);
    expect(header).toEqual(run(H, 7));
    const seen = new Uint8Array(9);
    ring.readBack(H, seen, 0, 9);
    expect(seen).toEqual(run(9, 100));
    const untouched = new Uint8Array(H).fill(1);
    ring.readBack(0, untouched, 0, H);
    expect(untouched).toEqual(new Uint8Array(H));
  });

  it('receive: a frame larger than the chain is recognised by its size, and nothing is written past the chain', () => {
    take([], [H + 10]);
    const before = memory.bytes.slice();
    send(network, run(H + 300));
    expect(port.receive(ring, new Uint8Array(H), H)).toBe(H + 300);
    let written = 0;
    for (let i = 0; i < before.length; i++) if (memory.bytes[i] !== before[i]) written++;
    expect(written).toBe(10);
  });

  it('nothing to receive, and no room to send: -EAGAIN; a closed representor: an error, never an exception', () => {
    take([], [200]);
    expect(port.receive(ring, new Uint8Array(H), H)).toBe(-Errno.EAGAIN);
    ring.untake();
    ring.give(0);
    const full = new TestRing(memory, 16);
    const opened = SplitRing.open({
      ...full.addresses,
      memory: new GuestMemory([memory.region]),
      indirect: false,
      eventIdx: false,
      position: 0,
      chainSegmentsMax: CHAIN_SEGMENTS_MAX,
    }) as SplitRing;
    full.add([run(2000)]);
    full.publish();
    opened.take();
    let sent = 0;
    for (let i = 0; i < 100_000 && sent >= 0; i++) sent = port.send(opened, run(H), H);
    expect(sent).toBe(-Errno.EAGAIN);
    close(network);
    expect(port.send(opened, run(H), H)).toBeLessThan(0);
  });
});
