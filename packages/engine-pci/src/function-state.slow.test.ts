import { DeviceStatus, NO_VECTOR, VirtioPciCommon } from '@virtnet/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { FunctionState } from './function-state.js';
import { Bench, bytesOf, kinds } from './test-device.fixture.js';

/** One access: configuration space or a BAR, mostly near registers, of any width. */
const access = fc.record({
  where: fc.constantFrom(
    'config',
    'config',
    'common',
    'common',
    'common',
    'isr',
    'device',
    'notify',
    'table',
    'any',
  ),
  offset: fc.integer({ min: 0, max: 300 }),
  read: fc.boolean(),
  bytes: fc.uint8Array({ minLength: 1, maxLength: 16 }),
});
type Access = typeof access extends fc.Arbitrary<infer T> ? T : never;

/** A driver's sensible moves, so that random accesses also meet a device in operation. */
const move = fc.constantFrom('agree', 'ready', 'msix', 'interrupt', 'fault', 'done', 'change', 'reset');
type Move = typeof move extends fc.Arbitrary<infer T> ? T : never;

function perform(bench: Bench, { where, offset, read, bytes }: Access): void {
  const { fn } = bench;
  const { layout } = fn;
  if (where === 'config') {
    if (read) expect(fn.readConfig(offset, bytes.length).length).toBe(bytes.length);
    else fn.writeConfig(offset, bytes);
    return;
  }
  const bar = where === 'table' ? 4 : where === 'any' ? offset % 8 : 0;
  const start = where === 'isr' || where === 'device' || where === 'notify' ? layout[where].offset : 0;
  const at = start + (where === 'common' ? offset % VirtioPciCommon.sizeBytes : offset);
  if (read) {
    const inside = at + bytes.length <= fn.regionSize(bar);
    expect(fn.readRegion(bar, at, bytes.length).length).toBe(inside ? bytes.length : 0);
  } else fn.writeRegion(bar, at, bytes);
}

function make(bench: Bench, what: Move): void {
  if (what === 'agree') bench.agree();
  else if (what === 'ready') bench.ready();
  else if (what === 'msix') bench.msix(true);
  else if (what === 'interrupt')
    for (const source of ['config', 0, 1, 2] as const) bench.fn.interruptFor(source);
  else if (what === 'fault') bench.fn.needsReset();
  else if (what === 'done') for (let queue = 0; queue < 3; queue++) bench.fn.completeQueueReset(queue);
  else if (what === 'change') bench.fn.configChanged();
  else bench.fn.reset();
}

const history = fc.array(fc.oneof({ weight: 6, arbitrary: access }, { weight: 1, arbitrary: move }), {
  maxLength: 60,
});

function live(bench: Bench, steps: readonly (Access | Move)[]): void {
  for (const step of steps) {
    if (typeof step === 'string') make(bench, step);
    else perform(bench, step);
  }
}

/** Rules that hold for a function whatever happened to it. */
function checkInvariants({ fn }: Bench): void {
  const { status } = fn;
  if (status & DeviceStatus.DRIVER_OK) expect(status & DeviceStatus.FEATURES_OK).toBeTruthy();
  if (status & DeviceStatus.FEATURES_OK) expect(status & DeviceStatus.DRIVER).toBeTruthy();
  for (const queue of fn.queues) {
    expect(queue.size > 0 && queue.size <= 256 && (queue.size & (queue.size - 1)) === 0).toBe(true);
    expect(queue.vector < 4 || queue.vector === NO_VECTOR).toBe(true);
    if (queue.enabled)
      expect(queue.descriptorAddress !== 0n && queue.driverAddress !== 0n && queue.deviceAddress !== 0n).toBe(
        true,
      );
  }
}

const json = (value: unknown): unknown => JSON.parse(JSON.stringify(value));

describe('PCI function: random accesses', () => {
  it('never throw, answer exactly what was asked, and keep the invariants', () => {
    fc.assert(
      fc.property(history, (steps) => {
        const bench = new Bench();
        live(bench, steps);
        checkInvariants(bench);
      }),
      { numRuns: 1500 },
    );
  });

  it('effects name only queues and vectors the function has', () => {
    fc.assert(
      fc.property(
        history,
        fc.uint8Array({ minLength: 1, maxLength: 64 }),
        fc.nat(4095),
        (steps, bytes, at) => {
          const bench = new Bench();
          live(bench, steps);
          for (const effect of [
            ...bench.fn.writeRegion(0, bench.fn.layout.notify.offset + (at % 64), bytes),
            ...bench.fn.writeRegion(0, at % 64, bytes),
            ...bench.fn.writeConfig(at, bytes),
            ...bench.fn.writeRegion(4, at, bytes),
          ]) {
            if ('queue' in effect) expect(effect.queue).toBeLessThan(3);
            if ('vector' in effect) expect(effect.vector).toBeLessThan(4);
          }
        },
      ),
      { numRuns: 500 },
    );
  });
});

describe('PCI function: saved state', () => {
  it('a function after reset saves next to nothing', () => {
    expect(new Bench().fn.save()).toEqual({
      config: [],
      status: 0,
      deviceFeatureSelect: 0,
      driverFeatureSelect: 0,
      driverFeatures: '0x0',
      configVector: NO_VECTOR,
      queueSelect: 0,
      halves: [],
      queues: [],
      msix: { entries: [], pending: [] },
      isr: 0,
      generation: 0,
    });
  });

  it('restore(save()) through JSON gives a function that reads the same everywhere', () => {
    fc.assert(
      fc.property(history, (steps) => {
        const one = new Bench();
        live(one, steps);
        const state = json(one.fn.save());
        const two = new Bench();
        expect(two.fn.restore(state)).toEqual([]);
        two.device.config.set(one.device.config); // the device behind is restored by its owner
        expect(json(two.fn.save())).toEqual(state);
        expect(two.fn.readConfig(0, 4096)).toEqual(one.fn.readConfig(0, 4096));
        for (const { index, sizeBytes } of one.fn.bars)
          expect(two.fn.readRegion(index, 0, sizeBytes)).toEqual(one.fn.readRegion(index, 0, sizeBytes));
        expect(two.fn.driverFeatures).toBe(one.fn.driverFeatures);
      }),
      { numRuns: 700 },
    );
  });

  it('a restored function goes on as the original does', () => {
    fc.assert(
      fc.property(history, history, (before, after) => {
        const one = new Bench();
        live(one, before);
        const two = new Bench();
        expect(two.fn.restore(json(one.fn.save()))).toEqual([]);
        // Whether the driver has looked since the last change is not saved; looking makes it the same.
        one.read('configGeneration', 1);
        live(one, after);
        live(two, after);
        expect(two.fn.save()).toEqual(one.fn.save());
      }),
      { numRuns: 500 },
    );
  });

  it('after a restore a pending vector is still sent once when unmasked', () => {
    const one = new Bench();
    one.msix(true, true);
    one.ready();
    one.fn.interruptFor(0);
    const two = new Bench();
    two.fn.restore(json(one.fn.save()));
    expect(kinds(two.msix(true, false))).toEqual(['fire', 'vectors-changed']);
  });

  it('H7 anything at all is refused or accepted without a throw, and a refusal changes nothing', () => {
    const bench = new Bench();
    bench.ready();
    const before = bench.fn.save();
    fc.assert(
      fc.property(fc.anything(), (state) => {
        const problems = bench.fn.restore(state);
        expect(problems.length).toBeGreaterThan(0);
        expect(bench.fn.save()).toEqual(before);
      }),
      { numRuns: 1000 },
    );
  });

  it('H7 each field at a value it cannot have is refused with its name', () => {
    const bench = new Bench();
    bench.msix(true);
    bench.ready();
    bench.fn.writeRegion(4, 0, bytesOf(1, 4));
    const good = json(bench.fn.save()) as FunctionState;
    const queue = good.queues[0]!;
    const bad: readonly [string, Partial<Record<keyof FunctionState, unknown>>][] = [
      ['status', { status: 256 }],
      ['status', { status: 4 }],
      ['status', { status: 0x40 }],
      ['status', { status: 0x1f }],
      ['driverFeatures', { driverFeatures: '0xffffffffffffffff' }],
      ['driverFeatures', { driverFeatures: 5 }],
      ['driverFeatures', { driverFeatures: '0x10000000000000000' }],
      ['configVector', { configVector: 4 }],
      ['queueSelect', { queueSelect: -1 }],
      ['queueSelect', { queueSelect: 1.5 }],
      ['config', { config: [[0, 1]] }],
      ['config', { config: [[4096, 1]] }],
      ['config', { config: 'x' }],
      ['halves', { halves: [{ at: 0, queue: 0, value: 0 }] }],
      ['queues', { queues: new Array(100).fill(queue) }],
      ['queues[1]', { queues: [queue, queue] }],
      ['queues[0].index', { queues: [{ ...queue, index: 3 }] }],
      ['queues[0]', { queues: [{ ...queue, size: 3 }] }],
      ['queues[0]', { queues: [{ ...queue, size: 512 }] }],
      ['queues[0]', { queues: [{ ...queue, descriptor: '0x0' }] }],
      ['queues[0]', { queues: [{ ...queue, resetting: true }] }],
      ['queues[0].vector', { queues: [{ ...queue, vector: 4 }] }],
      ['queues[0].enabled', { queues: [{ ...queue, enabled: 'yes' }] }],
      ['queues[0]', { status: 3 }],
      ['msix', { msix: null }],
      ['msix.pending[0]', { msix: { entries: [], pending: [4] } }],
      ['msix.entries', { msix: { entries: new Array(5).fill({}), pending: [] } }],
      ['isr', { isr: 256 }],
      ['generation', { generation: '1' }],
    ];
    for (const [path, fields] of bad) {
      const target = new Bench();
      const problems = target.fn.restore({ ...good, ...fields });
      expect(problems.some((problem) => problem.startsWith(path))).toBe(true);
      expect(target.fn.save()).toEqual(new Bench().fn.save());
    }
    expect(new Bench().fn.restore(good)).toEqual([]);
  });

  it('problems are bounded in number', () => {
    const state = { ...new Bench().fn.save(), config: new Array(4096).fill([-1, -1]) };
    expect(new Bench().fn.restore(state).length).toBeLessThanOrEqual(32);
  });

  it('a state with vectors the new function does not have is refused', () => {
    const one = new Bench();
    one.msix(true);
    one.ready();
    const two = new Bench({ msixVectors: 2 });
    expect(two.fn.restore(json(one.fn.save())).length).toBeGreaterThan(0);
  });
});
