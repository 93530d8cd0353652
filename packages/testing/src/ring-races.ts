/**
 * ring-races.ts: what must hold for a ring of either format while its driver is on another core: failure modes C13, C15, C17
 * and D7, obligations SR-4, SR-7 and PR-2.
 *
 * Theory
 *   An honest driver checks what comes back, and the device what it was given: both know what chain number so and so is
 *   (race-chains.ts). A hostile one rewrites all it can (driver-thread-hostile.ts), and a port checks what the queue makes of
 *   it (watchful-port.ts). How far a device goes for one poll is counted, not timed.
 *
 * Limits  a test runs RACE_MS, and on a busy machine up to PATIENCE_MS until it has seen enough.
 */
import assert from 'node:assert/strict';
import {
  FRAME_BYTES_MAX,
  PLAIN_MASK,
  ReceiveQueue,
  SpreadReceiveQueue,
  TransmitQueue,
} from '@virtnet/engine-virtio-net';
import { type DeviceRing, remedyForCode, type WorkedQueue } from '@virtnet/engine-virtqueue';
import { DescriptorWord, featureMask, NetFeature, NetHeader, VirtioFeature } from '@virtnet/wire';
import { Control, randomWords, rest, SPINS, spinUntil, WAKE_UP_MS } from './driver-thread.js';
import { HonestDevice } from './honest-device.js';
import { OFFLOADS_RECEIVE, OFFLOADS_TRANSMIT } from './net-fixture.js';
import { descriptorWords, Race, type RaceOptions, type RacePlace, SEGMENTS_MAX } from './race-fixture.js';
import { ENTRY_BYTES, SLOTS, TABLE_ENTRIES, WRITTEN_MAX } from './race-layout.js';
import type { TestApi } from './ring-contract.js';
import { WatchfulBurstPort, WatchfulPort } from './watchful-port.js';

type Format = RaceOptions['format'];

const RACE_MS = 1000;
const PATIENCE_MS = 6000;
const POLL_BUDGET = 64;
/** How often a ring is looked at between two polls. */
const LOOKS = 16;
/** The same for frames in tables, each time. */
const FRAME_LOOKS = 8;
const DEMANDS = { header: NetHeader.sizeBytes, unwanted: PLAIN_MASK, bytesMax: FRAME_BYTES_MAX };
const EVENT_MODES = [false, true] as const;
const mode = (eventIdx: boolean): string => (eventIdx ? 'with EVENT_IDX' : 'without EVENT_IDX');

/** Whether a race goes on; `enough`: it has seen what it is about. */
function goesOn(began: number, enough: boolean): boolean {
  const passed = performance.now() - began;
  return passed < RACE_MS || (!enough && passed < PATIENCE_MS);
}

const stop = (control: Int32Array): void => {
  Atomics.store(control, Control.STOP, 1);
  Atomics.add(control, Control.INTERRUPTS, 1);
  Atomics.notify(control, Control.INTERRUPTS);
};

/** Driver and device both keep to the rules. */
export function honestRaces({ it }: TestApi, format: Format, place: RacePlace): void {
  for (const eventIdx of EVENT_MODES) {
    it(`SR-4 PR-2 C15 D7 ${mode(eventIdx)}, whoever spins on what the other writes finds all of it`, () =>
      Race.with(
        { format, part: 'spinning', place, eventIdx, nearWrap: true, count: 40_000 },
        async (race) => {
          const device = new HonestDevice(race.open());
          const { control } = race;
          const { ways } = device;
          const enough = () => ways.burst > 100 && ways.one > 100 && (place !== 'window' || ways.table > 20);
          const began = performance.now();
          race.begin();
          for (let idle = 1; Atomics.load(control, Control.FINISHED) === 0; idle++) {
            if (!goesOn(began, enough()) || device.complaint !== null) break;
            const before = device.answered;
            device.answer(4);
            device.ring.publish();
            if (device.answered !== before) idle = 0;
            else if (idle % SPINS === 0) rest(control);
          }
          stop(control);
          assert.equal(device.complaint, null);
          assert.equal(device.ring.fault, null);
          assert.deepEqual(await race.end(), { complaint: null });
          assert.ok(
            enough(),
            `${ways.burst} chains in bursts, ${ways.table} of tables, ${ways.one} one by one`,
          );
          race.check();
        },
      ));

    it(`C17 SR-7 ${mode(eventIdx)}, both sides sleep whenever they may and no wake-up is lost`, () =>
      Race.with({ format, part: 'steady', place, eventIdx, nearWrap: true, count: 20_000 }, async (race) => {
        const { control } = race;
        const device = new HonestDevice(race.open());
        const { ring } = device;
        const random = randomWords(7);
        const began = performance.now();
        race.begin();
        let slept = 0;
        let lost = 0;
        let spurious = 0;
        while (Atomics.load(control, Control.FINISHED) === 0 && lost === 0 && device.complaint === null) {
          if (!goesOn(began, device.answered > 1000)) Atomics.store(control, Control.STOP, 1);
          ring.suppressKicks();
          const before = device.answered;
          device.answer(1 + (random() % 16));
          if (ring.publish()) {
            Atomics.add(control, Control.INTERRUPTS, 1);
            Atomics.notify(control, Control.INTERRUPTS);
          }
          if (device.answered !== before) continue;
          for (let spin = random() % 100; spin > 0; spin--) Atomics.load(control, Control.STOP);
          const kicks = Atomics.load(control, Control.KICKS);
          if (ring.armKicks()) continue;
          slept++;
          const woken = Atomics.wait(control, Control.KICKS, kicks, WAKE_UP_MS);
          if (woken === 'timed-out' && ring.available() > 0) lost++;
          if (woken === 'ok' && ring.available() === 0) spurious++;
        }
        stop(control);
        assert.equal(lost, 0, 'ring not empty, device asleep, and no kick');
        assert.equal(device.complaint, null);
        assert.equal(ring.fault, null);
        assert.deepEqual(await race.end(), { complaint: null });
        assert.ok(device.answered > 500, `${device.answered} chains`);
        assert.ok(slept > 0 && spurious < slept, `slept ${slept} times, ${spurious} of them for nothing`);
      }));

    for (const part of ['litmus-interrupt', 'litmus-kick'] as const)
      it(`C17 ${part} ${mode(eventIdx)}: at the same moment, at least one side sees the other`, () =>
        Race.with({ format, part, place, eventIdx, nearWrap: true }, (race) => litmus(race, part)));
  }
}

async function litmus(race: Race, part: 'litmus-interrupt' | 'litmus-kick'): Promise<void> {
  const { control } = race;
  const ring = race.open();
  const random = randomWords(11);
  const began = performance.now();
  let rounds = 0;
  let missed = 0;
  race.begin();
  while (goesOn(began, rounds > 200)) {
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
  stop(control);
  await race.end();
  assert.equal(ring.fault, null);
  assert.equal(missed, 0, `of ${rounds} rounds`);
  assert.ok(rounds > 100, `${rounds} rounds`);
}

/** What a device does for one poll and some looks before it, counted. */
class Steps {
  #takes = 0;
  #extensions = 0;
  #scans = 0;
  /** Buffers that the last chain was looked at for, and the most of any. */
  #buffers = 0;
  #longest = 0;
  /** Entries of the longest table. */
  readonly #tableMost: number;

  constructor(format: Format) {
    // As long as a table of a packed ring may seem what the device has answered in the same place.
    this.#tableMost = format === 'split' ? TABLE_ENTRIES : WRITTEN_MAX / ENTRY_BYTES;
  }

  /** Counts what is asked of a ring, and the buffers it looks at one by one. */
  watch(ring: DeviceRing): DeviceRing {
    const parts = ring as unknown as Record<string, (...args: number[]) => unknown>;
    const count = (name: string, add: () => void): void => {
      const method = parts[name]!;
      parts[name] = (...args) => {
        add();
        return method.apply(ring, args);
      };
    };
    count('take', () => {
      this.#takes++;
      this.#buffers = 0;
    });
    count('extend', () => {
      this.#extensions++;
      this.#buffers = 0;
    });
    count('add', () => {
      this.#buffers++;
      this.#longest = Math.max(this.#longest, this.#buffers);
    });
    count('scan', () => this.#scans++);
    count('scanFrames', () => this.#scans++);
    return ring;
  }

  /** Throws when there were more than there may be; begins anew. */
  check(): void {
    const [takes, extensions, scans] = [this.#takes, this.#extensions, this.#scans];
    const most = POLL_BUDGET + 1 + LOOKS;
    assert.ok(
      takes <= most && scans <= 2 * (POLL_BUDGET + 1) + LOOKS * (1 + FRAME_LOOKS),
      `${takes} takes, ${scans} scans`,
    );
    // A frame that needs more than there is: up to as many chains as it may have segments, and as many as the last one had.
    assert.ok(extensions <= most * 2 * SEGMENTS_MAX, `${extensions} extensions`);
    // A chain: each descriptor once, its table's entries once, each of them cut at most once where memory is cut.
    assert.ok(this.#longest <= 2 * (SLOTS + this.#tableMost), `${this.#longest} buffers of one chain`);
    this.#takes = 0;
    this.#extensions = 0;
    this.#scans = 0;
  }
}

type Direction = 'transmit' | 'receive' | 'mergeable';

interface Way {
  readonly place: RacePlace;
  /** 'none': the port has no short ways. */
  readonly bursts: 'none' | 'judged by the queue' | 'judged by the port';
}

const WAYS: readonly Way[] = [
  { place: 'window', bursts: 'judged by the port' },
  { place: 'window', bursts: 'judged by the queue' },
  { place: 'window', bursts: 'none' },
  { place: 'mixed', bursts: 'judged by the port' },
  { place: 'elsewhere', bursts: 'judged by the port' },
  { place: 'elsewhere', bursts: 'judged by the queue' },
  { place: 'elsewhere', bursts: 'none' },
];

/** The driver does anything, at any time. */
export function hostileRaces({ it }: TestApi, format: Format): void {
  for (const direction of ['transmit', 'receive', 'mergeable'] as const)
    for (const way of WAYS) {
      if (direction !== 'transmit' && way.bursts === 'judged by the queue') continue; // who sends has headers
      const how = way.bursts === 'none' ? 'one by one' : `in bursts ${way.bursts}`;
      it(`C13 C17 D7 ${direction} ${how}, memory ${way.place}: rewrites lead nowhere, and every poll ends`, () =>
        hostile(format, direction, way));
    }

  for (const what of ['length', 'id', 'header'] as const)
    it(`C13 the race is one: a device that reads a ${what} again is found out`, () =>
      readAgain(format, what));
}

const queueSizeOf = (format: Format): number => (format === 'split' ? SLOTS : SLOTS - 1);

/** Lays out what waits, again and again, and has it checked; nothing of it is taken. */
function lookAgain(race: Race, ring: DeviceRing, port: WatchfulPort, receives: boolean): void {
  for (let look = 0; look < LOOKS; look++) {
    race.refill(ring.position);
    const chains = ring.scan(POLL_BUDGET, receives);
    for (let i = 0; i < chains; i++) port.checkPlain(ring, i, receives);
    for (let again = 0; again < FRAME_LOOKS; again++) {
      const frames = ring.scanFrames(POLL_BUDGET, DEMANDS);
      for (let i = 0; i < frames; i++) port.checkFrame(ring, i);
    }
    if (ring.take() <= 0) continue;
    if (receives) while (ring.extend());
    port.checkChains(ring);
    ring.untake();
  }
}

/** Begins a race, and waits until every descriptor is one of the driver's. */
function beginHostile(race: Race, began: number): void {
  race.begin();
  while (Atomics.load(race.control, Control.DONE) === 0 && goesOn(began, false)) rest(race.control);
}

async function hostile(format: Format, direction: Direction, way: Way): Promise<void> {
  const receives = direction !== 'transmit';
  const packed = format === 'packed';
  const inWindow = way.place !== 'elsewhere';
  const bursts =
    way.bursts === 'none'
      ? null
      : new WatchfulBurstPort(packed, inWindow, way.bursts === 'judged by the port');
  const port = bursts ?? new WatchfulPort(packed, inWindow);
  const features = featureMask([
    VirtioFeature.VERSION_1,
    ...(receives ? OFFLOADS_RECEIVE : OFFLOADS_TRANSMIT),
    ...(direction === 'mergeable' ? [NetFeature.MRG_RXBUF] : []),
  ]);
  const steps = new Steps(format);
  const options = { format, part: 'hostile', place: way.place, queueSize: queueSizeOf(format) } as const;
  await Race.with({ ...options, eventIdx: true, receives, seed: 12_345 }, async (race) => {
    const { control, block } = race;
    let ring!: DeviceRing;
    const make = (): WorkedQueue => {
      ring = steps.watch(race.open());
      const of = { ring, port, block, features, mtu: 0, linkUp: true };
      if (!receives) return new TransmitQueue(of);
      const Receive = direction === 'mergeable' ? SpreadReceiveQueue : ReceiveQueue;
      return new Receive({ ...of, active: true, filter: null });
    };
    let queue = make();
    const spreads = way.place === 'window' && direction !== 'receive';
    let broken = 0;

    const seen = () =>
      `${port.frames} frames one by one, ${bursts?.plain} in bursts, ${bursts?.spread} of them in several pieces`;
    const enough = (): boolean =>
      port.frames > 20 &&
      (packed || broken > 5) &&
      (bursts === null || (bursts.plain > 10 && (!spreads || bursts.spread > 2)));
    const began = performance.now();
    beginHostile(race, began);
    for (let turns = 0; goesOn(began, enough()) && port.complaints.length === 0; ) {
      const now = Atomics.load(control, Control.DONE);
      if (now === turns) rest(control); // the driver does not run: it is nothing to race with
      turns = now;
      lookAgain(race, ring, port, receives);
      queue.poll(POLL_BUDGET);
      queue.arm();
      queue.disarm();
      steps.check();
      if (queue.fault !== null) {
        broken++;
        queue = make();
        queue.resume();
      }
      race.refill(ring.position);
    }
    stop(control);
    assert.deepEqual(await race.end(), { complaint: null });
    assert.deepEqual(port.complaints, []);
    race.check();
    port.check();
    assert.ok(enough(), `${seen()}, broken ${broken} times`);
  });
}

/** Turns after which each word was rewritten. */
const REWRITES = 4096;

/** Waits until the other thread has rewritten everything. */
function letRewrite(control: Int32Array): void {
  const turns = Atomics.load(control, Control.DONE);
  while (
    Atomics.load(control, Control.DONE) < turns + REWRITES &&
    Atomics.load(control, Control.FINISHED) === 0
  )
    rest(control);
}

/** A port that has a header read again, behind the judgement. */
class RereadingPort extends WatchfulPort {
  control: Int32Array | null = null;

  override send(ring: DeviceRing, header: Uint8Array, frameOffset: number): number {
    if (this.control !== null) letRewrite(this.control);
    ring.gather(0, header, 0, header.length);
    header.fill(0, 10); // numBuffers, which the driver need not clear
    return super.send(ring, header, frameOffset);
  }
}

/** Does on purpose what no device may, until it shows. */
async function readAgain(format: Format, what: 'length' | 'id' | 'header'): Promise<void> {
  const packed = format === 'packed';
  const port = what === 'header' ? new RereadingPort(packed, true) : new WatchfulPort(packed, true);
  const options = { format, part: 'hostile', place: 'window', queueSize: queueSizeOf(format) } as const;
  await Race.with({ ...options, eventIdx: true, seed: 54_321 }, async (race) => {
    const { driver, control, block } = race;
    const { bytes } = driver.memory;
    const table = descriptorWords(driver);
    const availableAt = bytes.byteOffset + driver.memory.at(driver.driverAddress) + 4;
    const available = new Uint16Array(bytes.buffer, availableAt, driver.queueSize);
    const features = featureMask([VirtioFeature.VERSION_1, ...OFFLOADS_TRANSMIT]);
    if (port instanceof RereadingPort) port.control = control;
    let ring = race.open();
    let queue = new TransmitQueue({ ring, port, block, features, mtu: 0, linkUp: true });
    /** Lays a burst out, then reads one field of each descriptor once more. */
    const burst = (): void => {
      const position = ring.position;
      const count = ring.scan(POLL_BUDGET, false);
      if (count > 0) letRewrite(control);
      for (let i = 0; i < count; i++) {
        const slot = ((position & 0x7fff) + i) % driver.queueSize;
        const descriptor = packed ? slot : ring.plain.ids[i]!;
        if (what === 'length') ring.plain.lengths[i] = table[descriptor * 4 + DescriptorWord.LENGTH]!;
        else
          ring.plain.ids[i] = packed
            ? table[descriptor * 4 + DescriptorWord.FLAGS_NEXT]! & 0xffff
            : available[slot]!;
        port.checkPlain(ring, i, false);
      }
    };
    const began = performance.now();
    beginHostile(race, began);
    while (port.complaints.length === 0 && goesOn(began, false)) {
      if (what !== 'header') burst();
      queue.poll(POLL_BUDGET);
      if (queue.fault !== null) {
        assert.equal(remedyForCode(queue.fault.code), 'needs-reset');
        ring = race.open();
        queue = new TransmitQueue({ ring, port, block, features, mtu: 0, linkUp: true });
        queue.resume();
      }
      race.refill(ring.position);
    }
    stop(control);
    await race.end();
    assert.notDeepEqual(port.complaints, []);
  });
}
