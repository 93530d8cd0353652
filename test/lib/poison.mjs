/**
 * Preloaded into the emulators of a test: gives their datapath threads a bug that a guest can cause at will. A ring that
 * cannot be believed crashes the process, each time somebody looks at it.
 */
import './run-modules.mjs';
import { isMainThread } from 'node:worker_threads';

if (!isMainThread) {
  const { SplitRing } = await import('../../packages/engine-virtqueue/dist/split-ring.js');
  const { take } = SplitRing.prototype;
  SplitRing.prototype.take = function () {
    const taken = take.call(this);
    if (taken >= 0) return taken;
    process.kill(process.pid, 'SIGSEGV');
    for (;;); // until it arrives
  };
}
