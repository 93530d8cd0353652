import { once } from 'node:events';
import { BURST_FRAMES_MAX, BURST_PAGE_BYTES, BurstWord, Errno, NetHeader } from '@virtnet/wire';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type BurstPage, burstObstacle, burstPage, KILLS, killSoon, LINGER_MS } from './burst.fixture.js';
import { BurstRing } from './burst-ring.js';
import { sentOfBurst, WriteTable } from './burst-writer.js';
import { startChild } from './child.fixture.js';
import { close, closeAll } from './fd.js';
import { NativeBuffer } from './libc.js';
import { memfdCreate, sharedMapping } from './memory.js';
import { isAlive, openDescriptorCount } from './process.js';
import { socketPair } from './socket.js';
import { Receiver } from './socket-message.js';

const H = NetHeader.sizeBytes;
const FRAME_BYTES = 60;
/** Frames that may be on their way when another burst is sent. */
const ROOM = 64;

const obstacle = burstObstacle(WriteTable.create);

describe.skipIf(obstacle !== null)(`bursts of frames${obstacle ? `: ${obstacle}` : ''}`, () => {
  let before: number;
  let sockets: readonly [number, number];
  let place: BurstPage;
  let table: WriteTable;
  let ring: BurstRing;
  const frames = new NativeBuffer(BURST_FRAMES_MAX * FRAME_BYTES);
  const burst = new Uint32Array(BurstWord.COUNT);
  const receiver = new Receiver(4096);

  beforeEach(() => {
    before = openDescriptorCount();
    const pair = socketPair('seqpacket');
    if (typeof pair === 'number') throw new Error(`errno ${-pair}`);
    sockets = pair;
    place = burstPage();
    table = WriteTable.create()!;
    ring = BurstRing.open(table, Number(place.mapping.address)) as BurstRing;
    frames.u8.forEach((_, at) => {
      frames.u8[at] = at / FRAME_BYTES;
    });
    for (let i = 0; i < BURST_FRAMES_MAX; i++) table.set(i, frames.address + i * FRAME_BYTES, FRAME_BYTES);
  });
  afterEach(() => {
    ring.close();
    table.close();
    place.mapping.close();
    closeAll([place.fd, ...sockets]);
    expect(openDescriptorCount()).toBe(before);
  });

  const arrived = (): Uint8Array[] => {
    const all: Uint8Array[] = [];
    for (;;) {
      const got = receiver.receive(sockets[1]);
      if (typeof got === 'number') return all;
      all.push(got.bytes.slice());
    }
  };
  const numbers = (all: readonly Uint8Array[]) => all.map((bytes) => bytes[H]);
  const words = () => new Uint32Array(place.mapping.buffer);

  it('go out in their order, each behind a header of zeros, over more bursts than the ring has room for', () => {
    for (const count of [1, 32, 5, 31, 32, 2, 32, 17]) {
      ring.run(sockets[0], count);
      const all = arrived();
      expect(numbers(all)).toEqual(Array.from({ length: count }, (_, i) => i));
      for (const bytes of all) {
        expect(bytes.length).toBe(H + FRAME_BYTES);
        expect(bytes.subarray(0, H)).toEqual(new Uint8Array(H));
      }
      expect([...ring.results.subarray(0, count)]).toEqual(Array(count).fill(H + FRAME_BYTES));
    }
  });

  it('what finds no room says so, and was not sent; of a closed representor every frame says why', () => {
    let sent = 0;
    for (let full = false; !full; ) {
      ring.describe(burst);
      ring.run(sockets[0], BURST_FRAMES_MAX);
      const results = [...ring.results];
      const went = results.filter((result) => result > 0).length;
      expect(results.slice(went)).toEqual(Array(BURST_FRAMES_MAX - went).fill(-Errno.EAGAIN));
      sent += went;
      full = went < BURST_FRAMES_MAX;
      burst[BurstWord.SETTLED] = 0;
      expect(sentOfBurst(words(), burst, BURST_FRAMES_MAX)).toBe(went);
    }
    expect(arrived()).toHaveLength(sent);
    close(sockets[1]);
    ring.run(sockets[0], 3);
    expect([...ring.results.subarray(0, 3)]).toEqual(Array(3).fill(-Errno.EPIPE));
    sockets = [sockets[0], memfdCreate('in its place', 0)];
  });

  it('a successor is told how many were sent and not settled, also when the ring is gone, and makes its own there', () => {
    ring.run(sockets[0], 7);
    ring.describe(burst);
    burst[BurstWord.SETTLED] = 0;
    expect(sentOfBurst(words(), burst, 5)).toBe(0);
    ring.run(sockets[0], 5);
    ring.close();
    expect(sentOfBurst(words(), burst, 5)).toBe(5);
    burst[BurstWord.SETTLED] = 2;
    expect(sentOfBurst(words(), burst, 5)).toBe(3);
    ring = BurstRing.open(table, Number(place.mapping.address)) as BurstRing;
    arrived();
    ring.run(sockets[0], 3);
    expect(numbers(arrived())).toEqual([0, 1, 2]);
  });

  it('whatever the page and the words say, a successor is told of no more frames than the burst had', () => {
    for (let round = 0; round < 1_000; round++) {
      for (let i = 0; i < burst.length; i++) burst[i] = Math.random() * 2 ** 32;
      burst[BurstWord.SETTLED] = Math.random() * 40;
      const count = Math.floor(Math.random() * (BURST_FRAMES_MAX + 1));
      const told = sentOfBurst(words(), burst, count);
      expect(told).toBeGreaterThanOrEqual(0);
      expect(told).toBeLessThanOrEqual(count);
    }
  });

  it(`${KILLS} senders killed at any instant: what they had settled and what the page tells is what arrived`, async () => {
    const notes = memfdCreate('burst-notes', BURST_PAGE_BYTES);
    const noted = sharedMapping(notes, BURST_PAGE_BYTES);
    if (typeof noted === 'number') throw new Error(`errno ${-noted}`);
    // Words 0 to 7: what is said of the burst; 8: its frames; 9: frames that were settled in all; 10: that arrived.
    const said = new Uint32Array(noted.buffer);
    const script = `
      import { BurstRing, WriteTable, NativeBuffer, sharedMapping } from '@virtnet/host-linux';
      const [place, notes] = [4, 5].map((fd) => sharedMapping(fd, ${BURST_PAGE_BYTES}));
      const table = WriteTable.create();
      const ring = BurstRing.open(table, Number(place.address));
      const said = new Uint32Array(notes.buffer);
      const frame = new NativeBuffer(${FRAME_BYTES});
      for (let i = 0; i < ${BURST_FRAMES_MAX}; i++) table.set(i, frame.address, ${FRAME_BYTES});
      process.stdout.write('sends');
      for (;;) {
        while (Atomics.load(said, 9) - Atomics.load(said, 10) > ${ROOM}); // there is room for all of it
        ring.describe(said.subarray(0, ${BurstWord.COUNT}));
        said[${BurstWord.SETTLED}] = 0;
        said[8] = ${BURST_FRAMES_MAX};
        ring.run(3, ${BURST_FRAMES_MAX});
        for (const until = performance.now() + ${LINGER_MS}; performance.now() < until; );
        for (let i = 0; i < ${BURST_FRAMES_MAX}; i++) {
          if (ring.results[i] < 0) throw new Error('errno ' + -ring.results[i]);
          said[${BurstWord.SETTLED}] += 1;
          said[9] += 1;
        }
        said[8] = 0;
      }`;
    let unsettled = 0;
    for (let kill = 0; kill < KILLS; kill++) {
      said.fill(0);
      const child = startChild(script, [sockets[0], place.fd, notes]);
      await once(child.stdout!, 'data');
      const ends = killSoon(child); // while there is always something to do
      let count = 0;
      while (isAlive(child.pid!)) {
        count += arrived().length;
        Atomics.store(said, 10, count);
      }
      await ends;
      count += arrived().length;
      const left = said[8] === 0 ? 0 : sentOfBurst(words(), said.subarray(0, BurstWord.COUNT), said[8]!);
      unsettled += left;
      expect(count - said[9]! - left, `kill ${kill}`).toBeGreaterThanOrEqual(0);
      expect(
        count - said[9]! - left,
        `kill ${kill}: one was settled and not counted yet`,
      ).toBeLessThanOrEqual(1);
    }
    expect(unsettled, 'some die between the call and the end of the burst').toBeGreaterThan(0);
    noted.close();
    close(notes);
  });
});
