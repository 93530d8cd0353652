/** Frames from the driver: framing, order, counting, back-pressure. Failure modes F1, C6, C8, C12, C13, C18, C20. */

import type { FramePort } from '@virtnet/engine-virtio-net';
import type { DeviceRing } from '@virtnet/engine-virtqueue';
import { QueueWait } from '@virtnet/engine-virtqueue';
import { Errno, GsoType, NetHeader, QueueCounter, QueueWord } from '@virtnet/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  checksumHeader,
  decodeHeader,
  type HeaderFields,
  netHeader,
  OFFLOADS_TRANSMIT,
  shapeFrame,
  transmitFixture,
} from './net-fixture.js';
import { framings } from './ring-contract.js';

const BUDGET = 64;

describe('transmit queue', () => {
  it('frames reach the port in order, unchanged, and their chains come back empty', () => {
    const fixture = transmitFixture();
    const frames = Array.from(
      { length: 20 },
      (_, seed) => shapeFrame({ seed, payloadBytes: seed * 50 }).bytes,
    );
    for (const frame of frames) fixture.transmit(frame);
    expect(fixture.queue.poll(BUDGET)).toBe(20);
    expect(fixture.port.sent.map(({ frame }) => frame)).toEqual(frames);
    expect(fixture.driver.collect().every((used) => used.lengthBytes === 0 && used.readableIntact)).toBe(
      true,
    );
    expect(fixture.count(QueueCounter.FRAMES)).toBe(20);
    expect(fixture.count(QueueCounter.BYTES)).toBe(frames.reduce((sum, frame) => sum + frame.length, 0));
    expect(fixture.queue.interrupt).toBe(true);
  });

  it('SR-1 F1 any framing of header and frame, direct or indirect, sends the same bytes', () => {
    const frame = shapeFrame({ payloadBytes: 300 });
    const content = Uint8Array.of(...checksumHeader(frame), ...frame.bytes);
    const fixture = transmitFixture({ features: OFFLOADS_TRANSMIT });
    fc.assert(
      fc.property(framings(content, 20), fc.option(fc.integer({ min: 0, max: 20 })), (parts, indirect) => {
        const options = indirect === null ? {} : { indirectFrom: indirect };
        fixture.driver.add({ readable: parts }, options);
        fixture.driver.publish();
        fixture.queue.poll(BUDGET);
        fixture.driver.collect();
        expect(fixture.port.sent.pop()?.frame).toEqual(frame.bytes);
      }),
      { numRuns: 64 },
    );
    expect(fixture.drops()).toBe(0);
  });

  it('F1 a header in twelve descriptors of one byte is read whole', () => {
    const fixture = transmitFixture({ features: OFFLOADS_TRANSMIT });
    const frame = shapeFrame();
    const header = checksumHeader(frame);
    fixture.driver.add({ readable: [...[...header].map((byte) => Uint8Array.of(byte)), frame.bytes] });
    fixture.driver.publish();
    expect(fixture.queue.poll(BUDGET)).toBe(1);
    expect(fixture.port.sent).toEqual([{ header, frame: frame.bytes }]);
  });

  it('C12 a chain with writable buffers only is dropped, and nothing is written into it', () => {
    const fixture = transmitFixture();
    fixture.driver.add({ writable: [2000] });
    fixture.driver.publish();
    expect(fixture.queue.poll(BUDGET)).toBe(1);
    expect(fixture.count(QueueCounter.DROP_HEADER)).toBe(1);
    const [used] = fixture.driver.collect();
    expect(used!.lengthBytes).toBe(0);
    expect(used!.written.every((byte) => byte === 0xa5)).toBe(true);
  });

  describe('C20 a port that is full', () => {
    it('keeps its frame in the ring, in order, and nothing is lost or counted as dropped', () => {
      const fixture = transmitFixture();
      const frames = [1, 2, 3].map((seed) => shapeFrame({ seed }).bytes);
      for (const frame of frames) fixture.transmit(frame);
      fixture.port.fullFor = 5;
      for (let i = 0; i < 5; i++) {
        expect(fixture.queue.poll(BUDGET)).toBe(0);
        expect(fixture.queue.waitsFor).toBe(QueueWait.PORT);
        expect(fixture.block.words[QueueWord.IN_FLIGHT]).toBe(0);
        expect(fixture.driver.collect()).toEqual([]);
      }
      expect(fixture.queue.arm(), 'kicks are not what it waits for').toBe(false);
      expect(fixture.queue.poll(BUDGET)).toBe(3);
      expect(fixture.port.sent.map(({ frame }) => frame)).toEqual(frames);
      expect(fixture.drops()).toBe(0);
    });

    it('in the middle of a burst, publishes what was sent before', () => {
      const fixture = transmitFixture();
      for (let seed = 0; seed < 4; seed++) fixture.transmit(shapeFrame({ seed }).bytes);
      expect(fixture.queue.poll(2)).toBe(2);
      fixture.port.fullFor = 1;
      expect(fixture.queue.poll(BUDGET)).toBe(0);
      expect(fixture.driver.collect().length).toBe(2);
      expect(fixture.queue.poll(BUDGET)).toBe(2);
      expect(fixture.driver.collect().length).toBe(2);
    });
  });

  it('a port that refuses costs the frame under its own counter, and the next one is tried', () => {
    const fixture = transmitFixture();
    fixture.port.refusal = Errno.EIO;
    fixture.transmit(shapeFrame().bytes);
    expect(fixture.queue.poll(BUDGET)).toBe(1);
    expect([fixture.count(QueueCounter.DROP_TAP_ERROR), fixture.drops()]).toEqual([1, 1]);
    fixture.port.refusal = 0;
    fixture.transmit(shapeFrame().bytes);
    expect(fixture.queue.poll(BUDGET)).toBe(1);
    expect(fixture.port.sent.length).toBe(1);
  });

  it('while the link is down, frames are consumed and counted, and none reaches the port', () => {
    const fixture = transmitFixture({ linkUp: false });
    for (let seed = 0; seed < 3; seed++) fixture.transmit(shapeFrame({ seed }).bytes);
    expect(fixture.queue.poll(BUDGET)).toBe(3);
    expect(fixture.count(QueueCounter.DROP_LINK_DOWN)).toBe(3);
    expect(fixture.port.sent).toEqual([]);
    expect(fixture.driver.collect().length).toBe(3);
  });

  it('C13 a header changed while the port sends is not looked at again', () => {
    const frame = shapeFrame({ payloadBytes: 4000 });
    const header = checksumHeader(frame, { gsoType: GsoType.TCPV4, gsoSize: 1400 });
    const seen: HeaderFields[] = [];
    const racing: FramePort = {
      overflow: new Uint8Array(0),
      send(ring: DeviceRing, bytes: Uint8Array) {
        for (let i = 0; i < ring.readableCount; i++) {
          const piece = ring.memory.pieces[ring.segmentPiece[i]!]!;
          const at = ring.segmentOffset[i]!;
          piece.u8.fill(0xff, at, at + ring.segmentLength[i]!);
        }
        seen.push(decodeHeader(bytes));
        return bytes.length + ring.readableBytes - NetHeader.sizeBytes;
      },
      receive: () => -Errno.EAGAIN,
    };
    const fixture = transmitFixture({ features: OFFLOADS_TRANSMIT, port: racing });
    fixture.transmit(frame.bytes, header);
    expect(fixture.queue.poll(BUDGET)).toBe(1);
    const expected = checksumHeader(frame, { gsoType: GsoType.TCPV4, gsoSize: 1400, hdrLen: frame.payload });
    expect(seen).toEqual([decodeHeader(expected)]);
    expect(fixture.count(QueueCounter.BYTES)).toBe(frame.bytes.length);
  });

  it('a fault of the ring publishes what was done, stops the queue and names itself', () => {
    const fixture = transmitFixture();
    fixture.transmit(shapeFrame().bytes);
    fixture.driver.offer(0xffff);
    fixture.driver.publish();
    expect(fixture.queue.poll(BUDGET)).toBe(1);
    expect(fixture.queue.fault?.code).toBe('HEAD_OUT_OF_RANGE');
    expect(fixture.driver.collect().length).toBe(1);
    expect(fixture.count(QueueCounter.BAD_DESC_ERRORS)).toBe(1);
    expect(fixture.queue.poll(BUDGET)).toBe(0);
    expect(fixture.queue.arm()).toBe(false);
    expect(fixture.count(QueueCounter.BAD_DESC_ERRORS)).toBe(1);
  });

  it('C6 C8 a chain too long and a buffer outside memory have counters of their own', () => {
    const fixture = transmitFixture({ chainSegmentsMax: 4 });
    fixture.driver.add({ readable: Array.from({ length: 5 }, () => new Uint8Array(20)) });
    fixture.driver.addOutside();
    fixture.driver.publish();
    expect(fixture.queue.poll(BUDGET)).toBe(2);
    expect(fixture.count(QueueCounter.EXCEED_MAX_CHAIN)).toBe(1);
    expect(fixture.count(QueueCounter.INVALID_BUFFER)).toBe(1);
    expect([fixture.count(QueueCounter.DROP_BAD_CHAIN), fixture.drops()]).toEqual([2, 2]);
    expect(fixture.driver.collect().map(({ lengthBytes }) => lengthBytes)).toEqual([0, 0]);
  });

  it('the budget bounds a turn, and every turn is counted', () => {
    const fixture = transmitFixture();
    for (let seed = 0; seed < 10; seed++) fixture.transmit(shapeFrame({ seed }).bytes);
    expect([4, 4, 4, 4].map((budget) => fixture.queue.poll(budget))).toEqual([4, 4, 2, 0]);
    expect(fixture.count(QueueCounter.HANDLER_RUNS)).toBe(4);
    expect(fixture.count(QueueCounter.BATCHES)).toBe(3);
    expect(fixture.count(QueueCounter.MAX_POSTED)).toBe(10);
    expect(fixture.count(QueueCounter.RECEIVED_DESC)).toBe(10);
    expect(fixture.count(QueueCounter.COMPLETED_DESC)).toBe(10);
    expect(fixture.block.words[QueueWord.HEARTBEAT]).toBe(4);
    expect(fixture.block.words[QueueWord.POSITION]).toBe(10);
    expect(fixture.block.words[QueueWord.PUBLISHED]).toBe(10);
  });

  it('C18 kicks of an empty queue are counted and are no fault; a kick that brings work is not counted', () => {
    const fixture = transmitFixture();
    for (let i = 0; i < 1000; i++) {
      fixture.queue.noteKick();
      fixture.queue.poll(BUDGET);
    }
    expect(fixture.count(QueueCounter.SPURIOUS_KICKS)).toBe(1000);
    expect(fixture.queue.fault).toBe(null);
    fixture.transmit(shapeFrame().bytes);
    fixture.queue.noteKick();
    expect(fixture.count(QueueCounter.SPURIOUS_KICKS)).toBe(1000);
    expect(fixture.queue.poll(BUDGET)).toBe(1);
  });

  it('conservation: whatever the driver posts, frames and drops add up to the chains that came back', () => {
    const fixture = transmitFixture({ features: OFFLOADS_TRANSMIT, chainSegmentsMax: 8 });
    const acts = fc.constantFrom('good', 'runt', 'outside', 'long', 'bad-header', 'refuse', 'full', 'large');
    let posted = 0;
    fc.assert(
      fc.property(fc.array(acts, { minLength: 1, maxLength: 6 }), (script) => {
        for (const act of script) {
          const frame = shapeFrame({ seed: posted });
          if (act === 'good') fixture.transmit(frame.bytes);
          else if (act === 'runt') fixture.transmit(frame.bytes.subarray(0, 5));
          else if (act === 'large') fixture.transmit(new Uint8Array(3000));
          else if (act === 'bad-header')
            fixture.transmit(frame.bytes, netHeader({ flags: 1, csumStart: 9999 }));
          else if (act === 'outside') fixture.driver.addOutside();
          else if (act === 'long') fixture.driver.add({ readable: Array(9).fill(new Uint8Array(9)) });
          else {
            if (act === 'full') fixture.port.fullFor = 1;
            else fixture.port.refusal = Errno.EIO;
            fixture.transmit(frame.bytes);
          }
          posted++;
        }
        fixture.driver.publish();
        while (fixture.queue.poll(3) > 0 || fixture.queue.waitsFor === QueueWait.PORT);
        fixture.port.refusal = 0;
        fixture.driver.collect();
        expect(fixture.driver.outstanding).toBe(0);
        expect(fixture.count(QueueCounter.COMPLETED_DESC)).toBe(posted);
        expect(fixture.count(QueueCounter.RECEIVED_DESC)).toBe(posted);
        expect(fixture.count(QueueCounter.FRAMES) + fixture.drops()).toBe(posted);
        expect(fixture.port.sent.length).toBe(fixture.count(QueueCounter.FRAMES));
      }),
      { numRuns: 200 },
    );
  });
});
