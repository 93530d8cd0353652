import { describe, expect, it } from 'vitest';
import type { Reply } from './controller.js';
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

async function run(line: string, reply?: Reply, asked: unknown[] = []) {
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
    expect(asked).toEqual([{ command: 'host', params }]);
    expect(JSON.parse(out)).toEqual(SUCCESS);
    expect(code).toBe(0);
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

  it.each(['modprobe -r virtio_net', 'ethtool -l eth0'])('%s is not supported', async (line) => {
    const { code, out } = await run(line);
    expect(JSON.parse(out)).toEqual({ errno: -1047, errstr: 'Option is not supported' });
    expect(code).toBe(1);
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
