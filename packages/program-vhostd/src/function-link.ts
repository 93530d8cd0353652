/**
 * function-link.ts: the connection to one function's vfio-user socket, made again whenever it is lost.
 *
 * Theory
 *   Connecting, agreeing on a version and probing are one step: it succeeds as a whole or is tried again from the
 *   start, because a connection can be accepted by a process that is about to end. The emulator keeps its sockets
 *   across its own death, so a loss means that the whole service was restarted or the function unplugged.
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
import { VfioUserClient, VfioUserError } from '@virtnet/server-vfio-user';
import { retryDelayMs } from '@virtnet/server-vhost-user';
import { FunctionFault } from './function-probe.js';
import { FUNCTION_TIMEOUT_MS } from './limits.js';
import { VirtioFunction } from './virtio-function.js';

export type LinkFailure = VfioUserError | FunctionFault;

export interface FunctionLinkOptions {
  readonly path: string;
  readonly poller: Poller;
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

  /** One attempt. Null when the function is up, else what went wrong; nothing is tried again by itself. */
  async connect(): Promise<LinkFailure | null> {
    const { path, poller } = this.#options;
    let client: VfioUserClient | null = null;
    const onClose = () => this.#lost(client);
    try {
      client = await VfioUserClient.connect(path, { poller, timeoutMs: FUNCTION_TIMEOUT_MS, onClose });
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
