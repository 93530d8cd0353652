/** What a driver is told, and what is counted of it, does not depend on the format of its rings (failure D9). */
import { MessageChannel } from 'node:worker_threads';
import { eventfdDrain } from '@virtnet/host-linux';
import { createControl, MailboxReceiver, MailboxSender } from '@virtnet/host-workers';
import { featureMask, initialRingPosition, QueueCounter, QueueWord, VirtioFeature } from '@virtnet/wire';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { QueueConfig, WorkerMessage, WorkerReport } from './datapath-protocol.js';
import { IDLE_TURNS_MAX } from './limits.js';
import { openFds } from './test-support/holdings.js';
import { TestPackedRing } from './test-support/test-packed-ring.js';
import { TestRing } from './test-support/test-ring.js';
import { frame, HEADER_BYTES, RECEIVE, TRANSMIT, WorkerFixture } from './test-support/worker-fixture.js';
import { WorkerLoop } from './worker-loop.js';

const RING_SIZE = 32;
const BUFFER_BYTES = 2048;
const AN_HOUR = 3_600_000_000;

type Format = 'split' | 'packed';
type Direction = 'receive' | 'transmit';
/** What a driver does: moves so many frames at once, kicks for nothing, or says when it wants an interrupt. */
type Step =
  | { readonly move: number }
  | { readonly kick: true }
  | { readonly interrupts: boolean }
  | { readonly after: number };

const move = (frames: number): Step => ({ move: frames });
const after = (chains: number): Step => ({ after: chains });
const KICK: Step = { kick: true };
const off: Step = { interrupts: false };
const on: Step = { interrupts: true };
const LAPS = Array.from({ length: 9 }, () => move(9));

/** One queue of a worker and its driver. */
class Stage {
  readonly #pair = new WorkerFixture();
  readonly #channel = new MessageChannel();
  readonly #loop: WorkerLoop;
  readonly #sender: MailboxSender<WorkerMessage>;
  readonly #reports: WorkerReport[] = [];
  readonly #ring: TestRing | TestPackedRing;
  readonly #queue: number;
  readonly #slots: number;
  readonly #eventIdx: boolean;

  constructor(
    format: Format,
    direction: Direction,
    eventIdx: boolean,
    moderation: QueueConfig['moderation'],
  ) {
    const Ring = format === 'packed' ? TestPackedRing : TestRing;
    this.#ring = new Ring(this.#pair.memory, RING_SIZE, BUFFER_BYTES);
    this.#queue = direction === 'receive' ? RECEIVE : TRANSMIT;
    this.#slots = direction === 'receive' ? 1 : 2;
    this.#eventIdx = eventIdx;
    const control = createControl();
    this.#sender = new MailboxSender(this.#channel.port2, control, () => {});
    const mailbox = new MailboxReceiver<WorkerMessage>(this.#channel.port1, control);
    this.#loop = new WorkerLoop(this.#pair.arena, mailbox, -1, (report) => this.#reports.push(report));
    const features = featureMask([
      VirtioFeature.VERSION_1,
      ...(format === 'packed' ? [VirtioFeature.RING_PACKED] : []),
      ...(eventIdx ? [VirtioFeature.EVENT_IDX] : []),
    ]);
    const config = this.#pair.config(this.#queue, { ...this.#ring.addresses, features, moderation });
    const { words } = this.#pair.block(this.#queue);
    words[QueueWord.POSITION] = initialRingPosition(format === 'packed');
    words[QueueWord.PUBLISHED] = words[QueueWord.POSITION]!;
    this.#sender.post(this.#pair.memoryMessage);
    this.#sender.post({ kind: 'queue', device: 0, slot: this.#queue, config });
    this.#settle();
  }

  /** Takes a step; interrupts that it led to. */
  take(step: Step): number {
    if ('interrupts' in step) this.#want(step.interrupts);
    else if ('after' in step) this.#ring.interruptAfter(step.after, this.#slots);
    else {
      const frames = 'move' in step ? step.move : 0;
      for (let i = 0; i < frames; i++) this.#add(i);
      if (frames > 0) this.#ring.publish();
      this.#sender.ring(this.#queue);
      this.#settle();
      const given = this.#ring.collect();
      expect(typeof given === 'number' ? given : given.length).toBe(frames);
      this.#pair.arrived();
    }
    return eventfdDrain(this.#pair.interruptFds[this.#queue]!);
  }

  /** With EVENT_IDX a split ring knows no "never", only an index that is as far away as can be. */
  #want(interrupts: boolean): void {
    if (this.#eventIdx && this.#ring instanceof TestRing) this.#ring.interruptAfter(interrupts ? 1 : 0);
    else this.#ring.interrupts(interrupts);
  }

  #add(number: number): void {
    if (this.#queue === TRANSMIT) {
      this.#ring.add([new Uint8Array(HEADER_BYTES), frame(number)]);
    } else {
      this.#ring.add([], [BUFFER_BYTES]);
      this.#pair.sendFrame(number);
    }
  }

  counters() {
    const { counters } = this.#pair.block(this.#queue);
    const { FRAMES, INTERRUPTS, SPURIOUS_KICKS } = QueueCounter;
    return [FRAMES, INTERRUPTS, SPURIOUS_KICKS].map((counter) => counters[counter]);
  }

  close(): void {
    expect(this.#reports).toEqual([]);
    this.#loop.close();
    this.#channel.port1.close();
    this.#pair.close();
  }

  #settle(): void {
    this.#loop.drainMailbox();
    for (let i = 0; i < 3 * IDLE_TURNS_MAX; i++) this.#loop.turn();
  }
}

describe('D9 interrupts of split and packed rings', () => {
  let before: number;
  beforeEach(() => {
    before = openFds();
  });
  afterEach(() => expect(openFds()).toBe(before));

  /** Interrupts of each step, and the counters in the end. */
  const play = (format: Format, direction: Direction, { steps, eventIdx, moderation }: Scenario) => {
    const stage = new Stage(format, direction, eventIdx, moderation);
    const interrupts = steps.map((step) => stage.take(step));
    const counters = stage.counters();
    stage.close();
    return { interrupts, counters };
  };

  interface Scenario {
    readonly eventIdx: boolean;
    readonly moderation: QueueConfig['moderation'];
    readonly steps: readonly Step[];
    readonly interrupts: readonly number[];
    /** Frames, interrupts, kicks that brought nothing. */
    readonly counters: readonly number[];
  }
  const scenarios: Readonly<Record<string, Scenario>> = {
    'switched on and off': {
      eventIdx: false,
      moderation: null,
      steps: [move(1), move(5), off, move(3), KICK, on, move(2), move(10)],
      interrupts: [1, 1, 0, 0, 0, 0, 1, 1],
      counters: [21, 4, 1],
    },
    'asked for by index': {
      eventIdx: true,
      moderation: null,
      steps: [after(1), move(1), move(3), after(4), move(3), move(1), KICK, after(2), move(5)],
      interrupts: [0, 1, 0, 0, 0, 1, 0, 0, 1],
      counters: [13, 3, 1],
    },
    // Laps of both rings: a place in a packed one comes again after two.
    'asked for by index, after laps without any': {
      eventIdx: true,
      moderation: null,
      steps: [after(1), move(7), off, ...LAPS, after(5), move(4), move(1)],
      interrupts: [0, 1, 0, ...LAPS.map(() => 0), 0, 0, 1],
      counters: [93, 2, 0],
    },
    moderated: {
      eventIdx: false,
      moderation: { mode: 'first-frame', usecs: AN_HOUR, frames: 8 },
      steps: [move(5), move(3), move(7), off, move(1), on, move(7), move(1), move(7), off, on, move(1)],
      interrupts: [0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1], // one that waits is not for a driver that suppresses it by then
      counters: [32, 3, 0],
    },
    'moderated, asked for by index': {
      eventIdx: true,
      moderation: { mode: 'first-frame', usecs: AN_HOUR, frames: 8 },
      steps: [after(1), move(7), after(2), move(1), move(1), move(7), after(1), move(7), move(1), move(8)],
      interrupts: [0, 0, 0, 0, 0, 1, 0, 0, 1, 0],
      counters: [32, 2, 0],
    },
  };

  describe.each(Object.entries(scenarios))('%s', (_, scenario) => {
    it.each(['receive', 'transmit'] as const)(
      '%s: as many, at the same steps, and as many counted',
      (direction) => {
        const split = play('split', direction, scenario);
        expect(split).toEqual({ interrupts: scenario.interrupts, counters: scenario.counters });
        expect(play('packed', direction, scenario)).toEqual(split);
      },
    );
  });
});
