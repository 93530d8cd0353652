/** The host's side: static PFs and VFs by configuration, and what each event leaves of every kind of function. */
import { existsSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type FunctionKind, outcomeOf, RECOVERY_EVENTS, type RecoveryEvent } from '@virtnet/engine-control';
import { describe, expect, test } from 'vitest';
import { BoundFunction } from './lib/bound-function.ts';
import { Service } from './lib/service.ts';
import { update } from './lib/updates.ts';
import { endsCleanly, useScene } from './lib/use-scene.ts';
import { until } from './lib/waiting.ts';

const PATIENCE_MS = 60_000;
const FIRMWARE = [
  ...['VIRTIO_NET_EMULATION_ENABLE=1', 'VIRTIO_NET_EMULATION_NUM_PF=2', 'VIRTIO_NET_EMULATION_NUM_VF=8'],
  ...['VIRTIO_NET_EMULATION_NUM_MSIX=10', 'VIRTIO_NET_EMULATION_NUM_VF_MSIX=32', 'SRIOV_EN=1'],
  ...['PCI_SWITCH_EMULATION_ENABLE=1', 'PCI_SWITCH_EMULATION_NUM_PORT=4'],
  ...['PER_PF_NUM_SF=1', 'PF_TOTAL_SF=64', 'PF_BAR2_ENABLE=0', 'PF_SF_BAR_SIZE=8'],
];
const SUCCESS = { errno: 0, errstr: 'Success' };
const PF0 = '14:00.2';
const PF1 = '14:00.3';

interface Listed {
  readonly function_type: string;
  readonly vuid: string;
  readonly pci_bdf: string;
  readonly mac: string;
  readonly sf_num: number;
  readonly mtu: string;
  readonly enabled_vfs: string;
  readonly num_msix: string;
  readonly num_queues: string;
  readonly max_queue_pairs: string;
  readonly msix_num_pool_size: number;
  readonly qp_pool_size: number;
}

/** VFs start with 32 vectors and 32 queue pairs, as in the guide's examples; a tenth of the 64 SFs is made ahead. */
const CONF = { vf: { max_queue_pairs: 32 }, sf_pool_percent: 10, sf_pool_force_destroy: 1 };

const used = useScene(async (scene) => ({ service: await Service.start(scene, { conf: CONF }), scene }));

async function host(...words: string[]): Promise<unknown> {
  const { stdout } = await used.value.service.host(...words);
  return JSON.parse(stdout);
}

async function listed(): Promise<readonly Listed[]> {
  return (await used.value.service.answer<{ devices: Listed[] }>('list')).devices;
}

/** What makes a function the same one, by its address. */
async function functions(): Promise<Record<string, string>> {
  const devices = await listed();
  return Object.fromEntries(
    devices.map(({ pci_bdf, vuid, mac, sf_num, mtu, num_msix, max_queue_pairs }) => [
      pci_bdf,
      [vuid, mac, sf_num, mtu, num_msix, max_queue_pairs].join(' '),
    ]),
  );
}

const recovery = () => join(used.value.service.root, 'opt/mellanox/mlnx_virtnet/recovery');
const files = () => readdirSync(recovery()).sort();

/** The rows of lspci, the list, the recovery files and the sockets name the same functions. */
async function consistent(): Promise<void> {
  const { service } = used.value;
  const devices = await listed();
  const rows = (await service.host('lspci')).stdout.trim().split('\n');
  const bdfs = devices.map(({ pci_bdf }) => pci_bdf).sort();
  expect(rows.map((row) => row.split(' ')[0]).sort()).toEqual(bdfs);
  expect(files().filter((name) => !name.endsWith('.bad'))).toEqual(devices.map(({ vuid }) => vuid).sort());
  for (const bdf of bdfs) expect(existsSync(service.socket(bdf)), bdf).toBe(true);
  for (const pf of devices.filter(({ function_type }) => function_type === 'static PF')) {
    const vfs = devices.filter(({ vuid }) => vuid.startsWith(`${pf.vuid}VF`));
    expect(pf.enabled_vfs).toBe(`${vfs.length}`);
  }
}

describe('functions by configuration', () => {
  test('a power cycle makes the next boot’s values current: static PFs appear', async () => {
    const { service } = used.value;
    await service.hotplug({ mac: '0C:C4:7A:FF:22:93' }); // of the old configuration, and gone with it
    expect((await service.mlxconfig('-y', '-d', '03:00.0', 's', ...FIRMWARE)).code).toBe(0);
    expect(Object.keys(await functions())).toEqual(['15:00.0']);
    expect(await host('power-cycle')).toEqual(SUCCESS);
    expect(Object.keys(await functions())).toEqual([PF0, PF1]);
    await consistent();
  });

  test('the pool of SFs is there before any VF, VFs take it, and a restart makes it anew', async () => {
    const { service, scene } = used.value;
    const pooled = async () => (await scene.net.links()).filter(({ ifname }) => /sf3\d{3}$/.test(ifname));
    const before = await pooled();
    expect(before.map(({ ifname }) => ifname)).toEqual([0, 1, 2, 3, 4, 5].map((i) => `en3f0pf0sf300${i}`));
    expect(await host('sriov', PF0, '2')).toEqual(SUCCESS);
    expect(await pooled()).toMatchObject(before.map(({ ifname, ifindex }) => ({ ifname, ifindex })));
    expect((await service.virtnet('restart')).code).toBe(0);
    const after = await until('the pool', PATIENCE_MS, async () => {
      const now = await pooled();
      return now.length === before.length && now.some(({ ifindex }) => ifindex > before.at(-1)!.ifindex)
        ? now
        : null;
    });
    expect(after.map(({ ifname }) => ifname).sort()).toEqual(before.map(({ ifname }) => ifname));
    const kept = after.filter(({ ifindex }) => before.some((former) => former.ifindex === ifindex));
    expect(kept.map(({ ifname }) => ifname)).toEqual(['en3f0pf0sf3000', 'en3f0pf0sf3001']);
    expect(await host('sriov', PF0, '0')).toEqual(SUCCESS);
    expect(await pooled()).toHaveLength(6);
  });

  test('sriov makes and removes VFs, from 0 or to 0; two at once are one after the other', async () => {
    const { service } = used.value;
    const both = await Promise.all([host('sriov', PF0, '3'), host('sriov', PF0, '4')]);
    expect(both).toContainEqual(SUCCESS);
    expect(both).toContainEqual(expect.objectContaining({ errno: -16 }));
    expect(await host('sriov', PF0, '0')).toEqual(SUCCESS);
    expect(await host('sriov', PF0, '9')).toMatchObject({ errno: -34 });
    expect(await host('sriov', '17:00.0', '1')).toMatchObject({ errno: -19 });
    expect(await host('sriov', `0000:${PF0}`, '4')).toEqual(SUCCESS);
    expect(await host('sriov', PF1, '2')).toEqual(SUCCESS);
    await consistent();
    const vfs = (await listed()).filter(({ function_type }) => function_type === 'VF');
    expect(vfs.map(({ sf_num }) => sf_num)).toEqual([3000, 3001, 3002, 3003, 3004, 3005]);
    const { stdout } = await service.host('lspci', '-vvv', '-s', PF0);
    expect(stdout).toContain('Initial VFs: 8, Total VFs: 8, Number of VFs: 4');
  });

  /** `virtnet modify` of a VF's share. */
  const changer = (pf: number) => async (vf: number, option: string, value: number) => {
    const words = ['--json', 'modify', '-p', `${pf}`, '-v', `${vf}`, 'device', option, `${value}`];
    const { stdout } = await used.value.service.virtnet(...words);
    return (JSON.parse(stdout) as { errno: number }).errno;
  };
  const poolOf = async (bdf: string) => {
    const pf = (await listed()).find(({ pci_bdf }) => pci_bdf === bdf);
    return [pf?.msix_num_pool_size, pf?.qp_pool_size];
  };

  test('VFs share their PF’s queue pairs: the guide’s example, VF 1 keeps one and VF 0 is set to 23', async () => {
    const change = changer(1);
    const pairs = async () =>
      (await listed())
        .filter(({ vuid }) => vuid.includes('F3VF'))
        .map(({ num_msix, max_queue_pairs }) => [num_msix, max_queue_pairs]);
    expect([await poolOf(PF1), await pairs()]).toEqual([
      [0, 0],
      [
        ['32', '32'],
        ['32', '32'],
      ],
    ]);
    expect(await change(1, '-qp', 1)).toBe(0);
    expect(await poolOf(PF1)).toEqual([0, 31]);
    expect(await change(0, '-qp', 23)).toBe(0);
    expect([await poolOf(PF1), await pairs()]).toEqual([
      [0, 40],
      [
        ['32', '23'],
        ['32', '1'],
      ],
    ]);
    expect(await change(0, '-qp', 64)).toBe(-1074);
    expect(await change(0, '-qp', 32)).toBe(0);
    expect(await change(1, '-qp', 32)).toBe(0);
    expect(await poolOf(PF1)).toEqual([0, 0]);
  });

  test('VFs share their PF’s vectors, and queue pairs follow: the guide’s example of MSI-X', async () => {
    const change = changer(0);
    const pool = () => poolOf(PF0);
    expect(await pool()).toEqual([0, 0]);
    expect(await change(1, '-n', 4)).toBe(0);
    expect(await pool()).toEqual([28, 31]);
    expect(await change(0, '-n', 48)).toBe(0);
    expect(await pool()).toEqual([12, 40]);
    const vf = (await listed()).find(({ vuid }) => vuid.endsWith('F2VF1'));
    expect(vf).toMatchObject({ num_msix: '48', max_queue_pairs: '23' });
    expect(await change(2, '-n', 48)).toBe(-1010);
    expect(await change(2, '-n', 5)).toBe(-1010);
    expect(await change(2, '-qp', 100)).toBe(-1074);
    expect(await change(2, '-qp', 1)).toBe(0);
    expect(await change(3, '-qp', 33)).toBe(0);
    expect(await pool()).toEqual([12, 70]);
  });

  test('a VF without vectors or queue pairs > no driver can use it, over kill -9 and restarts, until it has them again', async () => {
    const { service } = used.value;
    const warning = {
      errno: -1044,
      errstr: "Warning - this device won't function, don't try to probe with virtio driver",
    };
    const share = async (...option: string[]) => {
      const { stdout, code } = await service.virtnet(
        '--json',
        'modify',
        '-p',
        '1',
        '-v',
        '1',
        'device',
        ...option,
      );
      return [JSON.parse(stdout), code];
    };
    const seen = async () => {
      const devices = await listed();
      const pf = devices.find(({ pci_bdf }) => pci_bdf === PF1);
      const vf = devices.find(({ vuid }) => vuid.endsWith('F3VF2'))!;
      const shown = [
        vf.num_msix,
        vf.num_queues,
        vf.max_queue_pairs,
        pf?.msix_num_pool_size,
        pf?.qp_pool_size,
      ];
      const { stdout } = await service.host('lspci', '-v', '-s', vf.pci_bdf);
      return { shown, msix: /MSI-X/.test(stdout), bdf: vf.pci_bdf };
    };
    /** Whether a driver comes up that begins as any does. */
    const works = async (bdf: string) => {
      expect(await host('bind', bdf, 'vfio-pci')).toEqual(SUCCESS);
      const fn = await BoundFunction.open(service.socket(bdf));
      const outcome = await fn.start().then(
        () => 'started',
        (error: Error) => error.message,
      );
      await fn.close();
      await until('the function is let go', PATIENCE_MS, async () => {
        const answer = (await host('unbind', bdf, 'vfio-pci')) as { errno: number };
        return answer.errno === 0;
      });
      return outcome;
    };
    const away = { shown: ['0', '0', '0', 32, 32], msix: false };
    expect(await share('-n', '0')).toEqual([warning, 1]);
    expect(await seen()).toMatchObject(away);
    const { bdf } = await seen();
    expect(await works(bdf)).toMatch(/FEATURES_OK|features/);
    await service.recovered(service.killEmu().pid);
    expect(await seen()).toMatchObject(away);
    expect(await works(bdf)).toMatch(/FEATURES_OK|features/);
    await service.stop();
    await service.startAgain();
    expect(await seen()).toMatchObject(away);
    expect(await share('-n', '10')).toEqual([SUCCESS, 0]);
    expect(await seen()).toMatchObject({ shown: ['10', '9', '4', 22, 28], msix: true });
    expect(await works(bdf)).toBe('started');
    expect(await share('-qp', '0')).toEqual([warning, 1]);
    expect(await seen()).toMatchObject({ shown: ['10', '0', '0', 22, 32], msix: true });
    expect(await works(bdf)).toMatch(/FEATURES_OK|features/);
    expect(await share('-n', '32')).toEqual([SUCCESS, 0]);
    expect(await share('-qp', '32')).toEqual([SUCCESS, 0]);
    expect(await seen()).toMatchObject({ shown: ['32', '65', '32', 0, 0], msix: true });
  });

  test('a driver works a VF; the host resets it', async () => {
    const { service } = used.value;
    const vf = (await listed()).find(({ function_type }) => function_type === 'VF')!.pci_bdf;
    expect(await host('bind', vf, 'vfio-pci')).toEqual(SUCCESS);
    const fn = await BoundFunction.open(service.socket(vf));
    await fn.start({ queueSize: 256 });
    const status = async () =>
      (await service.answer<{ devices: { status: object }[] }>('query', '-p', '0', '-v', '0', '-b'))
        .devices[0]?.status;
    expect(await status()).toMatchObject({ value: '0xf' });
    expect(await host('unbind', vf, 'vfio-pci')).toMatchObject({ errno: -16 });
    expect(await host('flr', vf)).toEqual(SUCCESS);
    expect(await status()).toMatchObject({ value: '0x0' });
    await fn.close();
    await until('the function is let go', PATIENCE_MS, async () => {
      const answer = (await host('unbind', vf, 'vfio-pci')) as { errno: number };
      return answer.errno === 0;
    });
    expect((await service.host('lspci', '-k')).stdout).not.toContain('vfio-pci');
  });
});

describe('recovery', () => {
  test('restart of the controller > every function as it was; hostile files set aside', async () => {
    const { service, scene } = used.value;
    await service.hotplug({ mac: '0C:C4:7A:FF:22:94', mtu: 1400 });
    expect(await service.answer('modify', '-p', '1', 'device', '-m', '02:00:00:00:12:34')).toEqual(SUCCESS);
    const before = await functions();
    expect(Object.keys(before)).toHaveLength(9);
    await service.stop();
    expect((await scene.net.links()).filter(({ ifname }) => ifname.startsWith('en3f0'))).toEqual([]);
    const [, , vf] = files();
    writeFileSync(join(recovery(), 'MT9999X99999VNETS0D0F2'), '{"pf_id": 0}');
    writeFileSync(join(recovery(), 'notes'), 'hello');
    await service.startAgain();
    expect(await functions()).toEqual(before);
    await consistent();
    expect(files().filter((name) => name.endsWith('.bad'))).toEqual([
      'MT9999X99999VNETS0D0F2.bad',
      'notes.bad',
    ]);
    expect(readFileSync(join(recovery(), vf!), 'utf8')).toContain('"port_ib_dev": "mlx5_0"');
  });

  test('a torn file > its function is made anew, all others are as they were', async () => {
    const { service } = used.value;
    const before = await functions();
    await service.stop();
    const torn = Object.values(before)
      .find((text) => text.includes('F3VF2'))!
      .split(' ')[0]!;
    writeFileSync(join(recovery(), torn), readFileSync(join(recovery(), torn), 'utf8').slice(0, 50));
    await service.startAgain();
    const after = await functions();
    expect(Object.keys(after)).toEqual(Object.keys(before));
    const isTorn = (bdf: string) => before[bdf]!.startsWith(torn);
    expect(Object.keys(after).filter((bdf) => after[bdf] !== before[bdf])).toEqual(
      Object.keys(before).filter(isTorn),
    );
    expect(files()).toContain(`${torn}.bad`);
    await consistent();
  });

  test('recovery files cannot be written or removed > each command says so, and no function comes or goes', async () => {
    const { service } = used.value;
    await succeeds('sriov', PF1, '0');
    const before = await functions();
    const { vuid } = (await listed()).find(({ function_type }) => function_type === 'hotplug PF')!;
    const plug = 'hotplug -i mlx5_0 -m 0C:C4:7A:FF:22:96 -t 1500 -n 3 -s 256';
    const rows: [string, string, number, string][] = [
      ['virtnet', plug, -1015, 'Failed to create recovery file'],
      ['virtnet-host', `sriov ${PF1} 2`, -1015, 'Failed to create recovery file'],
      ['virtnet', `unplug -u ${vuid}`, -1016, 'Failed to delete MAC in recovery file'],
      ['virtnet-host', 'power-cycle', -1016, 'Failed to delete MAC in recovery file'],
      ['virtnet', 'modify -p 1 device -m 02:00:00:00:12:35', -1018, 'Failed to save MAC into recovery file'],
      ['virtnet', 'modify -p 1 device -qp 2', -1019, 'Failed to save MQ into recovery file'],
      ['virtnet', 'modify -p 1 device -t 1300', -1014, 'Failed to save config into recovery file'],
    ];
    renameSync(recovery(), `${recovery()}-away`);
    for (const [program, line, errno, errstr] of rows) {
      const words = line.split(' ');
      const { code, stdout } = await (program === 'virtnet'
        ? service.virtnet('--json', ...words)
        : service.host(...words));
      expect([line, code, JSON.parse(stdout)]).toEqual([line, 1, { errno, errstr }]);
    }
    renameSync(`${recovery()}-away`, recovery());
    const former = ['-m', '02:00:00:00:12:34', '-qp', '4', '-t', '1500'];
    expect(await service.answer('modify', '-p', '1', 'device', ...former)).toEqual(SUCCESS);
    expect(await functions()).toEqual(before);
    await consistent();
  });

  test('a number no VF has, a PF’s vectors, values too large > the guide’s errors', async () => {
    const rows: [string, number][] = [
      ['modify -p 0 -v 7 device -m 02:00:00:00:00:09', -1073],
      ['modify -p 9 device -m 02:00:00:00:00:09', -1002],
      ['modify -p 0 device -n 4', -1010],
      ['modify -p 0 queue -e event -n 65536 -c 1', -1033],
      ['unplug -p 0', -1003],
    ];
    for (const [line, errno] of rows) {
      const { code, stdout } = await used.value.service.virtnet('--json', ...line.split(' '));
      expect([line, code, JSON.parse(stdout)]).toMatchObject([line, 1, { errno }]);
    }
  });

  test('kill -9 of the emulator > nothing changes', async () => {
    const { service } = used.value;
    const before = await functions();
    await service.recovered(service.killEmu().pid);
    expect(await functions()).toEqual(before);
    await consistent();
  });

  /** Each until the function it resolves to was called. */
  const OBSTACLES: Record<string, () => Promise<() => Promise<unknown>>> = {
    gone: async () => {
      rmSync(recovery(), { recursive: true });
      return () => Promise.resolve();
    },
    'a file': async () => {
      renameSync(recovery(), `${recovery()}-away`);
      writeFileSync(recovery(), '');
      return async () => {
        rmSync(recovery());
        renameSync(`${recovery()}-away`, recovery());
      };
    },
    'read-only, with a file half written': async () => {
      const { net } = used.value.scene;
      writeFileSync(join(recovery(), `${files()[0]}.tmp`), '{');
      await net.run(['mount', '--bind', recovery(), recovery()]);
      await net.run(['mount', '-o', 'remount,bind,ro', recovery()]);
      return async () => {
        await net.run(['umount', recovery()]);
        rmSync(join(recovery(), `${files()[0]}.tmp`), { force: true });
      };
    },
  };

  test.each(Object.entries(OBSTACLES))(
    'kill -9 of the emulator, the directory of recovery files is %s > nothing changes, nobody else dies',
    async (_, obstruct) => {
      const { service } = used.value;
      const before = await functions();
      const [controller, standby] = [service.runningPid('controller'), service.runningPid('emu-standby')];
      const mend = await obstruct();
      try {
        const { pid } = await service.recovered(service.killEmu().pid);
        expect([pid, service.runningPid('controller')]).toEqual([standby, controller]);
        expect(await functions()).toEqual(before);
        const rows = (await service.host('lspci')).stdout.trim().split('\n');
        expect(rows).toHaveLength(Object.keys(before).length);
        // The one that came after it meets the same.
        await service.recovered(service.killEmu().pid);
        expect(await functions()).toEqual(before);
      } finally {
        await mend();
      }
      await service.recovered(service.killEmu().pid);
      await consistent();
    },
  );
});

/** How each event is brought about. */
const EVENTS: Partial<Record<RecoveryEvent, () => Promise<unknown>>> = {
  'restart controller': async () => {
    await used.value.service.stop();
    await used.value.service.startAgain();
  },
  'hot unplug': async () => {
    const plugged = (await listed()).find(({ function_type }) => function_type === 'hotplug PF');
    expect(await used.value.service.answer('unplug', '-u', plugged!.vuid)).toEqual(SUCCESS);
  },
  'destroy VFs': () => succeeds('sriov', PF0, '0'),
  'unload driver': async () => {
    const plugged = (await listed()).find(({ function_type }) => function_type === 'hotplug PF')!;
    for (const bdf of [PF0, plugged.pci_bdf]) {
      await succeeds('bind', bdf, 'vfio-pci');
      await succeeds('unbind', bdf, 'vfio-pci');
    }
  },
  'live update': async () => {
    const status = await update(used.value.service);
    expect(status['last live update status'], status.reason).toBe('success');
  },
  'power cycle': () => succeeds('power-cycle'),
  'warm reboot': () => succeeds('warm-reboot'),
};

async function succeeds(...words: string[]): Promise<void> {
  expect(await host(...words), words.join(' ')).toEqual(SUCCESS);
}

/** Functions of every kind: both static PFs, a hotplug PF with other queue pairs, and VFs of the first static PF. */
async function furnish(): Promise<readonly Listed[]> {
  const { service } = used.value;
  const before = await listed();
  const kinds = new Set(before.map(({ function_type }) => function_type));
  if (!kinds.has('hotplug PF')) await service.hotplug({ mac: '0C:C4:7A:FF:22:95', mtu: 1400 });
  const plugged = (await listed()).find(({ function_type }) => function_type === 'hotplug PF')!;
  expect(await service.answer('modify', '-u', plugged.vuid, 'device', '-qp', '3')).toEqual(SUCCESS);
  if (before.some(({ vuid }) => vuid.includes('F3VF'))) await succeeds('sriov', PF1, '0');
  if (!before.some(({ vuid }) => vuid.includes('F2VF'))) await succeeds('sriov', PF0, '2');
  return listed();
}

describe('the recovery matrix', () => {
  test('every event that a command can bring about has its row', () => {
    const others = RECOVERY_EVENTS.filter((event) => EVENTS[event] === undefined);
    expect(others).toEqual(['live migration']);
  });

  test.each(Object.keys(EVENTS) as RecoveryEvent[])('%s', async (event) => {
    const before = await furnish();
    await EVENTS[event]!();
    const after = new Map((await listed()).map((device) => [device.vuid, device]));
    for (const device of before) {
      const { vuid, pci_bdf, mac, sf_num, mtu, function_type, max_queue_pairs, num_queues } = device;
      if (function_type === 'hotplug PF') expect([max_queue_pairs, num_queues]).toEqual(['3', '7']);
      const now = after.get(vuid);
      switch (outcomeOf(event, function_type as FunctionKind)) {
        case 'gone':
          expect(now, vuid).toBeUndefined();
          break;
        case 'fresh':
          expect(now, vuid).toMatchObject({ pci_bdf, sf_num });
          expect(now?.mac, vuid).not.toBe(mac);
          break;
        default:
          expect(now, vuid).toMatchObject({ pci_bdf, mac, sf_num, mtu, max_queue_pairs, num_queues });
      }
      after.delete(vuid);
    }
    expect([...after.keys()]).toEqual([]);
    await consistent(); // a function that is gone has no recovery file
  });

  test('the host’s log tells of functions and VFs', async () => {
    const { stdout } = await used.value.service.host('dmesg');
    expect(stdout).toMatch(/pci 0000:14:00\.2: \[1af4:1041\]/);
  });
});

endsCleanly(used);
