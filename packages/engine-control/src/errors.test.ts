import { describe, expect, it } from 'vitest';
import { CONTROL_ERRORS, DEVICE_MISSING, exitCodeOf, failure, isFailure, SUCCESS } from './errors.js';

describe('error rows', () => {
  it('are 76, numbered -1001 to -1076 without a gap', () => {
    expect(CONTROL_ERRORS.map(({ errno }) => errno)).toEqual(Array.from({ length: 76 }, (_, i) => -1001 - i));
  });

  it('have texts and names that are unique', () => {
    expect(new Set(CONTROL_ERRORS.map(({ errstr }) => errstr)).size).toBe(76);
    expect(new Set(CONTROL_ERRORS.map(({ name }) => name)).size).toBe(76);
  });

  // Positions from the guide's table, one in each region of it.
  it.each([
    [-1001, 'DEV_FEATURE_VALIDATE', 'Failed to validate device feature'],
    [-1012, 'PORT_CTX_NOT_FOUND', 'Failed to find port contex'],
    [-1032, 'SNAP_PF_HOTPLUG', 'Failed to hotplug SNAP PF'],
    [-1043, 'QUEUE_SIZE_RULE', 'Error - queue size must be greater than 2 and is power of 2'],
    [-1047, 'OPT_NOT_SUPPORTED', 'Option is not supported'],
    [-1049, 'SF_NUM_RANGE', 'SF number for hotplug device should be between 2000 and 2999'],
    [-1063, 'REC_LM_STATUS_NOT_FOUND', 'Failed to found LM status record'],
    [-1076, 'DEBUGFS_DEL', 'Failed to delete from debugfs file'],
  ] as const)('row %i is %s', (errno, name, errstr) => {
    expect(failure(name)).toEqual({ errno, errstr });
  });

  it('every row is a failure with exit code 1; success is neither', () => {
    for (const { name } of CONTROL_ERRORS) {
      expect(isFailure(failure(name))).toBe(true);
      expect(exitCodeOf(failure(name))).toBe(1);
    }
    expect(isFailure(SUCCESS)).toBe(false);
    expect(exitCodeOf(SUCCESS)).toBe(0);
  });
});

describe('exit code', () => {
  it.each([
    ['a device that is missing', DEVICE_MISSING, 1],
    ['a list', { controller: {}, devices: [] }, 0],
    ['an array', [{ errno: -1 }], 0],
    ['a bare text', 'Success', 0],
    ['null', null, 0],
    ['a Linux errno', { errno: -22, errstr: 'x' }, 1],
  ])('of %s', (_, answer, code) => {
    expect(exitCodeOf(answer)).toBe(code);
  });
});
