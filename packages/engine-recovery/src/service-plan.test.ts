import { describe, expect, it } from 'vitest';
import {
  EMULATORS_WANTED,
  type EmulatorView,
  planService,
  type ServiceView,
  type Step,
} from './service-plan.js';
import { type ChildState, childStates } from './supervision.js';

const emulator = (
  instance: number,
  state: ChildState,
  servesSince = state === 'serving' ? 1_000 : null,
): EmulatorView => ({ instance, state, servesSince });
const view = (emulators: EmulatorView[], rest: Partial<ServiceView> = {}): ServiceView => ({
  stopping: false,
  keeper: 'ready',
  emulators,
  mayStartKeeper: true,
  mayStartEmulator: true,
  restoring: false,
  moving: false,
  exchanging: false,
  ...rest,
});

describe('service plan', () => {
  it('nothing runs: starts the keeper and an emulator, then a second one', () => {
    expect(planService(view([], { keeper: 'gone' }))).toEqual([
      { kind: 'start-keeper', expectUpload: false },
      { kind: 'start-emulator' },
    ]);
    expect(planService(view([emulator(1, 'starting')]))).toEqual([{ kind: 'start-emulator' }]);
    expect(planService(view([emulator(1, 'starting'), emulator(2, 'starting')]))).toEqual([]);
  });

  it('none is active: promotes the oldest that is ready and starts nobody meanwhile', () => {
    expect(planService(view([emulator(2, 'ready'), emulator(1, 'ready')]))).toEqual([
      { kind: 'promote', instance: 1 },
    ]);
    expect(planService(view([emulator(4, 'ready')]))).toEqual([{ kind: 'promote', instance: 4 }]);
  });

  it('the former active one is not known to be dead: promotes nobody', () => {
    for (const state of ['fencing', 'stopping'] as const)
      expect(planService(view([emulator(1, state, 1_000), emulator(2, 'ready')]))).toEqual([]);
  });

  it('what the service manager kept is not on the shelf yet: promotes nobody; starts a keeper where there is none', () => {
    expect(planService(view([emulator(1, 'ready')], { restoring: true }))).toEqual([]);
    expect(planService(view([emulator(1, 'ready')], { restoring: true, keeper: 'gone' }))).toEqual([
      { kind: 'start-keeper', expectUpload: true },
    ]);
  });

  it('a standby that never came up is being killed: that holds nobody back', () => {
    expect(planService(view([emulator(1, 'fencing', null), emulator(2, 'ready')]))).toEqual([
      { kind: 'promote', instance: 2 },
    ]);
  });

  it('a live update moves devices, or exchanges the standby: touches no emulator, but the keeper is replaced', () => {
    for (const busy of [{ moving: true }, { exchanging: true }]) {
      expect(planService(view([emulator(1, 'serving')], busy))).toEqual([]);
      expect(planService(view([emulator(1, 'ready')], { ...busy, keeper: 'gone' }))).toEqual([
        { kind: 'start-keeper', expectUpload: true },
      ]);
    }
  });

  it('the successor serves: starts a new standby', () => {
    expect(planService(view([emulator(2, 'serving')]))).toEqual([{ kind: 'start-emulator' }]);
  });

  it('the crash-loop rule forbids a start: starts nothing, but still promotes', () => {
    const patient = { mayStartEmulator: false, mayStartKeeper: false, keeper: 'gone' } as const;
    expect(planService(view([emulator(2, 'serving')], patient))).toEqual([]);
    expect(planService(view([emulator(2, 'ready')], patient))).toEqual([{ kind: 'promote', instance: 2 }]);
  });

  it('the keeper died while emulators know the state: its successor expects their upload', () => {
    const steps = planService(view([emulator(1, 'serving'), emulator(2, 'ready')], { keeper: 'gone' }));
    expect(steps).toEqual([{ kind: 'start-keeper', expectUpload: true }]);
  });

  it('the keeper is gone, and one that still starts said that it was told everything: its upload is waited for', () => {
    const told = { ...emulator(2, 'starting'), informed: true };
    const start = (expectUpload: boolean) => ({ kind: 'start-keeper', expectUpload }) as const;
    const gone = { keeper: 'gone', mayStartEmulator: false } as const;
    expect(planService(view([told], gone))).toEqual([start(true)]);
    expect(planService(view([{ ...told, informed: false }], gone))).toEqual([start(false)]);
    expect(planService(view([{ ...told, state: 'fencing' }], gone))).toEqual([start(false)]);
  });

  it('adopted one too many: asks the oldest standby to end, never the active one', () => {
    const steps = planService(view([emulator(1, 'ready'), emulator(2, 'serving'), emulator(3, 'ready')]));
    expect(steps).toEqual([{ kind: 'stop-emulator', instance: 1 }]);
  });

  it('two say that they are active: the one that has been for longer is killed, whoever was started first', () => {
    const older = planService(view([emulator(1, 'serving', 1_000), emulator(2, 'serving', 2_000)]));
    expect(older).toEqual([{ kind: 'fence-emulator', instance: 1 }]);
    const younger = planService(view([emulator(1, 'serving', 2_000), emulator(2, 'serving', 1_000)]));
    expect(younger).toEqual([{ kind: 'fence-emulator', instance: 2 }]);
  });

  it('every combination of a keeper and three emulators: the invariants hold', () => {
    const possible: EmulatorView[][] = [[]];
    const kinds = childStates.filter((state) => state !== 'new' && state !== 'gone');
    for (let instance = 1; instance <= 3; instance++)
      for (const some of possible.slice())
        for (const state of kinds)
          for (const servesSince of state === 'serving'
            ? [1_000]
            : state === 'fencing'
              ? [1_000, null]
              : [null])
            possible.push([...some, emulator(instance, state, servesSince)]);
    let plans = 0;
    for (const emulators of possible)
      for (const keeper of childStates)
        for (const mayStartEmulator of [true, false])
          for (const stopping of [true, false]) {
            check(view(emulators, { keeper, mayStartEmulator, stopping }));
            plans++;
          }
    expect(plans).toBeGreaterThan(5_000);
  });
});

function check(given: ServiceView): void {
  const steps = planService(given);
  const of = (kind: Step['kind']) => steps.filter((step) => step.kind === kind);
  const isUp = ({ state }: EmulatorView) => state === 'starting' || state === 'ready' || state === 'serving';
  const up = given.emulators.filter(isUp).length;
  const serving = given.emulators.filter(({ state }) => state === 'serving').length;
  const context = JSON.stringify({ given, steps });
  if (given.stopping) expect(steps, context).toEqual([]);
  expect(of('promote').length + of('start-emulator').length, context).toBeLessThanOrEqual(1);
  if (of('promote').length > 0) {
    expect(serving, context).toBe(0);
    expect(
      given.emulators.some((e) => e.servesSince !== null && e.state === 'fencing'),
      context,
    ).toBe(false);
  }
  if (of('start-emulator').length > 0) {
    expect(given.mayStartEmulator, context).toBe(true);
    expect(up, context).toBeLessThan(EMULATORS_WANTED);
  }
  expect(of('start-keeper').length > 0, context).toBe(!given.stopping && given.keeper === 'gone');
  expect(of('fence-emulator').length, context).toBe(given.stopping ? 0 : Math.max(0, serving - 1));
  for (const step of of('stop-emulator'))
    if ('instance' in step)
      expect(given.emulators.find((e) => e.instance === step.instance)?.state).not.toBe('serving');
}
