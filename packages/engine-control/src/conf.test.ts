import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  CONF_BYTES_MAX,
  confNoteText,
  confProblemText,
  judgeConf,
  restoreConf,
  serialiseConf,
} from './conf.js';
import { DEFAULT_CONF } from './conf-keys.js';
import { factoryValues } from './firmware-entries.js';
import { anyText } from './text.fixture.js';

const firmware = { ...factoryValues(), VIRTIO_NET_EMULATION_NUM_VF: 126 };

function confOf(text: string) {
  const judged = judgeConf(text, { firmware });
  if ('problems' in judged) throw new Error(judged.problems.map((p) => confProblemText('f', p)).join('\n'));
  return judged.conf;
}

function messages(text: string): string[] {
  const judged = judgeConf(text, { firmware });
  return 'problems' in judged
    ? judged.problems.map((problem) => confProblemText('virtnet.conf', problem))
    : [];
}

describe('virtnet.conf', () => {
  it('an empty object is the configuration without a file', () => {
    expect(confOf('{}')).toEqual(DEFAULT_CONF);
  });

  it("takes the guide's examples as they are, the one with a comma behind the last key too", () => {
    expect(
      confOf(`{
  "ib_dev_p0": "mlx5_0",
  "ib_dev_p1": "mlx5_1",
  "ib_dev_for_static_pf": "mlx5_0",
  "is_lag": 0,
  "static_pf": {
    "mac_base": "08:11:22:33:44:55",
    "features": "0x230047082b"
  }
}`).static_pf,
    ).toEqual({ mac_base: '08:11:22:33:44:55', features: '0x230047082b' });
    expect(
      confOf(`{ "vf": { "mac_base": "06:11:22:33:44:55", "features": "0x230047082b",
        "vfs_per_pf": 126, "max_queue_pairs": 4, "max_queue_size": 256 } }`).vf,
    ).toEqual({
      mac_base: '06:11:22:33:44:55',
      features: '0x230047082b',
      vfs_per_pf: 126,
      max_queue_pairs: 4,
      max_queue_size: 256,
    });
    expect(
      confOf(`{ "single_port": 1, "packed_vq": 1, "sf_pool_percent": 0, "sf_pool_force_destroy": 0,
        "vf": { "mac_base": "CC:48:15:FF:00:00", "vfs_per_pf": 126 } }`),
    ).toMatchObject({ single_port: 1, packed_vq: 1, vf: { vfs_per_pf: 126 } });
    expect(
      confOf('{ "ib_dev_lag": "mlx5_bond_0", "ib_dev_for_static_pf": "mlx5_bond_0", "is_lag": 1, }'),
    ).toMatchObject({ is_lag: 1 });
  });

  it('takes both packed virtqueues and mergeable buffers, and notes that the original does not', () => {
    const text = '{ "mrg_rxbuf": 1,\n  "packed_vq": 1 }';
    const judged = judgeConf(text, { firmware: null });
    if ('problems' in judged) throw new Error(text);
    expect(judged.conf).toMatchObject({ packed_vq: 1, mrg_rxbuf: 1 });
    expect(judged.notes.map((note) => confNoteText('virtnet.conf', note))).toEqual([
      'virtnet.conf:2:16: packed_vq: note: the original excludes mrg_rxbuf, and refuses this file; here devices ' +
        'offer both. Remedy: set one of the two to 0 if the original shall take the file, too.',
    ]);
    for (const one of ['{ "packed_vq": 1, "mrg_rxbuf": 0 }', '{ "mrg_rxbuf": 1 }', '{}'])
      expect(judgeConf(one, { firmware: null })).toMatchObject({ notes: [] });
  });
});

describe('a text that is not JSON', () => {
  it.each([
    ['', 'virtnet.conf:1:1: nothing is here. Remedy: write {}.'],
    ['[1]', 'virtnet.conf:1:1: not a JSON object. Remedy: put the keys between { and }.'],
    [
      '{\n  "is_lag": 0\n  "recovery": 1\n}',
      'virtnet.conf:3:3: a comma is expected, "\\"" is found. Remedy: put a comma between the two.',
    ],
    ['{ // LAG\n "is_lag": 1 }', 'virtnet.conf:1:3: JSON has no comments. Remedy: remove the comment.'],
    ['{ is_lag: 1 }', 'virtnet.conf:1:3: a key is not in double quotes. Remedy: write "is_lag".'],
    ["{ 'is_lag': 1 }", 'virtnet.conf:1:3: a key is not in double quotes. Remedy: write "is_lag".'],
    [
      '{ "is_lag": 1,, }',
      'virtnet.conf:1:15: two commas, or one before the first key. Remedy: remove a comma.',
    ],
    ['{ "is_lag": True }', 'virtnet.conf:1:13: True is not a value. Remedy: write true.'],
    [
      '{ "vf": { "features": 0x1f } }',
      'virtnet.conf:1:23: not a number. Remedy: write a hexadecimal number in double quotes.',
    ],
    ['{ "vf": {\n', 'virtnet.conf:2:1: the { of line 1 is not closed. Remedy: add the }.'],
    [
      '{ "is_lag": 0,\n "is_lag": 1 }',
      'virtnet.conf:2:2: "is_lag" stands here and on line 1. Remedy: remove one of them.',
    ],
    [
      '{} {}',
      'virtnet.conf:1:4: something follows the end of the document. Remedy: remove what follows the last bracket.',
    ],
    [
      '\ufeff{}',
      'virtnet.conf:1:1: a byte order mark stands before the text. Remedy: save the file as UTF-8 without a mark.',
    ],
    [`${'{"a":'.repeat(17)}1${'}'.repeat(17)}`, /more than 16 levels deep/],
  ])('%j: the place, the fault and the remedy', (text, message) => {
    const [first, ...others] = messages(text);
    if (typeof message === 'string') expect(first).toBe(message);
    else expect(first).toMatch(message);
    expect(others).toEqual([]);
  });
});

it('a file that is too large is not even read', () => {
  const text = `{${' '.repeat(CONF_BYTES_MAX)}}`;
  expect(messages(text)).toEqual([
    'virtnet.conf:1:1: larger than 65536 bytes. Remedy: write only the keys you need.',
  ]);
  expect(restoreConf(text)).toBe('larger than 65536 bytes');
});

describe('a value that is wrong by itself', () => {
  it.each([
    [
      '{ "sf_pool_precent": 1 }',
      'virtnet.conf:1:3: sf_pool_precent: there is no such key. Remedy: write "sf_pool_percent".',
    ],
    [
      '{ "mac_base": 1 }',
      'virtnet.conf:1:3: mac_base: there is no such key. Remedy: put it into "static_pf".',
    ],
    ['{ "vf": { "size": 1 } }', /vf\.size: there is no such key\. Remedy: remove it; there are mac_base, /],
    ['{ "is_lag": true }', 'virtnet.conf:1:13: is_lag: must be 0 or 1, not true. Remedy: write 1.'],
    [
      '{ "is_lag": "1" }',
      'virtnet.conf:1:13: is_lag: must be 0 or 1, not "1". Remedy: write the number without quotes.',
    ],
    ['{ "recovery": 2 }', 'virtnet.conf:1:15: recovery: must be 0 or 1, not 2. Remedy: write 0 or 1.'],
    ['{ "sf_pool_percent": 101 }', /must be a whole number from 0 to 100, not 101/],
    ['{ "sf_pool_percent": 1.5 }', /must be a whole number from 0 to 100, not 1\.5/],
    ['{ "dpa_core_start": 11, "dpa_core_end": 12 }', /dpa_core_start: must be a whole number from 1 to 10/],
    ['{ "eth_vq_workers": 25 }', /must be a whole number from 1 to 24/],
    [
      '{ "vf": { "max_queue_pairs": 128 } }',
      'virtnet.conf:1:30: vf.max_queue_pairs: must be a whole number from 1 to 127, not 128. ' +
        'Remedy: write a whole number from 1 to 127.',
    ],
    ['{ "admin_cmd_workers": 0 }', /must be a whole number from 1 to 16/],
    [
      '{ "vf": 1 }',
      'virtnet.conf:1:9: vf: must be an object: keys between { and }, not 1. Remedy: write an object: keys between { and }.',
    ],
    [
      '{ "static_pf": { "mac_base": "01:00:00:00:00:00" } }',
      /static_pf\.mac_base: must be the MAC address of one/,
    ],
    [
      '{ "static_pf": { "mac_base": "00:00:00:00:00:00" } }',
      /static_pf\.mac_base: must be the MAC address of one/,
    ],
    ['{ "static_pf": { "mac_base": null } }', /Remedy: leave the key out\.$/],
    ['{ "static_pf": { "features": 5 } }', /must be a hexadecimal number of 64 bits in quotes/],
    ['{ "vf": { "max_queue_size": 100 } }', /must be a power of two from 4 to 32768/],
    ['{ "ib_dev_p0": "mlx5_2" }', /ib_dev_p0: must be "mlx5_0", not "mlx5_2"/],
    ['{ "lm_prov": "none" }', /must be "dpdk" or "kernel"/],
    [
      '{ "software": { "uplinks": { "mlx5_0": "a/b" } } }',
      /software\.uplinks\.mlx5_0: must be the name of a network/,
    ],
    ['{ "__proto__": 1 }', /__proto__: there is no such key/],
  ])('%s', (text, message) => {
    const found = messages(text);
    expect(found).toHaveLength(1);
    if (typeof message === 'string') expect(found[0]).toBe(message);
    else expect(found[0]).toMatch(message);
  });

  it('all of them are reported, in the order of the text', () => {
    expect(
      messages('{\n"recovery": 5,\n"nonsense": 1,\n"is_lag": 7\n}').map((m) => m.split(': ')[1]),
    ).toEqual(['recovery', 'nonsense', 'is_lag']);
  });
});

describe('keys that do not go together', () => {
  it.each([
    ['{ "is_lag": 1, "single_port": 1 }', 'single_port'],
    ['{ "ib_dev_lag": "mlx5_bond_0", "ib_dev_p0": "mlx5_0" }', 'ib_dev_p0'],
    ['{ "ib_dev_lag": "mlx5_bond_0", "ib_dev_p1": "mlx5_1" }', 'ib_dev_p1'],
    ['{ "is_lag": 1, "ib_dev_for_static_pf": "mlx5_0" }', 'ib_dev_for_static_pf'],
    ['{ "ib_dev_for_static_pf": "mlx5_bond_0" }', 'ib_dev_for_static_pf'],
    ['{ "single_port": 1, "ib_dev_for_static_pf": "mlx5_1" }', 'ib_dev_for_static_pf'],
    ['{ "dpa_core_start": 3 }', 'dpa_core_start'],
    ['{ "dpa_core_end": 3 }', 'dpa_core_end'],
    ['{ "dpa_core_start": 3, "dpa_core_end": 3 }', 'dpa_core_end'],
    ['{ "vf": { "mac_base": "06:11:22:33:44:55" } }', 'vf.mac_base'],
    ['{ "vf": { "vfs_per_pf": 127 } }', 'vf.vfs_per_pf'],
    ['{ "vf": { "features": "0x400000" } }', 'vf.features'],
    ['{ "static_pf": { "features": "0x100000004" } }', 'static_pf.features'],
  ])('%s: %s', (text, key) => {
    const judged = judgeConf(text, { firmware });
    expect('problems' in judged && judged.problems.map((problem) => problem.key)).toEqual([key]);
  });

  it('vfs_per_pf is not bounded by a firmware without VFs, where it has no effect', () => {
    const text = '{ "vf": { "vfs_per_pf": 1008 } }';
    expect('conf' in judgeConf(text, { firmware: factoryValues() })).toBe(true);
    expect('conf' in judgeConf(text, { firmware: null })).toBe(true);
  });
});

describe('the snapshot', () => {
  it('is read back as it was', () => {
    const conf = confOf('{ "is_lag": 1, "vf": { "mac_base": "06:11:22:33:44:55", "vfs_per_pf": 3 } }');
    expect(restoreConf(serialiseConf(conf))).toEqual(conf);
    expect(restoreConf(serialiseConf(DEFAULT_CONF))).toEqual(DEFAULT_CONF);
  });

  it.each(['', '{', '[]', 'null', '{"is_lag": 2}', '{"x": 1}'])('%j is none: a sentence', (text) =>
    expect(typeof restoreConf(text)).toBe('string'),
  );
});

describe('the reader of JSON', () => {
  it('yields what JSON.parse yields', () => {
    fc.assert(
      fc.property(fc.json({ maxDepth: 6 }), (text) => {
        const judged = judgeConf(`{"x": ${text}}`, { firmware });
        expect('problems' in judged && judged.problems[0]?.key).toBe('x'); // it was read; the key is unknown
      }),
      { numRuns: 100 },
    );
  });

  it('any text gets a verdict', () => {
    fc.assert(
      fc.property(anyText(60), (text) => {
        for (const candidate of [text, `{"vf": {${text}}}`, `{"is_lag": ${text}}`])
          judgeConf(candidate, { firmware });
      }),
      { numRuns: 200 },
    );
  });
});
