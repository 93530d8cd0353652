import { chmodSync, existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Errno, LinuxErrno } from '@virtnet/wire';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { close, closeAll, eventfd } from './fd.js';
import { openDescriptorCount } from './process.js';
import {
  accept,
  connect,
  isWritable,
  listen,
  peerCredentials,
  readableBytes,
  setSendBuffer,
  socketPair,
  takeSocketError,
} from './socket.js';
import { Receiver, send } from './socket-message.js';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'host-linux-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

const mode = (path: string) => statSync(path).mode & 0o777;

function pair(kind: 'stream' | 'seqpacket' = 'stream'): readonly [number, number] {
  const sockets = socketPair(kind);
  if (typeof sockets === 'number') throw new Error(`${sockets}`);
  return sockets;
}

describe('listening socket', () => {
  it('is made with its directory, both closed to others, whatever the umask', () => {
    const umask = process.umask(0);
    const path = join(folder, 'new', 'deep', 'a.sock');
    const listener = listen(path, 'stream');
    process.umask(umask);
    expect(listener).toBeGreaterThanOrEqual(0);
    expect(mode(path)).toBe(0o600);
    expect(mode(join(folder, 'new', 'deep'))).toBe(0o700);
    expect(mode(join(folder, 'new'))).toBe(0o700);
    close(listener);
  });

  for (const kind of ['stream', 'seqpacket'] as const) {
    it(`${kind}: connects, accepts, carries bytes, and knows the peer`, () => {
      const path = join(folder, `${kind}.sock`);
      const listener = listen(path, kind);
      expect(accept(listener)).toBe(-Errno.EAGAIN);
      const client = connect(path, kind);
      const server = accept(listener);
      expect(server).toBeGreaterThanOrEqual(0);
      expect(peerCredentials(server)).toEqual({
        pid: process.pid,
        uid: process.getuid!(),
        gid: process.getgid!(),
      });
      expect(send(client, Buffer.from('hello'))).toBe(5);
      expect(readableBytes(server)).toBe(5);
      const received = new Receiver(16).receive(server);
      expect(typeof received !== 'number' && Buffer.from(received.bytes).toString()).toBe('hello');
      closeAll([client, server, listener]);
    });
  }

  it('takes over a path nobody listens on any more', () => {
    const path = join(folder, 'stale.sock');
    close(listen(path, 'stream'));
    expect(existsSync(path)).toBe(true);
    const listener = listen(path, 'seqpacket');
    expect(listener).toBeGreaterThanOrEqual(0);
    close(listener);
  });

  it('leaves a path alone that somebody listens on, also with a full backlog or another kind', () => {
    const path = join(folder, 'taken.sock');
    const listener = listen(path, 'stream');
    expect(listen(path, 'stream')).toBe(-LinuxErrno.EADDRINUSE);
    expect(listen(path, 'seqpacket')).toBe(-LinuxErrno.EADDRINUSE);
    const waiting: number[] = [];
    for (let fd = connect(path, 'stream'); fd >= 0; fd = connect(path, 'stream')) waiting.push(fd);
    expect(connect(path, 'stream')).toBe(-Errno.EAGAIN);
    expect(listen(path, 'stream')).toBe(-LinuxErrno.EADDRINUSE);
    closeAll([...waiting, listener]);
  });

  it('never removes a file that is not a socket', () => {
    const path = join(folder, 'file');
    writeFileSync(path, 'keep me');
    expect(listen(path, 'stream')).toBe(-LinuxErrno.EADDRINUSE);
    expect(existsSync(path)).toBe(true);
  });

  it('paths: 107 bytes are taken, 108 are -ENAMETOOLONG, empty ones and zeros are -EINVAL', () => {
    const before = openDescriptorCount();
    const longest = join(folder, 'x'.repeat(106 - folder.length));
    expect(longest).toHaveLength(107);
    const listener = listen(longest, 'stream');
    expect(listener).toBeGreaterThanOrEqual(0);
    close(listener);
    expect(listen(`${longest}x`, 'stream')).toBe(-LinuxErrno.ENAMETOOLONG);
    expect(connect(`${longest}x`, 'stream')).toBe(-LinuxErrno.ENAMETOOLONG);
    expect(listen('', 'stream')).toBe(-Errno.EINVAL);
    expect(connect('a\0b', 'stream')).toBe(-Errno.EINVAL);
    expect(connect(join(folder, 'absent'), 'stream')).toBe(-Errno.ENOENT);
    expect(openDescriptorCount()).toBe(before);
  });

  it('a directory that cannot be made is an errno', () => {
    writeFileSync(join(folder, 'plain'), '');
    chmodSync(join(folder, 'plain'), 0o600);
    expect(listen(join(folder, 'plain', 'a.sock'), 'stream')).toBeLessThan(0);
  });
});

describe('socket', () => {
  it('is writable until its buffer is full, and a larger buffer takes more', () => {
    const [here, there] = pair();
    const fill = () => {
      let total = 0;
      for (;;) {
        const sent = send(here, new Uint8Array(65536));
        if (sent < 0) return { total, error: sent };
        total += sent;
      }
    };
    const small = fill();
    expect(small.error).toBe(-Errno.EAGAIN);
    expect(isWritable(here)).toBe(false);
    expect(setSendBuffer(here, 4 * 2 ** 20)).toBe(0);
    expect(isWritable(here)).toBe(true);
    expect(fill().total).toBeGreaterThan(small.total);
    closeAll([here, there]);
  });

  it('errors come back as numbers', () => {
    const bell = eventfd();
    expect(accept(bell)).toBe(-LinuxErrno.ENOTSOCK);
    expect(peerCredentials(bell)).toBe(-LinuxErrno.ENOTSOCK);
    expect(setSendBuffer(bell, 1)).toBe(-LinuxErrno.ENOTSOCK);
    close(bell);
    expect(send(bell, new Uint8Array(1))).toBe(-Errno.EBADF);
    expect(readableBytes(bell)).toBe(-Errno.EBADF);
    expect(takeSocketError(bell)).toBe(-Errno.EBADF);
    expect(isWritable(bell)).toBe(true); // send() would answer at once
  });

  it('sending to a closed peer is -EPIPE and raises no signal', () => {
    const [here, there] = pair();
    close(there);
    expect(send(here, new Uint8Array(1))).toBe(-Errno.EPIPE);
    close(here);
  });
});
