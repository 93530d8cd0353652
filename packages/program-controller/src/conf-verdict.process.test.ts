/** Whoever validates a file and whoever starts with it hear the same. Both run from `dist`, so build first. */
import { spawnSync } from 'node:child_process';
import { chmodSync, chownSync, mkdirSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { factoryValues, initialFirmwareStore } from '@virtnet/engine-control';
import { type VirtnetPaths, writeFirmwareStore } from '@virtnet/host-ipc';
import { expect, it, onTestFinished } from 'vitest';
import { Service } from './service.fixture.js';

const virtnet = fileURLToPath(new URL('../../program-cli/bin/virtnet', import.meta.url));

/** What is written where virtnet.conf belongs. */
type Written = string | Uint8Array | 'a directory' | 'nothing';

const GOOD: readonly [string, Written][] = [
  ['no file', 'nothing'],
  [
    'two ports and static PFs',
    `{
  "ib_dev_p0": "mlx5_0",
  "ib_dev_p1": "mlx5_1",
  "ib_dev_for_static_pf": "mlx5_0",
  "is_lag": 0,
  "recovery": 0,
  "static_pf": { "mac_base": "08:11:22:33:44:55", "features": "0x230047082b" },
  "vf": { "mac_base": "06:11:22:33:44:55", "vfs_per_pf": 100, "max_queue_pairs": 4, "max_queue_size": 256 }
}`,
  ],
  [
    'LAG, with a comma behind the last key',
    '{ "ib_dev_lag": "mlx5_bond_0", "ib_dev_for_static_pf": "mlx5_bond_0", "is_lag": 1, }',
  ],
];

const BAD: readonly [string, Written][] = [
  ['no text', ''],
  ['half of it', '{ "is_lag": 1, "vf": {'],
  ['not JSON', 'is_lag = 1'],
  ['bytes that are no text', Uint8Array.of(0xff, 0xfe, 0, 0x7b)],
  ['too large', `{${' '.repeat(70_000)}}`],
  ['a directory', 'a directory'],
  ['an unknown key', '{ "mtu": 9000 }'],
  ['types and ranges', '{\n  "is_lag": "1",\n  "recovery": 2,\n  "vf": { "max_queue_size": 100 }\n}'],
  ['keys that exclude each other', '{ "is_lag": 1, "single_port": 1 }'],
  ['more than the firmware has', '{ "vf": { "mac_base": "06:11:22:33:44:55", "vfs_per_pf": 101 } }'],
];

/** A service that has not been started, on a firmware with 100 VFs for each PF, with `written` in its place. */
function prepared(written: Written): Service {
  const service = new Service();
  onTestFinished(() => service.remove());
  const { conf, fwconfig } = service.paths;
  const current = { ...factoryValues(), VIRTIO_NET_EMULATION_NUM_VF: 100 };
  writeFirmwareStore(fwconfig, { ...initialFirmwareStore(), current });
  if (written === 'a directory') mkdirSync(conf);
  else if (written !== 'nothing') writeFileSync(conf, written);
  return service;
}

function validate({ paths }: Service, ...file: string[]) {
  return validateAs({}, paths, ...file);
}

function validateAs(user: { uid?: number; gid?: number }, { root }: VirtnetPaths, ...file: string[]) {
  const env = { ...process.env, VIRTNET_ROOT: root };
  const { status, stdout } = spawnSync(virtnet, ['validate', ...file], { ...user, env, encoding: 'utf8' });
  return { status, lines: stdout.split('\n').slice(0, -1) };
}

it.each(GOOD)('%s: valid, and the service starts', { timeout: 90_000 }, async (_, written) => {
  const service = prepared(written);
  expect(validate(service)).toEqual({ status: 0, lines: [`${service.paths.conf} is valid`] });
  await service.start(); // rejects when it is not ready
  expect(service.stderr).not.toContain('Remedy');
});

it('what only the original refuses: valid, with the same note from both', { timeout: 90_000 }, async () => {
  const service = prepared('{ "packed_vq": 1, "mrg_rxbuf": 1 }');
  const { status, lines } = validate(service);
  expect([status, lines.length, lines[1]]).toEqual([0, 2, `${service.paths.conf} is valid`]);
  expect(lines[0]).toContain(`${service.paths.conf}:1:16: packed_vq: note: `);
  await service.start();
  expect(service.stderr).toContain(`virtio_net_controller: ${lines[0]}\n`);
});

it.each(BAD)(
  '%s: refused by both with the same lines and exit code',
  { timeout: 90_000 },
  async (_, written) => {
    const service = prepared(written);
    const verdict = validate(service);
    expect(verdict.status).toBe(1);
    expect(verdict.lines.length).toBeGreaterThan(0);
    expect(validate(service, '-f', service.paths.conf)).toEqual(verdict);
    service.launch();
    const exitCode = await service.signal('SIGCONT'); // changes nothing
    expect(exitCode).toBe(1);
    const lines = verdict.lines.map((line) => `virtio_net_controller: ${line}\n`);
    await service.says((stderr) => expect(stderr).toBe(lines.join('')));
  },
);

it.runIf(process.getuid?.() === 0)(
  'a user who may not read the firmware configuration is told what cannot be judged without it',
  () => {
    const user = { uid: 4321, gid: 4321 };
    const { paths } = prepared('{ "vf": { "mac_base": "06:11:22:33:44:55", "vfs_per_pf": 101 } }');
    const { root, opt, conf, fwconfig } = paths;
    for (const directory of [root, `${root}/opt`, `${root}/opt/mellanox`, opt]) chmodSync(directory, 0o755);
    chmodSync(conf, 0o644);
    const unjudged = {
      status: 1,
      lines: [
        `${fwconfig}: this user may not read it, so vf.vfs_per_pf cannot be compared with ` +
          'VIRTIO_NET_EMULATION_NUM_VF. Remedy: validate as root.',
      ],
    };
    expect(validateAs(user, paths)).toEqual(unjudged);
    expect(validateAs(user, paths, '-f', conf)).toEqual(unjudged);
    writeFileSync(conf, '{ "is_lag": 0 }'); // says nothing that the firmware has to fit
    expect(validateAs(user, paths)).toEqual({ status: 0, lines: [`${conf} is valid`] });
    writeFileSync(conf, '{ "vf": { "mac_base": "06:11:22:33:44:55", "vfs_per_pf": 100 } }');
    expect(validateAs(user, paths)).toEqual(unjudged);
    chownSync(fwconfig, user.uid, user.gid);
    expect(validateAs(user, paths)).toEqual({ status: 0, lines: [`${conf} is valid`] });
  },
);
