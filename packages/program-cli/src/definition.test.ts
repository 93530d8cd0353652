import { type ControlRequest, LINK_SPEEDS } from '@virtnet/engine-control';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SPEEDS_SHOWN } from './define-modify.js';
import { type Invocation, parseVirtnet } from './definition.js';

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
    ['update -s', { command: 'update', params: { start: true, status: false } }],
    ['update --status', { command: 'update', params: { start: false, status: true } }],
    ['restart', { command: 'restart', params: {} }],
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
    expect(request('query -p 0 --dbg_stats --stats_clear').params).toMatchObject({
      dbgStats: true,
      statsClear: true,
    });
    expect(parseVirtnet(words('query -p 0 --latency_stats'))).toMatchObject({
      display: { latencyStats: true },
    });
  });
});

describe('modify', () => {
  const device = (line: string) => request(`modify -p 0 device ${line}`).params;

  it.each([
    ['-m 0C:C4:7A:FF:22:93', { mac: '0C:C4:7A:FF:22:93' }],
    ['-t 9216', { mtu: 9216 }],
    ['-e 25000', { speed: 25_000 }],
    ['-l 0', { link: 0 }],
    ['-s 0x40', { state: 0x40 }],
    ['-f 0x8900010300E7982F', { features: '0x8900010300e7982f' }],
    ['-o 1f', { supportedHashTypes: 0x1f }],
    ['-k 40', { rssMaxKeySize: 40 }],
    ['-r 0x20', { rxMode: 0x20 }],
    ['-n 8', { msixNum: 8 }],
    ['-q 2048', { maxQueueSize: 2048 }],
    ['-qp 2', { maxQueuePairs: 2 }],
    ['-d 50', { dstPort: 0x50 }],
    ['-b 4', { rxDmaQNum: 4 }],
    ['-dc enable', { dropCounter: 'enable' }],
    ['-pkt_cnt disable', { packetCounter: 'disable' }],
    ['-aarfs enable', { aarfs: 'enable' }],
    ['-dim enable', { dim: 'enable' }],
    ['-netdim disable', { netDim: 'disable' }],
    ['-qp 2 -n 6', { maxQueuePairs: 2, msixNum: 6 }],
  ])('device %s', (line, options) => {
    expect(device(line)).toEqual({ all: false, pf: 0, vf: null, vuid: null, device: options });
  });

  it('queue', () => {
    expect(request('modify -p 0 -v 1 queue -e cqe -n 8 -c 32').params).toEqual({
      ...{ all: false, pf: 0, vf: 1, vuid: null },
      queueOptions: { periodMode: 'cqe', period: 8, maxCount: 32 },
    });
  });

  it.each(['modify -a device -l 0', 'modify -u V device -l 0'])('%s', (line) => {
    expect(request(line).command).toBe('modify');
  });

  it('shows the speeds that there are', () => {
    expect(SPEEDS_SHOWN).toEqual(LINK_SPEEDS);
  });
});

describe('stats', () => {
  it.each([
    ['stats -p 0', { pf: 0, vf: null, vuid: null, queue: null }],
    ['stats -p 0 -v 2 -q 4', { pf: 0, vf: 2, vuid: null, queue: 4 }],
    ['stats -u V', { pf: null, vf: null, vuid: 'V', queue: null }],
  ])('%s', (line, params) => {
    expect(request(line).params).toEqual(params);
  });
});

describe('abbreviation of a long option', () => {
  it.each([
    ['query --p 0 --br', { pf: 0, brief: true }],
    ['query --pf=0 --stats', { statsClear: true }],
    ['modify --vu V device --mt 1500', { device: { mtu: 1500 } }],
    ['modify --pf 0 device --max_queue_s=64', { device: { maxQueueSize: 64 } }],
  ])('%s', (line, params) => {
    expect(request(line).params).toMatchObject(params);
  });

  it('of several options is refused, and names them', () => {
    expect(usage('modify -p 0 device --max_queue 64')).toContain(
      'virtnet modify device: error: ambiguous option: --max_queue could match --max_queue_size, --max_queue_pairs',
    );
    expect(usage('query --v 0')).toContain('ambiguous option: --v could match --vf, --vuid');
  });

  it('is never made of a value', () => {
    expect(request('unplug -u --pf').params).toMatchObject({ vuid: '--pf' });
  });
});

describe('two-letter short option', () => {
  it.each(['-qp 31', '-qp=31', '--max_queue_pairs 31', '--max_queue_pairs=31'])('%s', (option) => {
    expect(request(`${hotplug} ${option} -s 4`).params).toMatchObject({ queuePairs: 31, queues: null });
  });

  it('where there is none the letters are an option and its value', () => {
    expect(request('query -p 0 -q1').params).toMatchObject({ queue: 1 });
    expect(usage('query -qp 0')).toContain('It is not a whole number.');
  });
});

describe('--json', () => {
  it.each(['--json list', 'list --json', '--json query -p 0', 'query --json -p 0'])('%s', (line) => {
    expect(parseVirtnet(words(line))).toMatchObject({ kind: 'request', json: true });
  });

  it('behind -- is an argument like any other', () => {
    expect(usage('list -- --json')).toContain('too many arguments');
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
    ['modify -p 0', 'a command is required'],
    ['modify device -l 0', 'one of -a, --all, -p, --pf and -u, --vuid is required'],
    ['modify -a -p 0 device -l 0', 'cannot be used with'],
    ['modify -p 0 device -pkt_cnt on', 'Allowed choices are enable, disable'],
    ['modify -p 0 device -r x', 'It is not a hexadecimal number.'],
    ['modify -p 0 queue -n 1 -c 1', "'-e, --period_mode <PERIOD_MODE>' not specified"],
    ['stats', 'is required'],
    ['stats -p 0 -u X', 'cannot be used with'],
    ['log', "'-l, --level <LEVEL>' not specified"],
    ['log -l trace', 'Allowed choices are info, err, debug'],
    ['list 1', 'too many arguments'],
    ['update', 'one of -s, --start and -t, --status is required'],
    ['update -s -t', 'cannot be used with'],
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
        const kinds: Invocation['kind'][] = ['request', 'text', 'usage'];
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
