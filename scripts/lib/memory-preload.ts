/**
 * memory-preload.ts: loaded into the service's processes in front of their programs: their threads say what they hold.
 *
 * When the number in the file `ask` of the directory that MEMORY_DIRECTORY names has changed, every thread collects its
 * garbage and writes what is left into a file of its own. A datapath thread never returns to its event loop; it looks
 * before it sleeps, so somebody has to wake it.
 */
import '../../test/lib/run-modules.mjs';
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import v8 from 'node:v8';
import vm from 'node:vm';
import { threadId } from 'node:worker_threads';
import { ProgressLane } from '@virtnet/host-linux';
import type { ThreadHolding } from './bench-memory.ts';

const LOOK_MS = 200;
const directory = process.env.MEMORY_DIRECTORY;

if (directory !== undefined) {
  let answered = 0;
  v8.setFlagsFromString('--expose-gc');
  const collect = vm.runInNewContext('gc') as () => void;
  const look = (): void => {
    const asked = Number(readFileSync(join(directory, 'ask'), 'utf8'));
    if (asked === answered) return;
    answered = asked;
    collect();
    const { heapUsed, external } = process.memoryUsage();
    const holding: ThreadHolding = {
      pid: process.pid,
      thread: threadId,
      asked,
      heapBytes: heapUsed,
      outsideBytes: external,
    };
    const path = join(directory, `${process.pid}.${threadId}`);
    writeFileSync(`${path}.new`, JSON.stringify(holding));
    renameSync(`${path}.new`, `${path}.held`);
  };
  setInterval(look, LOOK_MS).unref();
  const { fallAsleep } = ProgressLane.prototype;
  ProgressLane.prototype.fallAsleep = function (this: ProgressLane): void {
    look();
    fallAsleep.call(this);
  };
}
