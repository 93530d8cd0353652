import { Errno } from '@virtnet/wire';
import { describe, expect, it } from 'vitest';
import { namespaceObstacle, runInNetworkNamespace } from './child.fixture.js';
import { openTap, supportsUso } from './tap.js';

const obstacle = namespaceObstacle();

/** Runs `body` in a network namespace of its own; it fills `seen`, which is returned. */
async function inNamespace(body: string): Promise<Record<string, unknown>> {
  const end = await runInNetworkNamespace(`
    import { execFileSync } from 'node:child_process';
    import { createSocket } from 'node:dgram';
    import { readFileSync } from 'node:fs';
    import * as host from '@virtnet/host-linux';
    const seen = {};
    const wait = (fd) => { const epoll = host.Epoll.create(); epoll.add(fd, 1, 0); epoll.wait(2000); epoll.close(); };
    const flags = (fd) => parseInt(/flags:\\s+(\\d+)/.exec(readFileSync('/proc/self/fdinfo/' + fd))[1], 8);
    const received = (name) => Number(new RegExp(name + ': *\\\\d+ +(\\\\d+)').exec(readFileSync('/proc/self/net/dev'))[1]);
    ${body}
    console.log(JSON.stringify(seen));
    process.exit(0);`);
  expect(end).toMatchObject({ code: 0, errors: '' });
  return JSON.parse(end.output) as Record<string, unknown>;
}

describe.skipIf(obstacle !== null)(`tap${obstacle ? `: ${obstacle}` : ''}`, () => {
  it('has the name asked for, one non-blocking close-on-exec descriptor per queue, and takes more queues later', async () => {
    const seen = await inNamespace(`
      const fds = host.openTap('en3f0pf0sf1000', { queues: 3 });
      seen.count = fds.length;
      seen.exists = host.interfaceExists('en3f0pf0sf1000');
      seen.names = fds.map(host.tapName);
      seen.flags = fds.every((fd) => (flags(fd) & 0o2004000) === 0o2004000);
      const index = host.ifIndex('en3f0pf0sf1000');
      const more = host.openTap('en3f0pf0sf1000', { queues: 2 });
      seen.more = [more.length, host.ifIndex('en3f0pf0sf1000') === index];
      const kept = host.dup(fds[0]);
      host.closeAll([...fds, ...more]);
      seen.afterMostClosed = host.ifIndex('en3f0pf0sf1000') === index;
      host.close(kept);
      seen.afterAllClosed = host.interfaceExists('en3f0pf0sf1000');`);
    expect(seen).toEqual({
      count: 3,
      exists: true,
      names: Array(3).fill('en3f0pf0sf1000'),
      flags: true,
      more: [2, true],
      afterMostClosed: true,
      afterAllClosed: false,
    });
  });

  it('takes a queue more under the name it has by then, with its offloads', async () => {
    const seen = await inNamespace(`
      const [fd] = host.openTap('tap0', { queues: 1 });
      host.setOffload(fd, 1);
      execFileSync('ip', ['link', 'set', 'tap0', 'name', 'other']);
      const added = host.addTapQueue(fd);
      seen.name = host.tapName(added);
      seen.old = host.interfaceExists('tap0');
      seen.checksums = /tx-checksumming: on/.test(execFileSync('ethtool', ['-k', 'other'], { encoding: 'utf8' }));
      execFileSync('ip', ['link', 'del', 'other']);
      seen.deleted = host.addTapQueue(fd) < 0;`);
    expect(seen).toEqual({ name: 'other', old: false, checksums: true, deleted: true });
  });

  it('takes none in another network namespace, and no other interface of its name takes it', async () => {
    const seen = await inNamespace(`
      import { spawn } from 'node:child_process';
      import { once } from 'node:events';
      const [fd] = host.openTap('tap0', { queues: 1 });
      const holder = spawn('unshare', ['-n', 'sh', '-c', 'echo held; exec sleep 20'], { stdio: ['ignore', 'pipe', 'ignore'] });
      await once(holder.stdout, 'data');
      execFileSync('ip', ['link', 'set', 'tap0', 'netns', String(holder.pid)]);
      seen.gone = host.addTapQueue(fd);
      seen.made = host.interfaceExists('tap0');
      host.openTap('tap0', { queues: 1 });
      seen.another = host.addTapQueue(fd);
      holder.kill();`);
    expect(seen).toEqual({ gone: -Errno.ENODEV, made: false, another: -Errno.ENODEV });
  });

  it('takes a frame behind its 12-byte header from scattered memory', async () => {
    const seen = await inNamespace(`
      const [fd] = host.openTap('tap0', { queues: 1 });
      host.setUp('tap0', true);
      const arena = host.Arena.reserve();
      const at = arena.mapAnonymous(8192);
      const bytes = new Uint8Array(arena.buffer, at, 8192);
      bytes.set([255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 0x88, 0xb5], 100);
      const iov = new host.IoVector(3);
      const base = Number(arena.base) + at;
      iov.set(0, base, 12);
      iov.set(1, base + 100, 14);
      iov.set(2, base + 4096, 46);
      const before = received('tap0');
      seen.written = host.writev(fd, iov, 3);
      seen.packets = received('tap0') - before;
      seen.shorterThanHeader = host.writev(fd, iov, 1) < 0;`);
    expect(seen).toEqual({ written: 72, packets: 1, shorterThanHeader: true });
  });

  it('hands out the frames the kernel sends, header first, and is -EAGAIN when there are none', async () => {
    const seen = await inNamespace(`
      writeIpv6Off();
      function writeIpv6Off() { try { execFileSync('sysctl', ['-qw', 'net.ipv6.conf.default.disable_ipv6=1']); } catch {} }
      const [fd] = host.openTap('tap0', { queues: 1 });
      execFileSync('ip', ['addr', 'add', '10.9.8.1/24', 'dev', 'tap0']);
      host.setUp('tap0', true);
      const arena = host.Arena.reserve();
      const at = arena.mapAnonymous(8192);
      const iov = new host.IoVector(2);
      iov.set(0, Number(arena.base) + at, 12);
      iov.set(1, Number(arena.base) + at + 4096, 2048);
      const socket = createSocket('udp4');
      await new Promise((done) => socket.bind(0, '10.9.8.1', done));
      socket.setBroadcast(true);
      let length = 0;
      socket.send('hello representor', 4000, '10.9.8.255');
      for (let tries = 0; tries < 20 && !seen.payload; tries++) {
        await new Promise((done) => setTimeout(done, 5));
        wait(fd);
        length = host.readv(fd, iov, 2);
        const frame = Buffer.from(arena.buffer, at + 4096, Math.max(length - 12, 0));
        if (frame.includes('hello representor')) seen.payload = frame.subarray(42).toString();
      }
      seen.length = length;
      while (host.readv(fd, iov, 2) > 0);
      seen.empty = host.readv(fd, iov, 2);
      socket.close();`);
    expect(seen).toEqual({ payload: 'hello representor', length: 12 + 42 + 17, empty: -Errno.EAGAIN });
  });

  it('takes a MAC address by its descriptor, whatever it is called now', async () => {
    const seen = await inNamespace(`
      const [fd] = host.openTap('tap0', { queues: 1 });
      execFileSync('ip', ['link', 'set', 'tap0', 'name', 'other0']);
      seen.set = host.setTapMac(fd, Uint8Array.of(2, 0, 0, 1, 2, 3));
      seen.mac = [...host.getMac('other0')];
      seen.group = host.setTapMac(fd, Uint8Array.of(3, 0, 0, 1, 2, 3)) < 0;
      seen.short = host.setTapMac(fd, Uint8Array.of(2, 0));`);
    expect(seen).toEqual({ set: 0, mac: [2, 0, 0, 1, 2, 3], group: true, short: -Errno.EINVAL });
  });

  it('offloads, carrier, queues and persistence can be switched', async () => {
    const seen = await inNamespace(`
      const fds = host.openTap('tap0', { queues: 2 });
      const [fd] = fds;
      host.setUp('tap0', true);
      seen.offload = [host.setOffload(fd, 0x7), host.setOffload(fd, 0), host.setOffload(fd, 0x6) < 0];
      seen.uso = host.supportsUso(fd) === host.supportsUso();
      seen.carrier = [host.setCarrier(fd, false), host.hasCarrier('tap0'), host.setCarrier(fd, true), host.hasCarrier('tap0')];
      seen.queue = [host.setQueueAttached(fds[1], false), host.setQueueAttached(fds[1], false), host.setQueueAttached(fds[1], true)];
      seen.header = [host.setHeaderSize(fd, 10), host.setHeaderSize(fd, 5) < 0];
      host.setPersist(fd, true);
      host.closeAll(fds);
      seen.persists = host.interfaceExists('tap0');
      const [again] = host.openTap('tap0', { queues: 1 });
      host.setPersist(again, false);
      host.close(again);
      seen.gone = !host.interfaceExists('tap0');`);
    expect(seen).toEqual({
      offload: [0, 0, true],
      uso: true,
      carrier: [0, false, 0, true],
      queue: [0, -Errno.EINVAL, 0],
      header: [0, true],
      persists: true,
      gone: true,
    });
  });

  it('that cannot be made whole is not made: no interface and no descriptor stays', async () => {
    const seen = await inNamespace(`
      const before = host.openDescriptorCount();
      seen.loopback = host.openTap('lo', { queues: 1 }) < 0;
      const full = host.openTap('tap0', { queues: 255 });
      seen.tooMany = host.openTap('tap0', { queues: 2 });
      host.closeAll(full);
      seen.gone = !host.interfaceExists('tap0');
      seen.leaked = host.openDescriptorCount() - before;
      seen.queues = host.openTap('tap0', { queues: 256 }).length;`);
    expect(seen).toEqual({ loopback: true, tooMany: -Errno.E2BIG, gone: true, leaked: 0, queues: 256 });
  });
});

describe('tap arguments', () => {
  it('names the kernel would not take literally and impossible queue counts are -EINVAL', () => {
    for (const name of ['', 'sixteen-bytes-xx', 'a/b', 'tap%d', 'a b', '.', '..', 'a:1', 'a\0']) {
      expect(openTap(name, { queues: 1 }), name).toBe(-Errno.EINVAL);
    }
    for (const queues of [0, -1, 257, 1.5, Number.NaN]) {
      expect(openTap('tap0', { queues }), `${queues}`).toBe(-Errno.EINVAL);
    }
  });

  it('UDP segmentation offload is known from the version without a TAP', () => {
    expect(typeof supportsUso()).toBe('boolean');
  });
});
