import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { setThreadRealtime } from '@virtnet/host-linux';
import { describe, expect, it, onTestFinished } from 'vitest';
import { Precedence } from './precedence.js';

/** What stands for a state keeper. */
function keeper(): number {
  const child = spawn('sleep', ['60'], { stdio: 'ignore' });
  onTestFinished(async () => {
    const exit = once(child, 'exit');
    child.kill('SIGKILL');
    await exit;
  });
  return child.pid!;
}

/** 0: ordinary; 1: SCHED_FIFO. The 41st field of proc(5), the 39th behind the name. */
function policyOf(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  return Number(stat.slice(stat.lastIndexOf(') ') + 2).split(' ')[38]);
}

const permitted = setThreadRealtime(process.pid, true) === 0;
setThreadRealtime(process.pid, false);

describe.skipIf(!permitted)(
  `a keeper that was hurried${permitted ? '' : ': real time is not permitted'}`,
  () => {
    it('goes back to ordinary when the work is done', () => {
      const pid = keeper();
      const precedence = new Precedence();
      precedence.hurry(pid);
      expect(policyOf(pid)).toBe(1);
      precedence.worked(pid);
      expect(policyOf(pid)).toBe(0);
    });

    it('by one that died over it, or whose connection to it has ended since: the same', () => {
      const pid = keeper();
      new Precedence().hurry(pid);
      new Precedence().worked(pid);
      expect(policyOf(pid)).toBe(0);
      const precedence = new Precedence();
      precedence.hurry(pid);
      precedence.worked(null);
      expect(policyOf(pid)).toBe(0);
    });
  },
);
