/**
 * run-restart.ts: `virtnet restart`: begins a move of the service onto its own version, and stays until it is done.
 *
 * The controller replaces itself at the end, so it cannot answer for the end: it is asked until the move is over.
 */
import type { Ask, Reply } from './controller.js';
import { type Io, printJson } from './io.js';

const ASK_AGAIN_MS = 100;
const EXIT_FAILURE = 1;

interface Status {
  readonly status?: unknown;
  readonly reason?: unknown;
  readonly 'last live update status'?: unknown;
}

/** Returns the exit code. */
export async function restart(io: Io, ask: Ask, json: boolean): Promise<number> {
  const { RESTARTED, restartFailure, UPDATE_STARTED } = await import('@virtnet/engine-control');
  const begun = await ask({ command: 'restart', params: {} });
  if (begun.kind !== 'answer' || begun.answer !== UPDATE_STARTED) return failed(io, begun);
  for (;;) {
    const reply = await ask({ command: 'update', params: { start: false, status: true } });
    if (reply.kind !== 'answer') return failed(io, reply);
    const status = reply.answer as Status;
    if (status.status === 'inactive') {
      if (status['last live update status'] === 'success') {
        if (json) printJson(io, RESTARTED);
        else io.out(`${RESTARTED}\n`);
        return 0;
      }
      printJson(io, restartFailure(typeof status.reason === 'string' ? status.reason : 'unknown'));
      return EXIT_FAILURE;
    }
    await new Promise((resolve) => setTimeout(resolve, ASK_AGAIN_MS));
  }
}

function failed(io: Io, reply: Reply): number {
  if (reply.kind === 'answer') printJson(io, reply.answer);
  else if (reply.kind === 'refused') printJson(io, { errno: reply.errno, errstr: reply.errstr });
  else io.err(`virtnet: ${reply.reason}\n`);
  return EXIT_FAILURE;
}
