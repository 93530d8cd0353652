import { fileURLToPath } from 'node:url';
import { createLogger } from '@virtnet/host-ipc';
import { Poller } from '@virtnet/host-linux';
import { expect, it, onTestFinished, vi } from 'vitest';
import { Child } from './child.js';

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
    const child = new Child({ ...spec, build, command: [] }, poller, createLogger('test', 'err'), {
      moved: () => {},
      died,
    });
    child.spawn();
    expect(child.state).toBe('starting');
    await vi.waitFor(() => expect(child.state).toBe('gone'));
    expect(died).toHaveBeenCalledTimes(1);
  }
});
