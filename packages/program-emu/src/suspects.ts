/**
 * suspects.ts: which devices a successor works at once, which it holds back, and what becomes of those.
 *
 * Theory
 *   When an emulator takes over, a device with marks (suspicion.ts) is a suspect. One that was suspected before is held
 *   back: no ring of it is worked and no request read until the controller has said why the predecessor died, which
 *   takes it some 20 ms. All others are worked at once. If a guest may be the reason, and nobody knows that another thread
 *   died of it than the one that worked the device, the suspicion stays, and a second one means quarantine; if not it is
 *   taken back, and who was held back goes on. A sender's is taken back as well when the receiver of its frame answers for it.
 *   Where a client took memory away under our feet (SIGBUS), that is the reason, and nobody else is suspected.
 *   The controller tells of every emulator that died, by its pid; the state page names the one that worked the device.
 *   Before it promotes somebody it tells all it knows, so whoever was promoted need not wait for more.
 *
 * Invariants
 *   I1  a device that no emulator ended over before is never held back.
 *   I2  without a word within VERDICT_MS nobody is to blame.
 *   I3  one death of a device is forgotten for every FORGIVEN_MS of one emulator's life.
 *
 * Limits  VERDICTS_KEPT verdicts.
 */
import {
  acquit,
  type Blame,
  findSuspicion,
  type Marks,
  NO_BLAME,
  partIn,
  type Suspicion,
  sentence,
  suspicionsOf,
  takeMarks,
} from '@virtnet/engine-recovery';
import { close } from '@virtnet/host-linux';
import type { HostServices } from './device-parts.js';
import type { DeviceMirror } from './mirror.js';
import type { Device } from './served-device.js';

/** Longer than a controller needs that was just killed and restarted. */
const VERDICT_MS = 3_000;
const VERDICTS_KEPT = 64;
const FORGIVEN_MS = 600_000;

/** A device that was restored, with what its predecessor left. */
export interface RestoredDevice {
  readonly device: Device;
  readonly mirror: DeviceMirror;
}

/** Why an emulator died. */
export interface Verdict extends Blame {
  readonly pid: number;
}

/** Takes the marks away of a device without a client, whose fault they could be. */
export function forgetMarks({ page }: DeviceMirror): void {
  page?.view();
  if (page !== null) takeMarks(page.buffer, page.written());
}

export class Suspects<R extends RestoredDevice> {
  readonly #log: HostServices['log'];
  /** Opens the sockets of a device that was held back and goes on. */
  readonly #open: (restored: R) => Promise<void>;
  /** What is served now. */
  readonly #served: ReadonlyMap<string, Device>;
  #suspicions = new Map<string, Suspicion>();
  /** Devices whose clients took memory away. */
  #robbed: ReadonlySet<DeviceMirror> = new Set();
  readonly #verdicts = new Map<number, Blame>();
  readonly #waiting = new Map<number, (blame: Blame) => void>(); // while settling
  #forgiving: NodeJS.Timeout | undefined;

  constructor(
    log: HostServices['log'],
    open: (restored: R) => Promise<void>,
    served: ReadonlyMap<string, Device>,
  ) {
    this.#log = log;
    this.#open = open;
    this.#served = served;
  }

  /** The controller says why emulators died. */
  verdicts(verdicts: readonly Verdict[]): void {
    for (const { pid, ...blame } of verdicts) {
      this.#verdicts.set(pid, blame);
      if (this.#verdicts.size > VERDICTS_KEPT) this.#verdicts.delete(this.#verdicts.keys().next().value!);
      this.#waiting.get(pid)?.(blame);
    }
  }

  /** Looks for memory that was taken away, before anything is restored: then it is known that this was the reason. */
  begin(mirrors: readonly DeviceMirror[]): void {
    this.#suspicions = new Map();
    this.#robbed = new Set(mirrors.filter(({ page, memory }) => page !== null && memory.findTruncated()));
  }

  /** Looks for marks of a device, before it is restored, and takes them away; whether it is held back. */
  examine(mirror: DeviceMirror): boolean {
    const { vuid, page } = mirror;
    if (page === null) return false;
    page.view(); // of all queues that its owner had
    const left = { page: page.buffer, isWritten: page.written(), robbed: this.#robbed.has(mirror) };
    const suspicion = findSuspicion(left, this.#robbed.size > 0);
    if (suspicion === null) return false;
    this.#suspicions.set(vuid, suspicion);
    return suspicion.held;
  }

  /** Whether nothing of the device may be worked before `settle` has looked at it. */
  heldBack({ vuid }: DeviceMirror): boolean {
    return this.#suspicions.get(vuid)?.held === true;
  }

  /**
   * Decides about all suspects among `restored` as soon as it is known why their owner died. `told`: what the controller
   * has not said yet it does not know.
   */
  async settle(restored: readonly R[], told: boolean): Promise<void> {
    this.#forgiving ??= setInterval(() => this.#forgive(), FORGIVEN_MS).unref();
    const suspicions = [...this.#suspicions.values()];
    await Promise.all(
      restored.map(async (each) => {
        const suspicion = this.#suspicions.get(each.mirror.vuid);
        if (suspicion === undefined) return;
        const part = partIn(suspicion, await this.#reason(suspicion.pid, told), suspicions);
        await this.#decide(each, suspicion, part);
      }),
    );
    this.#suspicions = new Map();
  }

  close(): void {
    clearInterval(this.#forgiving);
  }

  #forgive(): void {
    for (const { host } of this.#served.values()) if (!host.quarantined) acquit(host.page.buffer);
  }

  async #decide(restored: R, suspicion: Suspicion, part: Marks | null): Promise<void> {
    const { device, mirror } = restored;
    const { host, endpoint } = device;
    const { held } = suspicion;
    if (this.#served.get(host.vuid) !== device) {
      if (held && mirror.connectionFd >= 0) close(mirror.connectionFd); // unplugged meanwhile
      return;
    }
    const page = host.page.buffer;
    if (part !== null) {
      const queues = part.queues.map(({ queue }) => queue);
      const facts = {
        vuid: host.vuid,
        queues,
        request: part.request,
        pid: suspicion.pid,
        deaths: suspicionsOf(page),
      };
      this.#log('warn', 'the former emulator died while it worked this device', facts);
    }
    const judgement = sentence(page, suspicion, part);
    if (judgement !== 'none') {
      this.#log('error', 'QUARANTINED: emulators died over this device; its driver has to reset it', {
        vuid: host.vuid,
      });
      await host.quarantine();
      if (judgement === 'quarantine-without-client' && mirror.connectionFd >= 0) {
        await endpoint.refuse(mirror.connectionFd);
        return;
      }
    } else if (held) await host.goOn();
    if (held) await this.#open(restored);
  }

  #reason(pid: number, told: boolean): Promise<Blame> {
    const known = pid === 0 ? NO_BLAME : this.#verdicts.get(pid); // 0: it ended as it was told to
    if (known !== undefined || told) return Promise.resolve(known ?? NO_BLAME);
    return new Promise((resolve) => {
      const others = this.#waiting.get(pid);
      const timer = setTimeout(() => answer(NO_BLAME), VERDICT_MS);
      const answer = (blame: Blame) => {
        clearTimeout(timer);
        this.#waiting.delete(pid);
        others?.(blame);
        resolve(blame);
      };
      this.#waiting.set(pid, answer);
    });
  }
}
