import { UNDOES_BIND } from '@virtnet/engine-control';
import { describe, expect, it } from 'vitest';
import type { Reply } from './controller.js';
import type { DrivenFunction, DriverPort } from './driver-process.js';
import { pciRows, runHost } from './run-host.js';

const device = (bdf: string, more: Record<string, unknown> = {}) => ({
  bdf,
  classCode: 0x20000,
  vendorId: 0x1af4,
  deviceId: 0x1041,
  revisionId: 1,
  driver: '',
  ...more,
});

/** A driver that drives `driven`; what it was asked is in `asked`. Null: none runs. */
function driverOf(driven: readonly DrivenFunction[] | null, asked: unknown[] = []): DriverPort {
  return {
    sync: async (start) => {
      asked.push({ start });
      return driven;
    },
    channels: async (device, combined) => {
      asked.push({ device, combined });
      const found = driven?.find(({ netdev }) => netdev === device);
      if (driven === null) return null;
      if (found === undefined) return { errno: -19, errstr: 'No such device' };
      return { errno: 0, errstr: 'Success', netdev: device, bdf: found.bdf, most: 31, used: combined ?? 15 };
    },
  };
}

async function run(line: string, reply?: Reply, asked: unknown[] = [], driver = driverOf(null)) {
  let out = '';
  let err = '';
  const code = await runHost(
    line.split(' '),
    {
      out: (text) => {
        out += text;
      },
      err: (text) => {
        err += text;
      },
    },
    async (request) => {
      if (reply === undefined) throw new Error('nothing may be asked here');
      asked.push(request);
      return reply;
    },
    driver,
  );
  return { code, out, err };
}
const devices = (...list: unknown[]): Reply => ({ kind: 'answer', answer: { functions: list }, exitCode: 0 });
const answered = (answer: unknown): Reply => ({ kind: 'answer', answer, exitCode: 0 });
const SUCCESS = { errno: 0, errstr: 'Success' };

describe('virtnet-host', () => {
  const two = devices(device('16:00.0'), device('15:00.0'));

  it('prints the rows of the guide in bus order', async () => {
    expect(await run('lspci', two)).toEqual({
      code: 0,
      err: '',
      out:
        '15:00.0 Ethernet controller: Red Hat, Inc. Virtio network device (rev 01)\n' +
        '16:00.0 Ethernet controller: Red Hat, Inc. Virtio network device (rev 01)\n',
    });
  });

  it('-n and -s', async () => {
    expect((await run('lspci -n -s 16:00.0', two)).out).toBe('16:00.0 0200: 1af4:1041 (rev 01)\n');
    expect((await run('lspci -ns 15:', two)).out).toBe('15:00.0 0200: 1af4:1041 (rev 01)\n');
  });

  it('without functions prints nothing', async () => {
    expect(await run('lspci', devices())).toEqual({ code: 0, out: '', err: '' });
  });

  it('a malformed answer is shown as it is, with exit code 1', async () => {
    expect(await run('lspci', { kind: 'answer', answer: { odd: 1 }, exitCode: 0 })).toMatchObject({
      code: 1,
    });
    expect(pciRows({ functions: [null, 1, {}, { bdf: 5 }, device('15:00.0')] })).toHaveLength(1);
    expect(pciRows('x')).toBeNull();
  });

  it('no controller: a message on stderr, exit code 1', async () => {
    expect(await run('lspci', { kind: 'unavailable', reason: 'gone' })).toEqual({
      code: 1,
      out: '',
      err: 'virtnet-host: gone\n',
    });
  });

  it('-k and -D', async () => {
    const bound = devices(device('15:00.0', { driver: 'vfio-pci' }), device('16:00.0'));
    expect((await run('lspci -Dk', bound)).out).toBe(
      '0000:15:00.0 Ethernet controller: Red Hat, Inc. Virtio network device (rev 01)\n' +
        '\tKernel driver in use: vfio-pci\n' +
        '0000:16:00.0 Ethernet controller: Red Hat, Inc. Virtio network device (rev 01)\n',
    );
  });

  it.each(['lspci', 'lspci -k'])('%s asks for no configuration space, -vvv does', async (line) => {
    const asked: unknown[] = [];
    await run(line, two, asked);
    await run('lspci -vvv', two, asked);
    expect(asked).toMatchObject([
      { command: 'host', params: { verb: 'functions', value: 0 } },
      { command: 'host', params: { verb: 'functions', value: 1 } },
    ]);
  });

  it.each([
    ['sriov 14:00.2 126', { verb: 'sriov', bdf: '14:00.2', value: 126, driver: null }],
    ['bind 0000:15:00.0 vfio-pci', { verb: 'bind', bdf: '0000:15:00.0', value: null, driver: 'vfio-pci' }],
    ['unbind 15:00.0 vfio-pci', { verb: 'unbind', bdf: '15:00.0', value: null, driver: 'vfio-pci' }],
    ['flr 15:00.0', { verb: 'flr', bdf: '15:00.0', value: null, driver: null }],
    ['warm-reboot', { verb: 'warm-reboot', bdf: null, value: null, driver: null }],
    ['power-cycle', { verb: 'power-cycle', bdf: null, value: null, driver: null }],
  ])('%s asks the controller and prints what came of it', async (line, params) => {
    const asked: unknown[] = [];
    const { code, out } = await run(line, answered(SUCCESS), asked);
    expect(asked[0]).toEqual({ command: 'host', params });
    expect(JSON.parse(out)).toEqual(SUCCESS);
    expect(code).toBe(0);
  });

  it.each([
    ['was killed > it is started, and drives it again', 'virtio-pci', null, 0],
    ['runs > busy', 'virtio-pci', [], -16],
    ['is another one > busy', 'vfio-pci', null, -16],
  ])('bind of a function whose driver %s', async (_, boundTo, driven, errno) => {
    const rows = { functions: [{ bdf: '15:00.0', driver: boundTo }] };
    const busy = { errno: -16, errstr: 'Device or resource busy' };
    const asked: unknown[] = [];
    let out = '';
    await runHost(
      ['bind', '0000:15:00.0', 'virtio-pci'],
      { out: (text) => (out += text), err: () => {} },
      async ({ params }) => answered((params as { verb: string }).verb === 'functions' ? rows : busy),
      {
        ...driverOf(driven),
        sync: async (start) => {
          asked.push(start);
          return start ? [{ bdf: '15:00.0', netdev: 'vnet15s00f0', failure: null }] : driven;
        },
      },
    );
    expect(JSON.parse(out).errno).toBe(errno);
    expect(asked.includes(true)).toBe(errno === 0);
  });

  it('after a power cycle that could not make every PF the driver follows all the same', async () => {
    const partly = { errno: -1048, errstr: 'Failed to create SF: more' };
    const asked: unknown[] = [];
    const { code, out } = await run('power-cycle', answered(partly), asked, driverOf([], asked));
    expect([code, JSON.parse(out)]).toEqual([1, partly]);
    expect(asked).toContainEqual({ start: false });
  });

  it('an error of the host: as it is, with exit code 1', async () => {
    const busy = { errno: -16, errstr: 'Device or resource busy' };
    const { code, out } = await run('sriov 14:00.2 3', answered(busy));
    expect(JSON.parse(out)).toEqual(busy);
    expect(code).toBe(1);
  });

  it('dmesg prints lines', async () => {
    expect(await run('dmesg', answered({ lines: ['[    0.1] a', '[    0.2] b'] }))).toEqual({
      code: 0,
      out: '[    0.1] a\n[    0.2] b\n',
      err: '',
    });
  });

  it.each(['modprobe vfio vfio_pci', 'modprobe -v vfio-pci'])('%s: is there already', async (line) => {
    const { code, out } = await run(line);
    expect(JSON.parse(out)).toEqual(SUCCESS);
    expect(code).toBe(0);
  });

  it.each([
    'modprobe e1000',
    'modprobe vfio_pci virtio_net',
    'modprobe -r vfio_pci',
    'ethtool vnet15s00f0',
    'ethtool -S vnet15s00f0',
    'ethtool -L vnet15s00f0 rx 4',
    'ethtool -L vnet15s00f0 combined many',
    'ethtool -l vnet15s00f0 -i vnet15s00f0',
  ])('%s is not supported', async (line) => {
    const { code, out } = await run(line);
    expect(JSON.parse(out)).toEqual({ errno: -1047, errstr: 'Option is not supported' });
    expect(code).toBe(1);
  });

  describe('the virtio-net driver', () => {
    const good: DrivenFunction = { bdf: '15:00.0', netdev: 'vnet15s00f0', failure: null };
    const bad: DrivenFunction = {
      bdf: '15:00.0',
      netdev: null,
      failure: { errno: -1, reason: 'not permitted' },
    };

    it.each([
      ['bind 15:00.0 virtio-pci', { verb: 'bind', driver: 'virtio-pci' }, [{ start: true }]],
      ['unbind 15:00.0 virtio-pci', { verb: 'unbind', driver: 'virtio-pci' }, [{ start: false }]],
      ['bind 15:00.0 vfio-pci', { verb: 'bind', driver: 'vfio-pci' }, [{ start: false }]],
      ['modprobe -v virtio-net', { verb: 'modprobe', value: 1 }, [{ start: true }]],
      ['modprobe -r virtio_net', { verb: 'modprobe', value: 0 }, [{ start: false }]],
      ['sriov 14:00.2 4', { verb: 'sriov', value: 4 }, [{ start: false }]],
      ['autoprobe 14:00.2 0', { verb: 'autoprobe', value: 0 }, []],
      ['flr 15:00.0', { verb: 'flr' }, []],
    ])('%s: follows the state of the host', async (line, params, synced) => {
      const asked: unknown[] = [];
      const syncs: unknown[] = [];
      const { code } = await run(line, answered(SUCCESS), asked, driverOf([good], syncs));
      expect(code).toBe(0);
      expect(asked).toMatchObject([{ command: 'host', params }]);
      expect(syncs).toEqual(synced);
    });

    it('does not follow what was refused', async () => {
      const syncs: unknown[] = [];
      await run(
        'bind 15:00.0 virtio-pci',
        answered({ errno: -16, errstr: 'busy' }),
        [],
        driverOf([good], syncs),
      );
      expect(syncs).toEqual([]);
    });

    it('a function it cannot take is unbound again, and said to be so', async () => {
      const asked: unknown[] = [];
      const { code, out, err } = await run(
        'bind 0000:15:00.0 virtio-pci',
        answered(SUCCESS),
        asked,
        driverOf([bad]),
      );
      expect(JSON.parse(out)).toEqual({ errno: -1, errstr: 'not permitted' });
      expect(err).toBe('virtnet-host: 0000:15:00.0: not permitted\n');
      expect(code).toBe(1);
      expect(asked).toMatchObject([
        { params: { verb: 'bind', bdf: '0000:15:00.0' } },
        { params: { verb: 'unbind', bdf: '15:00.0', value: UNDOES_BIND, driver: 'virtio-pci' } },
      ]);
    });

    it.each(['1A:00.0', '0000:1A:00.0', '1a:00.0'])('%s is the function that it cannot take', async (bdf) => {
      const driver = driverOf([{ ...bad, bdf: '1a:00.0' }]);
      const { code, out } = await run(`bind ${bdf} virtio-pci`, answered(SUCCESS), [], driver);
      expect(JSON.parse(out)).toEqual({ errno: -1, errstr: 'not permitted' });
      expect(code).toBe(1);
    });

    it('a function that somebody else has unbound meanwhile is not said to be bound', async () => {
      const { code, out, err } = await run(
        'bind 16:00.0 virtio-pci',
        answered(SUCCESS),
        [],
        driverOf([good]),
      );
      expect(JSON.parse(out)).toEqual({ errno: -5, errstr: 'Input/output error' });
      expect(err).toBe('virtnet-host: 0000:16:00.0: it is not bound any more\n');
      expect(code).toBe(1);
    });

    it('a driver that does not start: the function is unbound again', async () => {
      const broken = { ...driverOf(null), sync: () => Promise.reject(new Error('does not start')) };
      const asked: unknown[] = [];
      const { code, err } = await run('bind 15:00.0 virtio-pci', answered(SUCCESS), asked, broken);
      expect(code).toBe(1);
      expect(err).toContain('does not start');
      expect(asked.slice(1)).toMatchObject([
        { params: { verb: 'unbind', bdf: '15:00.0', value: UNDOES_BIND, driver: 'virtio-pci' } },
      ]);
    });

    it('modprobe tells what it could not bind, and fails', async () => {
      const other = { ...bad, bdf: '16:00.0', failure: { errno: -17, reason: 'the name is taken' } };
      for (const [driven, errstr] of [
        [[good, other], '0000:16:00.0: the name is taken'],
        [[other, good, bad, bad], '0000:16:00.0: the name is taken, and 2 more'],
      ] as const) {
        const asked: unknown[] = [];
        const { code, out, err } = await run(
          'modprobe virtio_net',
          answered(SUCCESS),
          asked,
          driverOf(driven),
        );
        expect(JSON.parse(out)).toEqual({ errno: -17, errstr });
        expect(err).toContain('virtnet-host: 0000:16:00.0: the name is taken\n');
        expect(code).toBe(1);
        expect(asked[1]).toMatchObject({ params: { verb: 'unbind', bdf: '16:00.0', value: UNDOES_BIND } });
      }
    });

    it('sriov succeeds where only the driver cannot take the VFs', async () => {
      const { code, err } = await run('sriov 14:00.2 1', answered(SUCCESS), [], driverOf([bad]));
      expect(code).toBe(0);
      expect(err).toBe('virtnet-host: 0000:15:00.0: not permitted\n');
    });

    it('ethtool -l, -L and -i, in the form of the guide', async () => {
      const driver = driverOf([good]);
      const half = (name: string, combined: number) =>
        `${name}:\nRX:             n/a\nTX:             n/a\nOther:          n/a\nCombined:       ${combined}\n`;
      expect((await run('ethtool -l vnet15s00f0', undefined, [], driver)).out).toBe(
        'Channel parameters for vnet15s00f0:\n' +
          half('Pre-set maximums', 31) +
          half('Current hardware settings', 15),
      );
      expect(await run('ethtool -L vnet15s00f0 combined 31', undefined, [], driver)).toMatchObject({
        code: 0,
        out: '',
      });
      expect((await run('ethtool -i vnet15s00f0', undefined, [], driver)).out).toMatch(
        /^driver: virtio_net\nversion: 1\.0\.0\nfirmware-version: \nexpansion-rom-version: \nbus-info: 0000:15:00\.0\n/,
      );
      for (const none of [driver, driverOf(null)]) {
        const { code, out } = await run('ethtool -l eth9', undefined, [], none);
        expect(code).toBe(1);
        expect(JSON.parse(out)).toMatchObject({ errno: -19 });
      }
      const { out } = await run('ethtool -l eth9', undefined, [], driverOf(null));
      expect(out).toContain('No such device: the virtio-net driver does not run');
    });
  });

  it.each([
    'lspci -s zz',
    'lspci extra',
    'nope',
    'lspci -x',
    'sriov 14:00.2 many',
    'sriov 14:00.2',
    'bind 14:00.2 e1000',
  ])('%s is a wrong command line', async (line) => {
    const { code, err } = await run(line);
    expect(code).toBe(2);
    expect(err).toMatch(/^usage: virtnet-host /);
  });
});
