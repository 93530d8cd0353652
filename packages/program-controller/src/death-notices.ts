/**
 * death-notices.ts: tells emulators why others died, which only the controller sees: for their suspects (whose fault it may
 * be) and for the health of what they took over (the cause).
 *
 * Whoever may succeed the dead, or has done so, is told of all, again with every new one; to hear it twice is to hear it once.
 */
import { type DeathCause, mayBeGuestsFault } from '@virtnet/engine-recovery';
import type { Logger } from '@virtnet/host-ipc';
import type { Child } from './child.js';

interface DeathNotice {
  readonly pid: number;
  readonly guestsFault: boolean;
  readonly cause: DeathCause;
  /** Progress lane of the thread that it died of; none: nobody knows. */
  readonly lane?: number;
}

/** Emulators that may have died one after the other before somebody succeeds them; the catalogue allows 64. */
const NOTICES_KEPT = 16;

export class DeathNotices {
  readonly #log: Logger;
  readonly #notices: DeathNotice[] = [];

  constructor(log: Logger) {
    this.#log = log;
  }

  /** An emulator is dead; also one that is not known to have served: it may have died in its first moment. */
  add({ pid, deathCause: cause, deathLane: lane }: Pick<Child, 'pid' | 'deathCause' | 'deathLane'>): void {
    const notice = { pid, guestsFault: mayBeGuestsFault(cause), cause };
    this.#notices.push(lane === null ? notice : { ...notice, lane });
    if (this.#notices.length > NOTICES_KEPT) this.#notices.shift();
  }

  /** Says why emulators died, to one that succeeds them or may have to. */
  async tell({ state, client, spec }: Pick<Child, 'state' | 'client' | 'spec'>): Promise<void> {
    if (this.#notices.length === 0 || (state !== 'ready' && state !== 'serving')) return;
    const notices = [...this.#notices];
    try {
      await client.call('emu.verdicts', { deaths: notices }).catch(() => {
        // An older build refuses a message with more in it than it knows.
        const deaths = notices.map(({ pid, guestsFault }) => ({ pid, guestsFault }));
        return client.call('emu.verdicts', { deaths });
      });
    } catch (error) {
      this.#log.warn({ error, instance: spec.instance }, 'did not hear why others died');
    }
  }
}
