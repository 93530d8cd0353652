/**
 * run-virtnet.ts: one run of virtnet: read the command line, show the parameters, ask, print the answer.
 *
 * Exit codes: 0 success; 1 an error that the answer or stderr describes; 2 a command line that is wrong.
 */
import type { ControlRequest } from '@virtnet/engine-control';
import type { Ask } from './controller.js';
import { type Invocation, parseVirtnet } from './definition.js';
import { type Io, printJson } from './io.js';
import { restart } from './run-restart.js';
import { EXIT_USAGE } from './usage.js';

const EXIT_FAILURE = 1;

/** Runs virtnet with `argv`, the arguments behind the program's name; returns the exit code. */
export async function runVirtnet(argv: readonly string[], io: Io, ask: Ask): Promise<number> {
  const invocation = parseVirtnet(argv);
  switch (invocation.kind) {
    case 'text':
      io.out(invocation.text);
      return 0;
    case 'usage':
      io.err(invocation.text);
      return EXIT_USAGE;
    case 'validate': {
      const { runValidate } = await import('./run-validate.js');
      return runValidate(invocation.file, invocation.json, io);
    }
    case 'request':
      return answerRequest(invocation, io, ask);
  }
}

async function answerRequest(
  { request, display, json }: Extract<Invocation, { kind: 'request' }>,
  io: Io,
  ask: Ask,
): Promise<number> {
  if (hasParameters(request)) {
    // Only commands with parameters pay for loading this.
    const { echoOf, pythonDict, requestFailure } = await import('@virtnet/engine-control');
    const echo = json ? null : echoOf(request, display);
    if (echo !== null) io.out(`${pythonDict(echo)}\n`);
    const impossible = requestFailure(request);
    if (impossible !== null) {
      printJson(io, impossible);
      return EXIT_FAILURE;
    }
  }
  if (request.command === 'restart') return restart(io, ask, json);
  const reply = await ask(request);
  switch (reply.kind) {
    case 'answer':
      printJson(io, reply.answer);
      return reply.exitCode;
    case 'refused':
      printJson(io, { errno: reply.errno, errstr: reply.errstr });
      return EXIT_FAILURE;
    case 'unavailable':
      io.err(`virtnet: ${reply.reason}\n`);
      return EXIT_FAILURE;
  }
}

function hasParameters({ params }: ControlRequest): boolean {
  return Object.keys(params).length > 0;
}
