import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { copyChain, PrivateMemory, readChain, writeChain } from './chain-copy.js';
import { ROOMS_BYTES, reserveWindow, roomsMemory, useWindow } from './copy-window.js';
import type { DeviceRing } from './device-ring.js';
import { PLAIN_CHAINS_MAX } from './limits.js';
import { type Copying, copyBurst, PrivateBuffers, writePlainHeader } from './plain-burst.js';
import { ChainRoom, PlainRoom } from './ring-room.js';
import { PLAIN_ROOM_BYTES } from './window-layout.js';

const AREA_BYTES = 2 ** 20;
const HEADER_BYTES = 12;
const UNWANTED = 0xff01;
const GUARD = 0xa5;

const outsideRooms = { from: new PlainRoom(), to: new PlainRoom() }; // made before there is a window
const window = useWindow(reserveWindow()!);

/** Two areas, in the window or not, and the buffers of a burst in each. */
function sides(inWindow: boolean) {
  const area = (at: number) =>
    inWindow ? new PrivateMemory(AREA_BYTES, window, at) : new PrivateMemory(AREA_BYTES);
  const [source, target] = [area(2 ** 20), area(4 * 2 ** 20)];
  for (let i = 0; i < AREA_BYTES; i++) source.u8[i] = (i * 7 + (i >>> 8)) & 0xff;
  target.u8.fill(GUARD);
  const buffers = (memory: PrivateMemory, room: PlainRoom) => {
    room.pieces.fill(0);
    room.pages.fill(memory.piece.windowPage);
    return { plain: room, memory: { pieces: [memory.piece] } };
  };
  const rooms = inWindow ? { from: new PlainRoom(), to: new PlainRoom() } : outsideRooms;
  return { source, target, from: buffers(source, rooms.from), to: buffers(target, rooms.to) };
}

interface Frame {
  readonly bytes: number;
  readonly room: number;
  readonly odd: boolean;
  readonly hasHeader: boolean;
}

const frames = fc.array(
  fc.record({
    bytes: fc.oneof(
      { weight: 5, arbitrary: fc.integer({ min: 60, max: 2000 }) },
      fc.integer({ min: 0, max: 9000 }),
    ),
    room: fc.oneof({ weight: 5, arbitrary: fc.constant(9100) }, fc.integer({ min: 0, max: 9100 })),
    odd: fc.oneof({ weight: 9, arbitrary: fc.constant(false) }, fc.boolean()),
    hasHeader: fc.boolean(),
  }),
  { minLength: 1, maxLength: 40 },
);

/** What becomes of a burst, and of the memory it is copied to. */
function burst(inWindow: boolean, all: readonly Frame[], toHeader: number, bytesMax: number) {
  const { source, target, from, to } = sides(inWindow);
  let at = 64;
  all.forEach(({ bytes, room, odd, hasHeader }, i) => {
    from.plain.offsets[i] = at;
    from.plain.lengths[i] = HEADER_BYTES + bytes;
    to.plain.offsets[i] = at + 5;
    to.plain.lengths[i] = room;
    source.piece.view.setInt32(at, odd ? UNWANTED & 0x100 : 0x20000, true);
    if (hasHeader) writePlainHeader(target.piece.view, at + 5);
    at += 9200;
  });
  const copying: Copying = { from, fromHeader: HEADER_BYTES, to, toHeader, unwanted: UNWANTED, bytesMax };
  const done = copyBurst(copying, 0, 0, all.length);
  return { done, target: target.u8 };
}

describe('bursts', () => {
  it('rooms are where WebAssembly finds them once there is a window, and elsewhere before', () => {
    expect(outsideRooms.from.place).toBe(-1);
    const { from, to } = sides(true);
    expect([from.plain.place >= 0, to.plain.place >= 0]).toEqual([true, true]);
    expect(from.plain.offsets.buffer).toBe(roomsMemory());
  });

  it('what arrives is the same in the window and elsewhere, up to the first frame that is for another way', () => {
    fc.assert(
      fc.property(
        frames,
        fc.constantFrom(0, HEADER_BYTES),
        fc.constantFrom(1514, 9014),
        (all, toHeader, max) => {
          const [inside, outside] = [burst(true, all, toHeader, max), burst(false, all, toHeader, max)];
          const fits = ({ bytes, room, odd }: Frame) =>
            bytes >= 14 && bytes <= max && bytes <= room - toHeader && !odd;
          const first = all.findIndex((each) => !fits(each));
          const expected = first < 0 ? all.length : first;
          expect([inside.done, outside.done]).toEqual([expected, expected]);
          expect(Buffer.compare(inside.target, outside.target)).toBe(0);
        },
      ),
      { numRuns: 60 },
    );
  });

  it('in front of a frame that arrives behind a header is that of a plain frame in one buffer', () => {
    for (const inWindow of [true, false]) {
      const one = { bytes: 100, room: 9100, odd: false, hasHeader: false };
      const { target } = burst(inWindow, [one], HEADER_BYTES, 1514);
      expect([...target.subarray(69, 69 + HEADER_BYTES)]).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
      expect([target[68], target[69 + HEADER_BYTES + 100]]).toEqual([GUARD, GUARD]);
    }
  });

  it('buffers of our own come again when there is no room for more', () => {
    const buffers = new PrivateBuffers(new PrivateMemory(10_000));
    buffers.lay(3000, 3008, 10_000);
    const { offsets, lengths } = buffers.plain;
    expect([...offsets.subarray(0, 5)]).toEqual([0, 3008, 6016, 0, 3008]);
    expect([lengths[0], lengths[PLAIN_CHAINS_MAX - 1]]).toEqual([3000, 3000]);
  });

  it('the place of a room is nobody else’s for as long as somebody has the room', () => {
    const rooms = Array.from({ length: 100 }, () => new PlainRoom());
    expect(new Set(rooms.map(({ place }) => place)).size).toBe(100);
  });

  it('a place that another room had before is empty', async () => {
    const dirty = (): Set<number> =>
      new Set(
        Array.from({ length: 50 }, () => {
          const room = new PlainRoom();
          room.offsets.fill(2 ** 29);
          room.lengths.fill(5000);
          return room.place;
        }),
      );
    setFlagsFromString('--expose-gc');
    const collect = runInNewContext('gc') as () => void;
    const before = dirty();
    const kept: PlainRoom[] = []; // whoever else’s places they have
    let again: PlainRoom | undefined;
    for (let i = 0; i < 20 && again === undefined; i++) {
      collect();
      await new Promise((resolve) => setTimeout(resolve, 5)); // places come back in the event loop
      for (let room = 0; room < 200; room++) kept.push(new PlainRoom());
      again = kept.find(({ place }) => before.has(place));
    }
    expect([again?.offsets[5], again?.lengths[7]]).toEqual([0, 0]);
  });

  it('buffers of our own hold nothing before they are laid out', () => {
    const { plain } = new PrivateBuffers(new PrivateMemory(4096));
    expect([plain.lengths.some((length) => length !== 0), plain.offsets.some((at) => at !== 0)]).toEqual([
      false,
      false,
    ]);
  });

  it('rooms for which there is no place are elsewhere', () => {
    const rooms = Array.from({ length: ROOMS_BYTES / PLAIN_ROOM_BYTES }, () => new PlainRoom());
    expect(rooms.at(-1)!.place).toBe(-1);
    expect(rooms.at(-1)!.lengths).toHaveLength(PLAIN_CHAINS_MAX);
  });
});

describe('lists of segments', () => {
  const inside = { from: new ChainRoom(64, true), to: new ChainRoom(64, true) };
  const outside = { from: new ChainRoom(64), to: new ChainRoom(64) };

  /** As much of a ring as copies look at; `skipped` segments of the other direction lie in front. */
  function list(
    room: ChainRoom,
    memory: PrivateMemory,
    sizes: readonly number[],
    skipped: number,
  ): DeviceRing {
    let at = 100;
    sizes.forEach((size, i) => {
      room.segmentPage[skipped + i] = memory.piece.windowPage;
      room.segmentOffset[skipped + i] = at;
      room.segmentLength[skipped + i] = size;
      room.segmentPiece[skipped + i] = 0;
      at += size + 17;
    });
    return {
      segmentPlace: room.place,
      segmentPage: room.segmentPage,
      segmentOffset: room.segmentOffset,
      segmentLength: room.segmentLength,
      segmentPiece: room.segmentPiece,
      readableCount: skipped === 0 ? sizes.length : skipped,
      writableCount: sizes.length,
      memory: { pieces: [memory.piece] },
    } as unknown as DeviceRing;
  }

  const sizes = fc.array(fc.oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 3000 })), {
    minLength: 1,
    maxLength: 12,
  });

  it('what arrives is the same in the window and elsewhere, however both sides are cut', () => {
    expect([inside.from.place >= 0, outside.from.place]).toEqual([true, -1]);
    fc.assert(
      fc.property(
        sizes,
        sizes,
        fc.nat(3000),
        fc.nat(3000),
        fc.nat(20_000),
        (cuts, rooms, skip, gap, length) => {
          const results = [true, false].map((inWindow) => {
            const { source, target } = sides(inWindow);
            const room = inWindow ? inside : outside;
            const from = list(room.from, source, cuts, 0);
            const to = list(room.to, target, rooms, 2);
            const across = copyChain(from, skip, to, gap, length);
            const copied = Uint8Array.from(target.u8);
            const read = readChain(from, skip, target, 500_000, length);
            const written = writeChain(source, 77, to, gap, length);
            return { across, copied, read, written, all: target.u8 };
          });
          const [a, b] = results as [(typeof results)[0], (typeof results)[0]];
          expect([a.across, a.read, a.written]).toEqual([b.across, b.read, b.written]);
          const total = (list: readonly number[], from: number) =>
            Math.max(list.reduce((sum, size) => sum + size, 0) - from, 0);
          expect(a.across).toBe(Math.min(length, total(cuts, skip), total(rooms, gap)));
          expect([a.read, a.written]).toEqual([
            Math.min(length, total(cuts, skip)),
            Math.min(length, total(rooms, gap)),
          ]);
          expect([Buffer.compare(a.copied, b.copied), Buffer.compare(a.all, b.all)]).toEqual([0, 0]);
        },
      ),
      { numRuns: 60 },
    );
  });
});
