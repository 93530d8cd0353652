/** Entry of the driver's thread: says ready, waits to be started, runs its part, says how it ended. */
import { parentPort, workerData } from 'node:worker_threads';
import { Control, type DriverThreadEnd, type DriverThreadStart } from './driver-thread.js';
import { converse, litmus } from './driver-thread-honest.js';
import { rewrite } from './driver-thread-hostile.js';

const PARTS = {
  steady: converse,
  spinning: converse,
  hostile: rewrite,
  'litmus-interrupt': litmus,
  'litmus-kick': litmus,
} as const;

function run(start: DriverThreadStart): DriverThreadEnd {
  const control = new Int32Array(start.control);
  const end = PARTS[start.part](start, control);
  Atomics.store(control, Control.FINISHED, 1);
  Atomics.add(control, Control.KICKS, 1);
  Atomics.notify(control, Control.KICKS);
  return end;
}

const port = parentPort!;
port.once('message', () => port.postMessage(run(workerData as DriverThreadStart)));
port.postMessage('ready');
