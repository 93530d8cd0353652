import { createLogger } from '@virtnet/host-ipc';
import { Poller } from '@virtnet/host-linux';
import { expect, it, vi } from 'vitest';
import { VhostdSupervisor } from './vhostd-supervisor.js';

/** Longer than the kernel takes one argument: Node throws E2BIG. */
const TOO_LONG = 'x'.repeat(1 << 18);

it('vfe-vhostd cannot even be started, and Node throws: it is tried again, and again', async () => {
  const log = createLogger('test', 'err');
  const poller = new Poller();
  poller.start();
  const failed = vi.spyOn(log, 'error').mockReturnValue();
  const supervisor = new VhostdSupervisor({ lockPath: '/nowhere/lock', options: [TOO_LONG], poller, log });
  supervisor.start();
  await vi.waitFor(() => expect(failed.mock.calls.length).toBeGreaterThan(2));
  await supervisor.stop();
  await poller.stop();
});
