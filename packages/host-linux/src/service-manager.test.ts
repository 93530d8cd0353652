import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { close, eventfd, eventfdDrain, eventfdSignal } from './fd.js';
import { Poller } from './poller.js';
import { passedDescriptors, ServiceManager, watchdogIntervalMs } from './service-manager.js';
import { bindDatagram } from './socket.js';
import { Receiver } from './socket-message.js';

let directory: string;
let socket: number;
let poller: Poller;
const receiver = new Receiver(4096);

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'virtnet-notify-'));
  socket = bindDatagram(join(directory, 'notify'));
  poller = new Poller();
  poller.start();
});
afterEach(async () => {
  close(socket);
  await poller.stop();
  rmSync(directory, { recursive: true });
});

function manager(): ServiceManager {
  const connected = ServiceManager.connect(poller, { NOTIFY_SOCKET: join(directory, 'notify') });
  if (connected === null) throw new Error('not connected');
  return connected;
}

function heard(): { text: string; fds: number[] } | null {
  const received = receiver.receive(socket);
  return typeof received === 'number'
    ? null
    : { text: Buffer.from(received.bytes).toString(), fds: received.fds };
}

describe('service manager', () => {
  it('nobody started us as a service: there is none', () => {
    expect(ServiceManager.connect(poller, {})).toBeNull();
    expect(ServiceManager.connect(poller, { NOTIFY_SOCKET: join(directory, 'other') })).toBeNull();
  });

  it('says states line by line, and stores and removes descriptors under names that systemd takes', () => {
    const service = manager();
    service.notify('READY=1', 'STATUS=serving');
    expect(heard()).toEqual({ text: 'READY=1\nSTATUS=serving', fds: [] });
    const event = eventfd();
    service.store('dev/a:b%/page', event);
    const stored = heard();
    expect(stored).toMatchObject({ text: 'FDSTORE=1\nFDPOLL=0\nFDNAME=dev/a%3Ab%25/page' });
    eventfdSignal(stored!.fds[0]!);
    expect(eventfdDrain(event)).toBe(1);
    service.remove('dev/a:b%/page');
    expect(heard()?.text).toBe('FDSTOREREMOVE=1\nFDNAME=dev/a%3Ab%25/page');
    for (const fd of [event, ...stored!.fds]) close(fd);
    service.close();
  });

  it('the socket is full: everything arrives later, in order, with descriptors their sender closed meanwhile', async () => {
    const service = manager();
    const count = 2000;
    for (let index = 0; index < count; index++) {
      const event = eventfd();
      service.store(`${index}`, event);
      close(event);
    }
    expect(service.waiting).toBeGreaterThan(0);
    const names: string[] = [];
    while (names.length < count) {
      const message = heard();
      if (message === null) await new Promise((resolve) => setImmediate(resolve));
      else {
        names.push(message.text.split('FDNAME=')[1]!);
        expect(message.fds).toHaveLength(1);
        close(message.fds[0]!);
      }
    }
    expect(names).toEqual(Array.from({ length: count }, (_, index) => `${index}`));
    expect(service.counters).toEqual({ sent: count, dropped: 0, failed: 0 });
    service.close();
  });

  it('descriptors handed to another process are not ours; the variables are removed either way', () => {
    const environment = { LISTEN_PID: '1', LISTEN_FDS: '2', LISTEN_FDNAMES: 'a:b' };
    expect(passedDescriptors(environment)).toEqual([]);
    expect(environment).toEqual({});
    expect(passedDescriptors({ LISTEN_PID: `${process.pid}`, LISTEN_FDS: 'many' })).toEqual([]);
  });

  it('watchdog: its interval, unless it is meant for another process', () => {
    expect(watchdogIntervalMs({ WATCHDOG_USEC: '5000000', WATCHDOG_PID: `${process.pid}` })).toBe(5000);
    expect(watchdogIntervalMs({ WATCHDOG_USEC: '5000000', WATCHDOG_PID: '1' })).toBeNull();
    expect(watchdogIntervalMs({})).toBeNull();
  });
});
