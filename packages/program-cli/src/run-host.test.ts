import { describe, expect, it } from 'vitest';
import type { Reply } from './controller.js';
import { pciRows, runHost } from './run-host.js';

const device = (bdf: string, more: Record<string, unknown> = {}) => ({
  pci_bdf: bdf,
  pci_dev_id: '0x1041',
  pci_vendor_id: '0x1af4',
  pci_class_code: '0x20000',
  pci_revision_id: '1',
  ...more,
});

async function run(line: string, reply?: Reply) {
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
    async () => {
      if (reply === undefined) throw new Error('nothing may be asked here');
      return reply;
    },
  );
  return { code, out, err };
}
const devices = (...list: unknown[]): Reply => ({ kind: 'answer', answer: { devices: list }, exitCode: 0 });

describe('virtnet-host lspci', () => {
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
    expect(pciRows({ devices: [null, 1, {}, { pci_bdf: 5 }, device('15:00.0')] })).toHaveLength(1);
    expect(pciRows('x')).toBeNull();
  });

  it('no controller: a message on stderr, exit code 1', async () => {
    expect(await run('lspci', { kind: 'unavailable', reason: 'gone' })).toEqual({
      code: 1,
      out: '',
      err: 'virtnet-host: gone\n',
    });
  });

  it.each([
    'lspci -vvv',
    'lspci -k',
    'lspci -D',
    'sriov 14:00.2 2',
    'power-cycle',
    'bind 15:00.0 virtio-pci',
  ])('%s is not supported', async (line) => {
    const { code, out } = await run(line);
    expect(JSON.parse(out)).toEqual({ errno: -1047, errstr: 'Option is not supported' });
    expect(code).toBe(1);
  });

  it.each(['lspci -s zz', 'lspci extra', 'nope', 'lspci -x'])('%s is a wrong command line', async (line) => {
    const { code, err } = await run(line);
    expect(code).toBe(2);
    expect(err).toMatch(/^usage: virtnet-host /);
  });
});
