import { spawn } from 'node:child_process';
import { fstatSync, openSync, readFileSync, writeSync } from 'node:fs';
import { Errno, OpenFlag } from '@virtnet/wire';
import { describe, expect, it } from 'vitest';
import { leaveDescriptors } from './descriptor-limit.fixture.js';
import { Epoll } from './epoll.js';
import {
  close,
  DESCRIPTORS_RESERVED,
  describeFd,
  descriptorsAreScarce,
  dup,
  dupTo,
  eventfd,
  eventfdDrain,
  eventfdSignal,
  fileIdentity,
  isEventfd,
  lockFile,
  pidfdOpen,
  pidfdSendSignal,
  reopenFile,
  sameOpenFile,
  setCloseOnExec,
  setNonBlocking,
} from './fd.js';
import { memfdCreate } from './memory.js';
import { isAlive } from './process.js';
import { socketPair } from './socket.js';

const flagsOf = (fd: number): number => {
  const flags = /^flags:\s+(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'));
  return Number.parseInt(flags![1]!, 8);
};

describe('how many descriptors there may be', () => {
  it('they are scarce when the next one would be of the reserve, and no more when there are others again', () => {
    expect(descriptorsAreScarce()).toBe(false);
    const restore = leaveDescriptors(DESCRIPTORS_RESERVED + 40);
    const taken: number[] = [];
    try {
      expect(descriptorsAreScarce()).toBe(false);
      while (!descriptorsAreScarce() && taken.length < 100) taken.push(eventfd());
      expect(taken.length).toBeLessThan(100);
      expect(Math.min(...taken)).toBeGreaterThan(0);
      close(taken.pop()!);
      expect(descriptorsAreScarce()).toBe(false);
      taken.push(eventfd());
      for (let last = eventfd(); last >= 0; last = eventfd()) taken.push(last); // to the very end
      expect(descriptorsAreScarce()).toBe(true);
    } finally {
      for (const fd of taken) close(fd);
      restore();
    }
    expect(descriptorsAreScarce()).toBe(false);
  });
});

describe('eventfd', () => {
  it('counts signals until drained, and is empty afterwards', () => {
    const fd = eventfd();
    expect(eventfdDrain(fd)).toBe(0);
    for (let i = 0; i < 3; i++) expect(eventfdSignal(fd)).toBe(0);
    expect(eventfdDrain(fd)).toBe(3);
    expect(eventfdDrain(fd)).toBe(0);
    close(fd);
  });

  it('with a full counter takes a signal as success and does not block', () => {
    const fd = eventfd();
    const full = Buffer.alloc(8, 0xff);
    full[0] = 0xfe; // the largest count an eventfd holds
    expect(writeSync(fd, full)).toBe(8);
    expect(eventfdSignal(fd)).toBe(0);
    expect(eventfdDrain(fd)).toBeGreaterThan(2 ** 63);
    close(fd);
  });

  it('errors come back as numbers', () => {
    expect(eventfdSignal(1_000_000)).toBe(-Errno.EBADF);
    expect(eventfdDrain(1_000_000)).toBe(-Errno.EBADF);
  });

  it('is told apart from other descriptors', () => {
    const fd = eventfd();
    const other = memfdCreate('not-an-eventfd', 8);
    expect(isEventfd(fd)).toBe(true);
    expect(isEventfd(other)).toBe(false);
    expect(describeFd(other)).toContain('memfd:not-an-eventfd');
    close(fd);
    close(other);
    expect(isEventfd(fd)).toBe(false);
    expect(describeFd(fd)).toBeNull();
  });
});

describe('descriptor', () => {
  it('duplicates are close-on-exec and share the open file', () => {
    const fd = eventfd();
    const copy = dup(fd, 100);
    expect(copy).toBeGreaterThanOrEqual(100);
    expect(flagsOf(copy) & OpenFlag.CLOEXEC).toBe(OpenFlag.CLOEXEC);
    eventfdSignal(fd);
    expect(eventfdDrain(copy)).toBe(1);
    expect(setCloseOnExec(copy, false)).toBe(0);
    expect(flagsOf(copy) & OpenFlag.CLOEXEC).toBe(0);
    close(fd);
    close(copy);
  });

  it('a file opened anew is the same file and not the same opened file; an eventfd, and what is closed, cannot be', () => {
    const file = memfdCreate('again', 8);
    const [copy, again] = [dup(file), reopenFile(file)];
    expect(fstatSync(again).ino).toBe(fstatSync(file).ino);
    expect(flagsOf(again) & OpenFlag.CLOEXEC).toBe(OpenFlag.CLOEXEC);
    expect([sameOpenFile(file, copy), sameOpenFile(file, again)]).toEqual([true, false]);
    const [one, other] = [eventfd(), eventfd()];
    expect(sameOpenFile(one, other)).toBe(false);
    expect(reopenFile(one)).toBe(-Errno.EINVAL);
    for (const fd of [file, copy, again, one, other]) close(fd);
    expect(reopenFile(file)).toBe(-Errno.EBADF);
  });

  it('identity: the same for whoever has the file, the socket or the eventfd; of nothing else', () => {
    const sockets = socketPair('stream') as [number, number];
    const held = [memfdCreate('one', 8), memfdCreate('other', 8), eventfd(), eventfd(), ...sockets];
    const identities = held.map(fileIdentity);
    expect(new Set(identities).size).toBe(held.length);
    expect(identities).not.toContain(null);
    const copies = held.map((fd) => dup(fd));
    expect(copies.map(fileIdentity)).toEqual(identities);
    const again = reopenFile(held[0]!);
    expect(fileIdentity(again)).toBe(identities[0]);
    const device = openSync('/dev/null', 'r');
    expect(fileIdentity(device)).toBeNull();
    for (const fd of [...held, ...copies, again, device]) close(fd);
    expect(fileIdentity(device)).toBeNull();
  });

  it('a lock is the open file’s: kept from others until its last descriptor is closed', () => {
    const file = memfdCreate('locked', 8);
    const [copy, other] = [dup(file), reopenFile(file)];
    expect([lockFile(file), lockFile(copy)]).toEqual([0, 0]);
    expect(lockFile(other)).toBe(-Errno.EAGAIN);
    close(file);
    expect(lockFile(other)).toBe(-Errno.EAGAIN);
    close(copy);
    expect(lockFile(other)).toBe(0);
    close(other);
    expect(lockFile(other)).toBe(-Errno.EBADF);
  });

  it('dupTo replaces what the number was', () => {
    const source = eventfd(5);
    const target = memfdCreate('replaced', 8);
    expect(dupTo(source, target)).toBe(target);
    expect(eventfdDrain(target)).toBe(5);
    expect(flagsOf(target) & OpenFlag.CLOEXEC).toBe(OpenFlag.CLOEXEC);
    close(source);
    close(target);
  });

  it('non-blocking can be switched', () => {
    const fd = eventfd();
    expect(setNonBlocking(fd, false)).toBe(0);
    expect(flagsOf(fd) & OpenFlag.NONBLOCK).toBe(0);
    expect(setNonBlocking(fd)).toBe(0);
    expect(flagsOf(fd) & OpenFlag.NONBLOCK).toBe(OpenFlag.NONBLOCK);
    close(fd);
  });

  it('closed twice is -EBADF the second time', () => {
    const fd = eventfd();
    expect(close(fd)).toBe(0);
    expect(close(fd)).toBe(-Errno.EBADF);
    expect(dup(fd)).toBe(-Errno.EBADF);
  });
});

describe('pidfd', () => {
  it('becomes readable when the process has ended, killed through the same descriptor', async () => {
    const child = spawn('sleep', ['30'], { stdio: 'ignore' });
    const ended = new Promise((resolve) => child.once('exit', (_code, signal) => resolve(signal)));
    const pidfd = pidfdOpen(child.pid!);
    const epoll = Epoll.create();
    if (typeof epoll === 'number') throw new Error(`${epoll}`);
    expect(epoll.add(pidfd, 1, 1)).toBe(0);
    expect(epoll.wait(0)).toBe(0);
    expect(pidfdSendSignal(pidfd, 0)).toBe(0);
    expect(isAlive(child.pid!)).toBe(true);
    expect(pidfdSendSignal(pidfd, 9)).toBe(0);
    expect(epoll.wait(2000)).toBe(1);
    expect(await ended).toBe('SIGKILL');
    expect(pidfdSendSignal(pidfd, 9)).toBe(-3); // ESRCH
    expect(isAlive(child.pid!)).toBe(false);
    epoll.close();
    close(pidfd);
  });

  it('of no process is an error', () => {
    expect(pidfdOpen(2 ** 22 + 1)).toBeLessThan(0);
    expect(pidfdOpen(-1)).toBe(-Errno.EINVAL);
  });

  it('sockets and pairs are close-on-exec and non-blocking as well', () => {
    const pair = socketPair('seqpacket');
    if (typeof pair === 'number') throw new Error(`${pair}`);
    for (const fd of pair) {
      expect(flagsOf(fd) & OpenFlag.CLOEXEC).toBe(OpenFlag.CLOEXEC);
      expect(flagsOf(fd) & OpenFlag.NONBLOCK).toBe(OpenFlag.NONBLOCK);
      close(fd);
    }
  });
});
