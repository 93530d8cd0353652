import { existsSync, mkdirSync, mkdtempSync, rmdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { virtnetPaths } from '@virtnet/host-ipc';
import { expect, it, onTestFinished, vi } from 'vitest';
import { PidFiles } from './pid-files.js';

it('cannot be written: no file rather than a former pid, said once, written when it is set again', () => {
  const root = mkdtempSync(join(tmpdir(), 'virtnet-pids-'));
  onTestFinished(() => rmSync(root, { recursive: true, force: true }));
  const paths = virtnetPaths(root);
  const warn = vi.fn();
  const files = new PidFiles(paths, { warn });
  files.set('emu', 100);
  const inTheWay = `${paths.pidFile('emu')}.new`;
  mkdirSync(inTheWay);
  for (const pid of [200, 300]) files.set('emu', pid);
  expect(existsSync(paths.pidFile('emu'))).toBe(false);
  files.set('ha', 400);
  expect(files.read('ha')).toBe(400);
  expect(warn).toHaveBeenCalledTimes(1);
  rmdirSync(inTheWay);
  files.set('emu', 300);
  expect(files.read('emu')).toBe(300);
});
