import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createLogger, virtnetPaths } from '@virtnet/host-ipc';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import type { Build } from './builds.js';
import { LiveUpdate } from './live-update.js';
import { ServiceMove } from './service-move.js';
import type { Supervisor } from './supervisor.js';
import {
  newRecord,
  type UpdatePhase,
  type UpdateRecord,
  updatePhases,
  writeRecord,
} from './update-record.js';

const HERE: Build = {
  root: '/builds/1',
  version: '1.0',
  node: '/nowhere/node',
  mains: { ha: '', emu: '' },
  controllerMain: '',
};
const THERE: Build = { ...HERE, root: '/builds/2' };

/** A controller of HERE goes on after `record`; everything below it is of `below`. */
async function resumed(record: UpdateRecord, below: Build) {
  const root = mkdtempSync(join(tmpdir(), 'virtnet-resumed-'));
  onTestFinished(() => rmSync(root, { recursive: true, force: true }));
  const paths = virtnetPaths(root);
  writeRecord(paths, record);
  const child = { lastStatus: {}, isOf: (build: Build) => build.root === below.root };
  const startReserve = vi.fn(() => {
    throw new Error('everything is moved');
  });
  const supervisor = { keeper: child, active: child, standby: child, stopping: false, startReserve };
  const update = new LiveUpdate({
    supervisor: supervisor as unknown as Supervisor,
    paths,
    log: createLogger('test', 'err'),
    running: HERE,
    replaceSelf: () => Promise.reject(new Error('not here')),
  });
  update.resume();
  await vi.waitFor(() => expect(update.ongoing).toBe(false));
  const { result, reason } = update.record!;
  return { result, reason, moved: startReserve.mock.calls };
}

function inPhase(kind: 'update' | 'restart', phase: UpdatePhase, destination: Build): UpdateRecord {
  return { ...newRecord(kind, HERE.version, destination), phase };
}

describe('a move whose controller ended', () => {
  it('a restart, before its last phase: has failed, although everything is of the destination', async () => {
    for (const phase of updatePhases.slice(0, -1)) {
      const { result, reason, moved } = await resumed(inPhase('restart', phase, HERE), HERE);
      expect({ result, reason, moved }).toEqual({
        result: 'failed',
        reason: `the controller ended in phase ${phase}`,
        moved: [],
      });
    }
  });

  it('in its last phase, and the destination’s controller goes on: has succeeded', async () => {
    for (const kind of ['update', 'restart'] as const)
      expect(await resumed(inPhase(kind, 'controller', HERE), HERE)).toMatchObject({
        result: 'success',
        moved: [],
      });
    const { destinationRoot: _, ...former } = inPhase('update', 'controller', HERE);
    expect(await resumed(former, HERE)).toMatchObject({ result: 'success', moved: [] });
  });

  it('an update, and a controller of the destination goes on: has succeeded when it has brought the rest there', async () => {
    expect(await resumed(inPhase('update', 'switch', HERE), HERE)).toMatchObject({ result: 'success' });
    expect(await resumed(inPhase('update', 'switch', HERE), THERE)).toMatchObject({ moved: [[HERE]] });
  });

  it('to another build of the same version, and the former controller goes on: everything is moved back', async () => {
    for (const phase of updatePhases) {
      const back = await resumed(inPhase('update', phase, THERE), THERE);
      expect(back).toMatchObject({ result: 'failed', moved: [[HERE]] });
      expect(await resumed(inPhase('update', phase, THERE), HERE)).toMatchObject({
        result: 'failed',
        moved: [],
      });
    }
  });
});

it('the controller is stopped for long during a move, and continued: it looks again before it gives up', async () => {
  const child = { lastStatus: {}, isOf: () => true };
  let looks = 0;
  const supervisor = {
    get keeper() {
      return ++looks < 4 ? null : child;
    },
    active: child,
    standby: child,
    stopping: false,
  };
  const now = performance.now.bind(performance);
  const clock = vi.spyOn(performance, 'now').mockImplementation(() => now() + (looks < 2 ? 0 : 3_600_000));
  onTestFinished(() => clock.mockRestore());
  const options = { log: createLogger('test', 'err'), former: HERE, enter: () => {}, pausesMs: [] };
  const move = new ServiceMove({ supervisor: supervisor as unknown as Supervisor, ...options });
  await move.to(THERE, false);
  expect(looks).toBeGreaterThanOrEqual(4);
});

describe('the controller is told to end during a move', () => {
  /** `--check` of its programs says what its version is. */
  const LOADABLE: Build = {
    ...THERE,
    ...{ node: '/bin/echo', version: '--no-warnings main --check', controllerMain: 'main' },
    mains: { ha: 'main', emu: 'main' },
  };

  it('it does not become another one instead, and does not go back', async () => {
    const root = mkdtempSync(join(tmpdir(), 'virtnet-told-'));
    onTestFinished(() => rmSync(root, { recursive: true, force: true }));
    const supervisor = { stopping: false };
    const moved = vi.spyOn(ServiceMove.prototype, 'to').mockImplementation(async () => {
      supervisor.stopping = true;
    });
    onTestFinished(() => moved.mockRestore());
    const replaceSelf = vi.fn(() => Promise.reject(new Error('not here')));
    const update = new LiveUpdate({
      supervisor: supervisor as unknown as Supervisor,
      paths: virtnetPaths(root),
      log: createLogger('test', 'err'),
      running: HERE,
      replaceSelf,
    });
    update.begin('update', LOADABLE);
    await vi.waitFor(() => expect(update.ongoing).toBe(false));
    expect(moved).toHaveBeenCalledOnce();
    expect(replaceSelf).not.toHaveBeenCalled();
    expect(update.record).toMatchObject({ result: 'failed', reason: 'the controller was told to end' });
  });

  it('what it waits for is given up, under that name', async () => {
    const supervisor = { keeper: null, active: null, stopping: true, useBuild: vi.fn() };
    const log = createLogger('test', 'err');
    const options = { log, former: HERE, enter: () => {}, pausesMs: [] };
    const move = new ServiceMove({ supervisor: supervisor as unknown as Supervisor, ...options });
    await expect(move.to(THERE, true)).rejects.toThrow('the controller was told to end');
    await expect(move.back(new Error('why'))).rejects.toThrow('why');
    expect(supervisor.useBuild).not.toHaveBeenCalled();
  });
});
