/**
 * served-function.ts: one function, served to one frontend: `vf -a`.
 *
 * Theory
 *   Two connections meet here, each made again whenever it is lost: to the function (FunctionLink) and from or to the
 *   frontend (Endpoint). Neither waits for the other once the function was seen for the first time.
 *
 * States    new -> serving -> stopped;  new -> stopped when the first look at the function fails
 *
 * Invariants
 *   I1  after stop() resolves, nothing of the function is held: no connection, no descriptor, no socket file.
 */
import type { Logger } from '@virtnet/host-ipc';
import type { Poller } from '@virtnet/host-linux';
import {
  type CloseReason,
  connectEndpoint,
  describeFault,
  type Endpoint,
  isMalformed,
  listenEndpoint,
  type SessionCounters,
  VhostUserBackend,
} from '@virtnet/server-vhost-user';
import { Errno, LinuxErrno } from '@virtnet/wire';
import { VfeError } from './errors.js';
import { FunctionBinding } from './function-binding.js';
import { FunctionLink, type LinkFailure } from './function-link.js';
import type { FunctionProfile } from './function-probe.js';
import type { VirtioFunction } from './virtio-function.js';

export interface ServedFunctionOptions {
  /** Canonical PCI address. */
  readonly bdf: string;
  /** The function's vfio-user socket. */
  readonly functionSocket: string;
  readonly vhostSocket: string;
  readonly uuid: string;
  /** Connect to the frontend instead of listening for it. */
  readonly client: boolean;
  readonly poller: Poller;
  readonly log: Logger;
}

/** Since the function was added. */
export interface ServedCounters {
  /** Frontends that connected. */
  connections: number;
  /** Connections ended because a message was damaged. */
  malformed: number;
  /** Connections ended because a request could not be granted. */
  refused: number;
  /** Requests answered with a negative acknowledgement. */
  declined: number;
  /** Rings that stopped being worked without a request for it. */
  ringsLost: number;
  /** Times the function said that it needs a reset. */
  needsReset: number;
  /** Times the connection to the function was lost. */
  functionLost: number;
}

export class ServedFunction {
  readonly options: ServedFunctionOptions;
  readonly counters: ServedCounters = {
    connections: 0,
    malformed: 0,
    refused: 0,
    declined: 0,
    ringsLost: 0,
    needsReset: 0,
    functionLost: 0,
  };
  readonly #log: Logger;
  readonly #link: FunctionLink;
  readonly #binding: FunctionBinding;
  #profile: FunctionProfile | null = null;
  #endpoint: Endpoint | null = null;
  #backend: VhostUserBackend | null = null;
  #stopping = false;

  constructor(options: ServedFunctionOptions) {
    this.options = options;
    this.#log = options.log.child({ vf: options.bdf });
    const { poller } = options;
    this.#binding = new FunctionBinding({
      poller,
      onBroken: (reason) => this.#broken(reason),
      onNeedsReset: () => this.#needsReset(),
    });
    this.#link = new FunctionLink({
      path: options.functionSocket,
      poller,
      onUp: (fn) => this.#up(fn),
      onDown: () => this.#down(),
      onFailure: (failure) =>
        this.#log.warn({ reason: failure.message }, 'function not reachable, trying again'),
    });
  }

  /** What the function said of itself; null while it is not reachable. */
  get profile(): FunctionProfile | null {
    return this.#link.isUp ? this.#profile : null;
  }

  /** Whether a frontend has rings to be worked. */
  get configured(): boolean {
    return this.#binding.configured;
  }

  /** Begins to serve. 0, or why not, and then nothing is left behind. */
  async start(): Promise<number> {
    const failure = await this.#link.connect();
    const errno = failure === null ? this.#openEndpoint() : this.#probeError(failure);
    if (errno < 0) await this.stop();
    return errno;
  }

  /** Ends the frontend's connection, lets the function go and removes the socket. Always succeeds. */
  async stop(): Promise<void> {
    this.#stopping = true;
    this.#endpoint?.close();
    await this.#backend?.close();
    this.#link.close();
    await this.#binding.dispose();
  }

  #probeError(failure: LinkFailure): VfeError {
    this.#log.warn({ reason: failure.message }, 'function cannot be served');
    const absent = 'errno' in failure && failure.errno === Errno.ENOENT;
    return absent ? VfeError.NO_VF_DEVICE : VfeError.DEVICE_PROBE_FAIL;
  }

  #openEndpoint(): number {
    const { vhostSocket: path, client, poller } = this.options;
    const onConnection = (fd: number) => this.#connected(fd);
    const endpoint = client
      ? connectEndpoint({ path, poller, onConnection })
      : listenEndpoint({ path, poller, onConnection });
    if (typeof endpoint === 'number')
      return endpoint === -LinuxErrno.EADDRINUSE ? VfeError.SOCKET_EXISTS : VfeError.SOCKET_PATH_ACCESS;
    this.#endpoint = endpoint;
    this.#log.info(
      { socket: path, client },
      client ? 'connecting to the frontend' : 'listening for a frontend',
    );
    return 0;
  }

  #connected(fd: number): void {
    this.counters.connections++;
    this.#log.info('frontend connected');
    this.#backend = new VhostUserBackend({
      fd,
      poller: this.options.poller,
      device: this.#binding,
      onRingLost: (ring, errno) => {
        this.counters.ringsLost++;
        this.#log.error({ ring, errno }, 'a ring is not worked any more');
      },
      onDeclined: (request, errno) => this.#log.warn({ request, errno }, 'a request was not granted'),
      onClose: (reason, counters) => this.#disconnected(reason, counters),
    });
  }

  #disconnected(reason: CloseReason, { messages, refused }: Readonly<SessionCounters>): void {
    this.#backend = null;
    this.counters.declined += refused;
    if (reason.kind === 'fault') {
      if (isMalformed(reason.fault)) this.counters.malformed++;
      else this.counters.refused++;
      const facts = { fault: describeFault(reason.fault), messages, counters: this.counters };
      this.#log.error(facts, 'frontend disconnected for a bad message');
    } else {
      this.#log.info({ reason: reason.kind, messages }, 'frontend disconnected');
    }
    if (!this.#stopping) this.#endpoint?.next(reason.kind === 'fault');
  }

  #up(fn: VirtioFunction): void {
    this.#profile = fn.profile;
    const { features, dataQueues } = fn.profile;
    this.#log.info({ features: `0x${features.toString(16)}`, dataQueues }, 'function connected');
    void this.#binding.attach(fn);
  }

  #down(): void {
    this.counters.functionLost++;
    this.#log.warn('function lost, trying to get it back');
    this.#binding.detach();
  }

  #broken(reason: string): void {
    this.#log.error({ reason }, 'ending the frontend connection');
    void this.#backend?.close();
  }

  #needsReset(): void {
    this.counters.needsReset++;
    this.#log.error('the driver broke a ring, the function needs a reset');
    this.#backend?.reportBroken(Errno.EIO);
  }
}
