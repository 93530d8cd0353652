/** Entry of the driver's thread: says ready, waits to be started, runs its part, says how it ended. */
import { parentPort, workerData } from 'node:worker_threads';
import { type DriverThreadStart, runDriver } from './driver-thread.js';

const port = parentPort!;
port.once('message', () => port.postMessage(runDriver(workerData as DriverThreadStart)));
port.postMessage('ready');
