/**
 * service-plan.ts: what the controller does next, decided from what lives now.
 *
 * Theory
 *   The service wants one keeper, one active emulator and one standby. The plan compares that with what there is and
 *   names the steps; it is asked again after each event, and an unchanged view gives an unchanged plan.
 *
 * Invariants
 *   I1  nobody is promoted while an emulator that ever served is not known to be dead.
 *   I2  after a death the standby is promoted before a new one is started, so that starting does not slow it down.
 *   I3  while a live update moves devices or exchanges the standby, no emulator is touched: it has its own way back.
 *   I4  of two that say they are active the former is killed: nobody gets the lease before who had it is dead, but the
 *       news of that death may take longer than that of the takeover. Who was started first says nothing.
 *   I5  at most one promotion and one start of each kind per plan.
 *   I6  nobody is promoted before what the service manager kept is on a shelf: a keeper that waited in vain for it tells
 *       emulators that there is nothing.
 *
 * Limits  EMULATORS_WANTED.
 */
import type { ChildState } from './supervision.js';

/** The active and the standby. */
export const EMULATORS_WANTED = 2;

export interface EmulatorView {
  readonly instance: number;
  readonly state: ChildState;
  /** It said last that it was told everything; one may have been long before it is ready. */
  readonly informed?: boolean;
  /** Since when it is known to be, or to have been, the active one, on any scale; null when it never was. */
  readonly servesSince: number | null;
}

export interface ServiceView {
  readonly stopping: boolean;
  /** State of the keeper; `gone` when there is none. */
  readonly keeper: ChildState;
  readonly emulators: readonly EmulatorView[];
  /** The crash-loop rule permits a start now. */
  readonly mayStartKeeper: boolean;
  readonly mayStartEmulator: boolean;
  /** What the service manager kept is not on the keeper's shelf yet. */
  readonly restoring: boolean;
  /** Devices are divided between the active emulator and one that is not in this view. */
  readonly moving: boolean;
  /** A standby is about to take the place of another. */
  readonly exchanging: boolean;
}

export type Step =
  /** `expectUpload`: it replaces one whose clients live and will upload. */
  | { readonly kind: 'start-keeper'; readonly expectUpload: boolean }
  | { readonly kind: 'start-emulator' }
  | { readonly kind: 'promote'; readonly instance: number }
  /** One too many: asked to end. */
  | { readonly kind: 'stop-emulator'; readonly instance: number }
  /** Two say that they are active: only one may live. */
  | { readonly kind: 'fence-emulator'; readonly instance: number };

const isUp = (state: ChildState) => state === 'starting' || state === 'ready' || state === 'serving';

/** Of those that are known to serve the one that does (I4); null when none is. */
export function whoServes<T extends Pick<EmulatorView, 'state' | 'servesSince'>>(
  emulators: Iterable<T>,
): T | null {
  let latest: T | null = null;
  for (const emulator of emulators)
    if (emulator.state === 'serving' && (emulator.servesSince ?? 0) >= (latest?.servesSince ?? 0))
      latest = emulator;
  return latest;
}

/** Whether an emulator could go on with the devices, as far as is known. */
export function isInformed({ state, informed }: Pick<EmulatorView, 'state' | 'informed'>): boolean {
  return state === 'ready' || state === 'serving' || (state === 'starting' && informed === true);
}

/** The steps to take now, in order. */
export function planService(view: ServiceView): Step[] {
  if (view.stopping) return [];
  const steps: Step[] = [];
  const emulators = [...view.emulators].sort((a, b) => a.instance - b.instance);
  const informed = emulators.some(isInformed);
  if (view.keeper === 'gone' && view.mayStartKeeper)
    steps.push({ kind: 'start-keeper', expectUpload: informed });

  if (view.moving || view.exchanging) return steps;

  const active = whoServes(emulators);
  const ready = emulators.filter(({ state }) => state === 'ready');
  for (const former of emulators)
    if (former.state === 'serving' && former !== active)
      steps.push({ kind: 'fence-emulator', instance: former.instance });

  const predecessor = emulators.some(
    ({ state, servesSince }) => servesSince !== null && state !== 'gone' && state !== 'serving',
  );
  const candidate = ready[0];
  if (active === null && candidate !== undefined) {
    if (!predecessor && !view.restoring) steps.push({ kind: 'promote', instance: candidate.instance });
    return steps; // first that; the rest of the plan follows when it serves
  }
  const up = emulators.filter(({ state }) => isUp(state));
  if (up.length < EMULATORS_WANTED && view.mayStartEmulator) steps.push({ kind: 'start-emulator' });
  const surplus = up.length > EMULATORS_WANTED ? up.filter(({ state }) => state !== 'serving') : [];
  for (const { instance } of surplus.slice(0, up.length - EMULATORS_WANTED))
    steps.push({ kind: 'stop-emulator', instance });
  return steps;
}
