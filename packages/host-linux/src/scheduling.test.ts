import { spawn } from 'node:child_process';
import { getPriority } from 'node:os';
import { Errno } from '@virtnet/wire';
import { afterEach, describe, expect, it } from 'vitest';
import { runChild } from './child.fixture.js';
import {
  getThreadAffinity,
  Nice,
  setProcessNice,
  setThreadAffinity,
  setThreadRealtime,
} from './scheduling.js';

const ABSENT_PID = 2 ** 22 + 1;
/** A nice value that anybody may give. */
const LATER = 5;

describe('precedence', () => {
  it("of a process > V8's helper threads do not have it", async () => {
    const end = await runChild(`
      import { readdirSync, readFileSync } from 'node:fs';
      import { Nice, setProcessNice } from '@virtnet/host-linux';
      const permitted = setProcessNice(Nice.PREFERRED);
      const task = '/proc/self/task';
      const threads = readdirSync(task).map((tid) => ({
        helps: readFileSync(task + '/' + tid + '/comm', 'utf8').includes('V8Worker'),
        nice: Number(readFileSync(task + '/' + tid + '/stat', 'utf8').split(') ')[1].split(' ')[16]),
      }));
      console.log(JSON.stringify({ permitted, threads }));`);
    const { permitted, threads } = JSON.parse(end.output) as {
      permitted: boolean;
      threads: { helps: boolean; nice: number }[];
    };
    expect(threads.filter(({ helps }) => helps).length).toBeGreaterThan(0);
    for (const { helps, nice } of threads) {
      if (helps) expect(nice).toBeGreaterThanOrEqual(Nice.ORDINARY);
      else if (permitted) expect(nice).toBe(Nice.PREFERRED);
    }
  });

  it('can be taken from another process, which may be gone', async () => {
    const other = spawn('sleep', ['60']);
    const gone = new Promise((resolve) => other.on('exit', resolve));
    try {
      expect(setProcessNice(LATER, other.pid)).toBe(true);
      expect(getPriority(other.pid)).toBe(LATER);
    } finally {
      other.kill('SIGKILL');
    }
    await gone;
    expect(setProcessNice(LATER, ABSENT_PID)).toBe(false);
  });

  it('real-time is lent to a thread and taken back; its nice value stays, and its children are ordinary', async () => {
    const end = await runChild(`
      import { spawnSync } from 'node:child_process';
      import { readFileSync } from 'node:fs';
      import { setThreadNice, setThreadRealtime } from '@virtnet/host-linux';
      const REALTIME_PRIORITY = 39, POLICY = 40, NICE = 18;
      const of = (stat) => {
        const fields = ['', '', ...stat.split(') ')[1].split(' ')];
        return [fields[REALTIME_PRIORITY], fields[POLICY], fields[NICE]].map(Number);
      };
      const own = () => of(readFileSync('/proc/self/stat', 'utf8'));
      setThreadNice(process.pid, ${LATER});
      const lent = setThreadRealtime(process.pid, true);
      const during = own();
      const child = of(spawnSync('cat', ['/proc/self/stat'], { encoding: 'utf8' }).stdout);
      const back = setThreadRealtime(process.pid, false);
      console.log(JSON.stringify({ lent, during, child, back, after: own() }));`);
    const { lent, during, child, back, after } = JSON.parse(end.output) as {
      lent: number;
      during: number[];
      child: number[];
      back: number;
      after: number[];
    };
    const [OTHER, FIFO] = [0, 1];
    expect([0, -Errno.EPERM]).toContain(lent); // a matter of permission
    if (lent === 0) expect(during).toEqual([1, FIFO, LATER]);
    expect(child.slice(0, 2)).toEqual([0, OTHER]);
    expect(back).toBe(0);
    expect(after).toEqual([0, OTHER, LATER]);
    expect(setThreadRealtime(ABSENT_PID, true)).toBeLessThan(0);
  });
});

describe('thread affinity', () => {
  const all = getThreadAffinity() as number[];
  afterEach(() => expect(setThreadAffinity(all)).toBe(0));

  it('is what was set, until set back', () => {
    expect(all.length).toBeGreaterThan(0);
    expect(setThreadAffinity([all[0]!])).toBe(0);
    expect(getThreadAffinity()).toEqual([all[0]]);
  });

  it('to no existing processor is -EINVAL and changes nothing', () => {
    expect(setThreadAffinity([])).toBe(-Errno.EINVAL);
    expect(setThreadAffinity([1023])).toBe(-Errno.EINVAL);
    expect(setThreadAffinity([1024])).toBe(-Errno.EINVAL);
    expect(setThreadAffinity([-1])).toBe(-Errno.EINVAL);
    expect(getThreadAffinity()).toEqual(all);
  });
});
