import { setTimeout as sleep } from 'node:timers/promises';
import { close, eventfd, eventfdDrain, eventfdSignal } from '@virtnet/host-linux';
import { LongRuns, MailboxSender } from '@virtnet/host-workers';
import { QueueWord } from '@virtnet/wire';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { QueueConfig, WorkerMessage, WorkerReport, WorkerStart } from './datapath-protocol.js';
import { SCRATCH_BYTES } from './scratch.js';
import { numberOf, RECEIVE, TRANSMIT, WorkerFixture } from './test-support/worker-fixture.js';

/** The worker as built: threads run JavaScript files. */
const worker = new URL('../dist/worker.js', import.meta.url).href;
const PATIENCE_MS = 15_000;

async function eventually(what: string, look: () => boolean): Promise<void> {
  const end = performance.now() + PATIENCE_MS;
  while (!look()) {
    if (performance.now() > end) throw new Error(`did not happen: ${what}`);
    await sleep(1);
  }
}

describe('worker on a thread of its own', () => {
  let pair: WorkerFixture;
  let wakeFd: number;
  let runs: LongRuns<WorkerStart>;
  let sender: MailboxSender<WorkerMessage>;
  let nextSync = 1;
  const reports: WorkerReport[] = [];
  const ends: (Error | null)[] = [];

  beforeAll(async () => {
    pair = new WorkerFixture();
    wakeFd = eventfd();
    const { base, sizeBytes } = pair.arena;
    const scratchAt = pair.arena.mapAnonymous(SCRATCH_BYTES);
    const data = () => ({
      arenaBase: base,
      arenaBytes: sizeBytes,
      window: null,
      scratchAt,
      wakeFd,
      progressAddress: 0n,
      processors: null,
      progressLane: 0,
      cold: false,
    });
    runs = new LongRuns(worker, 1);
    const run = runs.begin(data, (_, error) => ends.push(error))[0]!;
    run.port.on('message', (report: WorkerReport) => reports.push(report));
    sender = new MailboxSender(run.port, run.control, () => eventfdSignal(wakeFd));
    await eventually('ready', () => reports.some(({ kind }) => kind === 'ready'));
    sender.post(pair.memoryMessage);
  });
  afterAll(async () => {
    sender.post({ kind: 'stop' });
    await runs.finished();
    expect(ends).toEqual([null]);
    close(wakeFd);
    pair.close();
  });
  beforeEach(async () => {
    reports.length = 0;
    await configure(TRANSMIT);
    await configure(RECEIVE);
    await asleep();
  });
  afterEach(() => {
    expect(reports.filter(({ kind }) => kind === 'fault')).toEqual([]);
  });

  async function configure(queue: number, change: Partial<QueueConfig> = {}): Promise<void> {
    const id = nextSync++;
    sender.post({ kind: 'queue', device: 0, slot: queue, config: pair.config(queue, change) });
    sender.post({ kind: 'sync', id });
    await eventually('synced', () => reports.some((report) => report.kind === 'synced' && report.id === id));
  }
  const asleep = () => eventually('asleep', () => sender.sleeping);
  const left = (count: number) => {
    const frames: Uint8Array[] = [];
    return eventually(`${count} frames`, () => frames.push(...pair.arrived()) >= count).then(() =>
      frames.map(numberOf),
    );
  };

  it('with nothing to do it sleeps: no turn, until something happens', async () => {
    await sleep(20); // for what its configuration left to be looked at
    const turns = sender.heartbeat;
    await sleep(200);
    expect([sender.heartbeat, sender.sleeping]).toEqual([turns, true]);
  });

  it('asleep, kicked by event: the frame leaves, the driver is interrupted, and it sleeps again', async () => {
    eventfdDrain(pair.interruptFds[TRANSMIT]);
    expect(pair.offerFrames(11)).toBe(true);
    eventfdSignal(pair.kickFds[TRANSMIT]);
    expect(await left(1)).toEqual([11]);
    await eventually('interrupt', () => eventfdDrain(pair.interruptFds[TRANSMIT]) === 1);
    expect(pair.transmit.collect()).toHaveLength(1);
    await asleep();
  });

  it('asleep, kicked by doorbell: the frame leaves', async () => {
    expect(pair.offerFrames(12)).toBe(true);
    sender.ring(TRANSMIT);
    expect(await left(1)).toEqual([12]);
    pair.transmit.collect();
    await asleep();
  });

  it('asleep, a frame of the network comes: it arrives at the driver', async () => {
    if (pair.offerBuffers(2)) eventfdSignal(pair.kickFds[RECEIVE]);
    await asleep();
    pair.sendFrame(13);
    await eventually('frame', () => pair.receive.collect().some(({ written }) => numberOf(written) === 13));
    await asleep();
  });

  it('an interrupt that waits for its time comes while the worker sleeps', async () => {
    const moderation = { mode: 'first-frame', usecs: 3000, frames: 1000 } as const;
    await configure(TRANSMIT, { moderation });
    eventfdDrain(pair.interruptFds[TRANSMIT]);
    for (const number of [21, 22, 23]) {
      if (pair.offerFrames(number)) eventfdSignal(pair.kickFds[TRANSMIT]);
      expect(await left(1)).toEqual([number]);
      await eventually('interrupt', () => eventfdDrain(pair.interruptFds[TRANSMIT]) === 1);
      pair.transmit.collect();
    }
    await asleep();
  });

  it('a thousand sleeps and kicks in a row: none is lost', async () => {
    for (let number = 0; number < 1000; number++) {
      if (pair.offerFrames(number)) eventfdSignal(pair.kickFds[TRANSMIT]);
      expect(await left(1)).toEqual([number]);
      pair.transmit.collect();
      if (number % 10 === 0) await asleep();
    }
  });

  it('configured anew a hundred times under traffic: nothing lost, nothing twice, in order', async () => {
    const FRAMES = 5000;
    let offered = 0;
    let given = 0;
    const start = pair.block(TRANSMIT).words[QueueWord.POSITION]!;
    const seen: number[] = [];
    let configured = 0;
    let done = false;
    const changing = (async () => {
      for (; !done || configured < 100; configured++) {
        if (configured % 2 === 0) sender.post(pair.memoryMessage);
        await configure(TRANSMIT, { mtu: 1500 + (configured % 2) });
      }
    })();
    while (seen.length < FRAMES) {
      given += pair.transmit.collect().length;
      const numbers: number[] = [];
      while (offered + numbers.length < Math.min(FRAMES, given + 60)) numbers.push(offered + numbers.length);
      offered += numbers.length;
      if (numbers.length > 0 && pair.offerFrames(...numbers)) eventfdSignal(pair.kickFds[TRANSMIT]);
      seen.push(...pair.arrived().map(numberOf));
      await new Promise((resolve) => setImmediate(resolve));
    }
    done = true;
    await changing;
    expect(seen).toEqual(Array.from({ length: FRAMES }, (_, i) => i));
    const moved = (pair.block(TRANSMIT).words[QueueWord.POSITION]! - start) & 0xffff;
    expect(moved).toBe(FRAMES);
    expect(configured).toBeGreaterThanOrEqual(100);
  });
});
