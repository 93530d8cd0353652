import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { createLogger, type HaStatus } from '@virtnet/host-ipc';
import { Poller } from '@virtnet/host-linux';
import { expect, it, onTestFinished, vi } from 'vitest';
import { Child } from './child.js';

const quiet = createLogger('test', 'err');

it('cannot even be started, by an error that Node throws or one that it tells later: as one that died at once', async () => {
  const poller = new Poller();
  poller.start();
  onTestFinished(() => poller.stop());
  // What is below a file is no program: ENOTDIR; what is not there: ENOENT.
  const file = fileURLToPath(import.meta.url);
  for (const node of [`${file}/node`, `${file}.node`]) {
    const build = { root: '/nowhere', version: '1', node, mains: { ha: '', emu: '' }, controllerMain: '' };
    const spec = {
      kind: 'ha',
      instance: 0,
      ipcPath: `${file}.ipc`,
      root: '/nowhere',
      prepares: false,
    } as const;
    const died = vi.fn();
    const child = new Child({ ...spec, build, command: [] }, poller, quiet, {
      moved: () => {},
      died,
    });
    child.spawn();
    expect(child.state).toBe('starting');
    await vi.waitFor(() => expect(child.state).toBe('gone'));
    expect(died).toHaveBeenCalledTimes(1);
  }
});

it('adopted: of the build that its controller named to it; where none was named, of the version it says', async () => {
  const poller = new Poller();
  poller.start();
  onTestFinished(() => poller.stop());
  const build = (root: string, version: string) => ({
    ...{ root, version, node: '', mains: { ha: '', emu: '' }, controllerMain: '' },
  });
  const spec = {
    kind: 'ha',
    instance: 0,
    ipcPath: '/nowhere/ha.ipc',
    root: '/nowhere',
    prepares: false,
  } as const;
  for (const [variables, isSame] of [
    [{ VIRTNET_BUILD: '/builds/1' }, [true, false]],
    [{}, [true, true]],
  ] as const) {
    const other = spawn('sleep', ['60'], { env: { ...process.env, ...variables }, stdio: 'ignore' });
    onTestFinished(() => void other.kill('SIGKILL'));
    const running = build('/builds/3', '1.0');
    const hooks = { moved: () => {}, died: () => {} };
    const child = new Child({ ...spec, build: running, command: [] }, poller, quiet, hooks);
    await vi.waitFor(() => expect(readFileSync(`/proc/${other.pid}/comm`, 'utf8')).toBe('sleep\n'));
    child.adopt(other.pid!, 'ready');
    child.lastStatus = { version: '1.0' } as HaStatus;
    expect([build('/builds/1', '1.0'), build('/builds/2', '1.0')].map((each) => child.isOf(each))).toEqual(
      isSame,
    );
    expect(child.isOf(build('/builds/2', '2.0'))).toBe(false);
    child.fence('the test is over');
    await vi.waitFor(() => expect(child.state).toBe('gone'));
  }
});
