import { describe, expect, test } from 'vitest';
import { differences, guideFacts } from '../../scripts/lib/guide-text.ts';

const block = (first: string, ...others: string[]) => [
  ' '.repeat(12),
  ' '.repeat(12) + first,
  ...others,
  '    ',
];
const examplesOf = (...lines: string[]) => guideFacts(lines.join('\n')).examples;

describe('a block', () => {
  test('a prompt begins an example, with its line and its side', () => {
    const lines = ['To see it:', ...block('[dpu]# one -a', '[host]# two', '# three', '$ four')];
    expect(examplesOf(...lines)).toEqual([
      { at: 3, side: 'dpu', command: 'one -a' },
      { at: 4, side: 'host', command: 'two' },
      { at: 5, side: 'dpu', command: 'three' },
      { at: 6, side: 'dpu', command: 'four' },
    ]);
  });

  test('a command goes on after a backslash', () => {
    expect(examplesOf(...block('[dpu]# set \\', 'A=1 \\', 'B=2', 'said'))).toEqual([
      { at: 2, side: 'dpu', command: 'set A=1 B=2' },
    ]);
  });

  test('spaces that do not break are spaces', () => {
    expect(examplesOf(...block('[dpu]# one\u00a0-a\u00a02'))[0]!.command).toBe('one -a 2');
  });

  test('the text behind its end is no part of it', () => {
    const lines = [...block('# virtnet list', '{"a": 1}').slice(0, -1), '    The options', '"b": 2'];
    expect(examplesOf(...lines)[0]!.shape).toEqual(['a N']);
  });
});

describe('an answer', () => {
  test('has keys in their order with their kinds, and no partial mark when it is whole', () => {
    const answer = [
      "{'x': '0x0'}",
      '{',
      ' "b": "7",',
      ' "a": {"value": "0x1", "    0": "BIT"},',
      ' "c": [1]',
      '}',
    ];
    expect(examplesOf(...block('# virtnet query -p 0', ...answer))).toEqual([
      {
        at: 2,
        side: 'dpu',
        command: 'virtnet query -p 0',
        parameters: "{'x': '0x0'}",
        shape: ['b D', 'a O', 'a.value H', 'c A'],
      },
    ]);
  });

  test('a last bracket that is missing leaves nothing out', () => {
    const [example] = examplesOf(...block('# virtnet health', '{', '"a": {', '"b": 1 }'));
    expect(example).toMatchObject({ shape: ['a O', 'a.b N'] });
    expect(example).not.toHaveProperty('partial');
  });

  test('entries left out, and keys without their object, make it partial', () => {
    const [gap] = examplesOf(...block('# virtnet list', '{', '...', '"a": [{"b": 1}, ...]', '}'));
    expect(gap).toMatchObject({ shape: ['a A', 'a[].b N'], partial: true });
    const [bare] = examplesOf(...block('# virtnet list', '"a": {', '"value": "0x3"', '},'));
    expect(bare).toMatchObject({ shape: ['a O', 'a.value H'], partial: true });
  });

  test('several objects count as an array, comments do not count', () => {
    const [example] = examplesOf(
      ...block('# virtnet version', '{ "a": "v1"  # the old "b": 2', '}, { "c": 3 }'),
    );
    expect(example!.shape).toEqual(['[0].a T', '[1].c N']);
  });

  test('of what is not JSON the text is kept, of what grep lets through each pair', () => {
    expect(examplesOf(...block('# virtnet restart', 'DONE'))[0]).toMatchObject({ text: 'DONE' });
    const [found] = examplesOf(...block('# virtnet list | grep a', '  "a": 1,', '  "ab": "2",'));
    expect(found!.found).toEqual(['a N', 'ab D']);
  });

  test('may stand in the next block, after one line with a colon', () => {
    const answer = block('{', '"a": 1 }');
    expect(examplesOf(...block('# virtnet list'), 'It says:', ...answer)[0]!.shape).toEqual(['a N']);
    for (const between of [['It says'], ['Another', 'matter:']]) {
      const { examples, files } = guideFacts([...block('# virtnet list'), ...between, ...answer].join('\n'));
      expect(examples[0]).not.toHaveProperty('shape');
      expect(files).toEqual([{ at: 3 + between.length + 2, content: '{ "a": 1 }' }]);
    }
  });
});

describe('a step', () => {
  test('its commands end where a prompt, prose or an output begins', () => {
    const line =
      '- Do so: - [dpu]# one -a <b> [dpu]# two 3 - Then look: - [host]# lspci | grep x 00:01.0 Some card (rev 01) 00:02.0 Other card - 2 more';
    expect(examplesOf('', line)).toEqual([
      { at: 2, side: 'dpu', command: 'one -a <b>' },
      { at: 2, side: 'dpu', command: 'two 3' },
      {
        at: 2,
        side: 'host',
        command: 'lspci | grep x',
        rows: ['00:01.0 Some card (rev 01)', '00:02.0 Other card'],
      },
    ]);
  });

  test('an answer may come after prose', () => {
    const [example] = examplesOf(
      '- [dpu]# virtnet list -q 1 Info- See there. - It says: - { "a": "x" } Note- Well',
    );
    expect(example).toMatchObject({ command: 'virtnet list -q 1', shape: ['a T'] });
  });

  test('a quoted pair is part of a command', () => {
    const line = `- [dpu]# virtnet list | grep '"a": 0' -A 8 | grep b - So`;
    expect(examplesOf(line)).toEqual([
      { at: 1, side: 'dpu', command: `virtnet list | grep '"a": 0' -A 8 | grep b` },
    ]);
  });

  test('marks of typefaces within a command are none of it', () => {
    expect(examplesOf('- [dpu]# modify -p - 0-v- 1device -m- 00:- 01:- 02')[0]!.command).toBe(
      'modify -p 0 -v 1 device -m 00:01:02',
    );
    expect(examplesOf('- [dpu]# set mtu - 9000[dpu]# set A_ B=1').map(({ command }) => command)).toEqual([
      'set mtu 9000',
      'set A_B=1',
    ]);
  });

  test('keys of ethtool are found on one line as on several', () => {
    const keys = ['driver', 'bus-info', 'version'];
    expect(examplesOf('- [host]# ethtool -i x driver: y bus-info: 0000:15:00.0 version: ')[0]!.keys).toEqual(
      keys,
    );
    const lines = block('[host]# ethtool -i x', 'driver: y', 'bus-info: 0000:15:00.0', 'version:');
    expect(examplesOf(...lines)[0]!.keys).toEqual(keys);
  });
});

describe('beside examples', () => {
  test('a usage line is no example: its words and its options once', () => {
    const usages = [
      ...block('virtnet modify device [-h] {[-a] | [-p PF]}', '   [-dc {enable,disable}] --all'),
      ...block('[dpu]# virtnet health [-h] [show]'),
    ];
    const { examples, syntax } = guideFacts(usages.join('\n'));
    expect(examples).toEqual([]);
    expect(syntax).toEqual([
      { at: 2, command: 'virtnet modify device', options: ['-h', '-a', '-p', '-dc', '--all'] },
      { at: 6, command: 'virtnet health', options: ['-h'] },
    ]);
  });

  test('configuration files are kept on one line, also those that are shown by cat', () => {
    const { examples, files } = guideFacts(
      [...block('{', '...', ' "a": 1', '}'), '- [dpu]# cat /x/y.conf { "b": 2, } Info- Refer'].join('\n'),
    );
    expect(examples).toEqual([]);
    expect(files).toEqual([
      { at: 2, content: '{ "a": 1 }' },
      { at: 7, content: '{ "b": 2, }' },
    ]);
  });

  test('names of feature bits are collected from everywhere', () => {
    const text = '{ "   15": "VIRTIO_F_A", "    0": "ACK" }\n"   33": "VIRTIO_F_B"';
    expect(guideFacts(text).features).toEqual({ 15: 'VIRTIO_F_A', 33: 'VIRTIO_F_B' });
  });
});

describe('differences', () => {
  const facts = guideFacts(
    [...block('# virtnet list', '{ "a": 1, "5": "VIRTIO_F_A" }'), ...block('# virtnet x')].join('\n'),
  );

  test('none between the same', () => {
    expect(differences(facts, structuredClone(facts))).toEqual([]);
  });

  test('each is said once, with its place', () => {
    const [list, x] = facts.examples;
    const kept = {
      ...facts,
      examples: [
        { ...list!, shape: ['a T'] },
        { ...x!, at: 9 },
      ],
      features: {},
    };
    expect(differences(facts, kept)).toEqual([
      'example 2: virtnet list: differs',
      'example 6: virtnet x: only in the guide',
      'example 9: virtnet x: only in the file',
      'feature 5: VIRTIO_F_A in the guide, none in the file',
    ]);
  });
});
