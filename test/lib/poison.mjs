/**
 * Preloaded into the emulators of a test: gives their datapath threads a bug that a guest can cause at will. A ring that
 * cannot be believed crashes the process, each time somebody looks at it.
 */
import './run-modules.mjs';
import { isMainThread } from 'node:worker_threads';

/** No page of a process is at this address. */
const NOWHERE = 4096n;

if (!isMainThread) {
  const { SplitRing } = await import('../../packages/engine-virtqueue/dist/split-ring.js');
  const { viewAt } = await import('../../packages/host-linux/dist/index.js');
  const { take } = SplitRing.prototype;
  SplitRing.prototype.take = function () {
    const taken = take.call(this);
    if (taken >= 0) return taken;
    new Uint8Array(viewAt(NOWHERE, 8)).fill(0); // SIGSEGV of its own making
    throw new Error('it is somewhere');
  };
}
