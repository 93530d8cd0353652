/**
 * Preloaded into the emulators of a test: gives their datapath threads bugs that show once each, when the test wants.
 *
 * VIRTNET_TEST_WORKER_FAULTS is the beginning of files' names, behind it stands the pid of the emulator. Such a file says
 * how the thread goes wrong that polls a transmit queue of a size next, throw or spin, and the size. The thread takes the
 * file away before.
 */
import './run-modules.mjs';
import { existsSync, readFileSync, renameSync } from 'node:fs';
import { isMainThread } from 'node:worker_threads';

const file = `${process.env.VIRTNET_TEST_WORKER_FAULTS}.${process.pid}`;

if (!isMainThread) {
  const { TransmitQueue } = await import('../../packages/engine-virtio-net/dist/transmit-queue.js');
  const { poll } = TransmitQueue.prototype;
  TransmitQueue.prototype.poll = function (budget) {
    if (existsSync(file)) {
      const [how, size] = readFileSync(file, 'utf8').split(' ');
      if (this.ring.queueSize === Number(size)) {
        renameSync(file, `${file}.${how}`);
        if (how === 'throw') throw new Error('a bug that throws');
        for (;;);
      }
    }
    return poll.call(this, budget);
  };
}
