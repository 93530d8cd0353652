import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ControlRequest } from '@virtnet/engine-control';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import type { Reply } from './controller.js';
import { runVirtnet } from './run-virtnet.js';

interface Run {
  readonly code: number;
  readonly out: string;
  readonly err: string;
  readonly asked: readonly ControlRequest[];
}

/** `replies` in their order, the last one again and again. */
async function run(line: string, ...replies: Reply[]): Promise<Run> {
  let out = '';
  let err = '';
  const asked: ControlRequest[] = [];
  const io = {
    out: (text: string) => {
      out += text;
    },
    err: (text: string) => {
      err += text;
    },
  };
  const code = await runVirtnet(line.split(' '), io, async (request) => {
    asked.push(request);
    const reply = replies.length > 1 ? replies.shift() : replies[0];
    if (reply === undefined) throw new Error('nothing may be asked here');
    return reply;
  });
  return { code, out, err, asked };
}
const answer = (value: unknown, exitCode = 0): Reply => ({ kind: 'answer', answer: value, exitCode });
const success = { errno: 0, errstr: 'Success' };

describe('virtnet', () => {
  it('prints the parameters, then JSON with two blanks per level', async () => {
    const { out, code, err } = await run('unplug -p 0', answer(success));
    expect(out).toBe(`{'id': '0x0'}\n{\n  "errno": 0,\n  "errstr": "Success"\n}\n`);
    expect([code, err]).toEqual([0, '']);
  });

  it('keeps the order and the padding of keys', async () => {
    const status = { value: '0x3', '    0': 'ACK', '    1': 'DRIVER' };
    const { out } = await run('list', answer(status));
    expect(out).toBe(`{\n  "value": "0x3",\n  "    0": "ACK",\n  "    1": "DRIVER"\n}\n`);
  });

  it('hotplug, list and version print no parameters', async () => {
    const hotplug = 'hotplug -i mlx5_0 -m 0C:C4:7A:FF:22:93 -t 1500 -n 3 -s 1024';
    for (const line of [hotplug, 'list', 'version']) expect((await run(line, answer({}))).out).toBe('{}\n');
  });

  it('log prints the JSON text of the original', async () => {
    expect((await run('log -l info', answer('Success'))).out).toBe(`{'level': 'info'}\n"Success"\n`);
  });

  it('--json prints JSON only', async () => {
    const { out } = await run('--json query -p 0 -b', answer({ devices: [] }));
    expect(JSON.parse(out)).toEqual({ devices: [] });
  });

  it('a device that does not exist is an error of the answer, with the exit code of the controller', async () => {
    const { out, code } = await run('query -p 0 -v 0 -b', answer({ Error: "Device doesn't exist" }, 1));
    expect(out).toMatch(
      /^\{'all': '0x0', 'vf': '0x0', 'pf': '0x0', .*\}\n\{\n {2}"Error": "Device doesn't exist"\n\}\n$/,
    );
    expect(code).toBe(1);
  });

  it('sends exactly what was asked for', async () => {
    const { asked } = await run('health -p 3 show', answer({}));
    expect(asked).toEqual([{ command: 'health', params: { all: false, pf: 3, vf: null, vuid: null } }]);
  });
});

describe('virtnet, errors', () => {
  it('a refused request shows the Linux errno', async () => {
    const { out, code } = await run('list', { kind: 'refused', errno: -22, errstr: 'bad' });
    expect(JSON.parse(out)).toEqual({ errno: -22, errstr: 'bad' });
    expect(code).toBe(1);
  });

  it('no controller: a message on stderr, nothing on stdout, exit code 1', async () => {
    const { out, err, code } = await run('list', { kind: 'unavailable', reason: 'gone' });
    expect([out, err, code]).toEqual(['', 'virtnet: gone\n', 1]);
  });

  it('a number that no device can have is answered without asking', async () => {
    const { out, code, asked } = await run('unplug -p 70000');
    expect(out).toContain('"errno": -1007');
    expect([code, asked]).toEqual([1, []]);
  });

  it('update prints the parameters of the guide', async () => {
    const started = "Update started, use 'virtnet update -t' or check logs for status";
    expect((await run('update -s', answer(started))).out).toBe(
      `{'start': '0x1'}\n${JSON.stringify(started)}\n`,
    );
    const status = { status: 'inactive', 'last live update status': 'success', 'time_used (s)': 0.604152 };
    expect((await run('update -t', answer(status))).out).toMatch(
      /^\{'status': '0x1'\}\n\{\n {2}"status": "inactive",\n {2}"last live update status": "success",\n {2}"time_used \(s\)": 0\.604152\n\}\n$/,
    );
  });

  it('a wrong command line: usage and error on stderr, exit code 2', async () => {
    const { out, err, code } = await run('query');
    expect(out).toBe('');
    expect(err).toMatch(/^usage: virtnet query .*\nvirtnet query: error: .*\n$/);
    expect(code).toBe(2);
  });

  it('help and version go to stdout with exit code 0', async () => {
    for (const line of ['-h', '-v', 'query -h']) {
      const { out, err, code } = await run(line);
      expect(out).not.toBe('');
      expect([err, code]).toEqual(['', 0]);
    }
  });
});

describe('virtnet restart', () => {
  const begun = answer("Update started, use 'virtnet update -t' or check logs for status");
  const status = (facts: object): Reply => answer({ status: 'inactive', ...facts });

  it('asks until the move is over, and says so in one word', async () => {
    const ended = status({ 'last live update status': 'success' });
    const { out, code, asked } = await run('restart', begun, answer({ status: 'ongoing' }), ended);
    expect([out, code]).toEqual(['SUCCESS\n', 0]);
    expect(asked.map(({ command }) => command)).toEqual(['restart', 'update', 'update']);
    expect((await run('--json restart', begun, ended)).out).toBe('"SUCCESS"\n');
  });

  it('tells why it failed, and what the controller refused', async () => {
    const failed = status({ 'last live update status': 'failed', reason: 'no standby' });
    const { out, code } = await run('restart', begun, failed);
    expect([JSON.parse(out), code]).toEqual([{ errno: -5, errstr: 'no standby' }, 1]);
    const busy = { errno: -16, errstr: 'Live update is in progress' };
    expect(JSON.parse((await run('restart', answer(busy, 1))).out)).toEqual(busy);
  });
});

describe('virtnet validate', () => {
  function root(): string {
    const path = mkdtempSync(join(tmpdir(), 'virtnet-validate-'));
    vi.stubEnv('VIRTNET_ROOT', path);
    onTestFinished(() => {
      vi.unstubAllEnvs();
      rmSync(path, { recursive: true });
    });
    return path;
  }

  it('says that a file is valid, without a controller', async () => {
    const file = join(root(), 'any.conf');
    writeFileSync(file, '{ "is_lag": 1, }');
    expect(await run(`validate -f ${file}`)).toMatchObject({ code: 0, out: `${file} is valid\n`, err: '' });
    expect((await run(`--json validate -f ${file}`)).out).toBe(`"${file} is valid"\n`);
  });

  it('says line, column, key, fault and remedy of everything that is wrong, with exit code 1', async () => {
    const file = join(root(), 'any.conf');
    writeFileSync(
      file,
      '{ "is_lag": 1,\n  "single_port": 1, "ib_dev_lag": "mlx5_bond_0",\n  "ib_dev_p0": "mlx5_0" }',
    );
    const { code, out } = await run(`validate -f ${file}`);
    expect(out.split('\n')).toEqual([
      `${file}:2:18: single_port: excludes is_lag: a bond has two ports. Remedy: set one of the two to 0.`,
      `${file}:3:16: ib_dev_p0: excludes ib_dev_lag. Remedy: remove one of the two.`,
      '',
    ]);
    expect(code).toBe(1);
    expect(JSON.parse((await run(`--json validate -f ${file}`)).out)).toHaveLength(2);
  });

  it('without -f looks at virtnet.conf in its place, which need not exist', async () => {
    const place = join(root(), 'opt/mellanox/mlnx_virtnet/virtnet.conf');
    expect(await run('validate')).toMatchObject({ code: 0, out: `${place} is valid\n` });
    expect(await run('validate -f /nowhere.conf')).toMatchObject({
      code: 1,
      out: '/nowhere.conf: there is no such file\n',
    });
  });
});
