/**
 * Preloaded into the emulators of a test: gives their datapath threads bugs that show once each, when the test wants.
 *
 * VIRTNET_TEST_WORKER_FAULTS is the beginning of files' names, behind it stands the pid of the emulator. Such a file says
 * how the thread goes wrong that polls a transmit queue of a size next, throw, spin or crash, and the size. The thread takes the
 * file away before.
 */
import './run-modules.mjs';
import { existsSync, readFileSync, renameSync } from 'node:fs';
import { isMainThread } from 'node:worker_threads';

/** No page of a process is at this address. */
const NOWHERE = 4096n;
const file = `${process.env.VIRTNET_TEST_WORKER_FAULTS}.${process.pid}`;

/** null: another thread has taken it away meanwhile. */
function faultText() {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return null;
  }
}

if (!isMainThread) {
  const { TransmitQueue } = await import('../../packages/engine-virtio-net/dist/transmit-queue.js');
  const { viewAt } = await import('../../packages/host-linux/dist/index.js');
  const { poll } = TransmitQueue.prototype;
  TransmitQueue.prototype.poll = function (budget) {
    const text = existsSync(file) ? faultText() : null;
    if (text !== null) {
      const [how, size] = text.split(' ');
      if (this.ring.queueSize === Number(size)) {
        renameSync(file, `${file}.${how}`);
        if (how === 'throw') throw new Error('a bug that throws');
        if (how === 'crash') new Uint8Array(viewAt(NOWHERE, 8)).fill(0);
        for (;;);
      }
    }
    return poll.call(this, budget);
  };
}
