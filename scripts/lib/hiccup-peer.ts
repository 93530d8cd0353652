/** hiccup-peer.ts: a loop that does nothing but keep a record of its turns; a worker thread. It runs until STOP is set. */
import { workerData } from 'node:worker_threads';
import { setThreadAffinity, setThreadName } from '@virtnet/host-linux';
import { HiccupRecord } from './hiccup-record.ts';

export interface PeerStart {
  readonly path: string;
  readonly processor: number;
  readonly stop: Int32Array<SharedArrayBuffer>;
}

const { path, processor, stop } = workerData as PeerStart;
setThreadName('hiccup-peer');
if (setThreadAffinity([processor]) < 0) throw new Error(`no thread on processor ${processor}`);
const record = new HiccupRecord(path, false);
while (Atomics.load(stop, 0) === 0) record.turn();
