/**
 * recoveries.ts: what the health of a function says of its recoveries: their number, the last cause, and the pauses.
 *
 * Theory
 *   A pause begins when the predecessor last worked and ends when its successor has looked at the rings. Who saw it die
 *   knows the beginning, unless it stood still before; who was started after its death does not. So an active emulator
 *   leaves in a state page, STAMP_MS after STAMP_MS, that it gets on (StatePageHeader.workedMs): when its main thread has a
 *   turn and each worker had one, or sleeps. One page of all that it owns is enough, and a thousand functions cost no more
 *   than one. The stamp is older than the death by STAMP_MS at most, or else the emulator stood still before it died.
 *   Why it died says the controller, mostly some 20 ms after the takeover: until then the cause is UNKNOWN_CAUSE. What
 *   nobody saw stays like that. Who ended as it was told to has left no owner in the page.
 *
 * Invariants
 *   I1  what a predecessor left is read before the page is given another owner.
 *   I2  a successor that dies before it worked leaves the stamp of its predecessor: the pause is from that one's death.
 *
 * Limits  CAUSES_KEPT causes.
 */

import { setImmediate as nextTurn } from 'node:timers/promises';
import { type DeathCause, HANG_MS, ownerOf } from '@virtnet/engine-recovery';
import { monotonicMs } from '@virtnet/host-linux';
import { StatePageHeader } from '@virtnet/wire';
import type { DeviceHost } from './device-host.js';
import type { Device } from './served-device.js';

const STAMP_MS = 100;
const CAUSES_KEPT = 64;
const UNKNOWN_CAUSE: DeathCause = 'crash';
const ENDED_AS_TOLD: DeathCause = 'exit';
const ROUND_MS_DIGITS = 3;
const WORKED = StatePageHeader.at.workedMs / 4;
const TAKEOVERS = StatePageHeader.at.takeovers / 4;

/** Why an emulator died; `cause` null: a controller of before says no more than whose fault it may be. */
export interface Death {
  readonly pid: number;
  readonly cause: string | null;
}

/** What the former owner of a function left of itself in its page. */
export interface Left {
  /** 0: it ended as it was told to. */
  readonly pid: number;
  /** When it was last seen to get on, as monotonicMs; null when that is said in another page. */
  readonly workedMs: number | null;
}

function headerOf({ page }: Pick<DeviceHost, 'page'>): Uint32Array {
  return new Uint32Array(page.buffer, 0, StatePageHeader.sizeBytes / 4);
}

/** Reads what the owner of a function has left (I1). */
export function leftBy(host: Pick<DeviceHost, 'page'>, nowMs = monotonicMs()): Left {
  const stamp = headerOf(host)[WORKED]!;
  const ageMs = (Math.trunc(nowMs) - stamp) >>> 0;
  return { pid: ownerOf(host.page.buffer), workedMs: stamp === 0 ? null : nowMs - ageMs };
}

/** Says in a page that its owner gets on. */
export function stamp(host: Pick<DeviceHost, 'page'>, nowMs = monotonicMs()): void {
  headerOf(host)[WORKED] = Math.trunc(nowMs) >>> 0 || 1;
}

/**
 * When a pause began: when the death was seen, or, where nobody saw it or it stood still before, when the dead was last
 * seen to get on. All as monotonicMs; null: nobody knows.
 */
export function pauseBegan(workedMs: number | null, diedMs: number | null): number | null {
  if (diedMs === null || workedMs === null) return diedMs ?? workedMs;
  return diedMs - workedMs > HANG_MS ? workedMs : diedMs;
}

const rounded = (ms: number): number => Number(ms.toFixed(ROUND_MS_DIGITS));

export class Recoveries {
  readonly #served: ReadonlyMap<string, Device>;
  /** Every worker took a turn since this was last asked, or sleeps. */
  readonly #getsOn: () => boolean;
  readonly #causes = new Map<number, string>();
  /** Functions of which it is not known why their owner died. */
  readonly #asking = new Map<number, Device[]>();
  #stamped: DeviceHost | null = null;
  #stampedMs = 0;
  #timer: NodeJS.Timeout | undefined;
  #startedMs = 0;
  #diedMs: number | null = null;
  /** The pause of what was taken over. */
  #beganMs: number | null = null;
  #resumedMs = 0;

  constructor(served: ReadonlyMap<string, Device>, getsOn: () => boolean) {
    this.#served = served;
    this.#getsOn = getsOn;
  }

  /** A takeover begins. `deadAt`: when the owners were seen dead, by performance.now(); null when nobody here saw it. */
  start(deadAt: number | null): void {
    this.#startedMs = monotonicMs();
    this.#diedMs = deadAt === null ? null : this.#startedMs - (performance.now() - deadAt);
  }

  /** Rings are worked again, of functions whose owners left this; how long the takeover took, in milliseconds. */
  resumed(taken: readonly { readonly left: Left }[]): number {
    const worked = taken.flatMap(({ left }) => left.workedMs ?? []);
    this.#beganMs = pauseBegan(worked.length === 0 ? null : Math.max(...worked), this.#diedMs);
    this.#resumedMs = monotonicMs();
    this.#stampedMs = 0;
    this.begin();
    return rounded(this.#resumedMs - (this.#diedMs ?? this.#startedMs));
  }

  /** This emulator works functions from now on. */
  begin(): void {
    this.#timer ??= setInterval(() => this.tick(), STAMP_MS).unref();
    this.tick();
  }

  /** A function was taken over whose owner, which left this, is dead. */
  count(device: Device, left: Left): void {
    const { health } = device.host;
    const header = headerOf(device.host);
    header[TAKEOVERS] = (header[TAKEOVERS]! + 1) >>> 0;
    if (device.host !== this.#stamped) header[WORKED] = 0;
    health.recoveries++;
    const known = left.pid === 0 ? ENDED_AS_TOLD : this.#causes.get(left.pid);
    health.lastCause = known ?? UNKNOWN_CAUSE;
    if (known === undefined) this.#asking.set(left.pid, [...(this.#asking.get(left.pid) ?? []), device]);
    this.#setPause(device.host, this.#resumedMs, this.#beganMs ?? left.workedMs);
  }

  /** One that was held back is worked again: its pause was longer. */
  heldBack({ host }: Device): void {
    if (!host.quarantined) this.#setPause(host, monotonicMs(), this.#beganMs);
  }

  #setPause({ health }: DeviceHost, endedMs: number, beganMs: number | null): void {
    health.lastPauseMs = beganMs === null ? 0 : rounded(Math.max(0, endedMs - beganMs));
    health.maxPauseMs = Math.max(health.maxPauseMs ?? 0, health.lastPauseMs);
  }

  /** The controller says why emulators died. Resolves when it is recorded with the functions that they worked. */
  async told(deaths: readonly Death[]): Promise<void> {
    const devices = deaths.flatMap(({ pid, cause }) => (cause === null ? [] : this.#tell(pid, cause)));
    for (const device of devices) {
      await nextTurn(); // with many of them, others have more urgent things to say
      const { host } = device;
      if (!this.#isServed(host)) continue;
      host.touch();
      host.commit(host.applied);
    }
  }

  /** Functions that it makes a difference to. */
  #tell(pid: number, cause: string): Device[] {
    this.#causes.set(pid, cause);
    if (this.#causes.size > CAUSES_KEPT) this.#causes.delete(this.#causes.keys().next().value!);
    const asking = this.#asking.get(pid) ?? [];
    this.#asking.delete(pid);
    return asking.filter(({ host }) => {
      const news = host.health.lastCause !== cause;
      host.health.lastCause = cause;
      return news;
    });
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#stamped = null;
  }

  /** Says that this emulator gets on, where it does. Cheap when it was said just now. */
  tick(): void {
    if (this.#timer === undefined) return;
    const nowMs = monotonicMs();
    if (nowMs - this.#stampedMs < STAMP_MS / 2 || !this.#getsOn()) return;
    this.#stampedMs = nowMs;
    const host = this.#toStamp();
    if (host === null) return;
    if (this.#stamped !== null && this.#stamped !== host && this.#isServed(this.#stamped))
      headerOf(this.#stamped)[WORKED] = 0;
    this.#stamped = host;
    stamp(host, nowMs);
  }

  /** The same as before as long as it is in use; else one that is, since those are the first to be taken over. */
  #toStamp(): DeviceHost | null {
    const before = this.#stamped;
    if (before?.state.driverReady === true && this.#isServed(before)) return before;
    let any: DeviceHost | null = null;
    for (const { host } of this.#served.values()) {
      if (host.state.driverReady) return host;
      any ??= host;
    }
    return any;
  }

  #isServed(host: DeviceHost): boolean {
    return this.#served.get(host.vuid)?.host === host;
  }
}
