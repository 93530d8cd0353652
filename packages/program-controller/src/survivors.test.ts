/** Who lives on under a new controller, and who is killed. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { createLogger, RpcServer, type VirtnetPaths, virtnetPaths } from '@virtnet/host-ipc';
import { isAlive, Poller } from '@virtnet/host-linux';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { PidFiles } from './pid-files.js';
import { findSurvivors } from './survivors.js';

const MAINS = { ha: '/nowhere/ha.js', emu: '/nowhere/emu.js' };
const LATE_MS = 1_500; // longer than an answer may take

describe('what a former controller left', () => {
  let paths: VirtnetPaths;
  let pidFiles: PidFiles;
  let poller: Poller;
  let emulator: ChildProcess;
  let server: RpcServer;
  let asked: number;
  /** The first so many questions are answered late. */
  let late: number;

  beforeEach(async () => {
    const root = mkdtempSync(join(tmpdir(), 'vn-left-'));
    paths = virtnetPaths(root);
    pidFiles = new PidFiles(paths, createLogger('test', 'err'));
    poller = new Poller();
    poller.start();
    const idle = ['-e', 'setInterval(() => {}, 1000)', MAINS.emu];
    emulator = spawn(process.execPath, idle, {
      env: { ...process.env, VIRTNET_ROOT: root },
      stdio: 'ignore',
    });
    pidFiles.set('emu', emulator.pid!);
    asked = 0;
    late = 0;
    const status = { role: 'active', ready: true, devices: 0, takeoverMs: null, uptimeMs: 1 } as const;
    const handlers = {
      'emu.status': async () => {
        asked += 1;
        if (asked <= late) await sleep(LATE_MS);
        return { ...status, pid: emulator.pid!, version: '0.1.0', reserve: false };
      },
    } as unknown as Parameters<typeof RpcServer.bind<'emu'>>[2]; // nothing else is asked
    server = await RpcServer.bind('emu', paths.emuIpc(1), handlers);
  });
  afterEach(async () => {
    emulator.kill('SIGKILL');
    await server.close();
    await poller.stop();
    rmSync(paths.root, { recursive: true, force: true });
  });

  const find = (waitedMs: (pid: number) => number) =>
    findSurvivors(paths, pidFiles, MAINS, poller, createLogger('test'), waitedMs);
  const found = () => ({ kind: 'emu', instance: 1, pid: emulator.pid, as: 'serving', reserve: false });

  it('who answers is adopted', async () => {
    expect(await find(() => 0)).toEqual([found()]);
    expect([asked, isAlive(emulator.pid!)]).toEqual([1, true]);
  });

  it('who is silent although it had a processor hangs, and is dead before anything else is done', async () => {
    late = 1;
    expect(await find(() => 7)).toEqual([]);
    expect([asked, isAlive(emulator.pid!)]).toEqual([1, false]);
  });

  it('who was started for a live update and has no socket yet is dead before anything else is done', async () => {
    const { spawnfile, spawnargs } = emulator;
    const reserve = spawn(spawnfile, spawnargs.slice(1), {
      env: { ...process.env, VIRTNET_ROOT: paths.root },
      stdio: 'ignore',
    });
    pidFiles.set('emu-reserve', reserve.pid!);
    expect(await find(() => 0)).toEqual([found()]);
    expect([isAlive(reserve.pid!), isAlive(emulator.pid!)]).toEqual([false, true]);
  });

  it.each(['it', 'the controller'])('%s waited for a processor meanwhile: it is asked again', async (who) => {
    late = 2;
    let waited = 0;
    const starved = who === 'it' ? emulator.pid! : process.pid;
    const waitedMs = (pid: number) => {
      if (pid === starved) waited += 600;
      return pid === starved ? waited : 0;
    };
    expect(await find(waitedMs)).toEqual([found()]);
    expect([asked, isAlive(emulator.pid!)]).toEqual([3, true]);
  });
});
