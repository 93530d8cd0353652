import type { ControlRequest } from '@virtnet/engine-control';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Invocation, parseVirtnet, translateArgv, UNSUPPORTED_COMMANDS } from './definition.js';

const words = (line: string) => line.split(' ').filter((word) => word !== '');
function request(line: string): ControlRequest {
  const invocation = parseVirtnet(words(line));
  if (invocation.kind !== 'request') throw new Error(`${line}: ${JSON.stringify(invocation)}`);
  return invocation.request;
}
function usage(line: string): string {
  const invocation = parseVirtnet(words(line));
  if (invocation.kind !== 'usage') throw new Error(`${line}: ${JSON.stringify(invocation)}`);
  return invocation.text;
}
const hotplug = 'hotplug -i mlx5_0 -m 0C:C4:7A:FF:22:93 -t 1500';
const none = { all: false, pf: null, vf: null, vuid: null };
const hotplugParams = {
  ibDevice: 'mlx5_0',
  mac: '0C:C4:7A:FF:22:93',
  mtu: 1500,
  queues: null,
  queuePairs: 1,
  queueSize: 1024,
  sfNum: null,
  features: null,
  legacy: false,
};

describe('command lines of the guide', () => {
  it.each<[string, ControlRequest]>([
    [
      'hotplug -i mlx5_0 -f 0x0 -m 0C:C4:7A:FF:22:93 -t 1500 -n 3 -s 1024',
      { command: 'hotplug', params: { ...hotplugParams, features: '0x0', queues: 3, queuePairs: null } },
    ],
    [`${hotplug} -qp 1 -s 1024`, { command: 'hotplug', params: hotplugParams }],
    ['unplug -p 0', { command: 'unplug', params: { pf: 0, vuid: null } }],
    ['list', { command: 'list', params: {} }],
    ['query -p 0', { command: 'query', params: { ...none, pf: 0, brief: false, queue: null } }],
    ['query -p 0 -b', { command: 'query', params: { ...none, pf: 0, brief: true, queue: null } }],
    ['query -p 0 -v 0 -b', { command: 'query', params: { ...none, pf: 0, vf: 0, brief: true, queue: null } }],
    ['query -p 0 -v 0 -q 0', { command: 'query', params: { ...none, pf: 0, vf: 0, brief: false, queue: 0 } }],
    ['health -p 0 show', { command: 'health', params: { ...none, pf: 0 } }],
    ['health -p 0 -v 0 show', { command: 'health', params: { ...none, pf: 0, vf: 0 } }],
    ['log -l info', { command: 'log', params: { level: 'info' } }],
    ['version', { command: 'version', params: {} }],
  ])('virtnet %s', (line, expected) => {
    expect(request(line)).toEqual(expected);
  });

  it('long options mean the same as short ones', () => {
    const long = request(
      'hotplug --ib_device mlx5_0 --mac 0C:C4:7A:FF:22:93 --mtu 1500 --max_queue_pairs 1 --max_queue_size 0x400',
    );
    expect(long).toEqual(request(`${hotplug} -qp 1 -s 1024`));
    expect(request('query --all --brief --queue_id 1')).toEqual(request('query -a -b -q 1'));
    expect(request('unplug --vuid X')).toEqual(request('unplug -u X'));
    expect(request('log --level=debug')).toEqual(request('log -l debug'));
  });

  it('options of hotplug that may be left out', () => {
    expect(request(`${hotplug} -n 3 -s 256 -u 2005 -l`).params).toMatchObject({ sfNum: 2005, legacy: true });
  });

  it('options of query that change the answer or only the parameters line', () => {
    expect(request('query -p 0 --dbg_stats').params).toMatchObject({ dbgStats: true });
    expect(parseVirtnet(words('query -p 0 --latency_stats'))).toMatchObject({
      display: { latencyStats: true },
    });
  });
});

describe('two-letter short option', () => {
  it.each(['-qp 31', '-qp=31', '--max_queue_pairs 31', '--max_queue_pairs=31'])('%s', (option) => {
    expect(request(`${hotplug} ${option} -s 4`).params).toMatchObject({ queuePairs: 31, queues: null });
  });

  it('is hotplug alone: elsewhere the letters are two options', () => {
    expect(translateArgv(['query', '-qp', '1']).argv).toEqual(['query', '-qp', '1']);
  });
});

describe('--json', () => {
  it.each(['--json list', 'list --json', '--json query -p 0', 'query --json -p 0'])('%s', (line) => {
    expect(parseVirtnet(words(line))).toMatchObject({ kind: 'request', json: true });
  });

  it('behind -- is an argument like any other', () => {
    expect(translateArgv(['list', '--', '--json'])).toEqual({ argv: ['list', '--', '--json'], json: false });
  });
});

describe('wrong command line', () => {
  it.each([
    ['', 'a command is required'],
    ['nope', "unknown command 'nope'"],
    ['hotplug', "'-i, --ib_device <IB_DEVICE>' not specified"],
    [`${hotplug} -s 256`, 'one of -n, --max_queues and -qp, --max_queue_pairs is required'],
    [`${hotplug} -n 3 -qp 1 -s 256`, 'cannot be used with'],
    [`${hotplug} -n three -s 256`, 'It is not a whole number.'],
    [`${hotplug} -n 3.5 -s 256`, 'It is not a whole number.'],
    [`${hotplug} -n 99999999999999999999 -s 256`, 'It is not a whole number.'],
    [`${hotplug} -n 3 -s 256 -f xyz`, 'It is not a hexadecimal number of 64 bits.'],
    [`${hotplug} -n 3 -s`, 'argument missing'],
    [`${hotplug} -n 3 -s 256 extra`, 'too many arguments'],
    [`${hotplug} -n 3 -s 256 --nope`, "unknown option '--nope'"],
    ['unplug', 'one of -p, --pf and -u, --vuid is required'],
    ['unplug -p 0 -u X', 'cannot be used with'],
    ['query', 'is required'],
    ['query -v 0', '-v, --vf needs -p, --pf'],
    ['query -a -p 0', 'cannot be used with'],
    ['query -p 0 -u X', 'cannot be used with'],
    ['query -a -v 0', 'cannot be used with'],
    ['health -p 0', 'missing required argument'],
    ['health -p 0 hide', 'Allowed choices are show'],
    ['log', "'-l, --level <LEVEL>' not specified"],
    ['log -l trace', 'Allowed choices are info, err, debug'],
    ['list 1', 'too many arguments'],
  ])('virtnet %s', (line, expected) => {
    const text = usage(line);
    expect(text).toContain(expected);
    expect(text.split('\n')[0]).toMatch(/^usage: virtnet/);
    expect(text.split('\n')[1]).toMatch(/^virtnet.*: error: /);
  });

  it('the usage line is that of the command', () => {
    expect(usage('unplug')).toMatch(
      /^usage: virtnet unplug \[-h\] \{-p PF \| -u VUID\}\nvirtnet unplug: error: /,
    );
  });
});

describe('what this version does not have', () => {
  const line = (name: string) => parseVirtnet([name, '-p', '0', 'device', '--anything', '-l', '0']);
  it.each(Object.keys(UNSUPPORTED_COMMANDS))('%s, whatever its arguments', (name) => {
    expect(line(name)).toEqual({ kind: 'unsupported', json: false });
  });

  it('query --stats_clear', () => {
    expect(parseVirtnet(words('query -p 0 --stats_clear'))).toMatchObject({ kind: 'unsupported' });
  });
});

describe('help and version', () => {
  it.each(['-h', '--help', 'hotplug -h', 'health --help', 'modify -h'])('virtnet %s', (line) => {
    const invocation = parseVirtnet(words(line));
    expect(invocation.kind === 'text' && invocation.text).toMatch(/^usage: virtnet/);
  });

  it('help shows the short form that is translated', () => {
    const invocation = parseVirtnet(['hotplug', '-h']);
    expect(invocation.kind === 'text' && invocation.text).toContain('-qp, --max_queue_pairs');
  });

  it.each(['-v', '--version'])('virtnet %s is a version with a leading v', (line) => {
    const invocation = parseVirtnet([line]);
    expect(invocation.kind === 'text' && invocation.text).toMatch(/^v\d+\.\d+\.\d+\n$/);
  });
});

describe('any command line', () => {
  const word = fc.oneof(
    fc.constantFrom(
      'hotplug',
      'unplug',
      'list',
      'query',
      'health',
      'show',
      'log',
      'modify',
      '--',
      '--json',
      '-qp',
    ),
    fc.constantFrom('-i', '-m', '-t', '-n', '-s', '-u', '-f', '-l', '-p', '-v', '-a', '-b', '-q', '-h'),
    fc.constantFrom('0', '1', '3', '1024', '0x10', '-1', 'mlx5_0', '0C:C4:7A:FF:22:93', 'info'),
    fc.string(),
  );

  it('comes to one outcome and never throws', () => {
    fc.assert(
      fc.property(fc.array(word, { maxLength: 12 }), (argv) => {
        const kinds: Invocation['kind'][] = ['request', 'unsupported', 'text', 'usage'];
        expect(kinds).toContain(parseVirtnet(argv).kind);
      }),
      { numRuns: 300 },
    );
  });

  it('numbers survive, decimal and hexadecimal', () => {
    fc.assert(
      fc.property(fc.integer({ min: -(2 ** 31), max: 2 ** 31 }), (value) => {
        const hexadecimal = `${value < 0 ? '-' : ''}0x${Math.abs(value).toString(16)}`;
        for (const text of [String(value), hexadecimal])
          expect(parseVirtnet(['unplug', `--pf=${text}`])).toMatchObject({
            request: { params: { pf: value } },
          });
      }),
      { numRuns: 50 },
    );
  });
});
