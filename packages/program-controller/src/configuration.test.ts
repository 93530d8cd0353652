import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DEFAULT_CONF } from '@virtnet/engine-control';
import { createLogger, readConfSnapshot, virtnetPaths } from '@virtnet/host-ipc';
import { expect, it, onTestFinished } from 'vitest';
import { putIntoEffect } from './configuration.js';

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
