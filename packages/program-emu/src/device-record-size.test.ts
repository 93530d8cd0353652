import { hotplugFeatures } from '@virtnet/engine-virtio-net';
import {
  featureMask,
  HASH_KEY_BYTES_MAX,
  HASH_TYPES,
  MsixEntry,
  NetFeature,
  RECORD_BYTES_MAX,
  RSS_TABLE_ENTRIES_MAX,
} from '@virtnet/wire';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { decodeDeviceRecord, encodeDeviceRecord } from './device-record.js';
import { type TestDevice, TestWorld, testPlan } from './test-support/test-device.js';
import { clientOf, TestDriver } from './test-support/test-driver.js';

const PAIRS = 127;
const VECTORS = 2048;
const MSIX_BAR = 4;
const VLANS = 4096;

/** A client may make a record as large as its function can be: that must not end the process that serves others. */
describe('the largest record a client can make', () => {
  let world: TestWorld;
  let device: TestDevice;
  beforeEach(() => {
    world = new TestWorld();
    const offered = hotplugFeatures({ uso: true, vlan: true }) | featureMask([NetFeature.RSS]);
    const features = `0x${offered.toString(16)}`;
    device = world.device(testPlan({ queuePairs: PAIRS, msixVectors: VECTORS, queueSize: 32_768, features }));
  });
  afterEach(async () => {
    await device.end();
    await world.close();
  });

  it('is committed, and read back as it was', async () => {
    const { host, access } = device;
    const driver = new TestDriver(clientOf(device));
    await driver.negotiate(host.net.offeredFeatures);
    const random = randomBytes();
    for (let vector = 0; vector < VECTORS; vector++)
      await access.write(MSIX_BAR, vector * MsixEntry.sizeBytes, random(MsixEntry.sizeBytes));
    for (let queue = 0; queue < host.fn.queues.length; queue++) {
      await driver.register('queueSelect', 2, queue);
      await driver.register('queueVector', 2, VECTORS - 1);
      for (const part of ['queueDescriptor', 'queueDriver', 'queueDevice'] as const)
        await driver.register(part, 8, 0xffff_ffff_ffff_f000n - BigInt(queue) * 4096n);
      await driver.register('queueEnable', 2, 1);
      access.queueBaseSet(queue, 65_535);
      host.state.ringEnables.set(queue, false);
      host.state.broken.add(queue);
    }
    host.net.control = {
      ...host.net.control,
      vlans: new Set(Array.from({ length: VLANS }, (_, id) => id)),
      rss: {
        types: HASH_TYPES,
        key: [...random(HASH_KEY_BYTES_MAX)],
        table: [...random(RSS_TABLE_ENTRIES_MAX)].map((byte) => byte % PAIRS),
        unclassified: PAIRS - 1,
      },
    };
    // The longest answer there is goes into the record when something else has changed meanwhile.
    const table = access.read(MSIX_BAR, 0, VECTORS * MsixEntry.sizeBytes);
    host.applied = { sequence: 1, digest: 2, reply: Buffer.from(table).toString('base64') };
    const record = host.record();
    const bytes = encodeDeviceRecord(record);
    expect(JSON.stringify(record).length).toBeGreaterThan(RECORD_BYTES_MAX); // so it is not kept as it is
    expect(bytes).toBeInstanceOf(Uint8Array);
    expect(decodeDeviceRecord(bytes as Uint8Array)).toEqual(JSON.parse(JSON.stringify(record)));
    host.touch();
    host.commit(record.applied);
    expect(world.shelf.entries.get(`dev/${host.vuid}/record`)?.blob).toEqual(bytes);
  });
});

/** Numbers that do not compress, the same each time. */
function randomBytes(): (count: number) => Uint8Array {
  let state = 0x9e3779b9;
  return (count) =>
    Uint8Array.from({ length: count }, () => {
      state = (Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x6d2b79f5) >>> 0;
      return state >>> 24;
    });
}
