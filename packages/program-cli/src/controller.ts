/**
 * controller.ts: asking the controller, or finding out that there is none.
 *
 * Theory
 *   ZeroMQ connects when somebody listens and says nothing while nobody does. A command line must say so soon: no
 *   socket file means no controller at once; a file without a listener shows when a plain connection is refused,
 *   which is tried only after the answer has not come for a moment. A controller that listens and does not answer is
 *   busy, and is waited for until the message's own deadline.
 *
 *   A controller that is just starting, or that becomes another version of itself, has a process and no socket yet: as
 *   long as the process that its pid file names lives, the command waits for it and asks then. What the end of a former
 *   one interrupted is asked again only when asking twice is the same as asking once.
 *
 *   The sockets are their user's alone. Who may not look at them cannot know whether there is a controller, and is told
 *   who may.
 *
 * Limits  COMING_UP_MS until a process without a socket is given up. DOWN_PROBE_AFTER_MS plus the time of one connect() until a dead controller is reported.
 */
import { readFileSync, statSync } from 'node:fs';
import type { ControlRequest } from '@virtnet/engine-control';
import type { RpcCaller } from '@virtnet/host-ipc/client';
import { Errno } from '@virtnet/wire';

const DOWN_PROBE_AFTER_MS = 300;
const COMING_UP_MS = 10_000;
const COMING_UP_LOOK_MS = 25;

/** What came of a request. */
export type Reply =
  | { readonly kind: 'answer'; readonly answer: unknown; readonly exitCode: number }
  /** The controller refused the request itself; `errno` is a negative Linux errno. */
  | { readonly kind: 'refused'; readonly errno: number; readonly errstr: string }
  /** There was no answer; the text says why. */
  | {
      readonly kind: 'unavailable';
      readonly reason: string;
      /** Nobody was asked. */
      readonly down?: boolean;
      /** The one who was asked ended. */
      readonly over?: boolean;
    };

export type Ask = (request: ControlRequest) => Promise<Reply>;

/** Sends `request` to the controller below VIRTNET_ROOT and waits for its answer. */
export async function askController(request: ControlRequest): Promise<Reply> {
  const { commandClient, HOST_DEADLINE_MS, virtnetPaths } = await import('@virtnet/host-ipc/client');
  let path: string;
  let pidFile: string;
  try {
    const paths = virtnetPaths(undefined, { create: false });
    path = paths.controllerIpc;
    pidFile = paths.pidFile('controller');
  } catch (error) {
    return { kind: 'unavailable', reason: error instanceof Error ? error.message : String(error) };
  }
  const options = request.command === 'host' ? { deadlineMs: HOST_DEADLINE_MS } : {};
  const endMs = performance.now() + COMING_UP_MS;
  for (;;) {
    const missing = whyNoSocket(path);
    const reply =
      missing === null
        ? await askOnce(commandClient(path), path, request, options)
        : noController(path, missing);
    const again =
      reply.kind === 'unavailable' && (reply.down === true || (reply.over === true && looksOnly(request)));
    if (!again || performance.now() > endMs || !isRunning(pidFile)) return reply;
    await new Promise((resolve) => setTimeout(resolve, COMING_UP_LOOK_MS));
  }
}

async function askOnce(
  client: RpcCaller,
  path: string,
  request: ControlRequest,
  options: { readonly deadlineMs?: number },
): Promise<Reply> {
  const probe = probeLater(path);
  try {
    const params = { command: request.command, params: { ...request.params } };
    const answered = client
      .call('cli.request', params, options)
      .then(({ answer, exitCode }): Reply => ({ kind: 'answer', answer, exitCode }))
      .catch(failed);
    return await Promise.race([answered, probe.refused]);
  } finally {
    probe.cancel();
    client.close();
  }
}

/** Why the socket cannot be seen; null when it can. */
function whyNoSocket(path: string): string | null {
  try {
    statSync(path);
    return null;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EACCES' ? 'EACCES' : 'no socket';
  }
}

function noController(path: string, detail: string): Reply {
  if (detail === 'EACCES') {
    const reason = `permission denied: ${path}; only root and the user of the service may ask the controller`;
    return { kind: 'unavailable', reason };
  }
  return { kind: 'unavailable', reason: `the controller is not running (${path}: ${detail})`, down: true };
}

/** Whether the request changes nothing. */
function looksOnly({ command, params }: ControlRequest): boolean {
  if (command === 'update') return params.status;
  return ['list', 'query', 'health', 'version'].includes(command);
}

/** Whether the process that the file names lives. */
function isRunning(pidFile: string): boolean {
  try {
    const pid = Number(readFileSync(pidFile, 'utf8').trim());
    return pid > 1 && process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** What an RpcError means; anything else is a fault of this program and goes on. */
function failed(error: unknown): Reply {
  if (!(error instanceof Error) || !('errno' in error) || typeof error.errno !== 'number') throw error;
  const { errno, message } = error;
  switch (-errno) {
    case Errno.ETIMEDOUT:
      return { kind: 'unavailable', reason: `the controller does not answer (${message})` };
    case Errno.ECONNRESET:
      return {
        kind: 'unavailable',
        reason: 'the controller ended while it worked on the command, which may have been carried out',
        over: true,
      };
    default:
      return { kind: 'refused', errno, errstr: message };
  }
}

/** Settles only when nobody listens at `path`; looks once, after a while. */
function probeLater(path: string): { readonly refused: Promise<Reply>; cancel(): void } {
  const { promise, resolve } = Promise.withResolvers<Reply>();
  let cancelled = false;
  const timer = setTimeout(() => {
    void import('node:net').then(({ connect }) => {
      if (cancelled) return;
      const socket = connect(path);
      socket.on('connect', () => socket.destroy());
      socket.on('error', (error: NodeJS.ErrnoException) =>
        resolve(noController(path, error.code ?? error.message)),
      );
    });
  }, DOWN_PROBE_AFTER_MS);
  return {
    refused: promise,
    cancel: () => {
      cancelled = true;
      clearTimeout(timer);
    },
  };
}
