/**
 * ping-pong-thread.ts: one end of a word that goes to and fro between two processors; a worker thread.
 *
 * It is bound to its processor and sleeps until machine-state.ts wants a measurement.
 */
import { readlinkSync } from 'node:fs';
import { basename } from 'node:path';
import { workerData } from 'node:worker_threads';
import { setThreadAffinity } from '@virtnet/host-linux';
import { goFirst, type PingPongStart, PingPongWord } from './machine-state.ts';

const { words, processor, first } = workerData as PingPongStart;
const ROUND_TRIPS = 400;
const BATCHES = 4;

if (setThreadAffinity([processor]) < 0) throw new Error(`no thread on processor ${processor}`);
goFirst(Number(basename(readlinkSync('/proc/thread-self'))));
const own = first ? 0 : 1;

/** Shortest time a word took one way, ns. Of several batches, for a thread that is put aside ruins one. */
function measure(): number {
  let best = Number.POSITIVE_INFINITY;
  for (let batch = 0; batch < BATCHES; batch++) {
    const start = process.hrtime.bigint();
    for (let i = 0; i < ROUND_TRIPS; i++) {
      while (Atomics.load(words, PingPongWord.BALL) !== own) {}
      Atomics.store(words, PingPongWord.BALL, 1 - own);
    }
    best = Math.min(best, Number(process.hrtime.bigint() - start) / ROUND_TRIPS / 2);
  }
  return best;
}

for (let turn = 0; ; ) {
  Atomics.wait(words, PingPongWord.TURN, turn);
  turn = Atomics.load(words, PingPongWord.TURN);
  if (turn < 0) break;
  const ns = measure();
  if (!first) continue;
  Atomics.store(words, PingPongWord.PICOSECONDS, Math.round(ns * 1_000));
  Atomics.store(words, PingPongWord.DONE, turn);
  Atomics.notify(words, PingPongWord.DONE);
}
