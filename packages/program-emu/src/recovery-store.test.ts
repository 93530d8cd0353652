import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  type DevicePlan,
  hotplugValues,
  isFailure,
  NO_DEFAULTS,
  planStaticPf,
  planVf,
} from '@virtnet/engine-control';
import { type VirtnetPaths, virtnetPaths } from '@virtnet/host-ipc';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { RecoveryStore } from './recovery-store.js';

const firmware = {
  ...hotplugValues(),
  VIRTIO_NET_EMULATION_NUM_PF: 1,
  VIRTIO_NET_EMULATION_NUM_VF: 20,
  VIRTIO_NET_EMULATION_NUM_VF_MSIX: 12,
  SRIOV_EN: 1,
};
const site = {
  uplinkMtu: null,
  supportedFeatures: 0x1_0000_0020n,
  defaultFeatures: 0x1_0000_0020n,
  ibDevice: 'mlx5_0',
  mac: '02:00:00:00:00:07',
  sfNum: null,
};
function ok(plan: ReturnType<typeof planVf>): DevicePlan {
  if (isFailure(plan)) throw new Error(plan.errstr);
  return plan;
}
const pf = ok(planStaticPf(0, firmware, [], site, NO_DEFAULTS));
const vfs = Array.from({ length: 20 }, (_, vfId) =>
  ok(planVf(0, vfId, firmware, [], { ...site, sfNum: 3000 + vfId }, NO_DEFAULTS)),
);
const plans = [pf, ...vfs];
const NOBODY = 65534;

/** What a user does who may do only what the modes of files permit. */
async function unprivileged<T>(action: () => Promise<T>): Promise<T> {
  if (process.getuid?.() !== 0) return action();
  process.seteuid?.(NOBODY);
  try {
    return await action();
  } finally {
    process.seteuid?.(0);
  }
}

describe('recovery files', () => {
  let root: string;
  let paths: VirtnetPaths;
  let said: string[];
  const store = (enabled = true) => new RecoveryStore(paths, enabled, (_, message) => said.push(message));
  const files = () => readdirSync(paths.recovery).sort();
  const put = (name: string, text: string) => writeFileSync(join(paths.recovery, name), text);

  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'rec-'));
    paths = virtnetPaths(root);
    said = [];
  });
  afterEach(() => rmSync(root, { recursive: true }));

  it('of many functions are written and read again, whole', async () => {
    expect(await store().save(plans, plans, firmware)).toBe(true);
    expect(files()).toEqual(plans.map(({ vuid }) => vuid).sort());
    const { recoveries, plans: saved } = await store().load(firmware);
    expect([...recoveries.keys()].sort()).toEqual(files());
    expect(saved.get(pf.vuid)).toEqual(pf);
    expect(said).toEqual([]);
  });

  it('and who asked for a function stands beside them', async () => {
    const asked = new Map([[vfs[0]!.vuid, 'request-1']]);
    expect(await store().save(plans, plans, firmware, asked)).toBe(true);
    expect((await store().load(firmware)).requests).toEqual(asked);
    expect(await store().save([pf], [pf], firmware)).toBe(true);
    expect((await store().load(firmware)).requests.size).toBe(0);
  });

  it('what is saved beside them is there before they are', async () => {
    const saved = store().save([pf], [pf], firmware);
    expect([existsSync(paths.devices), existsSync(join(paths.recovery, pf.vuid))]).toEqual([true, false]);
    expect(await saved).toBe(true);
    expect(files()).toEqual([pf.vuid]);
  });

  it('those of functions that are removed go', async () => {
    await store().save(plans, plans, firmware);
    await store().forget(vfs.map(({ vuid }) => vuid));
    expect(files()).toEqual([pf.vuid]);
  });

  it('with other firmware values nothing that was saved is true any more', async () => {
    await store().save(plans, plans, firmware);
    const { recoveries } = await store().load({ ...firmware, VIRTIO_NET_EMULATION_NUM_MSIX: 8 });
    expect([recoveries.size, files()]).toEqual([0, []]);
  });

  it('while nobody knows the values of now, nothing goes, and those of then are kept', async () => {
    await store().save(plans, plans, firmware);
    const reader = store();
    expect((await reader.load(null)).recoveries.size).toBe(plans.length);
    expect(reader.firmware).toEqual(firmware);
    expect(await reader.save([pf], plans, null)).toBe(true);
    expect((await store().load(firmware)).recoveries.size).toBe(plans.length);
    expect(said).toEqual([]);
    expect((await store().load({ ...firmware, VIRTIO_NET_EMULATION_NUM_MSIX: 8 })).recoveries.size).toBe(0);
  });

  it('values that were saved while nobody knew any are no other ones', async () => {
    expect(await store().save([pf], [pf], null)).toBe(true);
    const reader = store();
    const { recoveries, plans: saved } = await reader.load(firmware);
    expect([recoveries.size, saved.size, reader.firmware, said]).toEqual([1, 1, null, []]);
  });

  it('values of a version with other entries: one that nobody knows does not count, one that is missing had its default', async () => {
    const written = async (change: (values: Record<string, number>) => object) => {
      await store().save([pf], [pf], firmware);
      const document = JSON.parse(readFileSync(paths.devices, 'utf8')) as { firmware: string };
      const values = change(JSON.parse(document.firmware) as Record<string, number>);
      writeFileSync(paths.devices, JSON.stringify({ ...document, firmware: JSON.stringify(values) }));
      return (await store().load(firmware)).recoveries.size;
    };
    expect(await written((values) => ({ ...values, OF_A_NEWER_VERSION: 1 }))).toBe(1);
    expect(await written(({ NUM_OF_PF: _, ...values }) => values)).toBe(1);
    expect(
      await written(({ VIRTIO_NET_EMULATION_NUM_VF: _, ...values }) => values),
      'it was no default',
    ).toBe(0);
  });

  it('recovery off: nothing is read and nothing written', async () => {
    await store().save([pf], [pf], firmware);
    expect(await store(false).save(vfs, plans, firmware)).toBe(true);
    expect((await store(false).load(firmware)).recoveries.size).toBe(0);
    expect(files()).toEqual([pf.vuid]);
  });

  const OTHER = vfs[3]!.vuid;
  it.each<readonly [string, string, (path: string) => void]>([
    ['empty', OTHER, (path) => writeFileSync(path, '')],
    ['torn', OTHER, (path) => writeFileSync(path, '{"port_ib_dev": "mlx5')],
    ['of another function', OTHER, (path) => writeFileSync(path, readFileSync(join(path, '..', pf.vuid)))],
    ['huge', OTHER, (path) => writeFileSync(path, ' '.repeat(1 << 20))],
    ['a directory', OTHER, (path) => mkdirSync(path)],
    ['a FIFO', OTHER, (path) => void execFileSync('mkfifo', [path])],
    ['a device', OTHER, (path) => symlinkSync('/dev/zero', path)],
    ['no VUID', 'notes.txt', (path) => writeFileSync(path, '{}')],
    ['a VUID of another board', 'MT9999X99999VNETS0D0F2', (path) => writeFileSync(path, '{}')],
  ])('%s: said, set aside, and the others are used', async (_, name, make) => {
    await store().save([pf], [pf], firmware);
    make(join(paths.recovery, name));
    const { recoveries } = await store().load(firmware);
    expect([...recoveries.keys()]).toEqual([pf.vuid]);
    expect(said).toEqual(['a recovery file cannot be used and is set aside']);
    expect(files()).toEqual([pf.vuid, `${name}.bad`].sort());
    expect((await store().load(firmware)).recoveries.size).toBe(1);
    expect(said).toHaveLength(1);
  });

  it('what a crash left half written is removed', async () => {
    put(`${pf.vuid}.tmp`, '{"half');
    expect((await store().load(firmware)).recoveries.size).toBe(0);
    expect([files(), said]).toEqual([[], []]);
  });

  it.each([
    ...['', '[]', '{"version":9}', '{"version":1,"firmware":"x","plans":5}'],
    '{"version":1,"firmware":"x","plans":[]}',
  ])('what was saved beside them is %j: set aside, and the recovery files are used', async (text) => {
    await store().save([pf], [pf], firmware);
    writeFileSync(paths.devices, text);
    const { recoveries, plans: saved } = await store().load(firmware);
    expect([recoveries.size, saved.size]).toEqual([1, 0]);
    expect(said).toHaveLength(1);
    expect(readFileSync(`${paths.devices}.bad`, 'utf8')).toBe(text);
  });

  it('the directory is gone: it is made again, and the files are there with the next write', async () => {
    await store().save([pf], [pf], firmware);
    rmSync(paths.recovery, { recursive: true });
    const { recoveries, plans: saved } = await store().load(firmware);
    expect([recoveries.size, saved.size, said]).toEqual([0, 1, []]);
    expect(await store().save([pf], [pf], firmware)).toBe(true);
    expect(files()).toEqual([pf.vuid]);
  });

  it('something else is in place of the directory: that is said, and there are no files', async () => {
    rmSync(paths.recovery, { recursive: true });
    writeFileSync(paths.recovery, '');
    expect((await store().load(firmware)).recoveries.size).toBe(0);
    expect(said).toEqual(['recovery files cannot be read']);
  });

  describe('a directory that is not ours', () => {
    /** Its files may be read and listed as `mode` says. */
    const withhold = (mode: number) => {
      if (process.getuid?.() === 0) execFileSync('chown', ['-R', `${NOBODY}`, root]);
      chmodSync(paths.recovery, mode);
    };
    afterEach(() => chmodSync(paths.recovery, 0o700));

    it('what a crash left half written stays, and the files are read', async () => {
      await store().save([pf], [pf], firmware);
      put(`${vfs[0]!.vuid}.tmp`, '{"half');
      withhold(0o500);
      const { recoveries } = await unprivileged(() => store().load(firmware));
      expect([...recoveries.keys()]).toEqual([pf.vuid]);
      expect(said).toEqual(['what was left of writing a recovery file cannot be removed']);
    });

    it('that cannot be listed: that is said, and there are no files', async () => {
      await store().save([pf], [pf], firmware);
      withhold(0o300);
      expect((await unprivileged(() => store().load(firmware))).recoveries.size).toBe(0);
      expect(said).toEqual(['recovery files cannot be read']);
    });

    it('files for other values of the firmware stay: they do not come true before they are gone', async () => {
      const other = { ...firmware, VIRTIO_NET_EMULATION_NUM_MSIX: 8 };
      await store().save(plans, plans, firmware);
      const document = readFileSync(paths.devices, 'utf8');
      withhold(0o500);
      const one = store();
      expect((await unprivileged(() => one.load(other))).recoveries.size).toBe(0);
      expect(await unprivileged(() => one.save([pf], [pf], other))).toBe(false);
      expect(readFileSync(paths.devices, 'utf8')).toBe(document);
      chmodSync(paths.recovery, 0o700);
      expect(await one.save([pf], plans.slice(0, 3), other)).toBe(true); // nobody else has a file
      expect([...(await store().load(other)).recoveries.keys()].sort()).toEqual(
        plans.slice(0, 3).map(({ vuid }) => vuid),
      );
    });
  });

  it('one that cannot be written leaves nothing behind', async () => {
    const unwritable = Object.defineProperty({ ...vfs[0]! }, 'mac', {
      get: () => {
        throw new Error('no room');
      },
    });
    expect(await store().save([pf, unwritable], [pf], firmware)).toBe(false);
    expect(files()).toEqual([pf.vuid]);
  });

  it('where nothing can be written, that is the answer', async () => {
    rmSync(paths.recovery, { recursive: true });
    expect(await store().save([pf], [pf], firmware)).toBe(false);
    expect(said).toEqual(['a recovery file could not be written']);
  });
});
