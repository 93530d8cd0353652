import { once } from 'node:events';
import {
  BURST_FRAMES_MAX,
  BURST_HEADER_BYTES,
  BURST_PAGE_BYTES,
  BurstWord,
  Errno,
  NetHeader,
} from '@virtnet/wire';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type BurstPage, burstObstacle, burstPage, KILLS, killSoon, LINGER_MS } from './burst.fixture.js';
import { burstHeaders, ReadTable, readOfBurst } from './burst-reader.js';
import { BurstRing } from './burst-ring.js';
import { startChild } from './child.fixture.js';
import { close, closeAll } from './fd.js';
import { NativeBuffer } from './libc.js';
import { memfdCreate, sharedMapping } from './memory.js';
import { isAlive, openDescriptorCount } from './process.js';
import { socketPair } from './socket.js';
import { Receiver, send } from './socket-message.js';

const H = NetHeader.sizeBytes;
const FRAME_BYTES = 60;
const BUFFER_BYTES = 64;

const obstacle = burstObstacle(ReadTable.create);

describe.skipIf(obstacle !== null)(`frames read in bursts${obstacle ? `: ${obstacle}` : ''}`, () => {
  let before: number;
  let sockets: readonly [number, number];
  let place: BurstPage;
  let table: ReadTable;
  let ring: BurstRing;
  const buffers = new NativeBuffer(BURST_FRAMES_MAX * BUFFER_BYTES);
  const burst = new Uint32Array(BurstWord.COUNT);
  const results = new Int32Array(BURST_FRAMES_MAX);

  beforeEach(() => {
    before = openDescriptorCount();
    const pair = socketPair('seqpacket');
    if (typeof pair === 'number') throw new Error(`errno ${-pair}`);
    sockets = pair;
    place = burstPage();
    table = ReadTable.create()!;
    ring = BurstRing.open(table, pageAddress()) as BurstRing;
    for (let i = 0; i < BURST_FRAMES_MAX; i++)
      table.set(i, pageAddress(), buffers.address + i * BUFFER_BYTES, BUFFER_BYTES);
    buffers.u8.fill(0);
  });
  afterEach(() => {
    ring.close();
    table.close();
    place.mapping.close();
    closeAll([place.fd, ...sockets]);
    expect(openDescriptorCount()).toBe(before);
  });

  const pageAddress = () => Number(place.mapping.address);
  const words = () => new Uint32Array(place.mapping.buffer);
  /** A frame under a header that says the same number. */
  const frame = (number: number, lengthBytes = FRAME_BYTES) => new Uint8Array(H + lengthBytes).fill(number);
  const sendAll = (from: number, count: number) => {
    for (let i = 0; i < count; i++) expect(send(sockets[1], frame(from + i))).toBe(H + FRAME_BYTES);
  };
  const read = (i: number) => [
    ...burstHeaders(pageAddress()).subarray(i * BURST_HEADER_BYTES, i * BURST_HEADER_BYTES + H),
    ...buffers.u8.subarray(i * BUFFER_BYTES, i * BUFFER_BYTES + FRAME_BYTES),
  ];

  it('lie each in its place, headers in the page; reads behind the last one find nothing', () => {
    let number = 0;
    for (const [reads, waiting] of [
      [32, 32],
      [5, 9],
      [8, 4],
      [32, 20],
      [3, 0],
    ] as const) {
      sendAll(number, waiting);
      ring.run(sockets[0], reads);
      const came = Math.min(reads, waiting);
      const left = Array(reads - came).fill(-Errno.EAGAIN);
      expect([...ring.results.subarray(0, reads)]).toEqual([...Array(came).fill(H + FRAME_BYTES), ...left]);
      for (let i = 0; i < came; i++) expect(read(i)).toEqual([...frame(number + i)]);
      number += waiting;
      while (typeof new Receiver(4096).receive(sockets[0]) !== 'number');
    }
  });

  it('one that is larger than its buffer says so, and nothing is written behind it', () => {
    send(sockets[1], frame(7, 300));
    sendAll(8, 1);
    ring.run(sockets[0], 2);
    expect([...ring.results.subarray(0, 2)]).toEqual([H + 300, H + FRAME_BYTES]);
    expect([...buffers.u8.subarray(0, BUFFER_BYTES)]).toEqual(Array(BUFFER_BYTES).fill(7));
    expect(read(1)).toEqual([...frame(8)]);
    expect([...buffers.u8.subarray(BUFFER_BYTES + FRAME_BYTES, 2 * BUFFER_BYTES)]).toEqual([0, 0, 0, 0]);
  });

  it('a successor is told what was read, also when the ring is gone', () => {
    sendAll(0, 9);
    ring.run(sockets[0], 4);
    ring.describe(burst);
    readOfBurst(words(), burst, 8, results);
    expect([...results.subarray(0, 9)], 'it died before the call').toEqual(Array(9).fill(-Errno.EAGAIN));
    ring.run(sockets[0], 8);
    ring.close();
    readOfBurst(words(), burst, 8, results);
    const nothing = Array(4).fill(-Errno.EAGAIN);
    expect([...results.subarray(0, 9)]).toEqual([...Array(5).fill(H + FRAME_BYTES), ...nothing]);
    expect(read(4)).toEqual([...frame(8)]);
    ring = BurstRing.open(table, pageAddress()) as BurstRing;
    sendAll(50, 1);
    ring.run(sockets[0], 1);
    expect(read(0)).toEqual([...frame(50)]);
  });

  it('whatever the page and the words say, a successor gets results of reads and nothing else', () => {
    for (let round = 0; round < 1_000; round++) {
      for (let i = 0; i < burst.length; i++) burst[i] = Math.random() * 2 ** 32;
      if (round % 2 === 0) burst[BurstWord.ENTRIES_AT] = Math.random() * BURST_PAGE_BYTES;
      readOfBurst(words(), burst, Math.random() * 2 ** 32, results);
      expect(results).toHaveLength(BURST_FRAMES_MAX);
    }
  });

  it(`${KILLS} readers killed at any instant: what they had settled and what the page tells is what was read`, async () => {
    const notes = memfdCreate('read-notes', BURST_PAGE_BYTES);
    const noted = sharedMapping(notes, BURST_PAGE_BYTES);
    if (typeof noted === 'number') throw new Error(`errno ${-noted}`);
    // Words 0 to 7: what is said of the burst; 8: its reads; 9: frames settled in all; 10: that when it began.
    const said = new Uint32Array(noted.buffer);
    const script = `
      import { BurstRing, NativeBuffer, ReadTable, sharedMapping } from '@virtnet/host-linux';
      const [place, notes] = [4, 5].map((fd) => sharedMapping(fd, ${BURST_PAGE_BYTES}));
      const table = ReadTable.create();
      const ring = BurstRing.open(table, Number(place.address));
      const said = new Uint32Array(notes.buffer);
      const frame = new NativeBuffer(${BUFFER_BYTES});
      for (let i = 0; i < ${BURST_FRAMES_MAX}; i++)
        table.set(i, Number(place.address), frame.address, ${BUFFER_BYTES});
      process.stdout.write('reads');
      for (;;) {
        ring.describe(said.subarray(0, ${BurstWord.COUNT}));
        said[10] = said[9];
        said[8] = ${BURST_FRAMES_MAX};
        ring.run(3, ${BURST_FRAMES_MAX});
        for (const until = performance.now() + ${LINGER_MS}; performance.now() < until; );
        for (let i = 0; i < ${BURST_FRAMES_MAX}; i++) if (ring.results[i] >= 0) said[9] += 1;
        said[8] = 0;
      }`;
    const receiver = new Receiver(4096);
    let unsettled = 0;
    for (let kill = 0; kill < KILLS; kill++) {
      said.fill(0);
      const child = startChild(script, [sockets[0], place.fd, notes]);
      await once(child.stdout!, 'data');
      const ends = killSoon(child); // while there is always something to do
      let sent = 0;
      const number = new Uint8Array(H + FRAME_BYTES);
      while (isAlive(child.pid!)) {
        new DataView(number.buffer).setUint32(H, sent);
        if (send(sockets[1], number) > 0) sent++;
      }
      await ends;
      let read = said[9]!;
      if (said[8] !== 0) {
        readOfBurst(words(), said.subarray(0, BurstWord.COUNT), said[8]!, results);
        const ofBurst = results.filter((result) => result >= 0).length;
        unsettled += said[10]! + ofBurst - said[9]!;
        read = said[10]! + ofBurst;
      }
      const next = receiver.receive(sockets[0]);
      const first =
        typeof next === 'number' ? sent : new DataView(next.bytes.buffer, next.bytes.byteOffset).getUint32(H);
      expect(first, `kill ${kill}`).toBe(read);
      while (typeof receiver.receive(sockets[0]) !== 'number');
    }
    expect(unsettled, 'some die between the call and the end of the burst').toBeGreaterThan(0);
    noted.close();
    close(notes);
  });
});
