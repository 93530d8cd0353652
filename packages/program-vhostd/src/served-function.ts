/**
 * served-function.ts: one function, served to one frontend: `vf -a`.
 *
 * Theory
 *   Two connections meet here, each made again whenever it is lost: to the function (FunctionLink) and from or to the
 *   frontend (Endpoint). Neither waits for the other once the function was seen for the first time.
 *   Whatever changes is kept for a successor (function-kept.ts), which begins with `resume` instead of `start`. While
 *   the keeper is being replaced, answers to what changed something wait, and the page does not say SETTLED: a record
 *   that a keeper may have from before is not how the function stands.
 *
 * States    new -> serving -> stopped;  new -> stopped when the first look at the function fails
 *
 * Invariants
 *   I1  after stop() resolves, nothing of the function is held: no connection, no descriptor, no socket file.
 */
import {
  FunctionLink,
  type FunctionProfile,
  type LinkFailure,
  type VirtioFunction,
} from '@virtnet/driver-virtio-net';
import type { Logger } from '@virtnet/host-ipc';
import { close, type Poller, type ReplySender, shutdown } from '@virtnet/host-linux';
import { type AnsweredRequest, RequestJournal } from '@virtnet/server-vfio-user';
import {
  type CloseReason,
  connectEndpoint,
  describeFault,
  type Endpoint,
  isMalformed,
  listenEndpoint,
  type SessionCounters,
  VhostUserBackend,
  type VhostUserBackendOptions,
} from '@virtnet/server-vhost-user';
import { Errno, LinuxErrno } from '@virtnet/wire';
import { VfeError } from './errors.js';
import { FunctionBinding } from './function-binding.js';
import { FunctionKept } from './function-kept.js';
import { type FunctionPage, Phase } from './function-page.js';
import type { FunctionRecord } from './function-record.js';
import type { Keeper, Kept } from './keeper.js';

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
  /** The function's from now on. */
  readonly page: FunctionPage;
  readonly keeper: Pick<Keeper, 'put' | 'drop' | 'kept'>;
  readonly replies: ReplySender;
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
  readonly #kept: FunctionKept;
  #profile: FunctionProfile | null = null;
  #endpoint: Endpoint | null = null;
  #backend: VhostUserBackend | null = null;
  /** The function does all that is wanted of it. */
  #attached = false;
  #stopping = false;
  /** An answer is about to go out. */
  #promising = false;
  /** Resolves when what was said so far is kept. */
  #settling: Promise<void> | null = null;

  constructor(options: ServedFunctionOptions) {
    this.options = options;
    this.#log = options.log.child({ vf: options.bdf });
    const { poller, page } = options;
    this.#kept = new FunctionKept(options);
    this.#binding = new FunctionBinding({
      poller,
      page,
      onBroken: (reason) => this.#broken(reason),
      onNeedsReset: () => this.#needsReset(),
    });
    this.#link = new FunctionLink({
      path: options.functionSocket,
      poller,
      last: page,
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
    else this.#keep();
    return errno;
  }

  /**
   * Begins to serve where a process that was killed ended; `fds` are taken over, by name. 0, or why not, and then
   * nothing is left behind. A frontend of which not everything is there is let go.
   */
  async resume(record: FunctionRecord, fds: Map<string, number>): Promise<number> {
    const take = (name: string): number | undefined => {
      const fd = fds.get(name);
      fds.delete(name);
      return fd;
    };
    this.#profile = record.profile;
    this.#binding.expect(record.profile);
    const connection = take('connection');
    const functionFd = take('function');
    const listener = take('listener');
    if (connection !== undefined) this.#backend = this.#resumeBackend(connection, record, take);
    if (record.session !== null && this.#backend === null) this.options.page.phase = Phase.UNSETTLED;
    for (const fd of fds.values()) close(fd);
    let fn: VirtioFunction | null = null;
    if (functionFd !== undefined) {
      if (record.function === null) close(functionFd);
      else fn = this.#link.adopt(functionFd, record.profile, record.function);
    }
    const errno = this.#openEndpoint({ serving: this.#backend !== null, listener });
    if (errno < 0) {
      await this.stop();
      return errno;
    }
    this.#attached = fn !== null;
    const { regions = [], ringSetups: rings = [] } = this.#backend ?? {};
    this.#log.info(
      { frontend: this.#backend !== null, function: fn !== null, phase: this.options.page.phase },
      'goes on for a process that was killed',
    );
    void this.#binding.resume({ fn, regions, rings, adrift: record.adrift });
    if (fn === null) this.#link.connectLater();
    this.#keep();
    return 0;
  }

  /** Ends the frontend's connection, lets the function go and removes the socket. Always succeeds. */
  async stop(): Promise<void> {
    this.#stopping = true;
    this.#endpoint?.close();
    await this.#backend?.close();
    this.#link.close();
    await this.#binding.dispose();
    this.#kept.drop();
    this.options.page.close();
  }

  /** Leaves everything to a successor: no message of the frontend's is handled any more. Resolves when none is. */
  leave(): Promise<void> {
    return this.#backend?.suspend() ?? Promise.resolve();
  }

  /** What a successor needs, when nothing is under way; null when nobody is served any more. */
  async kept(): Promise<Kept | null> {
    await this.#backend?.idle;
    return this.#stopping ? null : this.#kept.now(this.#parts());
  }

  #probeError(failure: LinkFailure): VfeError {
    this.#log.warn({ reason: failure.message }, 'function cannot be served');
    const absent = 'errno' in failure && failure.errno === Errno.ENOENT;
    return absent ? VfeError.NO_VF_DEVICE : VfeError.DEVICE_PROBE_FAIL;
  }

  #openEndpoint(former: { serving?: boolean; listener?: number | undefined } = {}): number {
    const { vhostSocket: path, client, poller } = this.options;
    const { serving = false, listener } = former;
    const onConnection = (fd: number) => this.#connected(fd);
    const common = { path, poller, serving, onConnection };
    const endpoint = client
      ? connectEndpoint(common)
      : listenEndpoint(listener === undefined ? common : { ...common, listener });
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
    this.#backend = VhostUserBackend.open(this.#backendOptions(fd, null));
    this.#kept.connected(this.#backend.save());
    this.#keep();
  }

  #resumeBackend(
    fd: number,
    { session, answered }: FunctionRecord,
    take: (name: string) => number | undefined,
  ): VhostUserBackend | null {
    if (session === null) {
      shutdown(fd);
      close(fd);
      return null;
    }
    const backend = VhostUserBackend.resume(this.#backendOptions(fd, answered), session, take);
    if (backend === null) this.#log.error('not everything of a frontend is there: it is let go');
    else this.#kept.resumed(backend.save(), answered);
    return backend;
  }

  #backendOptions(fd: number, answered: AnsweredRequest | null): VhostUserBackendOptions {
    const { poller, page, replies } = this.options;
    const journal = new RequestJournal(
      {
        readFinished: () => page.finished,
        writeFinished: (sequence) => {
          page.finished = sequence;
        },
        record: (recorded) => this.#record(recorded),
      },
      answered,
    );
    return {
      fd,
      poller,
      journal,
      replies,
      device: this.#binding,
      onRingLost: (ring, errno) => {
        this.counters.ringsLost++;
        this.#log.error({ ring, errno }, 'a ring is not worked any more');
      },
      onDeclined: (request, errno) => this.#log.warn({ request, errno }, 'a request was not granted'),
      onClose: (reason, counters) => this.#disconnected(reason, counters),
    };
  }

  #disconnected(reason: CloseReason, { messages, refused }: Readonly<SessionCounters>): void {
    this.#backend = null;
    this.#kept.disconnected();
    this.counters.declined += refused;
    if (reason.kind === 'fault') {
      if (isMalformed(reason.fault)) this.counters.malformed++;
      else this.counters.refused++;
      const facts = { fault: describeFault(reason.fault), messages, counters: this.counters };
      this.#log.error(facts, 'frontend disconnected for a bad message');
    } else {
      this.#log.info({ reason: reason.kind, messages }, 'frontend disconnected');
    }
    if (this.#stopping) return;
    this.#keep();
    this.#endpoint?.next(reason.kind === 'fault');
  }

  #up(fn: VirtioFunction): void {
    this.#profile = fn.profile;
    const { features, dataQueues } = fn.profile;
    this.#log.info({ features: `0x${features.toString(16)}`, dataQueues }, 'function connected');
    void this.#binding.attach(fn).then(() => {
      if (this.#stopping || !this.#link.isUp) return;
      this.#attached = true;
      this.#keep();
    });
  }

  #down(): void {
    this.counters.functionLost++;
    this.#log.warn('function lost, trying to get it back');
    this.#binding.detach();
    this.#attached = false;
    if (!this.#stopping) this.#keep();
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

  /** A message of the frontend's was carried out; its answer goes out when this is kept: now, or when it resolves. */
  #record(answered: AnsweredRequest): Promise<void> | null {
    if (this.#backend === null) return null;
    if (!this.#kept.answered(this.#backend.save(), answered, this.#parts())) return null;
    this.#promising = true;
    return this.#settle(false);
  }

  /** Something changed that is no message of the frontend's. */
  #keep(): void {
    this.#kept.keep(this.#parts());
    // In the middle of a message the frontend's part is the one from before it.
    void this.#settle(this.#backend?.busy === true);
  }

  /** The page says whether the function is as the keeper knows; resolves when the keeper does, null: it does. */
  #settle(busy: boolean): Promise<void> | null {
    const { keeper, page } = this.options;
    const kept = keeper.kept();
    // Before the page says SETTLED, which holds of what was promised only.
    if (kept === null && this.#promising) {
      this.#kept.promise();
      this.#promising = false;
    }
    if (!this.#binding.resuming) page.phase = busy || kept !== null ? Phase.UNSETTLED : Phase.SETTLED;
    if (kept !== null && kept !== this.#settling) {
      this.#settling = kept;
      void kept.then(() => {
        if (!this.#stopping) void this.#settle(this.#backend?.busy === true);
      });
    }
    return kept;
  }

  #parts() {
    return {
      profile: this.#profile,
      link: this.#attached ? this.#link.saved : null,
      adrift: this.#binding.adrift,
      connection: this.#backend?.fd ?? null,
      listener: this.#endpoint?.listener ?? null,
    };
  }
}
