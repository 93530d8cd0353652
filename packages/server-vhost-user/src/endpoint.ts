/**
 * endpoint.ts: how a backend gets its frontend: by listening, or by connecting until somebody is there.
 *
 * Theory
 *   One frontend at a time. Whoever gets a connection says `next` when it has ended; until then a listener accepts
 *   nobody (a frontend that restarted waits in the backlog for the moment its predecessor takes to be let go), and a
 *   connector does not try. A connector never gives up: the frontend may be started at any time, and restarted.
 *
 * States    listen   waiting <-> serving -> closed
 *           connect  waiting (retry timer) <-> serving -> closed
 *
 *   A process that goes on for one that died begins with what that had: its listening socket, and a frontend already.
 *
 * Invariants
 *   I1  between a loss and the next attempt to connect there are at least RETRY_FIRST_MS: a frontend that closes at once
 *       is not hammered. After a fault of the frontend's it is RETRY_MAX_MS: it will hardly do better at once.
 *
 * Limits  RETRY_FIRST_MS, RETRY_FIRST_COUNT, RETRY_MAX_MS. While descriptors are scarce frontends wait in the backlog,
 *         RETRY_MAX_MS each time.
 */
import { unlinkSync } from 'node:fs';
import {
  accept,
  close,
  connect,
  descriptorsAreScarce,
  listen,
  type Poller,
  type Watch,
} from '@virtnet/host-linux';
import { Errno } from '@virtnet/wire';
import { RETRY_FIRST_COUNT, RETRY_FIRST_MS, RETRY_MAX_MS } from './limits.js';

/** A source of connections. */
export interface Endpoint {
  /** The listening socket, which stays the endpoint's; null for one that connects. */
  readonly listener: number | null;
  /** The connection given last has ended, `afterFault` by a fault of the frontend's: look for the next. */
  next(afterFault?: boolean): void;
  /** Ends the search and removes the socket file a listener made. Connections given out stay. */
  close(): void;
}

export interface EndpointOptions {
  readonly path: string;
  readonly poller: Poller;
  /** A frontend is connected already: nobody is looked for before `next`. */
  readonly serving?: boolean;
  /** A socket that listens at `path`; the endpoint's from now on. */
  readonly listener?: number;
  /** A connected socket, which belongs to the callee. */
  onConnection(fd: number): void;
}

/** Delay before attempt number `failures` + 1, in milliseconds. */
export function retryDelayMs(failures: number): number {
  const doublings = Math.max(0, failures - RETRY_FIRST_COUNT);
  return Math.min(RETRY_MAX_MS, RETRY_FIRST_MS * 2 ** Math.min(doublings, 10));
}

/** Listens at `path`. -EADDRINUSE when somebody else does, or another -errno. */
export function listenEndpoint(options: EndpointOptions): Endpoint | number {
  const { path, poller, onConnection } = options;
  const fd = options.listener ?? listen(path, 'stream');
  if (fd < 0) return fd;
  let serving = options.serving ?? false;
  let again: NodeJS.Timeout | undefined;
  const watch = poller.watch(fd, { readable: true }, () => {
    if (serving) {
      (watch as Watch).setReadable(false);
      return;
    }
    const connection = descriptorsAreScarce() ? -Errno.EMFILE : accept(fd);
    if (connection === -Errno.EAGAIN) return; // gone again: the next event tells
    if (connection < 0) {
      (watch as Watch).setReadable(false); // it waits in the backlog, which would be told again and again
      again = setTimeout(() => (watch as Watch).setReadable(true), RETRY_MAX_MS).unref();
      return;
    }
    serving = true;
    onConnection(connection);
  });
  if (typeof watch === 'number') {
    close(fd);
    return watch;
  }
  let open = true;
  return {
    listener: fd,
    next() {
      serving = false;
      if (open) watch.setReadable(true);
    },
    close() {
      if (!open) return;
      open = false;
      clearTimeout(again);
      watch.close();
      removeSocketFile(path);
      close(fd);
    },
  };
}

/** Connects to `path`, again and again. */
export function connectEndpoint({ path, onConnection, serving = false }: EndpointOptions): Endpoint {
  let timer: NodeJS.Timeout | undefined;
  let open = true;
  let failures = 0;
  const attempt = () => {
    const fd = connect(path, 'stream');
    if (fd >= 0) {
      failures = 0;
      onConnection(fd);
    } else {
      failures++;
      timer = setTimeout(attempt, retryDelayMs(failures));
    }
  };
  if (!serving) timer = setTimeout(attempt, 0);
  return {
    listener: null,
    next(afterFault = false) {
      if (open) timer = setTimeout(attempt, afterFault ? RETRY_MAX_MS : retryDelayMs(0));
    },
    close() {
      open = false;
      clearTimeout(timer);
    },
  };
}

function removeSocketFile(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    // Gone already: somebody cleaned up behind us.
    if ((error as NodeJS.ErrnoException).errno !== -Errno.ENOENT) throw error;
  }
}
