/**
 * hiccup-preload.ts: loaded into the service's processes in front of their programs: their datapath threads keep records.
 *
 * A datapath thread says at each turn of its loop that it lives (ProgressLane), and before it sleeps. Here both are told
 * to a record too, so the product needs no instrument of its own. Records are made when a thread turns for the first
 * time, in the directory that HICCUP_DIRECTORY names, by process and thread.
 */
import '../../test/lib/run-modules.mjs';
import { join } from 'node:path';
import { isMainThread, threadId } from 'node:worker_threads';
import { ProgressLane } from '@virtnet/host-linux';
import { HiccupRecord } from './hiccup-record.ts';

const directory = process.env.HICCUP_DIRECTORY;
if (!isMainThread && directory !== undefined) {
  const { beat, fallAsleep } = ProgressLane.prototype;
  let record: HiccupRecord | null = null;
  ProgressLane.prototype.beat = function (this: ProgressLane): void {
    beat.call(this);
    record ??= new HiccupRecord(join(directory, `${process.pid}.${threadId}.turns`), true);
    record.turn();
  };
  ProgressLane.prototype.fallAsleep = function (this: ProgressLane): void {
    fallAsleep.call(this);
    record?.pause();
  };
}
