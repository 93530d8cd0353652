import { describe, expect, it } from 'vitest';
import { type DeviceSelector, selectorFailure } from './device-selector.js';
import { type ControlErrorName, failure } from './errors.js';

const none = { all: false, pf: null, vf: null, vuid: null };

describe('a command that changes devices', () => {
  it.each<[string, DeviceSelector, ControlErrorName | null]>([
    ['all', { ...none, all: true }, null],
    ['the last PF there can be', { ...none, pf: 61 }, null],
    ['a PF behind it', { ...none, pf: 62 }, 'ID_OUT_OF_RANGE'],
    ['a negative PF', { ...none, pf: -1 }, 'ID_OUT_OF_RANGE'],
    ['the last VF there can be', { ...none, pf: 0, vf: 1007 }, null],
    ['a VF behind it', { ...none, pf: 0, vf: 1008 }, 'ID_OUT_OF_RANGE'],
    ['a VF of a PF that cannot be', { ...none, pf: 62, vf: 0 }, 'ID_OUT_OF_RANGE'],
    ['a VUID of another board', { ...none, vuid: 'MT2306XZ00BNVNETS0D0F2VF1' }, null],
    ['a text that is no VUID', { ...none, vuid: 'PF0' }, 'VUID_INVALID'],
    ['no text', { ...none, vuid: '' }, 'VUID_INVALID'],
  ])('names %s', (_, selector, name) => {
    expect(selectorFailure(selector)).toEqual(name === null ? null : failure(name));
  });
});
