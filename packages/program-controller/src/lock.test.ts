import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { takeLock } from './lock.js';

it('the file names who has the lock, for whoever comes second', () => {
  const root = mkdtempSync(join(tmpdir(), 'virtnet-lock-'));
  onTestFinished(() => rmSync(root, { recursive: true, force: true }));
  const path = join(root, 'lock');
  const lock = takeLock(path);
  expect(readFileSync(path, 'utf8')).toBe(`${process.pid}\n`);
  expect(takeLock(path)).toEqual({ holder: `${process.pid}` });
  if ('release' in lock) lock.release();
  const again = takeLock(path);
  expect(again).toHaveProperty('release');
  if ('release' in again) again.release();
});

it('no room for the pid: the lock is taken all the same', () => {
  const lock = takeLock('/dev/full'); // never has room
  expect(lock).toHaveProperty('release');
  if ('release' in lock) lock.release();
});
