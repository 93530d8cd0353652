import { DEFAULT_CONF, type RepresentorKind } from '@virtnet/engine-control';
import { virtnetPaths } from '@virtnet/host-ipc';
import { supportsUso } from '@virtnet/host-linux';
import { hasFeature, NetFeature } from '@virtnet/wire';
import { describe, expect, it } from 'vitest';
import { ControlSite } from './control-site.js';

const siteOf = (representor: RepresentorKind | null) => {
  const conf = { ...DEFAULT_CONF, software: { ...DEFAULT_CONF.software, representor } };
  return new ControlSite(virtnetPaths('/nowhere'), conf, () => {});
};

describe('control site', () => {
  it.each([null, 'tap', 'eswitch', 'loop', 'sink', 'source'] as const)(
    'RSS is to be had where a driver has a choice: %s',
    (representor) => {
      const site = siteOf(representor);
      const { supportedFeatures, defaultFeatures } = site.planSite('mlx5_0');
      const chooses = representor !== 'sink' && representor !== 'source';
      expect(hasFeature(supportedFeatures, NetFeature.RSS)).toBe(chooses);
      expect(hasFeature(supportedFeatures, NetFeature.HASH_REPORT)).toBe(true);
      expect(hasFeature(defaultFeatures, NetFeature.RSS)).toBe(false);
      expect(hasFeature(site.supportedFeatures, NetFeature.RSS), 'one that has it can be taken over').toBe(
        true,
      );
    },
  );

  it('UDP segments are offered both ways, by default, where the host’s TAPs have them', () => {
    const { supportedFeatures, defaultFeatures } = siteOf('tap').planSite('mlx5_0');
    for (const bit of [NetFeature.GUEST_USO4, NetFeature.GUEST_USO6, NetFeature.HOST_USO]) {
      expect(hasFeature(supportedFeatures, bit)).toBe(supportsUso());
      expect(hasFeature(defaultFeatures, bit)).toBe(supportsUso());
    }
  });
});
