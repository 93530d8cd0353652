import { featureMask, NetFeature, TunOffload } from '@virtnet/wire';
import { describe, expect, it } from 'vitest';
import { tapOffloads } from './device-taps.js';

const { GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, GUEST_ECN, GUEST_USO4, GUEST_USO6, CSUM, HOST_TSO4, HOST_USO } =
  NetFeature;
const T = TunOffload;

describe('offloads of a TAP', () => {
  it.each<[string, number[], number]>([
    ['nothing', [], 0],
    ['what the driver sends', [CSUM, HOST_TSO4, HOST_USO], 0],
    ['segments without GUEST_CSUM', [GUEST_TSO4, GUEST_TSO6, GUEST_ECN, GUEST_USO4, GUEST_USO6], 0],
    ['GUEST_CSUM', [GUEST_CSUM], T.CSUM],
    ['TSO4', [GUEST_CSUM, GUEST_TSO4], T.CSUM | T.TSO4],
    ['TSO6 and ECN', [GUEST_CSUM, GUEST_TSO6, GUEST_ECN], T.CSUM | T.TSO6 | T.TSO_ECN],
    ['USO4 alone', [GUEST_CSUM, GUEST_USO4], T.CSUM],
    ['USO6 alone', [GUEST_CSUM, GUEST_USO6], T.CSUM],
    ['USO', [GUEST_CSUM, GUEST_USO4, GUEST_USO6], T.CSUM | T.USO4 | T.USO6],
    ['USO, and ECN without TSO', [GUEST_CSUM, GUEST_ECN, GUEST_USO4, GUEST_USO6], T.CSUM | T.USO4 | T.USO6],
  ])('%s', (_, agreed, flags) => {
    expect(tapOffloads(featureMask(agreed))).toBe(flags);
  });
});
