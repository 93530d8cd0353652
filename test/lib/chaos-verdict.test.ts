import { describe, expect, test } from 'vitest';
import type { ChaosEvent } from '../../scripts/lib/chaos-kinds.ts';
import type { Traffic } from '../../scripts/lib/chaos-stage.ts';
import { calmPause, type Happened, losses, pausesOf, tooLong } from '../../scripts/lib/chaos-verdict.ts';
import { analyseStream } from './stream-analysis.ts';

const MS = 1_000;
const STREAM_MS = 10_000;
const EVENT_AT_MS = 4_000;

const event: ChaosEvent = {
  name: 'an event',
  weight: 1,
  frames: 1,
  pauseMs: 500,
  async happen() {},
};
const happened = (atMs: number, waitedMs = 0): Happened => ({
  name: event.name,
  event,
  pauseMs: event.pauseMs,
  atUs: atMs * MS,
  waitedUs: waitedMs * MS,
});

/** A frame a millisecond, but for those `lost`; none arrives from `fromMs` on for `pauseMs`, then all of them at once. */
function stream({ lost = [] as number[], fromMs = EVENT_AT_MS, pauseMs = 0, dropped = 0 }): Traffic {
  const numbers = Array.from({ length: STREAM_MS }, (_, index) => index).filter((at) => !lost.includes(at));
  const arrivals = numbers.map((sequence) => {
    const held = sequence >= fromMs && sequence < fromMs + pauseMs;
    return { sequence, sentUs: sequence * MS, arrivedUs: (held ? fromMs + pauseMs : sequence) * MS };
  });
  return { name: 'a stream', arrivals, report: analyseStream(arrivals, 0, STREAM_MS), dropped, queues: 1 };
}

const verdict = (traffic: Traffic, waitedMs = 0) => {
  const events = [happened(EVENT_AT_MS)];
  const pauses = pausesOf(events, [traffic], { atUs: STREAM_MS * MS, waitedUs: waitedMs * MS });
  return tooLong(pauses, calmPause(events, [traffic]));
};

describe('losses', () => {
  test('as many frames as the events may cost > nothing to say', () => {
    expect(losses([happened(0)], [stream({ lost: [7] })])).toEqual([]);
  });

  test('one more, whoever dropped it > said', () => {
    const traffic = stream({ lost: [7, 8], dropped: 2 });
    const said = 'a stream: 2 frames lost or repeated, 1 allowed (2 by event 1, an event)';
    expect(losses([happened(0)], [traffic])).toEqual([said]);
  });

  test('frames of several times > said by which event each was lost', () => {
    const events = [happened(0), happened(EVENT_AT_MS)];
    const [said] = losses(events, [stream({ lost: [7, EVENT_AT_MS - 1, EVENT_AT_MS + 1, STREAM_MS - 1] })]);
    expect(said).toMatch(/\(1 by event 1, an event; 2 by event 2, an event; 1 at the end\)$/);
  });
});

describe('pauses', () => {
  test('within the bound > nothing to say', () => {
    expect(verdict(stream({ pauseMs: 450 }))).toEqual([]);
  });

  test('longer > said, with the event and each stream', () => {
    const said = 'event 1, an event: a pause of 800 ms, 500 allowed (of each stream: 800)';
    expect(verdict(stream({ pauseMs: 800 }))).toEqual([said]);
  });

  test('longer, while somebody waited for a processor > excused by that time', () => {
    expect(verdict(stream({ pauseMs: 800 }), 400)).toEqual([]);
    expect(verdict(stream({ pauseMs: 950 }), 400)).toHaveLength(1);
  });

  test('three times the bound > too long whatever the machine did', () => {
    expect(verdict(stream({ pauseMs: 1_600 }), 5_000)).toHaveLength(1);
  });

  test('a pause before the first event is the machine’s', () => {
    const before = stream({ fromMs: 3_000, pauseMs: 300 });
    const events = [happened(EVENT_AT_MS)];
    const calmMs = calmPause(events, [before]);
    expect(calmMs).toBeGreaterThan(250);
    const pauses = pausesOf(events, [stream({ pauseMs: 700 })], { atUs: STREAM_MS * MS, waitedUs: 0 });
    expect(tooLong(pauses, calmMs)).toEqual([]);
    expect(tooLong(pauses, 0)).toHaveLength(1);
  });
});
