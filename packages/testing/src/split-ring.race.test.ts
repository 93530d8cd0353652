/** A split ring with its driver on another core: failure modes C13, C15 and C17, obligations SR-4 and SR-7. */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { type FramePort, ReceiveQueue, TransmitQueue } from '@virtnet/engine-virtio-net';
import { type DeviceRing, GuestMemory, SplitRing, type WorkedQueue } from '@virtnet/engine-virtqueue';
import { Errno, featureMask, NetHeader, queueBlock, statePageSize } from '@virtnet/wire';
import { afterEach, describe, expect, it } from 'vitest';
import {
  answerBytes,
  CONTROL_WORDS,
  Control,
  type DriverThreadEnd,
  type DriverThreadStart,
  makeDriver,
  randomWords,
  spinUntil,
  WAKE_UP_MS,
} from './driver-thread.js';
import { OFFLOADS_RECEIVE, OFFLOADS_TRANSMIT } from './net-fixture.js';
import type { SplitDriver } from './split-driver.js';
import { openSplitRing } from './split-ring-fixture.js';

/** The thread runs what was built; a thread can not run the source. */
const ENTRY = new URL('../dist/driver-thread-entry.js', import.meta.url);
/** How long a race runs at most; a busy machine gets fewer rounds, not more time. */
const RACE_MS = 1500;
const GUARD_BYTES = 4096;
const GUARD = 0x5a;

let threads: Worker[] = [];
afterEach(async () => {
  await Promise.all(threads.map((thread) => thread.terminate()));
  threads = [];
});

interface Race {
  readonly start: DriverThreadStart;
  readonly control: Int32Array;
  readonly driver: SplitDriver;
  readonly guest: GuestMemory;
  readonly ended: Promise<DriverThreadEnd>;
  begin(): void;
}

async function race(options: Partial<DriverThreadStart>): Promise<Race> {
  const sizeBytes = 1 << 16;
  const shared = new SharedArrayBuffer(sizeBytes + 2 * GUARD_BYTES);
  const bytes = new Uint8Array(shared);
  bytes.fill(GUARD, 0, GUARD_BYTES);
  bytes.fill(GUARD, GUARD_BYTES + sizeBytes);
  const start: DriverThreadStart = {
    part: 'steady',
    memory: shared,
    byteOffset: GUARD_BYTES,
    sizeBytes,
    control: new SharedArrayBuffer(CONTROL_WORDS * 4),
    queueSize: 16,
    eventIdx: false,
    startIndex: 65_500,
    count: 20_000,
    seed: 1,
    ...options,
  };
  const driver = makeDriver(start); // same layout as the thread's own, which it makes over the same memory
  const thread = new Worker(ENTRY, { workerData: start });
  threads.push(thread);
  await once(thread, 'message');
  const ended = once(thread, 'message').then(([end]) => end as DriverThreadEnd);
  return {
    start,
    control: new Int32Array(start.control),
    driver,
    guest: new GuestMemory([driver.memory.region]),
    ended,
    begin: () => thread.postMessage('go'),
  };
}

function open({ driver, guest, start }: Race, position = start.startIndex): SplitRing {
  const ring = openSplitRing(driver, guest, { position });
  if (!(ring instanceof SplitRing)) throw new Error(ring.code);
  return ring;
}

/** Answers chains in order with their number, as the driver's thread expects. */
function answer(ring: SplitRing, from: number, budget: number): number {
  const bytes = new Uint8Array(8);
  const view = new DataView(bytes.buffer);
  let number = from;
  while (number - from < budget && ring.take() > 0) {
    view.setUint32(0, number, true);
    ring.scatter(0, bytes, 0, answerBytes(number));
    ring.give(answerBytes(number));
    number++;
  }
  return number;
}

describe('split ring, driver on another thread', () => {
  for (const eventIdx of [false, true]) {
    const mode = eventIdx ? 'with EVENT_IDX' : 'without EVENT_IDX';

    it(`SR-4 C15 ${mode}, a driver that spins on the used index always finds element and bytes complete`, async () => {
      const run = await race({ part: 'spinning', eventIdx });
      const ring = open(run);
      const deadline = performance.now() + RACE_MS;
      run.begin();
      let answered = 0;
      while (Atomics.load(run.control, Control.FINISHED) === 0 && performance.now() < deadline) {
        answered = answer(ring, answered, 4);
        ring.publish();
      }
      Atomics.store(run.control, Control.STOP, 1);
      expect(ring.fault).toBe(null);
      expect(await run.ended).toEqual({ complaint: null });
      expect(answered).toBeGreaterThan(500);
    });

    it(`C17 SR-7 ${mode}, both sides sleep whenever they may and no wake-up is lost`, async () => {
      const run = await race({ part: 'steady', eventIdx });
      const { control } = run;
      const ring = open(run);
      const random = randomWords(7);
      const deadline = performance.now() + RACE_MS;
      run.begin();
      let answered = 0;
      let slept = 0;
      let lost = 0;
      let spurious = 0;
      while (Atomics.load(control, Control.FINISHED) === 0 && lost === 0) {
        if (performance.now() > deadline) Atomics.store(control, Control.STOP, 1);
        ring.suppressKicks();
        const before = answered;
        answered = answer(ring, answered, 1 + (random() % 16));
        if (ring.publish()) {
          Atomics.add(control, Control.INTERRUPTS, 1);
          Atomics.notify(control, Control.INTERRUPTS);
        }
        if (answered !== before) continue;
        for (let spin = random() % 100; spin > 0; spin--) Atomics.load(control, Control.STOP);
        const kicks = Atomics.load(control, Control.KICKS);
        if (ring.armKicks()) continue;
        slept++;
        const woken = Atomics.wait(control, Control.KICKS, kicks, WAKE_UP_MS);
        if (woken === 'timed-out' && ring.available() > 0) lost++;
        if (woken === 'ok' && ring.available() === 0) spurious++;
      }
      Atomics.store(control, Control.STOP, 1);
      Atomics.add(control, Control.INTERRUPTS, 1);
      Atomics.notify(control, Control.INTERRUPTS);
      expect(lost, 'ring not empty, device asleep, and no kick').toBe(0);
      expect(ring.fault).toBe(null);
      expect(await run.ended).toEqual({ complaint: null });
      expect(answered).toBeGreaterThan(500);
      expect(slept).toBeGreaterThan(0);
      expect(spurious).toBeLessThan(slept);
    });
  }

  for (const eventIdx of [false, true]) {
    for (const part of ['litmus-interrupt', 'litmus-kick'] as const) {
      const mode = eventIdx ? 'with EVENT_IDX' : 'without EVENT_IDX';
      it(`C17 ${part} ${mode}: at the same moment, at least one side sees the other`, async () => {
        const run = await race({ part, eventIdx, count: 1_000_000_000 });
        const { control } = run;
        const ring = open(run);
        const random = randomWords(11);
        const deadline = performance.now() + RACE_MS;
        let rounds = 0;
        let missed = 0;
        run.begin();
        while (performance.now() < deadline) {
          const round = rounds + 1;
          if (!spinUntil(control, Control.READY, round)) break;
          ring.suppressKicks();
          if (part === 'litmus-interrupt') {
            ring.take();
            ring.give(0);
          }
          Atomics.store(control, Control.ROUND, round);
          for (let spin = random() % 32; spin > 0; spin--) Atomics.load(control, Control.STOP);
          const told = part === 'litmus-interrupt' ? ring.publish() : ring.armKicks();
          spinUntil(control, Control.DONE, round);
          if (!told && Atomics.load(control, Control.SAW) === 0) missed++;
          if (part === 'litmus-kick') {
            ring.take();
            ring.give(0);
            ring.publish();
          }
          Atomics.store(control, Control.JUDGED, round);
          rounds = round;
        }
        Atomics.store(control, Control.STOP, 1);
        await run.ended;
        expect(ring.fault).toBe(null);
        expect(missed, `of ${rounds} rounds`).toBe(0);
        expect(rounds).toBeGreaterThan(500);
      });
    }
  }

  /** Checks that whatever a queue hands to its port lies inside the guest's memory, and touches every byte of it. */
  function watchfulPort(writes: boolean): FramePort & { calls: number; outside: number } {
    const header = new Uint8Array(NetHeader.sizeBytes);
    const touch = (ring: DeviceRing, from: number, to: number) => {
      for (let i = from; i < to; i++) {
        const piece = ring.memory.pieces[ring.segmentPiece[i]!];
        const offset = ring.segmentOffset[i]!;
        const length = ring.segmentLength[i]!;
        const inside = piece !== undefined && offset >= 0 && length > 0 && offset + length <= piece.sizeBytes;
        if (!inside || ring.segmentAddress[i] !== piece.address + offset) port.outside++;
        else if (writes) piece.u8.fill(i, offset, offset + length);
      }
    };
    const port = {
      overflow: new Uint8Array(70_000),
      calls: 0,
      outside: 0,
      send(ring: DeviceRing, bytes: Uint8Array, frameOffset: number) {
        port.calls++;
        touch(ring, 0, ring.readableCount);
        const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
        const frameBytes = ring.readableBytes - frameOffset;
        const { csumStart, csumOffset, hdrLen } = NetHeader.at;
        const field = view.getUint16(csumStart, true) + view.getUint16(csumOffset, true);
        if (bytes[0] === 1 && field + 2 > frameBytes) port.outside++;
        if (view.getUint16(hdrLen, true) > frameBytes) port.outside++;
        return bytes.length + frameBytes;
      },
      receive(ring: DeviceRing, bytes: Uint8Array, frameOffset: number) {
        if (port.calls++ % 16 === 15) return -Errno.EAGAIN;
        const first = ring.readableCount;
        touch(ring, first, first + ring.writableCount);
        bytes.set(header);
        return NetHeader.sizeBytes + Math.min(ring.writableBytes - frameOffset, 1500);
      },
    };
    return port;
  }

  for (const direction of ['transmit', 'receive'] as const) {
    it(`C13 ${direction}: millions of rewrites under the device's eyes lead nowhere outside memory`, async () => {
      const run = await race({ part: 'hostile', count: 10_000_000, startIndex: 0, seed: 12_345 });
      const port = watchfulPort(direction === 'receive');
      const block = queueBlock(new ArrayBuffer(statePageSize(1)), 0);
      const offloads = direction === 'transmit' ? OFFLOADS_TRANSMIT : OFFLOADS_RECEIVE;
      const make = (): WorkedQueue => {
        const ring = open(run, run.driver.usedIndex);
        const options = { ring, port, block, features: featureMask([32, ...offloads]), mtu: 0, linkUp: true };
        if (direction === 'transmit') return new TransmitQueue(options);
        return new ReceiveQueue({ ...options, active: true, filter: null });
      };
      const deadline = performance.now() + 2 * RACE_MS;
      let queue = make();
      let broken = 0;
      run.begin();
      while (Atomics.load(run.control, Control.FINISHED) === 0 && performance.now() < deadline) {
        queue.poll(64);
        queue.arm();
        queue.disarm();
        if (queue.fault !== null) {
          broken++;
          queue = make();
        }
      }
      Atomics.store(run.control, Control.STOP, 1);
      expect(await run.ended).toEqual({ complaint: null });
      expect(port.outside).toBe(0);
      expect(port.calls).toBeGreaterThan(100);
      expect(broken).toBeGreaterThan(20);
      const guards = new Uint8Array(run.start.memory);
      const outer = [
        ...guards.subarray(0, GUARD_BYTES),
        ...guards.subarray(GUARD_BYTES + run.start.sizeBytes),
      ];
      expect(outer.every((byte) => byte === GUARD)).toBe(true);
    });
  }
});
