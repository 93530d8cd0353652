import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { freshHost, type HostState, serialiseHost } from '@virtnet/engine-control';
import { virtnetPaths } from '@virtnet/host-ipc';
import { Poller } from '@virtnet/host-linux';
import { pino } from 'pino';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { DrivenFunctions } from './driven-functions.js';

let directory: string;
let poller: Poller;
let driven: DrivenFunctions;
let hostState: string;

beforeEach(() => {
  directory = mkdtempSync('/tmp/vn-driver-');
  const paths = virtnetPaths(join(directory, 'root'));
  hostState = paths.hostState;
  mkdirSync(dirname(hostState), { recursive: true });
  poller = new Poller();
  poller.start();
  driven = new DrivenFunctions({ paths, poller, log: pino({ level: 'silent' }) });
});
afterEach(async () => {
  await driven.close();
  await poller.stop();
  rmSync(directory, { recursive: true });
});

const write = (state: Partial<HostState>) =>
  writeFileSync(hostState, serialiseHost({ ...freshHost(0), ...state }));

test('a host without a state has nothing to drive', async () => {
  expect(await driven.follow()).toEqual([]);
  expect(driven.idle).toBe(true);
});

test('only what is bound to virtio-pci is taken; what cannot be is told with the reason, until it is unbound', async () => {
  write({ drivers: { '14:00.2': 'virtio-pci', '15:00.0': 'vfio-pci' } });
  const [failed, ...others] = await driven.follow();
  expect(others).toEqual([]);
  expect(failed).toMatchObject({ bdf: '14:00.2', netdev: null });
  expect(failed?.failure?.errno).toBeLessThan(0);
  expect(failed?.failure?.reason).not.toBe('');
  expect(driven.find('14:00.2')).toBeNull();
  expect(driven.idle, 'who asked has not been told yet').toBe(false);
  write({});
  expect(await driven.follow()).toEqual([]);
  expect(driven.idle).toBe(true);
});

test('while the module is loaded there is something to wait for', async () => {
  write({ virtioNet: true });
  await driven.follow();
  expect(driven.idle).toBe(false);
  write({});
  await driven.follow();
  expect(driven.idle).toBe(true);
});

test('a state that cannot be read changes nothing', async () => {
  write({ virtioNet: true });
  await driven.follow();
  writeFileSync(hostState, '{"version":1');
  await driven.follow();
  expect(driven.idle).toBe(false);
});

test('what is closed takes nothing any more', async () => {
  write({ drivers: { '14:00.2': 'virtio-pci' } });
  await driven.close();
  expect(await driven.follow()).toEqual([]);
});
