/**
 * host-netdev.ts: a function as a network interface of the host: what virtio_net is in a kernel.
 *
 * Theory
 *   Two things with lives of their own meet here. The connection to the function survives the death of an emulator, and
 *   is made again when the whole service was away. The interface survives that too, without a carrier, wherever it was
 *   moved; it goes with unbind(). When its network namespace ends it comes back where the driver lives, as a card does.
 *
 * States    new -> bound -> unbound.  While bound: attached or not.
 *
 * Invariants
 *   I1  the interface has a carrier only while the function is attached and says that its link is up.
 *   I2  what is done to the function is done one piece after the other.
 *   I3  after unbind() nothing is held and nothing is called.
 *
 * Limits  a function that needs a reset, or breaks a ring, is left alone without a carrier until it is bound anew.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { close, eventfd, eventfdDrain, type Poller, type Watch } from '@virtnet/host-linux';
import { VfioUserError } from '@virtnet/server-vfio-user';
import { Errno } from '@virtnet/wire';
import { AttachedFunction, mtuOf, pairsOf } from './attached-function.js';
import { FunctionLink } from './function-link.js';
import { CONFIG_POLL_MS, CONNECT_ATTEMPTS, CONNECT_PAUSE_MS } from './limits.js';
import { isConnectionFailure, isSilence } from './refusal.js';
import { SerialQueue } from './serial-queue.js';
import { TapInterface } from './tap-interface.js';
import type { VirtioFunction } from './virtio-function.js';

export interface HostNetdevOptions {
  /** The function's vfio-user socket. */
  readonly socket: string;
  /** Of the interface, at most 15 bytes. */
  readonly name: string;
  /** Queue pairs to use at first, where there are as many. */
  readonly pairs: number;
  readonly poller: Poller;
  /** For the log. */
  onState(text: string, error: boolean): void;
}

export interface BindFailure {
  /** Negative. */
  readonly errno: number;
  readonly reason: string;
}

export interface Channels {
  readonly most: number;
  readonly used: number;
}

export class HostNetdev {
  readonly #options: HostNetdevOptions;
  readonly #serial = new SerialQueue();
  readonly #link: FunctionLink;
  readonly #configFd = eventfd();
  readonly #configWatch: Watch | number;
  #tap: TapInterface | null = null;
  #fn: VirtioFunction | null = null;
  #attached: AttachedFunction | null = null;
  /** Queue pairs that are wanted. */
  #pairs: number;
  #failure: BindFailure | null = null;
  #timer: NodeJS.Timeout | undefined;
  #open = true;
  /** A look is queued and has not begun. */
  #lookWaits = false;

  constructor(options: HostNetdevOptions) {
    this.#options = options;
    this.#pairs = options.pairs;
    this.#link = new FunctionLink({
      path: options.socket,
      poller: options.poller,
      onUp: (fn) => {
        this.#fn = fn;
        void this.#serial.run(() => this.#attach(fn));
      },
      onDown: () => this.#detach('the function is gone'),
      onFailure: ({ message }) => options.onState(message, true),
    });
    this.#configWatch = options.poller.watch(this.#configFd, { readable: true }, () => {
      eventfdDrain(this.#configFd);
      this.#look();
    });
  }

  /** Name of the interface now; null while there is none. */
  get name(): string | null {
    return this.#tap?.name ?? null;
  }

  /** Queue pairs; null while the function is not attached. */
  get channels(): Channels | null {
    if (this.#attached === null || this.#tap === null) return null;
    return { most: this.#tap.fds.length, used: this.#attached.pairs };
  }

  /** Takes the function and makes the interface. Null, or why not: then nothing is held. */
  async bind(): Promise<BindFailure | null> {
    let failure: BindFailure | null = null;
    for (let attempt = 0; attempt < CONNECT_ATTEMPTS; attempt++) {
      if (attempt > 0) await sleep(CONNECT_PAUSE_MS);
      const refused = await this.#link.connect();
      if (refused === null) {
        await this.#serial.run(async () => undefined);
        failure = this.#failure;
        break;
      }
      const errno = refused instanceof VfioUserError ? -refused.errno : -Errno.EOPNOTSUPP;
      failure = { errno, reason: refused.message };
      if (!isConnectionFailure(refused)) break;
    }
    if (failure !== null) await this.unbind();
    return failure;
  }

  /** Uses `count` queue pairs, now and whenever the function is attached again. 0 or a negative errno. */
  setChannels(count: number): Promise<number> {
    return this.#serial.run(async () => {
      if (this.#attached === null || this.#tap === null) return -Errno.ENOTCONN;
      if (!Number.isInteger(count) || count < 1 || count > this.#tap.fds.length) return -Errno.EINVAL;
      const errno = await this.#attached.setPairs(count);
      if (errno === 0) this.#pairs = count;
      return errno;
    });
  }

  /** Lets the function go, reset, and removes the interface. */
  async unbind(): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    clearTimeout(this.#timer);
    await this.#serial.run(async () => {
      const fn = this.#attached === null ? null : this.#fn;
      this.#detach('unbound');
      try {
        await fn?.reset();
        await fn?.unmapAll();
      } catch (error) {
        if (!isConnectionFailure(error)) throw error; // gone: it resets itself when its client leaves
      }
      this.#link.close();
      this.#tap?.close();
      this.#tap = null;
      if (typeof this.#configWatch !== 'number') this.#configWatch.close();
      close(this.#configFd);
    });
  }

  async #attach(fn: VirtioFunction): Promise<void> {
    if (!this.#open || this.#fn !== fn) return;
    this.#failure = null;
    try {
      const errno = await this.#attachTo(fn);
      if (errno < 0) this.#failed({ errno, reason: `the function cannot be driven: errno ${-errno}` });
      else this.#options.onState(`driven as ${this.name ?? '?'}`, false);
    } catch (error) {
      if (!isConnectionFailure(error)) throw error;
      this.#failed({ errno: -Errno.EIO, reason: 'the connection failed' });
      fn.disconnect(); // and is made again
    }
  }

  async #attachTo(fn: VirtioFunction): Promise<number> {
    const { poller } = this.#options;
    if (this.#tap === null) {
      const { name } = this.#options;
      const tap = TapInterface.create({ name, mtuBytes: mtuOf(fn), queues: pairsOf(fn) });
      if (typeof tap === 'number') return tap;
      this.#tap = tap;
    }
    const tap = this.#tap;
    if (pairsOf(fn) < tap.fds.length) return -Errno.EOPNOTSUPP;
    const errno = tap.setMac(fn.profile.mac);
    if (errno < 0) return errno;
    const attached = await AttachedFunction.attach({
      fn,
      tap,
      pairs: Math.min(this.#pairs, tap.fds.length),
      configFd: this.#configFd,
      poller,
      onTapLost: () => this.#tapLost(fn),
      onFault: (reason) => this.#broken(reason),
    });
    if (typeof attached === 'number') return attached;
    if (this.#fn !== fn) {
      attached.close();
      return 0;
    }
    this.#attached = attached;
    await this.#readConfig(fn);
    if (!fn.tellsOfChanges) this.#poll();
    return 0;
  }

  #failed(failure: BindFailure): void {
    this.#failure = failure;
    this.#options.onState(failure.reason, true);
  }

  #detach(reason: string): void {
    this.#fn = null;
    clearTimeout(this.#timer);
    if (this.#attached === null) return;
    this.#attached.close();
    this.#attached = null;
    this.#tap?.setCarrier(false);
    this.#options.onState(`not driven any more: ${reason}`, false);
  }

  /** The interface went with its network namespace: another one is made here. */
  #tapLost(fn: VirtioFunction): void {
    if (this.#fn !== fn || this.#tap === null) return;
    this.#options.onState('the network namespace of the interface has ended', false);
    this.#attached?.close();
    this.#attached = null;
    this.#tap.close();
    this.#tap = null;
    fn.disconnect();
  }

  #broken(reason: string): void {
    this.#options.onState(reason, true);
    this.#attached?.close();
    this.#attached = null;
    this.#tap?.setCarrier(false);
  }

  #poll(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#look();
      if (this.#attached !== null) this.#poll();
    }, CONFIG_POLL_MS).unref();
  }

  /** Looks once more than now; one that waits for its turn is enough. */
  #look(): void {
    if (this.#lookWaits) return;
    this.#lookWaits = true;
    void this.#serial.run(async () => {
      this.#lookWaits = false;
      const fn = this.#fn;
      if (fn === null || this.#attached === null) return;
      try {
        await this.#readConfig(fn);
      } catch (error) {
        if (isSilence(error)) return this.#look(); // frames still move: nothing is given up for a look
        if (!isConnectionFailure(error)) throw error;
        fn.disconnect();
      }
    });
  }

  async #readConfig(fn: VirtioFunction): Promise<void> {
    if (await fn.needsReset()) return this.#broken('the function needs a reset');
    const up = await fn.linkUp();
    if (this.#fn === fn && this.#attached !== null) this.#tap?.setCarrier(up);
  }
}
