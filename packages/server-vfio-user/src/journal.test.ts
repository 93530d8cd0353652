import { describe, expect, it } from 'vitest';
import { MemoryJournal } from './harness.fixture.js';
import { RequestJournal } from './journal.js';
import { getInfo, regionWrite } from './messages.fixture.js';

const first = regionWrite(1, 0, 0n, Uint8Array.of(1));
const second = regionWrite(2, 0, 0n, Uint8Array.of(1));
const reply = Uint8Array.of(1, 2, 3);

/** Runs a journal up to an instant, and returns what outlives the kill there. */
function killedAfter(instant: 'begin' | 'commit' | 'finish', sequence = 0): MemoryJournal {
  const kept = new MemoryJournal();
  kept.finished = sequence;
  const journal = new RequestJournal(kept);
  journal.begin(first);
  if (instant === 'begin') return kept;
  journal.commit(first, reply);
  if (instant === 'finish') journal.finish();
  return kept;
}

describe('request journal', () => {
  it('killed before commit › the request is fresh for the successor', () => {
    expect(killedAfter('begin').reopen().begin(first)).toBe('fresh');
  });

  it('killed after commit, the request still in the socket › the recorded answer, as often as successors die', () => {
    const kept = killedAfter('commit');
    for (let i = 0; i < 3; i++) expect(kept.reopen().begin(first)).toEqual({ replay: reply });
    const last = kept.reopen();
    last.begin(first);
    last.finish();
    expect(last.begin(second)).toBe('fresh');
  });

  it('killed after commit, the request gone from the socket › the next one is fresh, and numbered behind it', () => {
    const kept = killedAfter('commit');
    const journal = kept.reopen();
    expect(journal.begin(second)).toBe('fresh');
    journal.commit(second, null);
    expect(kept.records.map(({ sequence }) => sequence)).toEqual([1, 2]);
    journal.finish();
    expect(kept.finished).toBe(2);
  });

  it('killed after finish › an equal request is another request', () => {
    expect(killedAfter('finish').reopen().begin(first)).toBe('fresh');
  });

  it('a posted request › replayed as one without an answer', () => {
    const kept = new MemoryJournal();
    const journal = new RequestJournal(kept);
    journal.begin(first);
    journal.commit(first, null);
    expect(kept.reopen().begin(first)).toEqual({ replay: null });
  });

  it('requests that change nothing › are counted but not recorded', () => {
    const kept = new MemoryJournal();
    const journal = new RequestJournal(kept);
    for (let i = 0; i < 5; i++) {
      expect(journal.begin(getInfo(i))).toBe('fresh');
      journal.finish();
    }
    expect([kept.finished, kept.records.length]).toEqual([5, 0]);
  });

  it('a new socket after a death between commit and finish › its first request is fresh even when it is equal', () => {
    const journal = killedAfter('commit').reopen();
    journal.forget();
    expect(journal.begin(first)).toBe('fresh');
  });

  it('number 2^32 - 1 › is followed by 0', () => {
    const kept = killedAfter('commit', 0xfffffffe);
    const journal = kept.reopen();
    expect(journal.begin(first)).toEqual({ replay: reply });
    journal.finish();
    expect(kept.finished).toBe(0xffffffff);
    journal.begin(second);
    journal.commit(second, reply);
    expect(kept.records.at(-1)?.sequence).toBe(0);
    expect(kept.reopen().begin(second)).toEqual({ replay: reply });
  });
});
