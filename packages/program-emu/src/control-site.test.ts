import { DEFAULT_CONF, type RepresentorKind } from '@virtnet/engine-control';
import { virtnetPaths } from '@virtnet/host-ipc';
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
});
