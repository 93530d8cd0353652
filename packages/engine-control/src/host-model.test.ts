import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isFailure } from './errors.js';
import {
  ANSWERS_MAX,
  bindDriver,
  expectFunction,
  findFunction,
  forgetFunctions,
  formerAnswer,
  freshHost,
  HOST_DRIVERS,
  type HostState,
  isHeld,
  LOG_LINES_MAX,
  loadVirtioNet,
  logged,
  logText,
  lookAt,
  probeFunctions,
  restoreHost,
  serialiseHost,
  setAutoprobe,
  setNumVfs,
  unbindDriver,
  undoBind,
  unloadVirtioNet,
  withAnswer,
  withoutVfs,
} from './host-model.js';

const NOW = 1_000_000;
const PF = { bdf: '14:00.2', vfsMax: 4, inUse: false };
const VF = { bdf: '14:00.7', vfsMax: 0, inUse: false };
const functions = [PF, VF];

/** The state, where there is one. */
function state(result: ReturnType<typeof setNumVfs>): HostState {
  if (result === null || isFailure(result)) throw new Error(`no state: ${JSON.stringify(result)}`);
  return result;
}
const errno = (result: unknown) => (result as { errno: number }).errno;

describe('the host', () => {
  it.each(['14:00.2', '0000:14:00.2'])('finds %s', (text) => {
    expect(findFunction(functions, text)).toBe(PF);
  });

  it.each(['14:00.3', '0001:14:00.2', 'x', ''])('%j is no device', (text) => {
    expect(errno(findFunction(functions, text))).toBe(-19);
  });

  it('a number of VFs goes from 0 to n and from n to 0, never from n to m', () => {
    const with3 = state(setNumVfs(freshHost(NOW), functions, PF.bdf, 3, NOW + 1500));
    expect(with3.numVfs).toEqual({ [PF.bdf]: 3 });
    expect(with3.log.map(logText)).toEqual(['[    1.500000] virtio-pci 0000:14:00.2: 3 VFs enabled']);
    expect(setNumVfs(with3, functions, PF.bdf, 3, NOW)).toBeNull();
    expect(errno(setNumVfs(with3, functions, PF.bdf, 4, NOW))).toBe(-16);
    expect(state(setNumVfs(with3, functions, PF.bdf, 0, NOW)).numVfs).toEqual({});
  });

  it.each([-1, 5, 1.5])('%d VFs are out of range', (count) => {
    expect(errno(setNumVfs(freshHost(NOW), functions, PF.bdf, count, NOW))).toBe(-34);
  });

  it('a function without SR-IOV has no VFs', () => {
    expect(errno(setNumVfs(freshHost(NOW), functions, VF.bdf, 1, NOW))).toBe(-22);
  });

  it('every refusal says what of the request it is about', () => {
    const texts = (...answers: readonly (object | null)[]) =>
      answers.map((answer) => (answer !== null && 'errstr' in answer ? answer.errstr : answer));
    const some = state(setNumVfs(freshHost(NOW), functions, PF.bdf, 2, NOW));
    const bound = state(bindDriver(some, functions, VF.bdf, 'vfio-pci', NOW));
    const held = [PF, { ...VF, inUse: true }];
    expect(
      texts(
        setNumVfs(some, functions, '99:00.0', 1, NOW),
        setNumVfs(some, functions, VF.bdf, 1, NOW),
        setNumVfs(some, functions, PF.bdf, 99, NOW),
        setNumVfs(some, functions, PF.bdf, 3, NOW),
        setAutoprobe(some, functions, PF.bdf, 2, NOW),
        bindDriver(bound, functions, VF.bdf, 'virtio-pci', NOW),
        bindDriver(some, held, VF.bdf, 'virtio-pci', NOW),
        unbindDriver(some, functions, VF.bdf, 'vfio-pci', NOW),
        unbindDriver(bound, held, VF.bdf, 'vfio-pci', NOW),
      ),
    ).toEqual([
      'No such device: there is no function 99:00.0',
      `Invalid argument: ${VF.bdf} has no SR-IOV: it is no PF that can have VFs`,
      `Numerical result out of range: ${PF.bdf} can have 0 to ${PF.vfsMax} VFs`,
      `Device or resource busy: ${PF.bdf} has 2 VFs, and another number only after 0`,
      'Invalid argument: autoprobe is 0 or 1',
      `Device or resource busy: ${VF.bdf} is bound to vfio-pci`,
      `Device or resource busy: somebody has ${VF.bdf} open, such as a virtual machine`,
      `No such device: ${VF.bdf} is not bound to vfio-pci`,
      `Device or resource busy: somebody has ${VF.bdf} open, such as a virtual machine`,
    ]);
  });

  it('a function has one driver at a time; who has it open keeps it', () => {
    const bound = state(bindDriver(freshHost(NOW), functions, VF.bdf, 'vfio-pci', NOW));
    expect(bound.drivers).toEqual({ [VF.bdf]: 'vfio-pci' });
    expect(errno(bindDriver(bound, functions, VF.bdf, 'vfio-pci', NOW))).toBe(-16);
    expect(errno(unbindDriver(bound, functions, PF.bdf, 'vfio-pci', NOW))).toBe(-19);
    expect(errno(unbindDriver(bound, [PF, { ...VF, inUse: true }], VF.bdf, 'vfio-pci', NOW))).toBe(-16);
    expect([isHeld(bound, { ...VF, inUse: true }), isHeld(bound, VF)]).toEqual([true, false]);
    expect(isHeld(freshHost(NOW), { ...VF, inUse: true })).toBe(false);
    expect(state(unbindDriver(bound, functions, VF.bdf, 'vfio-pci', NOW)).drivers).toEqual({});
  });

  it('a PF loses its VFs with its driver', () => {
    const bound = state(bindDriver(freshHost(NOW), functions, PF.bdf, 'vfio-pci', NOW));
    const with2 = state(setNumVfs(bound, functions, PF.bdf, 2, NOW));
    expect(state(unbindDriver(with2, functions, PF.bdf, 'vfio-pci', NOW)).numVfs).toEqual({});
  });

  it('a PF keeps its VFs when its driver could do nothing with it', () => {
    const bare = state(setNumVfs(freshHost(NOW), functions, PF.bdf, 2, NOW));
    const bound = state(bindDriver(bare, functions, PF.bdf, 'virtio-pci', NOW));
    const undone = state(undoBind(bound, functions, `0000:${PF.bdf}`, 'virtio-pci', NOW));
    expect({ ...undone, log: bare.log }).toEqual(bare);
    expect(undone.log.at(-1)!.text).toBe('virtio-pci 0000:14:00.2: probe failed');
    expect(errno(undoBind(undone, functions, PF.bdf, 'virtio-pci', NOW))).toBe(-19);
    expect(errno(undoBind(bound, functions, '1f:00.0', 'virtio-pci', NOW))).toBe(-19);
    const given = state(bindDriver(freshHost(NOW), functions, VF.bdf, 'vfio-pci', NOW));
    expect(errno(undoBind(given, [{ ...VF, inUse: true }], VF.bdf, 'vfio-pci', NOW))).toBe(-16);
  });

  it('virtio-pci takes what nobody holds, and gives back what it holds itself', () => {
    const held = [PF, { ...VF, inUse: true }];
    expect(errno(bindDriver(freshHost(NOW), held, VF.bdf, 'virtio-pci', NOW))).toBe(-16);
    const driven = state(bindDriver(freshHost(NOW), functions, VF.bdf, 'virtio-pci', NOW));
    expect(errno(bindDriver(driven, held, VF.bdf, 'vfio-pci', NOW))).toBe(-16);
    expect(state(unbindDriver(driven, held, VF.bdf, 'virtio-pci', NOW)).drivers).toEqual({});
  });

  it('a loaded driver takes what is free; unloaded, it leaves all, and PFs lose their VFs', () => {
    const third = { bdf: '15:00.0', vfsMax: 0, inUse: true };
    const all = [...functions, third];
    const other = state(bindDriver(freshHost(NOW), all, VF.bdf, 'vfio-pci', NOW));
    expect(probeFunctions(other, all, NOW)).toBe(other);
    const loaded = state(loadVirtioNet(other, all, NOW));
    expect(loaded.drivers).toEqual({ [VF.bdf]: 'vfio-pci', [PF.bdf]: 'virtio-pci' });
    expect(loadVirtioNet(loaded, all, NOW)).toBeNull();
    const appeared = probeFunctions(loaded, [{ ...third, inUse: false }], NOW);
    expect(appeared.drivers[third.bdf]).toBe('virtio-pci');
    const with2 = state(setNumVfs(appeared, all, PF.bdf, 2, NOW));
    const unloaded = unloadVirtioNet(with2, all, NOW);
    expect(unloaded).toMatchObject({ drivers: { [VF.bdf]: 'vfio-pci' }, numVfs: {}, virtioNet: false });
  });

  it('autoprobe belongs to PFs that have VFs', () => {
    const off = state(setAutoprobe(freshHost(NOW), functions, PF.bdf, 0, NOW));
    expect(off.noAutoprobe).toEqual({ [PF.bdf]: true });
    expect(state(setAutoprobe(off, functions, PF.bdf, 1, NOW)).noAutoprobe).toEqual({});
    expect(errno(setAutoprobe(off, functions, PF.bdf, 2, NOW))).toBe(-22);
    expect(errno(setAutoprobe(off, functions, VF.bdf, 1, NOW))).toBe(-22);
    expect(errno(setAutoprobe(off, functions, '1f:00.0', 1, NOW))).toBe(-19);
  });

  it('a document of a host without a module is one of a host that has not loaded it', () => {
    const { virtioNet: _, noAutoprobe: __, appearing: ___, answers: ____, ...former } = freshHost(NOW);
    expect(restoreHost(JSON.stringify({ version: 1, ...former }))).toEqual(freshHost(NOW));
  });

  it('forgets everything of functions that are gone', () => {
    const full: HostState = {
      ...freshHost(NOW),
      drivers: { [PF.bdf]: 'vfio-pci', [VF.bdf]: 'vfio-pci' },
      numVfs: { [PF.bdf]: 2 },
      noAutoprobe: { [PF.bdf]: true },
      appearing: { [PF.bdf]: true },
    };
    const left = { ...freshHost(NOW), drivers: { [VF.bdf]: 'vfio-pci' } };
    expect(forgetFunctions(full, [PF.bdf])).toEqual(left);
  });

  it('VFs and hotplug PFs are new until the host looks at them; of VFs the driver takes none when their PF says so', () => {
    const loaded = state(loadVirtioNet(freshHost(NOW), [], NOW));
    const asked = state(setNumVfs(loaded, functions, PF.bdf, 2, NOW));
    expect(asked.appearing).toEqual({ [PF.bdf]: true });
    expect(lookAt(asked, PF.bdf, [VF], NOW)).toMatchObject({ drivers: { [VF.bdf]: 'virtio-pci' } });
    expect(lookAt(asked, PF.bdf, [VF], NOW).appearing).toEqual({});
    const left = lookAt(state(setAutoprobe(asked, functions, PF.bdf, 0, NOW)), PF.bdf, [VF], NOW);
    expect([left.appearing, left.drivers]).toEqual([{}, {}]);
    expect(state(setNumVfs(asked, functions, PF.bdf, 0, NOW)).appearing).toEqual({});
    expect(withoutVfs(asked, PF.bdf, NOW).appearing).toEqual({});
    expect(expectFunction(loaded, '15:00.0').appearing).toEqual({ '15:00.0': true });
    const unloaded = freshHost(NOW);
    expect(expectFunction(unloaded, '15:00.0')).toBe(unloaded);
  });

  it('what came of the last requests is known', () => {
    const failed = { errno: -1048, errstr: 'Failed to create SF' };
    let answered = withAnswer(freshHost(NOW), 'first', failed);
    expect(formerAnswer(answered, 'first')).toEqual(failed);
    expect(formerAnswer(answered, 'other')).toBeNull();
    for (let i = 0; i < ANSWERS_MAX; i++)
      answered = withAnswer(answered, `${i}`, { errno: 0, errstr: 'Success' });
    expect(formerAnswer(answered, 'first')).toBeNull();
    expect(formerAnswer(answered, '0')).toMatchObject({ errno: 0 });
    expect(restoreHost(serialiseHost(answered))).toEqual(answered);
  });

  it('the log keeps its last lines', () => {
    let log = freshHost(NOW);
    for (let i = 0; i < LOG_LINES_MAX + 5; i++) log = logged(log, NOW, `line ${i}`);
    expect(log.log).toHaveLength(LOG_LINES_MAX);
    expect(log.log[0]!.text).toBe('line 5');
  });
});

describe('the host’s document', () => {
  const bdf = fc.constantFrom('14:00.2', '15:00.0', '1f:1f.7');
  const states = fc.record({
    bootedAt: fc.nat(),
    drivers: fc.dictionary(bdf, fc.constantFrom(...HOST_DRIVERS), { noNullPrototype: true }),
    virtioNet: fc.boolean(),
    noAutoprobe: fc.dictionary(bdf, fc.constant(true as const), { noNullPrototype: true }),
    numVfs: fc.dictionary(bdf, fc.integer({ min: 1, max: 1008 }), { noNullPrototype: true }),
    appearing: fc.dictionary(bdf, fc.constant(true as const), { noNullPrototype: true }),
    answers: fc.array(
      fc.record({
        requestId: fc.uuid(),
        errno: fc.integer({ min: -2000, max: 0 }),
        errstr: fc.string({ maxLength: 120 }),
      }),
      { maxLength: ANSWERS_MAX },
    ),
    log: fc.array(fc.record({ at: fc.nat(), text: fc.string({ maxLength: 120 }) }), { maxLength: 5 }),
  });

  it('is read as it was written', () => {
    fc.assert(
      fc.property(states, (written) => {
        expect(restoreHost(serialiseHost(written))).toEqual(written);
      }),
    );
  });

  it('any text, and any part of a document, is a state or a sentence', () => {
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.json(), states.map(serialiseHost)), fc.nat(), (text, cut) => {
        for (const each of [text, text.slice(0, cut % (text.length + 1))]) {
          const restored = restoreHost(each);
          if (typeof restored !== 'string') expect(restoreHost(serialiseHost(restored))).toEqual(restored);
        }
      }),
    );
  });

  const good = JSON.parse(serialiseHost(freshHost(NOW))) as Record<string, unknown>;
  it.each([
    { version: 2 },
    { bootedAt: 'now' },
    { drivers: { '14:00.2': 'e1000' } },
    { drivers: { nowhere: 'vfio-pci' } },
    { drivers: [] },
    { numVfs: { '14:00.2': 0 } },
    { numVfs: { '14:00.2': 1009 } },
    { numVfs: { '0000:14:00.2': 1 } },
    { virtioNet: 1 },
    { noAutoprobe: { '14:00.2': false } },
    { appearing: { '14:00.2': 1 } },
    { answers: {} },
    { answers: [{ requestId: 'not an id', errno: 0, errstr: '' }] },
    { answers: [{ requestId: 'id', errno: '0', errstr: '' }] },
    { answers: [{ requestId: 'id', errno: 0 }] },
    { answers: Array.from({ length: ANSWERS_MAX + 1 }, () => ({ requestId: 'id', errno: 0, errstr: '' })) },
    { log: [{ at: 0 }] },
    { log: [{ at: 0, text: 'x'.repeat(121) }] },
    { log: 'x' },
  ])('%j is refused', (wrong) => {
    expect(restoreHost(JSON.stringify({ ...good, ...wrong }))).toEqual(expect.any(String));
  });
});
