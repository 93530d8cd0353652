import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { virtnetPaths } from '@virtnet/host-ipc';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { enterPhase, finish, newRecord, readRecord, writeRecord } from './update-record.js';

const NEXT = { version: '0.2.0', root: '/next' };

function paths() {
  const root = mkdtempSync(join(tmpdir(), 'virtnet-record-'));
  onTestFinished(() => rmSync(root, { recursive: true, force: true }));
  return virtnetPaths(root);
}

describe('the record of a live update', () => {
  it('accounts every phase, and its whole time, whatever becomes of the clock on the wall', () => {
    vi.useFakeTimers({ now: 1_000_000 });
    onTestFinished(() => void vi.useRealTimers());
    const record = newRecord('update', '0.1.0', NEXT);
    vi.advanceTimersByTime(40);
    enterPhase(record, 'start'); // goes on
    vi.advanceTimersByTime(2);
    enterPhase(record, 'check');
    vi.setSystemTime(10_000); // set back
    vi.advanceTimersByTime(8);
    finish(record, 'failed', 'too old');
    expect(record).toMatchObject({ phase: 'check', result: 'failed', reason: 'too old', timeUsedMs: 50 });
    expect(record.phasesMs).toEqual({ start: 42, check: 8 });
  });

  it('of a build that knew the clock on the wall only: goes on by that, and never backwards', () => {
    vi.useFakeTimers({ now: 1_000_000 });
    onTestFinished(() => void vi.useRealTimers());
    const { phaseAtMonotonic: _, ...record } = newRecord('update', '0.1.0', NEXT);
    vi.advanceTimersByTime(40);
    enterPhase(record, 'check');
    expect(record.phasesMs).toEqual({ start: 40 });
    const former = newRecord('update', '0.1.0', NEXT);
    delete former.phaseAtMonotonic;
    vi.setSystemTime(10_000);
    finish(former, 'success', null);
    expect(former).toMatchObject({ phasesMs: { start: 0 }, timeUsedMs: 0 });
  });

  it('survives its writer', () => {
    const at = paths();
    expect(readRecord(at)).toBeNull();
    const record = newRecord('restart', '0.1.0', { version: '0.1.0', root: '/here' });
    record.pausesMs.push(1.5);
    writeRecord(at, record);
    expect(readRecord(at)).toEqual(record);
  });

  it('one that is torn, of another schema, or makes no sense counts as none', () => {
    const at = paths();
    const file = join(at.run, 'update.json');
    writeRecord(at, newRecord('update', '0.1.0', NEXT));
    const good = readFileSync(file, 'utf8');
    for (const bad of [
      good.slice(0, -5),
      good.replace('"schema":1', '"schema":2'),
      good.replace('"phase":"start"', '"phase":"toString"'),
      good.replace('"pausesMs":[]', '"pausesMs":["1"]'),
      good.replace('"result":null', '"result":"perhaps"'),
      good.replace('"destinationRoot":"/next"', '"destinationRoot":2'),
      'null',
    ]) {
      expect(bad).not.toBe(good);
      writeFileSync(file, bad);
      expect(readRecord(at)).toBeNull();
    }
  });
});
