import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DEFAULT_CONF, initialFirmwareStore } from '@virtnet/engine-control';
import {
  createLogger,
  readConfSnapshot,
  readFirmwareStore,
  virtnetPaths,
  writeFirmwareStore,
} from '@virtnet/host-ipc';
import { expect, it, onTestFinished } from 'vitest';
import { deleteObsoleteRecovery, putIntoEffect } from './configuration.js';

it('the snapshot of a former start says the same: it need not be written, which may not be possible', () => {
  const root = mkdtempSync(join(tmpdir(), 'virtnet-conf-'));
  onTestFinished(() => rmSync(root, { recursive: true, force: true }));
  const paths = virtnetPaths(root);
  const log = createLogger('test', 'err');
  putIntoEffect(paths, DEFAULT_CONF, false, log);
  mkdirSync(`${paths.config}.${process.pid}.tmp`); // where the draft of another would be
  putIntoEffect(paths, DEFAULT_CONF, false, log);
  expect(() => putIntoEffect(paths, { ...DEFAULT_CONF, single_port: 1 }, false, log)).toThrow();
  expect(readConfSnapshot(paths)).toEqual(DEFAULT_CONF);
});

it('recovery files that are obsolete cannot be deleted: the start goes on, and the next one tries again', async () => {
  const root = mkdtempSync(join(tmpdir(), 'virtnet-conf-'));
  onTestFinished(() => rmSync(root, { recursive: true, force: true }));
  const paths = virtnetPaths(root);
  writeFirmwareStore(paths.fwconfig, { ...initialFirmwareStore(), recoveryObsolete: true });
  const obsolete = () => {
    const read = readFirmwareStore(paths.fwconfig);
    return 'problem' in read ? read.problem : read.store.recoveryObsolete;
  };
  const errors: unknown[] = [];
  const log = { info: () => {}, error: (facts: unknown) => void errors.push(facts) };
  rmSync(paths.recovery, { recursive: true });
  writeFileSync(paths.recovery, ''); // no directory
  await deleteObsoleteRecovery(paths, false, log);
  expect([errors.length, obsolete()]).toEqual([1, true]);
  rmSync(paths.recovery);
  mkdirSync(paths.recovery);
  await deleteObsoleteRecovery(paths, false, log);
  expect([errors.length, obsolete()]).toEqual([1, undefined]);
});
