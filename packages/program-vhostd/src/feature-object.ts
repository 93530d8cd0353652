/** feature-object.ts: a feature mask as `vf -i` prints it: `value`, then one key for each bit, padded to five. */
import { FEATURE_BITS, hasFeature, NetFeature, VirtioFeature } from '@virtnet/wire';

const BIT_KEY_WIDTH = 5;

const names: ReadonlyMap<number, string> = new Map([
  ...Object.entries(NetFeature).map(([name, bit]) => [bit, `VIRTIO_NET_F_${name}`] as [number, string]),
  ...Object.entries(VirtioFeature).map(([name, bit]) => [bit, `VIRTIO_F_${name}`] as [number, string]),
  // Under the name of the original's time.
  [VirtioFeature.ACCESS_PLATFORM, 'VIRTIO_F_IOMMU_PLATFORM'],
]);

export function featureObject(mask: bigint): Record<string, string> {
  const entries: [string, string][] = [['value', `0x${mask.toString(16)}`]];
  for (let bit = 0; bit < FEATURE_BITS; bit++)
    if (hasFeature(mask, bit))
      entries.push([String(bit).padStart(BIT_KEY_WIDTH), names.get(bit) ?? 'UNKNOWN FEATURE BIT']);
  return Object.fromEntries(entries);
}
