/**
 * function-binding.ts: a PCI function as the device behind a vhost-user backend.
 *
 * Theory
 *   The frontend's wishes (memory, rings) are kept here and carried out on the function when there is one. Without one
 *   a wish is granted and waits: when the function is back, everything is set up again from what is kept. So a
 *   frontend that came and changed things meanwhile finds them done, and a restart of the emulator needs nobody's help.
 *   A split ring goes on from the used index in guest memory, whatever base was given: the device returns chains in
 *   order, so that index is how far it came, whereas a frontend may not know (virtio-user says 0 when it reconnects).
 *   A packed ring has no such index: only the function knows how far it came, and when the function was lost, nobody.
 *   Then the frontend is let go, so that its driver begins anew.
 *   The function is negotiated anew with the first ring: features are known then, and whatever an earlier driver left
 *   on it is gone.
 *
 * Parties
 *   session    calls one at a time; keeps descriptors open while they are lent.
 *   link       says attach and detach.
 *
 * Invariants
 *   I1  the function knows exactly #regions and the rings of #started, while attached and nothing is under way.
 *   I2  work on the function is done one piece at a time, attaching included.
 *   I3  a refusal when everything is set up again is told to the owner, who ends the frontend's connection: it
 *       believes in something that is not so.
 *
 * Limits  MEMORY_REGIONS_MAX, the function's data queues.
 */
import { close, eventfd, eventfdDrain, type Poller, type Watch } from '@virtnet/host-linux';
import {
  type BackendProfile,
  backendFeatures,
  functionFeatures,
  type GuestRegion,
  type RingSetup,
  type VhostBackendDevice,
} from '@virtnet/server-vhost-user';
import { Errno, featureMask, VirtioFeature } from '@virtnet/wire';
import type { FunctionProfile } from './function-probe.js';
import { usedIndex } from './guest-index.js';
import { PolledKicks } from './polled-kicks.js';
import { isConnectionFailure } from './refusal.js';
import { SerialQueue } from './serial-queue.js';
import type { VirtioFunction } from './virtio-function.js';

export interface FunctionBindingOptions {
  readonly poller: Poller;
  /** The function does not do any more what the frontend was promised. */
  onBroken(reason: string): void;
  /** The function says that a driver broke it and that it needs a reset. */
  onNeedsReset(): void;
}

/** What a frontend may be told of a function. */
function backendProfile(profile: FunctionProfile): BackendProfile {
  return {
    features: backendFeatures(profile.features),
    requiredFeatures: profile.features & featureMask([VirtioFeature.VERSION_1]),
    queueCount: profile.dataQueues,
    queueSizeMax: profile.queueSizeMax,
    mtuMaxBytes: profile.mtuBytes,
  };
}

/** Whether everything promised by `old` holds for `now` too. */
function covers(now: BackendProfile, old: BackendProfile): boolean {
  return (
    (now.features & old.features) === old.features &&
    now.queueCount >= old.queueCount &&
    now.queueSizeMax >= old.queueSizeMax &&
    now.mtuMaxBytes >= old.mtuMaxBytes
  );
}

export class FunctionBinding implements VhostBackendDevice {
  readonly #options: FunctionBindingOptions;
  readonly #serial = new SerialQueue();
  readonly #polled = new PolledKicks();
  readonly #regions = new Set<GuestRegion>();
  readonly #rings = new Map<number, RingSetup>();
  /** Rings that the attached function works. */
  readonly #started = new Set<number>();
  /** Packed rings that a function worked which is gone: where they stand is not known. */
  readonly #adrift = new Set<number>();
  readonly #configFd: number;
  readonly #configWatch: Watch | number;
  #function: VirtioFunction | null = null;
  #profile: BackendProfile | null = null;

  constructor(options: FunctionBindingOptions) {
    this.#options = options;
    this.#configFd = eventfd();
    this.#configWatch = options.poller.watch(
      this.#configFd,
      { readable: true },
      () => void this.#configChanged(),
    );
  }

  /** Of the function attached last. Throws before the first. */
  get profile(): BackendProfile {
    if (this.#profile === null) throw new Error('no function was ever attached');
    return this.#profile;
  }

  /** Whether any ring is to be worked. */
  get configured(): boolean {
    return this.#rings.size > 0;
  }

  /** A function is there. Sets up on it what is wanted. */
  attach(fn: VirtioFunction): Promise<void> {
    return this.#serial.run(async () => {
      const profile = backendProfile(fn.profile);
      const promised = this.#profile;
      this.#profile = profile;
      this.#function = fn;
      this.#started.clear();
      if (promised !== null && !covers(profile, promised)) {
        this.#options.onBroken('the function offers less than before');
        return;
      }
      if (this.#adrift.size > 0) {
        this.#options.onBroken('with the function, the position of a packed ring was lost');
        return;
      }
      const errno = await this.#onFunction((f) => this.#setUp(f));
      if (errno < 0) this.#options.onBroken(`the function refuses what it was doing before: errno ${-errno}`);
    });
  }

  /** The function is gone, at once. */
  detach(): void {
    this.#function = null;
    for (const index of this.#started) if (this.#rings.get(index)?.packed === true) this.#adrift.add(index);
    this.#started.clear();
  }

  /** Ends the use of this object, when nothing is under way any more; the function is not touched. */
  dispose(): Promise<void> {
    this.detach();
    return this.#serial.run(async () => {
      if (typeof this.#configWatch !== 'number') this.#configWatch.close();
      close(this.#configFd);
      this.#polled.dropAll();
    });
  }

  mapRegion(region: GuestRegion): Promise<number> {
    return this.#serial.run(async () => {
      this.#regions.add(region);
      const errno = await this.#onFunction((fn) => map(fn, region));
      if (errno < 0) this.#regions.delete(region);
      return errno;
    });
  }

  unmapRegion(region: GuestRegion): Promise<number> {
    return this.#serial.run(() => {
      this.#regions.delete(region);
      return this.#onFunction((fn) => fn.unmap(region.guestAddress, Number(region.sizeBytes)));
    });
  }

  startRing(setup: RingSetup): Promise<number> {
    return this.#serial.run(async () => {
      this.#rings.set(setup.index, setup);
      const errno = await this.#onFunction((fn) => this.#start(fn, setup));
      if (errno < 0) this.#forgetRing(setup.index);
      return errno;
    });
  }

  stopRing(index: number): Promise<number> {
    return this.#serial.run(async () => {
      const setup = this.#rings.get(index);
      let position: number | null = null;
      if (this.#adrift.has(index)) {
        this.#forgetRing(index);
        return -Errno.EIO;
      }
      const errno = await this.#onFunction(async (fn) => {
        if (!this.#started.delete(index)) return 0;
        const base = await fn.stopRing(index);
        if (base >= 0) position = base;
        return Math.min(base, 0);
      });
      this.#forgetRing(index);
      if (errno < 0) return errno;
      // Nobody to ask: the ring itself knows, or it never got further than where it started.
      return position ?? (setup === undefined ? 0 : (usedIndex(setup, this.#regions) ?? setup.base));
    });
  }

  setRingEnabled(index: number, enabled: boolean): Promise<number> {
    return this.#change(index, { enabled }, (fn) => fn.setEnabled(index, enabled));
  }

  setRingCall(index: number, callFd: number | null): Promise<number> {
    return this.#change(index, { callFd }, (fn) => fn.setCall(index, callFd));
  }

  async setRingKick(index: number, kickFd: number | null): Promise<number> {
    const errno = await this.#change(index, { kickFd }, (fn) => this.#setKick(fn, index, kickFd));
    if (kickFd !== null) this.#polled.drop(index);
    return errno;
  }

  reset(): Promise<number> {
    return this.#serial.run(async () => {
      this.#rings.clear();
      this.#started.clear();
      this.#adrift.clear();
      const errno = await this.#onFunction((fn) => fn.reset());
      this.#polled.dropAll();
      return errno;
    });
  }

  release(): Promise<void> {
    return this.#serial.run(async () => {
      this.#regions.clear();
      this.#rings.clear();
      this.#started.clear();
      this.#adrift.clear();
      const errno = await this.#onFunction(async (fn) => Math.min(await fn.reset(), await fn.unmapAll()));
      // A function that does not let go is made to: it resets itself when its client leaves.
      if (errno < 0) this.#function?.disconnect();
      this.#polled.dropAll();
    });
  }

  #forgetRing(index: number): void {
    this.#rings.delete(index);
    this.#adrift.delete(index);
    this.#polled.drop(index);
  }

  /** Does `work` on the function; 0 without doing it when there is none, or none any more. */
  async #onFunction(work: (fn: VirtioFunction) => Promise<number>): Promise<number> {
    const fn = this.#function;
    if (fn === null) return 0;
    try {
      return await work(fn);
    } catch (error) {
      if (!isConnectionFailure(error)) throw error;
      // What was wanted is kept and done when the function is back; one that hangs is given up for that.
      fn.disconnect();
      this.detach();
      return 0;
    }
  }

  async #setUp(fn: VirtioFunction): Promise<number> {
    for (const region of this.#regions) {
      const errno = await map(fn, region);
      if (errno < 0) return errno;
    }
    for (const setup of this.#rings.values()) {
      const errno = await this.#start(fn, setup);
      if (errno < 0) return errno;
    }
    return 0;
  }

  async #start(fn: VirtioFunction, setup: RingSetup): Promise<number> {
    if (this.#started.size === 0) {
      const features = functionFeatures(setup.features, fn.profile.features);
      const errno = await fn.initialise(features, this.#configFd);
      if (errno < 0) return errno;
    }
    const kickFd = setup.kickFd ?? this.#polled.fdOf(setup.index);
    if (kickFd < 0) return kickFd;
    const base = usedIndex(setup, this.#regions) ?? setup.base;
    const errno = await fn.startRing({ ...setup, base }, kickFd);
    if (errno === 0) this.#started.add(setup.index);
    return errno;
  }

  async #setKick(fn: VirtioFunction, index: number, kickFd: number | null): Promise<number> {
    const fd = kickFd ?? this.#polled.fdOf(index);
    return fd < 0 ? fd : fn.setKick(index, fd);
  }

  #change(
    index: number,
    change: Partial<RingSetup>,
    apply: (fn: VirtioFunction) => Promise<number>,
  ): Promise<number> {
    return this.#serial.run(async () => {
      const setup = this.#rings.get(index);
      if (setup === undefined) return -Errno.EINVAL;
      this.#rings.set(index, { ...setup, ...change });
      return this.#started.has(index) ? this.#onFunction(apply) : 0;
    });
  }

  async #configChanged(): Promise<void> {
    eventfdDrain(this.#configFd);
    const asked = async (fn: VirtioFunction) => {
      if (await fn.needsReset()) this.#options.onNeedsReset();
      return 0;
    };
    await this.#serial.run(() => this.#onFunction(asked));
  }
}

function map(fn: VirtioFunction, region: GuestRegion): Promise<number> {
  return fn.map(region.guestAddress, Number(region.sizeBytes), region.fd, Number(region.mmapOffset));
}
