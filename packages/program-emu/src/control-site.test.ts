import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  DEFAULT_CONF,
  factoryValues,
  initialFirmwareStore,
  type RepresentorKind,
  serialiseFirmwareStore,
} from '@virtnet/engine-control';
import { virtnetPaths } from '@virtnet/host-ipc';
import { supportsUso } from '@virtnet/host-linux';
import { hasFeature, NetFeature } from '@virtnet/wire';
import { describe, expect, it, onTestFinished } from 'vitest';
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

describe('the firmware’s values', () => {
  const scene = () => {
    const root = mkdtempSync(join(tmpdir(), 'site-'));
    onTestFinished(() => rmSync(root, { recursive: true }));
    const paths = virtnetPaths(root);
    const said: unknown[] = [];
    const site = new ControlSite(paths, DEFAULT_CONF, (level, message, facts) =>
      said.push({ level, message, ...facts }),
    );
    return { site, said, path: paths.fwconfig };
  };
  const initial = initialFirmwareStore().current;
  const others = { ...initial, VIRTIO_NET_EMULATION_NUM_PF: 2 };
  const text = serialiseFirmwareStore({ current: others, nextBoot: factoryValues() });

  it('without a store are the initial ones', () => {
    const { site, said } = scene();
    expect([site.storedFirmware(), site.firmware(), said]).toEqual([initial, initial, []]);
  });

  it.each<readonly [string, (path: string) => void]>([
    ['torn', (path) => writeFileSync(path, text.slice(0, -4))],
    ['empty', (path) => writeFileSync(path, '')],
    ['of another version', (path) => writeFileSync(path, text.replace('"SRIOV_EN"', '"SRIOV_MORE"'))],
    ['a directory', (path) => mkdirSync(path)],
  ])('of a store that is %s are those believed, and the log says so once', (_, damage) => {
    const { site, said, path } = scene();
    damage(path);
    expect([site.knowsFirmware, site.storedFirmware(), site.firmware()]).toEqual([false, null, initial]);
    expect(said).toEqual([
      { level: 'error', message: 'the firmware store cannot be read', path, problem: expect.any(String) },
    ]);
    site.believe(others);
    expect([site.knowsFirmware, site.storedFirmware(), site.firmware()]).toEqual([true, null, others]);
    expect(said).toHaveLength(1);
    rmSync(path, { recursive: true });
    writeFileSync(path, text.replace('"VIRTIO_NET_EMULATION_NUM_PF": 2', '"VIRTIO_NET_EMULATION_NUM_PF": 3'));
    expect(site.firmware().VIRTIO_NET_EMULATION_NUM_PF).toBe(3);
    rmSync(path);
    damage(path);
    expect(site.firmware().VIRTIO_NET_EMULATION_NUM_PF, 'as when it could be read').toBe(3);
    expect(said).toHaveLength(2);
  });
});
