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
 *   A process that goes on for one that was killed is told what is wanted, and the function does it already. Only when
 *   a message was under way it is not known how far the function came: then it is told everything anew, its packed rings
 *   from where it stopped them. The page keeps that position, should this process be killed as well.
 *   A function that does not answer in time is given up when a frontend waits for what was asked. When nobody does it is
 *   asked again, and frontends have their turn in between: its emulator may be dead, and a successor only starting, which
 *   answers then and has lost nothing. To connect anew would reset the function.
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
 *   I4  the page says UNSETTLED before the function is asked to change anything for a frontend.
 *
 * Limits  MEMORY_REGIONS_MAX, the function's data queues.
 */
import {
  type FunctionProfile,
  isConnectionFailure,
  isSilence,
  SerialQueue,
  type VirtioFunction,
} from '@virtnet/driver-virtio-net';
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
import { type FunctionPage, Phase } from './function-page.js';
import { usedIndex } from './guest-index.js';
import { PolledKicks } from './polled-kicks.js';

export interface FunctionBindingOptions {
  readonly poller: Poller;
  readonly page: Pick<FunctionPage, 'phase' | 'position' | 'keepPosition'>;
  /** The function does not do any more what the frontend was promised. */
  onBroken(reason: string): void;
  /** The function says that a driver broke it and that it needs a reset. */
  onNeedsReset(): void;
}

/** What a process that died had bound. */
export interface Bound {
  /** null: the function is away. */
  readonly fn: VirtioFunction | null;
  readonly regions: Iterable<GuestRegion>;
  readonly rings: Iterable<RingSetup>;
  /** Packed rings whose position was lost. */
  readonly adrift: Iterable<number>;
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
  /** Where packed rings stood when they were stopped to be set up anew. */
  readonly #stoppedAt = new Map<number, number>();
  #resuming = false;
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

  get adrift(): readonly number[] {
    return [...this.#adrift];
  }

  /** A predecessor's work is being looked at: the page is this object's. */
  get resuming(): boolean {
    return this.#resuming;
  }

  /** What frontends may be told while no function was attached yet. */
  expect(profile: FunctionProfile): void {
    this.#profile = backendProfile(profile);
  }

  /** Goes on for a process that died. Comes first, behind `expect`. */
  resume({ fn, regions, rings, adrift }: Bound): Promise<void> {
    for (const region of regions) this.#regions.add(region);
    for (const setup of rings) this.#rings.set(setup.index, setup);
    for (const index of adrift) this.#adrift.add(index);
    this.#function = fn;
    if (fn === null) {
      this.#setAdrift(this.#rings.keys());
      return Promise.resolve();
    }
    const settled = this.#options.page.phase === Phase.SETTLED;
    if (settled) for (const index of this.#rings.keys()) this.#started.add(index);
    this.#resuming = true;
    return this.#goOn(settled ? (f) => this.#rejoin(f, fn) : (f) => this.#redo(f), settled);
  }

  /**
   * Has the function do `work`; with `patient` again and again while it is silent: it goes on meanwhile, and nobody waits
   * for the answer.
   */
  async #goOn(work: (fn: VirtioFunction) => Promise<number>, patient: boolean): Promise<void> {
    let again = true;
    const asked = async (fn: VirtioFunction) => {
      try {
        return await work(fn);
      } catch (error) {
        if (!patient || !isSilence(error)) throw error;
        again = true;
        return 0;
      }
    };
    while (again) {
      again = false;
      // Behind what a frontend asked meanwhile.
      await this.#serial.run(async () => {
        const errno = await this.#onFunction(asked);
        this.#resuming = false;
        if (errno < 0) this.#options.onBroken(`the function does not go on: errno ${-errno}`);
      });
    }
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
    this.#setAdrift(this.#started);
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
      const errno = await this.#changing((fn) => map(fn, region));
      if (errno < 0) this.#regions.delete(region);
      return errno;
    });
  }

  unmapRegion(region: GuestRegion): Promise<number> {
    return this.#serial.run(() => {
      this.#regions.delete(region);
      return this.#changing((fn) => fn.unmap(region.guestAddress, Number(region.sizeBytes)));
    });
  }

  startRing(setup: RingSetup): Promise<number> {
    return this.#serial.run(async () => {
      this.#rings.set(setup.index, setup);
      const errno = await this.#changing((fn) => this.#start(fn, setup));
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
      const errno = await this.#changing(async (fn) => {
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
      this.#stoppedAt.clear();
      const errno = await this.#changing((fn) => fn.reset());
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
      this.#stoppedAt.clear();
      const errno = await this.#changing(async (fn) => Math.min(await fn.reset(), await fn.unmapAll()));
      // A function that does not let go is made to: it resets itself when its client leaves.
      if (errno < 0) this.#function?.disconnect();
      this.#polled.dropAll();
    });
  }

  #setAdrift(indices: Iterable<number>): void {
    for (const index of indices) if (this.#rings.get(index)?.packed === true) this.#adrift.add(index);
  }

  #forgetRing(index: number): void {
    this.#rings.delete(index);
    this.#adrift.delete(index);
    this.#stoppedAt.delete(index);
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

  /** The same for the sake of a frontend's message: until that is recorded, how far the function came is not. */
  #changing(work: (fn: VirtioFunction) => Promise<number>): Promise<number> {
    if (this.#function !== null) this.#options.page.phase = Phase.UNSETTLED;
    return this.#onFunction(work);
  }

  /** The function goes on as it did; only what died with the predecessor is made anew: its own eventfds. */
  async #rejoin(fn: VirtioFunction, former: VirtioFunction): Promise<number> {
    if (fn !== former) return 0; // set up anew meanwhile
    let errno = await fn.rejoin(this.#started, this.#configFd);
    for (const { index, kickFd } of this.#rings.values())
      if (kickFd === null && this.#started.has(index))
        errno = (await this.#setKick(fn, index, null)) || errno;
    if (await fn.needsReset()) this.#options.onNeedsReset();
    return errno;
  }

  /** Has the function stop whatever it does, and do what is wanted. */
  async #redo(fn: VirtioFunction): Promise<number> {
    const { page } = this.#options;
    const kept = page.phase === Phase.POSITIONS_KEPT;
    // A reset that was under way took the positions with it. The message that asked for it comes again.
    const lost = !kept && !(await fn.isDriven());
    const adrift = new Set(this.#adrift);
    this.#setAdrift(this.#rings.keys()); // each until its position is known
    for (const { index, packed } of this.#rings.values()) {
      if (!packed || lost || adrift.has(index)) continue;
      const known = kept && !(await fn.isStarted(index));
      const position = known ? page.position(index) : await fn.position(index);
      if (position < 0) continue;
      page.keepPosition(index, position);
      this.#stoppedAt.set(index, position);
      this.#adrift.delete(index);
    }
    page.phase = Phase.POSITIONS_KEPT;
    let errno = await fn.clear();
    if (errno === 0) errno = await this.#setUp(fn);
    if (errno === 0) page.phase = Phase.SETTLED;
    return errno;
  }

  async #setUp(fn: VirtioFunction): Promise<number> {
    for (const region of this.#regions) {
      const errno = await map(fn, region);
      if (errno < 0) return errno;
    }
    for (const setup of this.#rings.values()) {
      if (this.#adrift.has(setup.index)) continue;
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
    const base = usedIndex(setup, this.#regions) ?? this.#stoppedAt.get(setup.index) ?? setup.base;
    const errno = await fn.startRing({ ...setup, base }, kickFd);
    if (errno < 0) return errno;
    this.#started.add(setup.index);
    this.#stoppedAt.delete(setup.index);
    return 0;
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
      return this.#started.has(index) ? this.#changing(apply) : 0;
    });
  }

  async #configChanged(): Promise<void> {
    eventfdDrain(this.#configFd);
    let again = false;
    const asked = async (fn: VirtioFunction) => {
      try {
        if (await fn.needsReset()) this.#options.onNeedsReset();
      } catch (error) {
        if (!isSilence(error)) throw error;
        again = true;
      }
      return 0;
    };
    await this.#serial.run(() => this.#onFunction(asked));
    if (again) void this.#configChanged();
  }
}

function map(fn: VirtioFunction, region: GuestRegion): Promise<number> {
  return fn.map(region.guestAddress, Number(region.sizeBytes), region.fd, Number(region.mmapOffset));
}
