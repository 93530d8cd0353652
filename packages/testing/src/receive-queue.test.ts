/** Frames to the driver: NET-2, NET-6, NET-13, CVQ-3, CVQ-4, failure modes F1, F5, F6, C12, C13 and C17. */

import { FRAME_BYTES_MAX, type FramePort } from '@virtnet/engine-virtio-net';
import type { DeviceRing } from '@virtnet/engine-virtqueue';
import { QueueWait } from '@virtnet/engine-virtqueue';
import {
  Errno,
  GsoType,
  NET_HEADER_HASH_BYTES,
  NET_HEADER_LEGACY_BYTES,
  NetFeature,
  QueueCounter,
  QueueWord,
} from '@virtnet/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  checksumHeader,
  netHeader,
  OFFLOADS_RECEIVE,
  OWN_MAC,
  receiveFixture,
  shapeFrame,
} from './net-fixture.js';
import { expectDropped, HEADER, receiveOne } from './receive-expect.js';
import { POISON } from './ring-driver.js';

const BUDGET = 64;

describe('receive queue', () => {
  it('frames reach the driver in order, unchanged, with the bytes written as used length', () => {
    const fixture = receiveFixture();
    const frames = Array.from(
      { length: 20 },
      (_, seed) => shapeFrame({ seed, payloadBytes: seed * 50 }).bytes,
    );
    for (const frame of frames) fixture.port.push(frame);
    fixture.post(...frames.map(() => 1600));
    expect(fixture.queue.poll(BUDGET)).toBe(20);
    const used = fixture.driver.collect();
    expect(used.map(({ written, lengthBytes }) => written.subarray(HEADER, lengthBytes))).toEqual(frames);
    const behind = used.flatMap(({ written, lengthBytes }) => [...written.subarray(lengthBytes)]);
    expect(behind.every((byte) => byte === POISON)).toBe(true);
    expect(fixture.count(QueueCounter.FRAMES)).toBe(20);
    expect(fixture.queue.interrupt).toBe(true);
    expect(fixture.queue.waitsFor).toBe(QueueWait.DRIVER);
  });

  it('SR-1 F1 any framing of the buffer, direct or indirect, receives the same bytes', () => {
    const frame = shapeFrame({ payloadBytes: 200 }).bytes;
    const fixture = receiveFixture();
    const sizes = fc.array(fc.integer({ min: 0, max: 60 }), { minLength: 1, maxLength: 20 });
    fc.assert(
      fc.property(sizes, fc.option(fc.integer({ min: 0, max: 20 })), (parts, indirect) => {
        const room = parts.reduce((a, b) => a + b, 0);
        const writable = [...parts, Math.max(0, HEADER + frame.length - room)];
        const options = indirect === null ? {} : { indirectFrom: indirect };
        fixture.driver.add({ writable }, options);
        fixture.driver.publish();
        fixture.port.push(frame);
        expect(fixture.queue.poll(BUDGET)).toBe(1);
        const [used] = fixture.driver.collect();
        expect(used!.lengthBytes).toBe(HEADER + frame.length);
        expect(used!.written.subarray(HEADER, used!.lengthBytes)).toEqual(frame);
      }),
      { numRuns: 64 },
    );
  });

  it('F5 NET-6 num_buffers is 1, with MRG_RXBUF and without', () => {
    for (const features of [[], [NetFeature.MRG_RXBUF]]) {
      const fixture = receiveFixture({ features });
      fixture.port.push(shapeFrame().bytes, netHeader({ numBuffers: 0 }));
      expect(receiveOne(fixture).header.numBuffers).toBe(1);
      fixture.port.push(shapeFrame().bytes, netHeader({ numBuffers: 7 }));
      expect(receiveOne(fixture).header.numBuffers).toBe(1);
    }
  });

  it('NET-13 the header is 10 bytes for a legacy driver and 20 with HASH_REPORT, its hash fields zero', () => {
    const cases: [number, boolean, number[]][] = [
      [NET_HEADER_LEGACY_BYTES, true, []],
      [NET_HEADER_HASH_BYTES, false, [NetFeature.HASH_REPORT]],
    ];
    for (const [headerBytes, legacy, features] of cases) {
      const fixture = receiveFixture({ legacy, features });
      const frame = shapeFrame().bytes;
      fixture.port.push(frame);
      fixture.post(2000);
      fixture.queue.poll(BUDGET);
      const [used] = fixture.driver.collect();
      expect(used!.lengthBytes).toBe(headerBytes + frame.length);
      expect(used!.written.subarray(headerBytes, used!.lengthBytes)).toEqual(frame);
      expect(used!.written.subarray(HEADER, headerBytes).every((byte) => byte === 0)).toBe(true);
    }
  });

  describe('F6 a frame larger than the buffer', () => {
    it('is dropped whole, and the buffer stays for the next one', () => {
      const fixture = receiveFixture({ mtu: 9000 });
      fixture.port.push(shapeFrame({ payloadBytes: 2000 }).bytes);
      expectDropped(fixture, QueueCounter.DROP_NO_BUFFER, 1526);
    });

    it('by one byte is dropped, and one that fits exactly is not', () => {
      const frame = shapeFrame({ payloadBytes: 500 }).bytes;
      for (const spare of [0, -1]) {
        const fixture = receiveFixture();
        fixture.port.push(frame);
        fixture.post(HEADER + frame.length + spare);
        expect(fixture.queue.poll(BUDGET)).toBe(1);
        expect(fixture.driver.collect().length).toBe(spare === 0 ? 1 : 0);
        expect(fixture.count(QueueCounter.DROP_NO_BUFFER)).toBe(spare === 0 ? 0 : 1);
      }
    });
  });

  it('F18 the largest frame, 64 KiB of IPv6 behind two tags, fits a buffer of just that size, and no smaller one', () => {
    const shape = { version: 6, vlans: [5, 6], payloadBytes: 65_535 - 20 } as const;
    const frame = shapeFrame(shape);
    expect(frame.bytes).toHaveLength(FRAME_BYTES_MAX);
    for (const spare of [0, -1]) {
      const fixture = receiveFixture({ features: OFFLOADS_RECEIVE });
      fixture.port.push(frame.bytes, checksumHeader(frame, { gsoType: GsoType.TCPV6, gsoSize: 1400 }));
      fixture.post(HEADER + frame.bytes.length + spare);
      expect(fixture.queue.poll(BUDGET)).toBe(1);
      const used = fixture.driver.collect();
      expect(used.length).toBe(spare === 0 ? 1 : 0);
      expect(fixture.count(QueueCounter.DROP_NO_BUFFER)).toBe(spare === 0 ? 0 : 1);
      for (const { written, lengthBytes } of used)
        expect(Buffer.compare(written.subarray(HEADER, lengthBytes), frame.bytes)).toBe(0);
    }
  });

  it('without buffers the port is not read; with one, exactly one frame is', () => {
    const fixture = receiveFixture();
    for (let seed = 0; seed < 3; seed++) fixture.port.push(shapeFrame({ seed }).bytes);
    expect(fixture.queue.poll(BUDGET)).toBe(0);
    expect(fixture.port.reads).toBe(0);
    expect(fixture.queue.waitsFor).toBe(QueueWait.DRIVER);
    fixture.post(2000);
    expect(fixture.queue.poll(BUDGET)).toBe(1);
    expect(fixture.port.waiting.length).toBe(2);
  });

  it('asks for kicks when it waits for buffers, and does not when it waits for frames', () => {
    const fixture = receiveFixture();
    fixture.queue.disarm();
    fixture.queue.poll(BUDGET);
    expect(fixture.queue.arm()).toBe(false);
    expect(fixture.driver.usedFlags).toBe(0);
    fixture.queue.disarm();
    fixture.post(2000);
    fixture.queue.poll(BUDGET);
    expect(fixture.queue.arm()).toBe(false);
    expect(fixture.driver.usedFlags).toBe(1);
  });

  it('C17 arming reports a buffer that was posted before the driver could see the wish', () => {
    const fixture = receiveFixture();
    fixture.queue.disarm();
    fixture.queue.poll(BUDGET);
    fixture.post(2000);
    expect(fixture.queue.arm()).toBe(true);
  });

  it('C12 a chain with readable buffers only comes back empty, its memory unchanged', () => {
    const fixture = receiveFixture();
    fixture.port.push(shapeFrame().bytes);
    fixture.driver.add({ readable: [new Uint8Array(2000).fill(3)] });
    fixture.post(2000);
    expect(fixture.queue.poll(BUDGET)).toBe(2);
    const [bad, good] = fixture.driver.collect();
    expect([bad!.lengthBytes, bad!.readableIntact]).toEqual([0, true]);
    expect(good!.lengthBytes).toBeGreaterThan(HEADER);
    expect(fixture.count(QueueCounter.DROP_BAD_CHAIN)).toBe(1);
    expect(fixture.count(QueueCounter.BAD_DESC_ERRORS)).toBe(1);
  });

  it('a buffer without room for header and Ethernet header comes back empty, and does not hold the queue up', () => {
    for (const size of [1, 11, 12, 25]) {
      const fixture = receiveFixture();
      const frame = shapeFrame().bytes;
      fixture.port.push(frame);
      fixture.post(size, 2000);
      expect(fixture.queue.poll(BUDGET)).toBe(2);
      const [small, large] = fixture.driver.collect();
      expect(small!.lengthBytes).toBe(0);
      expect(large!.written.subarray(HEADER, large!.lengthBytes)).toEqual(frame);
      expect([fixture.count(QueueCounter.DROP_BAD_CHAIN), fixture.drops()]).toEqual([1, 1]);
    }
  });

  it('an inactive queue is given no frame and takes no buffer', () => {
    const fixture = receiveFixture({ active: false });
    fixture.port.push(shapeFrame().bytes);
    fixture.post(2000);
    expect(fixture.queue.poll(BUDGET)).toBe(0);
    expect(fixture.port.reads).toBe(0);
    expect(fixture.queue.arm()).toBe(false);
    expect(fixture.driver.collect()).toEqual([]);
  });

  it('while the link is down, frames are counted and dropped, and buffers stay', () => {
    const fixture = receiveFixture({ linkUp: false });
    for (let seed = 0; seed < 3; seed++) fixture.port.push(shapeFrame({ seed }).bytes);
    fixture.post(2000);
    expect(fixture.queue.poll(BUDGET)).toBe(3);
    expect(fixture.count(QueueCounter.DROP_LINK_DOWN)).toBe(3);
    expect(fixture.driver.collect()).toEqual([]);
  });

  it('a port that fails is counted, and the buffer stays', () => {
    const failing: FramePort = {
      overflow: new Uint8Array(0),
      send: () => -Errno.EIO,
      receive: () => -Errno.EIO,
    };
    const fixture = receiveFixture({ port: failing });
    fixture.post(2000);
    expect(fixture.queue.poll(BUDGET)).toBe(0);
    expect(fixture.count(QueueCounter.DROP_TAP_ERROR)).toBe(1);
    expect(fixture.block.words[QueueWord.IN_FLIGHT]).toBe(0);
    expect(fixture.driver.collect()).toEqual([]);
    expect(fixture.queue.waitsFor).toBe(QueueWait.PORT);
  });

  it('a fault of the ring stops the queue and names itself', () => {
    const fixture = receiveFixture();
    fixture.driver.setAvailableIndex(1000);
    fixture.port.push(shapeFrame().bytes);
    expect(fixture.queue.poll(BUDGET)).toBe(0);
    expect(fixture.queue.fault?.code).toBe('AVAILABLE_INDEX_JUMP');
    expect(fixture.port.reads).toBe(0);
    expect(fixture.queue.poll(BUDGET)).toBe(0);
  });

  it('NET-2 with MTU negotiated, a frame larger than it is dropped; without, or with GSO, it is delivered', () => {
    const large = shapeFrame({ payloadBytes: 3000 });
    const told = receiveFixture({ features: [NetFeature.MTU] });
    told.port.push(large.bytes);
    expectDropped(told, QueueCounter.DROP_MTU);
    const untold = receiveFixture();
    untold.port.push(large.bytes);
    expect(receiveOne(untold).frame).toEqual(large.bytes);
    const gso = receiveFixture({ features: [NetFeature.MTU, ...OFFLOADS_RECEIVE] });
    gso.port.push(large.bytes, checksumHeader(large, { gsoType: GsoType.TCPV4, gsoSize: 1448 }));
    expect(receiveOne(gso).frame).toEqual(large.bytes);
  });

  it('NET-2 frames up to the MTU are delivered with up to two tags, one byte more is not', () => {
    for (const vlans of [[], [5], [5, 6]]) {
      for (const excess of [0, 1]) {
        const fixture = receiveFixture({ features: [NetFeature.MTU] });
        fixture.port.push(shapeFrame({ vlans, payloadBytes: 1460 + excess }).bytes);
        fixture.post(2000);
        fixture.queue.poll(BUDGET);
        expect(fixture.driver.collect().length).toBe(1 - excess);
        expect(fixture.count(QueueCounter.DROP_MTU)).toBe(excess);
      }
    }
  });

  describe('the filter', () => {
    it('CVQ-3 a frame for another address is dropped under its own counter, and the buffer stays', () => {
      const fixture = receiveFixture({ filter: {} });
      fixture.port.push(shapeFrame({ destination: [2, 0, 0, 0, 0, 9] }).bytes);
      expectDropped(fixture, QueueCounter.DROP_FILTER_MAC);
    });

    it('CVQ-4 a tagged frame of a VLAN that was not added is dropped, others pass', () => {
      const fixture = receiveFixture({ filter: { vlans: [100] } });
      // Two tags: the first one is of 802.1ad, and no driver's to add.
      for (const vlans of [[100], [101], [], [0], [7, 101]]) fixture.port.push(shapeFrame({ vlans }).bytes);
      fixture.post(2000, 2000, 2000, 2000);
      expect(fixture.queue.poll(BUDGET)).toBe(5);
      expect(fixture.driver.collect().length).toBe(4);
      expect(fixture.count(QueueCounter.DROP_FILTER_VLAN)).toBe(1);
    });

    it('judges a buffer in one-byte descriptors as it judges any other', () => {
      const fixture = receiveFixture({ filter: {}, queueSize: 256, chainSegmentsMax: 256 });
      const frame = shapeFrame({ destination: OWN_MAC, payloadBytes: 10 }).bytes;
      fixture.driver.add({ writable: Array(HEADER + frame.length).fill(1) });
      fixture.driver.publish();
      fixture.port.push(shapeFrame({ destination: [2, 2, 2, 2, 2, 2], payloadBytes: 10 }).bytes);
      fixture.port.push(frame);
      expect(fixture.queue.poll(BUDGET)).toBe(2);
      const [used] = fixture.driver.collect();
      expect(used!.written.subarray(HEADER)).toEqual(frame);
    });
  });

  it('C13 what the driver makes of the buffer meanwhile changes neither header nor length', () => {
    const frame = shapeFrame();
    const port: FramePort = {
      overflow: new Uint8Array(0),
      send: () => -Errno.EIO,
      receive(ring: DeviceRing, header: Uint8Array, frameOffset: number) {
        header.set(checksumHeader(frame));
        ring.scatter(frameOffset, new Uint8Array(frame.bytes.length).fill(0xff), 0, frame.bytes.length);
        return HEADER + frame.bytes.length;
      },
    };
    const fixture = receiveFixture({ features: OFFLOADS_RECEIVE, port });
    fixture.post(2000);
    expect(fixture.queue.poll(1)).toBe(1);
    const [used] = fixture.driver.collect();
    expect(used!.lengthBytes).toBe(HEADER + frame.bytes.length);
    expect(used!.written.subarray(0, HEADER)).toEqual(checksumHeader(frame, { numBuffers: 1 }));
  });
});
