/**
 * function-link.ts: the connection to one function's vfio-user socket, made again whenever it is lost.
 *
 * Theory
 *   Connecting, agreeing on a version and probing are one step: it succeeds as a whole or is tried again from the
 *   start, because a connection can be accepted by a process that is about to end. The emulator keeps its sockets
 *   across its own death, so a loss means that the whole service was restarted or the function unplugged.
 *   A process that goes on for one that died adopts its connection instead: nothing is asked, nothing is reset.
 *
 * States    connecting -> up -> (lost) waiting -> connecting;  any -> closed
 *
 * Invariants
 *   I1  onUp and onDown alternate, beginning with onUp.
 *   I2  nothing is called after close().
 *
 * Limits  retry delays of server-vhost-user; FUNCTION_TIMEOUT_MS per request.
 */
import type { Poller } from '@virtnet/host-linux';
import { type LastRequest, type Negotiated, VfioUserClient, VfioUserError } from '@virtnet/server-vfio-user';
import { retryDelayMs } from '@virtnet/server-vhost-user';
import { FunctionFault, type FunctionProfile, type SavedProbe } from './function-probe.js';
import { FUNCTION_TIMEOUT_MS } from './limits.js';
import { VirtioFunction } from './virtio-function.js';

export type LinkFailure = VfioUserError | FunctionFault;

/** What a successor needs to go on with a connection. */
export interface SavedFunction {
  /** Of the connection, whose descriptor is kept too. */
  readonly negotiated: Negotiated;
  readonly probe: SavedProbe;
}

export interface FunctionLinkOptions {
  readonly path: string;
  readonly poller: Poller;
  /** Outlives the process, where a successor is to go on with the connection. */
  readonly last?: LastRequest;
  onUp(fn: VirtioFunction): void;
  onDown(): void;
  /** An attempt failed; the first one and then every time the reason changes. */
  onFailure(failure: LinkFailure): void;
}

export class FunctionLink {
  readonly #options: FunctionLinkOptions;
  #current: VirtioFunction | null = null;
  #client: VfioUserClient | null = null;
  #timer: NodeJS.Timeout | undefined;
  #failures = 0;
  #lastFailure = '';
  #open = true;

  constructor(options: FunctionLinkOptions) {
    this.#options = options;
  }

  get isUp(): boolean {
    return this.#current !== null;
  }

  /** Of the function that is up: its connection as plain data, and the socket, which stays the link's. */
  get saved(): { readonly fd: number; readonly function: SavedFunction } | null {
    if (this.#current === null || this.#client === null) return null;
    const { fd, server } = this.#client;
    return { fd, function: { negotiated: server, probe: this.#current.probe } };
  }

  /** Takes over a connection that a process which died had up; null, and the socket closed, when that cannot be. */
  adopt(fd: number, profile: FunctionProfile, saved: SavedFunction): VirtioFunction | null {
    const { poller, last } = this.#options;
    let client: VfioUserClient | null = null;
    const onClose = () => this.#lost(client);
    try {
      client = VfioUserClient.adopt(fd, saved.negotiated, {
        poller,
        timeoutMs: FUNCTION_TIMEOUT_MS,
        ...(last === undefined ? {} : { last }),
        onClose,
      });
    } catch (error) {
      if (error instanceof VfioUserError) return null;
      throw error;
    }
    this.#client = client;
    this.#current = VirtioFunction.resume(client, profile, saved.probe);
    return this.#current;
  }

  /** Begins to try, for a function that is not up. */
  connectLater(): void {
    this.#retryLater();
  }

  /** One attempt. Null when the function is up, else what went wrong; nothing is tried again by itself. */
  async connect(): Promise<LinkFailure | null> {
    const { path, poller, last } = this.#options;
    let client: VfioUserClient | null = null;
    const onClose = () => this.#lost(client);
    try {
      client = await VfioUserClient.connect(path, {
        poller,
        timeoutMs: FUNCTION_TIMEOUT_MS,
        ...(last === undefined ? {} : { last }),
        onClose,
      });
      const fn = await VirtioFunction.probe(client);
      if (!this.#open || !client.isOpen) {
        client.close();
        return new FunctionFault('the connection ended while probing');
      }
      this.#client = client;
      this.#current = fn;
      this.#failures = 0;
      this.#lastFailure = '';
      this.#options.onUp(fn);
      return null;
    } catch (error) {
      client?.close();
      if (error instanceof VfioUserError || error instanceof FunctionFault) return error;
      throw error;
    }
  }

  /** Ends the connection and all attempts. */
  close(): void {
    this.#open = false;
    clearTimeout(this.#timer);
    this.#current = null;
    this.#client?.close();
  }

  #lost(client: VfioUserClient | null): void {
    if (!this.#open || this.#current === null || client !== this.#client) return;
    this.#current = null;
    this.#options.onDown();
    this.#retryLater();
  }

  #retryLater(): void {
    this.#timer = setTimeout(() => void this.#retry(), retryDelayMs(this.#failures));
  }

  async #retry(): Promise<void> {
    const failure = await this.connect();
    if (failure === null || !this.#open) return;
    this.#failures++;
    if (failure.message !== this.#lastFailure) this.#options.onFailure(failure);
    this.#lastFailure = failure.message;
    this.#retryLater();
  }
}
