import { featureMask, hasFeature, NetFeature as N, TunOffload, VirtioFeature as V } from '@virtnet/wire';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { driverFeatures, takesSegments, tapOffloads } from './driver-features.js';

const all = featureMask([...Object.values(N), ...Object.values(V)]);

test('what is accepted was offered, and whole; without VERSION_1 nothing is', () => {
  fc.assert(
    fc.property(fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }), (offered) => {
      const accepted = driverFeatures(offered);
      expect(accepted === null).toBe(!hasFeature(offered, V.VERSION_1));
      if (accepted === null) return;
      expect(accepted & ~offered).toBe(0n);
      if (hasFeature(accepted, N.MQ)) expect(hasFeature(accepted, N.CTRL_VQ)).toBe(true);
      if (hasFeature(accepted, N.HOST_TSO4)) expect(hasFeature(accepted, N.CSUM)).toBe(true);
    }),
  );
});

test('of everything: neither packed rings nor mergeable buffers nor hashes', () => {
  const accepted = driverFeatures(all) ?? 0n;
  for (const bit of [V.RING_PACKED, N.MRG_RXBUF, N.RSS, N.HASH_REPORT, N.GUEST_ANNOUNCE, V.INDIRECT_DESC])
    expect(hasFeature(accepted, bit)).toBe(false);
});

test('the TAP asks for what the function does', () => {
  const { CSUM, TSO4, TSO6 } = TunOffload;
  expect(tapOffloads(featureMask([N.CSUM, N.HOST_TSO4, N.HOST_TSO6]))).toBe(CSUM | TSO4 | TSO6);
  expect(tapOffloads(featureMask([N.CSUM, N.HOST_TSO6]))).toBe(CSUM | TSO6);
  expect(tapOffloads(featureMask([N.GUEST_CSUM]))).toBe(0);
  expect(takesSegments(featureMask([N.HOST_TSO6]), 'transmit')).toBe(true);
  expect(takesSegments(featureMask([N.HOST_TSO6]), 'receive')).toBe(false);
});
