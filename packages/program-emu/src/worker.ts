/** Entry of a datapath worker thread: goes where it shall run, warms its loops up unless guests wait, says ready, runs until it is told to stop. */
import { useWindow } from '@virtnet/engine-virtqueue';
import { Arena, blockFaultSignals, laneAt, setThreadAffinity, setThreadName } from '@virtnet/host-linux';
import { MailboxReceiver, type RunStart } from '@virtnet/host-workers';
import type { WorkerMessage, WorkerReport, WorkerStart } from './datapath-protocol.js';
import { Scratch } from './scratch.js';
import { warmUp } from './warm-up.js';
import { WorkerLoop } from './worker-loop.js';

export default function run({ index, port, control, data }: RunStart<WorkerStart>): void {
  const started = performance.now();
  setThreadName(`datapath-${index}`);
  blockFaultSignals();
  // Processors that are taken from us between the choice and now: the thread runs anywhere, as it does without any.
  if (data.processors !== null) setThreadAffinity(data.processors);
  const window = data.window === null ? null : useWindow(data.window);
  const arena = Arena.attach(data.arenaBase, data.arenaBytes, window);
  if (!data.cold) warmUp(arena.locate(data.scratchAt));
  const report = (message: WorkerReport) => port.postMessage(message);
  const mailbox = new MailboxReceiver<WorkerMessage>(port, control);
  const lane = laneAt(data.progressAddress, data.progressLane);
  const scratch = new Scratch(arena.locate(data.scratchAt));
  const loop = new WorkerLoop(arena, mailbox, data.wakeFd, report, lane, scratch);
  lane.begin(); // before it is given a queue: whoever succeeds this process must know of the thread
  report({ kind: 'ready', warmUpMs: performance.now() - started });
  loop.run();
  lane.end();
}
