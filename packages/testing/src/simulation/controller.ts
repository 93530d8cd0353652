/**
 * controller.ts: a controller: engine-recovery's plan and supervision table over processes that can be asked.
 *
 * Theory
 *   Follows program-controller's Supervisor, Child, findSurvivors and CliFront. Questions and answers take their time;
 *   a question to a process that dies is lost, an answer may cross with its sender's death, and a command that was lost
 *   is asked again under its id of whoever is active then.
 */
import {
  type ChildAction,
  type ChildEvent,
  type ChildState,
  mayBeGuestsFault,
  planService,
  restartDelayMs,
  type Step,
  supervisionTable,
  whoServes,
} from '@virtnet/engine-recovery';
import type { CommandAnswer, DeviceCommand, SimEmulator } from './emulator.js';
import type { SimKeeper } from './keeper.js';
import type { SimProcess, SimWorld } from './world.js';

const POLL_MS = [40, 120] as const;
const COMMAND_MS = 15_000;
const VERDICTS_KEPT = 16;
const SLOW_ENDS_PERMILLE = 200;
const SLOW_END_MS = [2, 400] as const;

/** What a controller finds and starts. */
export interface Site {
  readonly world: SimWorld;
  readonly keeper: SimKeeper | null;
  readonly emulators: ReadonlyMap<number, SimEmulator>;
  startKeeper(expectUpload: boolean): SimKeeper;
  startEmulator(): SimEmulator;
}

interface Child {
  readonly kind: 'ha' | 'emu';
  readonly process: SimProcess;
  readonly emulator: SimEmulator | null;
  readonly keeper: SimKeeper | null;
  state: ChildState;
  servesSince: number | null;
  /** It said so last. */
  informed: boolean;
}

/** What a process says of itself. */
interface Answer {
  readonly ready: boolean;
  readonly active: boolean;
  readonly informed: boolean;
}

const isActive = ({ process, emulator }: Child): boolean =>
  process.alive && emulator?.status.role === 'active';

/** Asks `to`; `done` hears the answer, or null when `to` died over it. */
export function ask<T>(
  world: SimWorld,
  from: SimProcess | null,
  to: SimProcess,
  label: string,
  handle: (reply: (answer: T) => void) => void,
  done: (answer: T | null) => void,
): void {
  let open = true;
  const settle = (answer: T | null) => {
    if (!open) return;
    open = false;
    to.mourners.delete(lost);
    done(answer);
  };
  const lost = () => void world.after(from, world.between(0.05, 2), `${label} lost`, () => settle(null));
  if (!to.alive) return lost();
  to.mourners.add(lost);
  world.after(to, world.between(0.05, 1.5), label, () =>
    handle(
      (answer) => void world.after(from, world.between(0.05, 1.5), `${label} answer`, () => settle(answer)),
    ),
  );
}

export class SimController {
  readonly process: SimProcess;
  readonly #site: Site;
  readonly #world: SimWorld;
  readonly #children = new Set<Child>();
  readonly #deathsMs: Record<Child['kind'], number[]> = { ha: [], emu: [] };
  readonly #verdicts: { readonly pid: number; readonly guestsFault: boolean }[] = [];
  readonly #waiting = new Set<() => void>();
  #promoting = false;
  #planned = false;
  #everServed = false;

  constructor(site: Site, process: SimProcess) {
    this.#site = site;
    this.#world = site.world;
    this.process = process;
    this.#findSurvivors();
  }

  get active(): Child | null {
    return whoServes(this.#children);
  }

  /** A command of the operator; answered once, unless this process dies over it. */
  command(command: DeviceCommand, answer: (answer: CommandAnswer) => void): void {
    const deadline = this.#world.now + COMMAND_MS;
    const attempt = () => {
      this.#until(
        () => this.active !== null || this.#world.now >= deadline,
        () => {
          const child = this.active;
          if (child === null) return answer({ errno: -110 });
          ask<CommandAnswer>(
            this.#world,
            this.process,
            child.process,
            command.verb,
            (reply) => {
              this.#world.point();
              child.emulator!.command(command, reply);
            },
            (answered) => {
              if (answered !== null) return answer(answered);
              this.#world.count('commands asked again');
              this.#until(() => this.active !== child, attempt);
            },
          );
        },
      );
    };
    this.#world.after(this.process, COMMAND_MS, 'command deadline', () => this.#wake());
    attempt();
  }

  // ---- children ----------------------------------------------------------------------------------------------

  #findSurvivors(): void {
    const { keeper, emulators } = this.#site;
    if (keeper?.process.alive === true) {
      if (keeper.ready) this.#adopt({ kind: 'ha', process: keeper.process, emulator: null, keeper }, 'ready');
      else this.#world.kill(keeper.process, 'killed'); // it does not answer yet
    }
    for (const emulator of emulators.values()) {
      if (!emulator.process.alive) continue;
      const { role, ready } = emulator.status;
      const as = role === 'active' ? 'serving' : ready ? 'ready' : 'starting';
      this.#adopt({ kind: 'emu', process: emulator.process, emulator, keeper: null }, as);
    }
    this.#planSoon();
  }

  #adopt(
    what: Omit<Child, 'state' | 'servesSince' | 'informed'>,
    as: 'starting' | 'ready' | 'serving',
  ): void {
    const child: Child = { ...what, state: 'new', servesSince: null, informed: false };
    this.#children.add(child);
    this.#event(child, `adopt-${as}`);
  }

  #event(child: Child, event: ChildEvent): void {
    const from = child.state;
    const cell = supervisionTable[from][event];
    if ('prohibited' in cell) this.#world.fail(`supervision: ${event} in ${from}: ${cell.prohibited}`);
    if ('ignored' in cell) return;
    child.state = cell.next;
    if (cell.next === 'serving') {
      child.servesSince ??= this.#world.now;
      this.#everServed = true;
    }
    for (const action of cell.actions) this.#do(child, action);
    if (child.state === 'gone') this.#children.delete(child);
    this.#wake();
    this.#planSoon();
  }

  #do(child: Child, action: ChildAction): void {
    switch (action) {
      case 'watch':
        this.#watch(child);
        return;
      case 'kill':
        this.#world.after(null, 0.05, `kill ${child.process.pid}`, () =>
          this.#world.kill(child.process, 'silent'),
        );
        return;
      case 'ask-to-stop':
        this.#world.after(null, 0.5, `stop ${child.process.pid}`, () =>
          this.#world.kill(child.process, 'exit'),
        );
        return;
      case 'tally':
        this.#tally(child);
        return;
      default: // what starts it has been done; deadlines, since whoever lives answers here
    }
  }

  #watch(child: Child): void {
    const { process } = child;
    const dead = () => {
      // The kernel may have much to free before it tells.
      const afterMs = this.#world.chance(SLOW_ENDS_PERMILLE)
        ? this.#world.between(...SLOW_END_MS)
        : this.#world.between(0.05, 2);
      this.#world.after(this.process, afterMs, 'exit', () => this.#event(child, 'exit'));
    };
    if (process.alive) process.mourners.add(dead);
    else dead();
    this.#poll(child);
  }

  #poll(child: Child): void {
    const [least, most] = POLL_MS;
    const every = child.state === 'starting' ? this.#world.between(1, 4) : this.#world.between(least, most);
    this.#world.after(this.process, every, 'asks status', () => {
      if (child.state === 'gone') return;
      ask<Answer>(
        this.#world,
        this.process,
        child.process,
        'status',
        (reply) => {
          if (child.keeper !== null)
            return reply({ ready: child.keeper.ready, active: false, informed: false });
          const { role, ready, informed } = child.emulator!.status;
          reply({ ready, active: role === 'active', informed });
        },
        (status) => {
          if (child.state === 'gone') return;
          child.informed = status?.informed ?? child.informed;
          if (status?.ready === true) this.#event(child, status.active ? 'serving' : 'ready');
          this.#poll(child);
        },
      );
    });
  }

  #tally(child: Child): void {
    const { kind, process, servesSince } = child;
    if (kind === 'emu') {
      this.#verdicts.push({ pid: process.pid, guestsFault: mayBeGuestsFault(process.cause ?? 'exit') });
      if (this.#verdicts.length > VERDICTS_KEPT) this.#verdicts.shift();
      for (const other of this.#children)
        if (other !== child && other.kind === 'emu') this.#tellVerdicts(other, () => {});
    }
    if (servesSince === null) this.#deathsMs[kind].push(this.#world.now);
  }

  #tellVerdicts(child: Child, then: () => void): void {
    if (this.#verdicts.length === 0 || (child.state !== 'ready' && child.state !== 'serving')) return then();
    const deaths = [...this.#verdicts];
    ask<true>(
      this.#world,
      this.process,
      child.process,
      'verdicts',
      (reply) => {
        child.emulator!.verdicts(deaths);
        reply(true);
      },
      then,
    );
  }

  // ---- plan --------------------------------------------------------------------------------------------------

  #planSoon(): void {
    if (this.#planned) return;
    this.#planned = true;
    this.#world.after(this.process, 0.001, 'plan', () => this.#plan());
  }

  #plan(): void {
    this.#planned = false;
    const keeper = [...this.#children].find(({ kind }) => kind === 'ha');
    const steps = planService({
      stopping: false,
      keeper: keeper?.state ?? 'gone',
      emulators: [...this.#children]
        .filter(({ kind }) => kind === 'emu')
        .map(({ process, state, servesSince, informed }) => ({
          ...{ instance: process.pid, state, servesSince, informed },
        })),
      restoring: false,
      moving: false,
      exchanging: false,
      mayStartKeeper: this.#startsInMs('ha') === 0,
      mayStartEmulator: this.#startsInMs('emu') === 0,
    });
    for (const step of steps) this.#carryOut(step);
    const waits = [this.#startsInMs('ha'), this.#startsInMs('emu')].filter((waitMs) => waitMs > 0);
    if (waits.length > 0)
      this.#world.after(this.process, Math.min(...waits) + 1, 'plan later', () => this.#planSoon());
  }

  #startsInMs(kind: Child['kind']): number {
    const deaths = this.#deathsMs[kind];
    const last = deaths.at(-1);
    if (last === undefined) return 0;
    return Math.max(0, last + restartDelayMs(deaths, last) - this.#world.now);
  }

  #carryOut(step: Step): void {
    this.#world.point();
    switch (step.kind) {
      case 'start-keeper': {
        const keeper = this.#site.startKeeper(step.expectUpload);
        this.#started({ kind: 'ha', process: keeper.process, emulator: null, keeper });
        return;
      }
      case 'start-emulator': {
        const emulator = this.#site.startEmulator();
        this.#started({ kind: 'emu', process: emulator.process, emulator, keeper: null });
        return;
      }
      case 'promote':
        this.#promote(this.#emulator(step.instance));
        return;
      case 'stop-emulator':
        this.#event(this.#emulator(step.instance), 'stop');
        return;
      case 'fence-emulator': {
        const child = this.#emulator(step.instance);
        if (isActive(child) && ![...this.#children].some((other) => other !== child && isActive(other)))
          this.#world.fail(`emulator ${step.instance} is killed, the only one that serves`);
        this.#event(child, 'silent');
      }
    }
  }

  #started(what: Omit<Child, 'state' | 'servesSince' | 'informed'>): void {
    const child: Child = { ...what, state: 'new', servesSince: null, informed: false };
    this.#children.add(child);
    this.#event(child, 'spawn');
  }

  #emulator(pid: number): Child {
    for (const child of this.#children) if (child.process.pid === pid) return child;
    return this.#world.fail(`the plan names emulator ${pid}, which is gone`);
  }

  #promote(child: Child): void {
    if (this.#promoting) return;
    this.#promoting = true;
    const reason = this.#everServed ? 'crash' : 'first';
    this.#tellVerdicts(child, () =>
      ask<number>(
        this.#world,
        this.process,
        child.process,
        'promote',
        (reply) => child.emulator!.promote(reason, reply),
        (errno) => {
          this.#promoting = false;
          if (child.state === 'gone') return this.#planSoon();
          this.#event(child, errno === 0 ? 'serving' : 'silent');
          this.#planSoon();
        },
      ),
    );
  }

  #until(condition: () => boolean, then: () => void): void {
    const look = () => {
      if (!this.#waiting.has(look) || !condition()) return;
      this.#waiting.delete(look);
      then();
    };
    this.#waiting.add(look);
    look();
  }

  #wake(): void {
    for (const look of [...this.#waiting]) look();
  }
}
