import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { Errno } from '@virtnet/wire';
import { describe, expect, it, vi } from 'vitest';
import { runChild } from './child.fixture.js';
import {
  isAlive,
  kill,
  openDescriptorCount,
  processorWaitMs,
  readProcessStat,
  setThreadName,
} from './process.js';
import { getThreadAffinity, setThreadAffinity } from './scheduling.js';

const ABSENT_PID = 2 ** 22 + 1;

describe('process name', () => {
  it('shows in ps, whole in the arguments and cut to 15 bytes as the command', async () => {
    const end = await runChild(`
      import { readFileSync } from 'node:fs';
      import { setProcessName } from '@virtnet/host-linux';
      setProcessName('virtio_net_controller');
      console.log(readFileSync('/proc/self/comm', 'utf8').trim());
      console.log(readFileSync('/proc/self/cmdline', 'utf8').replaceAll('\\0', ''));`);
    expect(end.output.split('\n').slice(0, 2)).toEqual(['virtio_net_cont', 'virtio_net_controller']);
  });

  it('of a thread is its own', () => {
    const own = readFileSync('/proc/thread-self/comm', 'utf8');
    expect(setThreadName('worker-1')).toBe(0);
    expect(readFileSync('/proc/thread-self/comm', 'utf8')).toBe('worker-1\n');
    expect(setThreadName('a\0b')).toBe(-Errno.EINVAL);
    setThreadName(own.trim());
  });
});

describe('time a process waited for a processor', () => {
  it('grows while another has the processor, and is 0 of one that does not exist', async () => {
    const all = getThreadAffinity() as number[];
    setThreadAffinity([all[0]!]); // which children inherit
    const spinning = [1, 2].map(() => spawn('sh', ['-c', 'while :; do :; done'], { stdio: 'ignore' }));
    setThreadAffinity(all);
    try {
      const [one, other] = spinning.map(({ pid }) => pid!);
      const waitedMs = () => processorWaitMs(one!) + processorWaitMs(other!);
      const before = waitedMs();
      await expect.poll(waitedMs, { timeout: 20_000 }).toBeGreaterThan(before + 100);
    } finally {
      for (const child of spinning) child.kill('SIGKILL');
    }
    expect(processorWaitMs(ABSENT_PID)).toBe(0);
  });
});

describe('process', () => {
  it('our own is alive, with the state the kernel tells', () => {
    const stat = readProcessStat(process.pid)!;
    expect(stat).toMatchObject({ pid: process.pid, parentPid: process.ppid, state: 'R' });
    expect(stat.threads).toBeGreaterThan(1);
    expect(stat.residentPages).toBeGreaterThan(1000);
    expect(stat.startTicks).toBeGreaterThan(0);
    expect(isAlive(process.pid)).toBe(true);
  });

  it('one whose name holds blanks and parentheses is read right', async () => {
    const end = await runChild(`
      import { readProcessStat, setThreadName } from '@virtnet/host-linux';
      setThreadName('a) R (b c');
      const { name, parentPid } = readProcessStat(process.pid);
      console.log(name, parentPid === process.ppid);`);
    expect(end.output).toBe('a) R (b c true\n');
  });

  it('a zombie is not alive', async () => {
    // Its parent has become a program that does not wait for it by the time it ends.
    const script = 'exec 3<&0; sh -c "read word" <&3 & echo $!; exec sleep 60';
    const shell = spawn('sh', ['-c', script], { stdio: ['pipe', 'pipe', 'ignore'] });
    try {
      const [chunk] = (await once(shell.stdout, 'data')) as [Buffer];
      const pid = Number(chunk.toString());
      await vi.waitFor(() => expect(readProcessStat(shell.pid ?? 0)?.name).toBe('sleep'), 10_000);
      shell.stdin.end('end\n');
      await vi.waitFor(() => expect(readProcessStat(pid)?.state).toBe('Z'), 10_000);
      expect(isAlive(pid)).toBe(false);
    } finally {
      shell.kill('SIGKILL');
    }
  });

  it('one that does not exist is not alive and cannot be signalled', () => {
    expect(isAlive(ABSENT_PID)).toBe(false);
    expect(readProcessStat(ABSENT_PID)).toBeNull();
    expect(readProcessStat(-1)).toBeNull();
    expect(kill(ABSENT_PID, 0)).toBe(-3); // ESRCH
  });

  it('a child is reaped once, with how it ended; a stranger never', async () => {
    // Of children that Node started itself, and of which it has not heard yet: nothing else is called meanwhile.
    const end = await runChild(`
      import { spawn } from 'node:child_process';
      import { reapChild } from '@virtnet/host-linux';
      const endOf = (script) => {
        const { pid } = spawn('sh', ['-c', script], { stdio: 'ignore' });
        let end = null;
        while (end === null) end = reapChild(pid);
        return [end, reapChild(pid)];
      };
      const ends = ['exit 7', 'exit 0', 'kill -9 $$', 'kill -SEGV $$'].map(endOf);
      console.log(JSON.stringify([...ends, reapChild(process.ppid), reapChild(-1)]));
      process.exit(0); // Node would wait for what it can no longer hear`);
    expect(JSON.parse(end.output)).toEqual([
      [{ code: 7, signal: null }, null],
      [{ code: 0, signal: null }, null],
      [{ code: null, signal: 'SIGKILL' }, null],
      [{ code: null, signal: 'SIGSEGV' }, null],
      null,
      null,
    ]);
  });

  it('kill reaches one process and never a group', () => {
    expect(kill(0, 0)).toBe(-Errno.EINVAL);
    expect(kill(-1, 0)).toBe(-Errno.EINVAL);
    expect(kill(process.pid, 0)).toBe(0);
    const victim = spawnSync('sh', ['-c', 'kill -9 $$']);
    expect(victim.signal).toBe('SIGKILL');
  });

  it('open descriptors are counted without the one that counts', () => {
    const listed = readFileSync('/proc/self/status', 'utf8');
    expect(listed).toContain('FDSize');
    expect(openDescriptorCount()).toBe(openDescriptorCount());
    expect(openDescriptorCount()).toBeGreaterThan(2);
  });
});
