import { MessageChannel } from 'node:worker_threads';
import { InterruptModeration } from '@virtnet/engine-virtio-net';
import { eventfdDrain, eventfdSignal, send } from '@virtnet/host-linux';
import { createControl, MailboxReceiver, MailboxSender } from '@virtnet/host-workers';
import {
  featureMask,
  HashReport,
  HashType,
  NET_HEADER_HASH_BYTES,
  NetFeature,
  QueueCounter,
  QueueWord,
  VirtioFeature,
  viewOf,
} from '@virtnet/wire';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import {
  type QueueConfig,
  REPORT_INTERRUPT,
  type WorkerMessage,
  type WorkerReport,
} from './datapath-protocol.js';
import {
  IDLE_QUEUES_SHIFT,
  IDLE_TURNS_MAX,
  IDLE_TURNS_MORE,
  MADE_AHEAD_MAX,
  STREAM_CREDIT,
  STREAM_CREDIT_MAX,
} from './limits.js';
import { openFds } from './test-support/holdings.js';
import { HEADER_BYTES, numberOf, RECEIVE, TRANSMIT, WorkerFixture } from './test-support/worker-fixture.js';
import { WorkerLoop } from './worker-loop.js';

/** The loop is turned by hand here; worker-thread.test.ts lets it run and sleep. */
describe('worker loop', () => {
  let before: number;
  let pair: WorkerFixture;
  let loop: WorkerLoop;
  let sender: MailboxSender<WorkerMessage>;
  let channel: MessageChannel;
  const reports: WorkerReport[] = [];

  beforeEach(() => {
    before = openFds();
    pair = new WorkerFixture();
    channel = new MessageChannel();
    const control = createControl();
    reports.length = 0;
    sender = new MailboxSender(channel.port2, control, () => {});
    const mailbox = new MailboxReceiver<WorkerMessage>(channel.port1, control);
    loop = new WorkerLoop(pair.arena, mailbox, -1, (report) => reports.push(report));
  });
  afterEach(() => {
    loop.close();
    channel.port1.close();
    pair.close();
    expect(openFds()).toBe(before);
  });

  const configure = (queue: number, change: Partial<QueueConfig> | null = {}) =>
    sender.post({
      kind: 'queue',
      device: 0,
      slot: queue,
      config: change === null ? null : pair.config(queue, change),
    });
  /** Carries out what was posted, then turns until nothing is busy any more. */
  const settle = () => {
    loop.drainMailbox();
    for (let i = 0; i < 10 * IDLE_TURNS_MAX; i++) loop.turn();
  };
  const start = (...queues: number[]) => {
    sender.post(pair.memoryMessage);
    for (const queue of queues) configure(queue);
    settle();
  };
  const ringDoorbell = (queue: number) => {
    sender.ring(queue);
    settle();
  };

  it('frames of the driver leave in order, header in front, and are given back with one interrupt', () => {
    start(TRANSMIT);
    pair.offerFrames(1, 2, 3);
    ringDoorbell(TRANSMIT);
    const frames = pair.arrived();
    expect(frames.map(numberOf)).toEqual([1, 2, 3]);
    expect(frames.every((bytes) => bytes.length === HEADER_BYTES + 60)).toBe(true);
    expect(pair.transmit.collect().map(({ lengthBytes }) => lengthBytes)).toEqual([0, 0, 0]);
    expect(eventfdDrain(pair.interruptFds[TRANSMIT])).toBe(1);
    expect(pair.block(TRANSMIT).words[QueueWord.POSITION]).toBe(3);
  });

  it('frames of the network arrive in order in the driver’s buffers, and interrupt it', () => {
    start(RECEIVE);
    pair.offerBuffers(8);
    for (let i = 1; i <= 3; i++) pair.sendFrame(i, 60 + i);
    ringDoorbell(RECEIVE);
    const given = pair.receive.collect();
    expect(given.map(({ lengthBytes }) => lengthBytes)).toEqual([1, 2, 3].map((i) => HEADER_BYTES + 60 + i));
    expect(given.map(({ written }) => numberOf(written))).toEqual([1, 2, 3]);
    expect(eventfdDrain(pair.interruptFds[RECEIVE])).toBe(1);
  });

  it('a queue that stays empty arms its kicks and leaves the busy list', () => {
    start(TRANSMIT);
    expect(pair.offerFrames(5)).toBe(true);
    expect([loop.turn(), pair.arrived().length]).toEqual([0, 0]); // asleep: nobody looks
    sender.ring(TRANSMIT);
    loop.drainMailbox();
    loop.turn();
    expect(pair.arrived()).toHaveLength(1);
    expect(pair.transmit.wantsKick).toBe(false); // busy again: kicks are suppressed
    settle();
    expect(pair.transmit.wantsKick).toBe(true);
  });

  /** Moves `frames` in one turn. */
  const burst = (...frames: number[]) => {
    const before = pair.arrived().length;
    pair.offerFrames(...frames);
    sender.ring(TRANSMIT);
    loop.drainMailbox();
    loop.turn();
    expect(pair.arrived().length - before).toBe(frames.length);
  };
  /** Turns without a frame until kicks are armed. */
  const idleTurns = () => {
    let turns = 0;
    for (; !pair.transmit.wantsKick; turns++) loop.turn();
    return turns;
  };

  it('a queue that moved some frames stays busy for as many turns more', () => {
    start(TRANSMIT);
    burst(1, 2, 3, 4);
    expect(idleTurns()).toBe(IDLE_TURNS_MAX + 4 + 1);
  });

  it('a stream earns its queue idle turns, up to a bound; frames that come one by one do not', () => {
    start(TRANSMIT);
    const frames = Array.from({ length: 10 }, (_, i) => i);
    for (let i = 0; i < 40; i++) burst(...frames);
    expect(idleTurns()).toBe(400 * STREAM_CREDIT + 1);
    for (let i = 0; i < 400; i++) burst(...frames);
    expect(idleTurns()).toBe(STREAM_CREDIT_MAX + 1);
    for (let i = 0; i < 400; i++) {
      burst(i);
      for (let turn = 0; turn < IDLE_TURNS_MAX; turn++) loop.turn();
    }
    expect(idleTurns()).toBe(IDLE_TURNS_MORE + 1); // of IDLE_TURNS_MAX that come first all are gone
  });

  it('a stream behind frames that came one by one earns as any other', () => {
    start(TRANSMIT);
    for (let i = 0; i < 400; i++) {
      burst(i);
      for (let turn = 0; turn < IDLE_TURNS_MAX; turn++) loop.turn();
    }
    for (let i = 0; i < 40; i++) burst(...Array.from({ length: 10 }, (_, frame) => frame));
    expect(idleTurns()).toBe(400 * STREAM_CREDIT + 1);
  });

  it('a kick that brings nothing is counted, and is no fault', () => {
    start(TRANSMIT);
    for (let i = 0; i < 3; i++) ringDoorbell(TRANSMIT);
    expect(pair.block(TRANSMIT).counters[QueueCounter.SPURIOUS_KICKS]).toBe(3);
    expect(reports).toEqual([]);
  });

  it('configured anew between frames: goes on at the same position, nothing lost and nothing twice', () => {
    start(TRANSMIT, RECEIVE);
    const changes = [
      () => sender.post(pair.memoryMessage),
      () => configure(TRANSMIT, { mtu: 9000 }),
      () => configure(RECEIVE, { interruptFd: -1 }),
    ];
    const sent: number[] = [];
    const seen: number[] = [];
    const look = () => seen.push(...pair.receive.collect().map(({ written }) => numberOf(written)));
    pair.offerBuffers(64);
    for (let round = 0; round < 60; round++) {
      const numbers = [3 * round, 3 * round + 1, 3 * round + 2];
      sent.push(...numbers);
      pair.offerFrames(...numbers);
      for (const number of numbers) pair.sendFrame(number);
      for (const queue of [TRANSMIT, RECEIVE]) sender.ring(queue);
      changes[round % changes.length]!();
      loop.drainMailbox();
      for (let i = 0; i < 2; i++) loop.turn();
      pair.transmit.collect();
      const before = seen.length;
      look();
      pair.offerBuffers(seen.length - before);
    }
    settle();
    look();
    expect(pair.arrived().map(numberOf)).toEqual(sent);
    expect(seen).toEqual(sent);
    for (const queue of [TRANSMIT, RECEIVE])
      expect(pair.block(queue).words[QueueWord.POSITION]).toBe(sent.length);
  });

  it('detached: the ring is not touched any more, kicked or not', () => {
    start(TRANSMIT, RECEIVE);
    configure(TRANSMIT, null);
    configure(RECEIVE, null);
    settle();
    pair.offerFrames(1);
    pair.offerBuffers(4);
    pair.sendFrame(1);
    eventfdSignal(pair.kickFds[TRANSMIT]);
    for (const queue of [TRANSMIT, RECEIVE]) ringDoorbell(queue);
    expect([pair.transmit.usedIndex, pair.receive.usedIndex, pair.arrived().length]).toEqual([0, 0, 0]);
    expect(reports).toEqual([]);
  });

  it('a ring that lies: reported once, not polled again, and the other queue goes on', () => {
    start(TRANSMIT, RECEIVE);
    pair.transmit.offer(9999);
    pair.transmit.publish();
    for (let i = 0; i < 4; i++) ringDoorbell(TRANSMIT);
    expect(reports).toMatchObject([{ kind: 'fault', slot: TRANSMIT, fault: { code: 'HEAD_OUT_OF_RANGE' } }]);
    pair.offerBuffers(1);
    pair.sendFrame(1);
    ringDoorbell(RECEIVE);
    expect(pair.receive.usedIndex).toBe(1);
  });

  it('rings that cannot be opened: reported, nothing attached; configured rightly afterwards it works', () => {
    sender.post(pair.memoryMessage);
    configure(TRANSMIT, { descriptorAddress: 0x99_0000_0000n });
    settle();
    expect(reports).toMatchObject([{ kind: 'fault', slot: TRANSMIT, fault: { code: 'BAD_RING_ADDRESS' } }]);
    configure(TRANSMIT);
    pair.offerFrames(1);
    settle();
    expect([reports.length, pair.arrived().length]).toEqual([1, 1]);
  });

  it('no memory of the device was told, or it was taken back: every ring is outside', () => {
    configure(TRANSMIT);
    settle();
    sender.post(pair.memoryMessage);
    sender.post({ kind: 'memory', device: 0, regions: null });
    configure(TRANSMIT);
    settle();
    const outside = { kind: 'fault', fault: { code: 'BAD_RING_ADDRESS' } };
    expect(reports).toMatchObject([outside, outside]);
  });

  it('signalAtOnce: one interrupt although nothing was done', () => {
    sender.post(pair.memoryMessage);
    configure(TRANSMIT, { signalAtOnce: true });
    settle();
    expect(eventfdDrain(pair.interruptFds[TRANSMIT])).toBe(1);
    configure(TRANSMIT, { signalAtOnce: true, interruptFd: REPORT_INTERRUPT });
    settle();
    expect(reports).toEqual([{ kind: 'interrupt', slot: TRANSMIT }]);
  });

  it('RSS-3 hashes: in front of the frame, behind a header of 20 bytes', () => {
    sender.post(pair.memoryMessage);
    const features = featureMask([VirtioFeature.VERSION_1, NetFeature.HASH_REPORT]);
    const key = [0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d];
    configure(RECEIVE, { features, hash: { types: HashType.IPV4, key } });
    pair.offerBuffers(2);
    const frame = new Uint8Array(60);
    frame.set([0x08, 0x00, 0x45], 12);
    frame.set([66, 9, 149, 187, 161, 142, 100, 80], 26);
    send(pair.network, Uint8Array.from([...new Uint8Array(HEADER_BYTES), ...frame]));
    send(
      pair.network,
      Uint8Array.from([...new Uint8Array(HEADER_BYTES), ...frame.map((byte, i) => (i === 12 ? 9 : byte))]),
    );
    settle();
    const [hashed, other] = pair.receive
      .collect()
      .map(({ written, lengthBytes }) => written.subarray(0, lengthBytes));
    const view = viewOf(hashed!);
    expect(hashed!.length).toBe(NET_HEADER_HASH_BYTES + 60);
    expect([view.getUint32(12, true), view.getUint32(16, true)]).toEqual([0x323e8fc2, HashReport.IPV4]);
    expect(hashed!.subarray(NET_HEADER_HASH_BYTES)).toEqual(frame);
    expect(other!.subarray(12, 20)).toEqual(new Uint8Array(8)); // no IP
  });

  describe('moderated interrupts', () => {
    const AN_HOUR = 3_600_000_000;
    const eightFrames = { mode: 'first-frame', usecs: AN_HOUR, frames: 8 } as const;
    const interrupts = () => eventfdDrain(pair.interruptFds[RECEIVE]);
    const arrive = (count: number) => {
      for (let i = 0; i < count; i++) pair.sendFrame(i);
      ringDoorbell(RECEIVE);
    };
    const begin = (moderation: QueueConfig['moderation']) => {
      sender.post(pair.memoryMessage);
      configure(RECEIVE, { moderation });
      pair.offerBuffers(64);
      settle();
    };

    it('wait for the number of frames, which are there before', () => {
      begin(eightFrames);
      arrive(5);
      expect([pair.receive.usedIndex, interrupts()]).toEqual([5, 0]);
      arrive(3);
      expect([pair.receive.usedIndex, interrupts()]).toEqual([8, 1]);
      arrive(7);
      expect(interrupts()).toBe(0);
    });

    it('or for the time', () => {
      begin({ mode: 'first-frame', usecs: 1, frames: 1000 });
      arrive(1);
      expect(interrupts()).toBe(1);
    });

    it('E11 none is lost when the queue is configured anew, or let go of', () => {
      begin(eightFrames);
      arrive(1);
      configure(RECEIVE, { moderation: eightFrames, linkUp: false });
      settle();
      expect(interrupts()).toBe(1);
      configure(RECEIVE, { moderation: eightFrames });
      arrive(1);
      expect(interrupts()).toBe(0);
      configure(RECEIVE, null);
      settle();
      expect(interrupts()).toBe(1);
    });

    it('COAL-3 one that is due is not sent to a driver that suppresses it by then, and DIM does not hear of it', () => {
      let nowMs = 1000;
      vi.spyOn(performance, 'now').mockImplementation(() => nowMs);
      try {
        const sent = vi.spyOn(InterruptModeration.prototype, 'sent');
        begin({ mode: 'first-frame', usecs: 1000, frames: 1000 });
        for (const suppressed of [true, false]) {
          arrive(1);
          expect([pair.receive.collect().length, interrupts()]).toEqual([1, 0]);
          pair.receive.interrupts(!suppressed);
          nowMs += 1;
          loop.turn();
          pair.receive.interrupts(true);
          nowMs += 1;
          loop.turn();
          expect([interrupts(), sent.mock.calls.length]).toEqual(suppressed ? [0, 0] : [1, 1]);
        }
      } finally {
        vi.restoreAllMocks();
      }
    });

    it('E11 one that waits is sent when its queue is let go of, suppressed or not', () => {
      begin(eightFrames);
      arrive(1);
      pair.receive.interrupts(false);
      configure(RECEIVE, null);
      settle();
      expect(interrupts()).toBe(1);
    });

    it('what a predecessor may not have told is told at once', () => {
      sender.post(pair.memoryMessage);
      configure(RECEIVE, { moderation: eightFrames, signalAtOnce: true });
      settle();
      expect(interrupts()).toBe(1);
    });

    it('dynamic: the level is kept in the page, and a successor goes on with it', () => {
      pair.block(RECEIVE).words[QueueWord.MODERATION_LEVEL] = 5;
      begin('dynamic');
      for (let i = 0; i < 600; i++) {
        pair.offerBuffers(1);
        arrive(1);
        pair.receive.collect();
      }
      expect(interrupts()).toBeGreaterThan(0);
      expect(pair.block(RECEIVE).counters[QueueCounter.FRAMES]).toBe(600);
      expect(pair.block(RECEIVE).words[QueueWord.MODERATION_LEVEL]).toBeLessThanOrEqual(5);
    });
  });

  it('what a dead predecessor completed and did not publish is published at once, and not done again', () => {
    start(TRANSMIT);
    pair.offerFrames(1, 2);
    ringDoorbell(TRANSMIT);
    pair.block(TRANSMIT).words[QueueWord.PUBLISHED] = 1;
    pair.memory.view.setUint16(pair.memory.at(pair.transmit.deviceAddress) + 2, 1, true);
    configure(TRANSMIT);
    settle();
    expect(pair.transmit.usedIndex).toBe(2);
    expect(pair.arrived()).toHaveLength(2);
  });

  const tellAhead = (queue: number, change: Partial<QueueConfig> = {}) =>
    sender.post({ kind: 'queue', device: 0, slot: queue, config: pair.config(queue, change), ahead: true });

  it.each(['split', 'packed', 'split, one of too many to make'])(
    'what is told ahead (%s) touches neither page nor memory, and goes on where its owner stopped',
    (format) => {
      const packed = format === 'packed';
      const others = format.endsWith('make') ? MADE_AHEAD_MAX : 0;
      const features = featureMask([VirtioFeature.VERSION_1, ...(packed ? [VirtioFeature.RING_PACKED] : [])]);
      const { page, memory } = pair;
      const views = [new DataView(page.buffer), memory.view];
      const everything = () =>
        views.map((v) => Buffer.from(v.buffer, v.byteOffset, v.byteLength).toString('latin1'));
      if (!packed) pair.offerFrames(1, 2, 3);
      const before = everything();
      sender.post(pair.memoryMessage);
      for (let slot = 2; slot < 2 + others; slot++)
        sender.post({ kind: 'queue', device: 0, slot, config: pair.config(RECEIVE), ahead: true });
      tellAhead(TRANSMIT, { features });
      for (let i = 0; i <= others; i++) loop.drainMailbox();
      settle();
      expect(everything().map((bytes, i) => bytes === before[i])).toEqual([true, true]);
      const position = packed ? 0x8003_8003 : 2;
      pair.block(TRANSMIT).words[QueueWord.POSITION] = position;
      pair.block(TRANSMIT).words[QueueWord.PUBLISHED] = position;
      sender.post({ kind: 'begin', slots: [TRANSMIT] });
      settle();
      expect(reports).toEqual([]);
      expect(pair.arrived().map(numberOf)).toEqual(packed ? [] : [3]);
      expect(pair.block(TRANSMIT).words[QueueWord.POSITION]).toBe(packed ? position : 3);
    },
  );

  it('what is wrong with a ring, or a position, that was told ahead is reported when it holds, and not before', () => {
    sender.post(pair.memoryMessage);
    tellAhead(RECEIVE, { descriptorAddress: 0x99_0000_0000n });
    tellAhead(TRANSMIT, { features: featureMask([VirtioFeature.VERSION_1, VirtioFeature.RING_PACKED]) });
    settle();
    expect(reports).toEqual([]);
    pair.block(TRANSMIT).words[QueueWord.POSITION] = 0x7fff_7fff;
    sender.post({ kind: 'begin', slots: [RECEIVE, TRANSMIT] });
    settle();
    expect(reports).toMatchObject([
      { kind: 'fault', slot: RECEIVE, fault: { code: 'BAD_RING_ADDRESS' } },
      { kind: 'fault', slot: TRANSMIT, fault: { code: 'BAD_POSITION', position: 0x7fff_7fff } },
    ]);
  });

  it('among many busy queues one that stays empty goes to sleep after fewer turns', () => {
    const others = 2 ** IDLE_QUEUES_SHIFT * IDLE_TURNS_MAX;
    sender.post(pair.memoryMessage);
    // All of them work the same ring, which is empty: who is asleep has armed its kicks.
    for (let slot = 0; slot < others; slot++) {
      const config = pair.config(TRANSMIT, { kickFd: -1, tapFd: -1 });
      sender.post({ kind: 'queue', device: 0, slot, config });
    }
    for (let i = 0; i < others / 4; i++) loop.drainMailbox();
    loop.turn();
    expect([loop.awake, pair.transmit.wantsKick]).toEqual([true, false]);
    loop.turn();
    expect([loop.awake, pair.transmit.wantsKick]).toEqual([false, true]);
  });

  it('an inactive receive queue is given no frame, and has it when it is active again', () => {
    sender.post(pair.memoryMessage);
    configure(RECEIVE, { active: false });
    pair.offerBuffers(4);
    pair.sendFrame(1);
    settle();
    expect(pair.receive.usedIndex).toBe(0);
    configure(RECEIVE);
    settle();
    expect(pair.receive.usedIndex).toBe(1);
  });

  it('without buffers the network waits, and nothing of it is lost', () => {
    start(RECEIVE);
    for (let i = 0; i < 5; i++) pair.sendFrame(i);
    ringDoorbell(RECEIVE);
    pair.offerBuffers(8);
    ringDoorbell(RECEIVE);
    expect(pair.receive.collect().map(({ written }) => numberOf(written))).toEqual([0, 1, 2, 3, 4]);
  });

  it('sync is answered after everything posted before it', () => {
    sender.post(pair.memoryMessage);
    configure(TRANSMIT, { descriptorAddress: 0x99_0000_0000n });
    sender.post({ kind: 'sync', id: 5 });
    loop.drainMailbox();
    expect(reports.map(({ kind }) => kind)).toEqual(['fault', 'synced']);
  });
});
