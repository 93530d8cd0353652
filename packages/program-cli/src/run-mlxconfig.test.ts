import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { initialFirmwareStore, powerCycledFirmwareStore } from '@virtnet/engine-control';
import { readFirmwareStore, updateFirmwareStore } from '@virtnet/host-ipc';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { runMlxconfig } from './run-mlxconfig.js';

let directory: string;
let storePath: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'virtnet-mlxconfig-'));
  storePath = join(directory, 'fwconfig.json');
});
afterEach(() => {
  rmSync(directory, { recursive: true, force: true });
});

/** `answer`: what is typed, or what happens while the question waits and is typed then. */
async function run(line: string, answer?: string | (() => Promise<string>)) {
  let out = '';
  let err = '';
  const questions: string[] = [];
  const code = await runMlxconfig(line.split(' '), {
    storePath,
    io: {
      out: (text) => {
        out += text;
      },
      err: (text) => {
        err += text;
      },
    },
    ask: async (question) => {
      questions.push(question);
      if (answer === undefined) throw new Error('nothing may be asked here');
      return typeof answer === 'string' ? answer : answer();
    },
  });
  return { code, out, err, questions };
}
function nextBoot() {
  const read = readFirmwareStore(storePath);
  if ('problem' in read) throw new Error(read.problem);
  return read.store.nextBoot;
}

describe('virtnet-mlxconfig query', () => {
  it.each(['-d 03:00.0 -e q', '-e -d 03:00.0 query', '-d 03:00.0 q -e', '-d 0000:03:00.0 -e q'])(
    '%s',
    async (line) => {
      const { code, out } = await run(line);
      expect(code).toBe(0);
      expect(out).toMatch(/^\* {8}PCI_SWITCH_EMULATION_NUM_PORT {15}0 {15}16 {14}16$/m);
    },
  );

  it('of one entry shows that one', async () => {
    const { out } = await run('-d 03:00.0 q PF_TOTAL_SF');
    expect(out).toContain('PF_TOTAL_SF');
    expect(out).not.toContain('SRIOV_EN');
  });

  it('-j writes JSON instead: numbers as numbers, the rest as in the table', async () => {
    const file = join(directory, 'out.json');
    await run('-yy -d 03:00.0 s PF_TOTAL_SF=9');
    const names = 'PF_TOTAL_SF SRIOV_EN INTERNAL_CPU_OFFLOAD_ENGINE';
    expect(await run(`-d 03:00.0 -e -j ${file} q ${names}`)).toMatchObject({
      code: 0,
      out: `Saving query output to ${file}... Done!\n`,
    });
    expect(JSON.parse(readFileSync(file, 'utf8'))).toEqual({
      'Device #1': {
        description: 'Emulated virtio-net adapter',
        device: '03:00.0',
        device_type: 'virtnet (software)',
        name: 'MT2151X03152',
        tlv_configuration: {
          INTERNAL_CPU_OFFLOAD_ENGINE: {
            current_value: 'ENABLED(0)',
            default_value: 'ENABLED(0)',
            modified: false,
            next_value: 'ENABLED(0)',
            read_only: false,
          },
          PF_TOTAL_SF: {
            current_value: 64,
            default_value: 0,
            modified: true,
            next_value: 9,
            read_only: false,
          },
          SRIOV_EN: {
            current_value: 'False(0)',
            default_value: 'True(1)',
            modified: true,
            next_value: 'False(0)',
            read_only: false,
          },
        },
      },
    });
    await run(`-d 03:00.0 -j ${file} q PF_TOTAL_SF`);
    expect(JSON.parse(readFileSync(file, 'utf8'))).toMatchObject({
      'Device #1': { tlv_configuration: { PF_TOTAL_SF: { next_value: 9, read_only: false } } },
    });
  });

  it('-j into a file that cannot be written is an error', async () => {
    const { code, out } = await run(`-d 03:00.0 -j ${directory} q`);
    expect([code, out]).toEqual([1, expect.stringMatching(/^-E- EISDIR/)]);
  });

  it('of an entry that does not exist is an error', async () => {
    expect(await run('-d 03:00.0 q NOPE')).toMatchObject({
      code: 1,
      out: "-E- The Device doesn't support NOPE parameter\n",
    });
  });
});

describe('virtnet-mlxconfig set', () => {
  it('asks, applies, and changes next-boot values only', async () => {
    const { code, out, questions } = await run('-d 03:00.0 s PF_TOTAL_SF=100 NUM_OF_VFS=0', 'y');
    expect(code).toBe(0);
    expect(questions).toEqual([' Apply new Configuration? (y/n) [n] : ']);
    expect(out).toContain('Applying... Done!\n-I- ');
    expect(readFirmwareStore(storePath)).toMatchObject({
      store: { current: initialFirmwareStore().current, nextBoot: { PF_TOTAL_SF: 100, NUM_OF_VFS: 0 } },
    });
  });

  it.each(['', 'n', 'no', 'x', 'yy'])('answer %j changes nothing', async (answer) => {
    expect(await run('-d 03:00.0 set PF_TOTAL_SF=100', answer)).toMatchObject({ code: 1 });
    expect(nextBoot()).toEqual(initialFirmwareStore().nextBoot);
  });

  it.each([
    '-y -d 03:00.0 s PF_TOTAL_SF=9',
    '-d 03:00.0 -y s PF_TOTAL_SF=9',
    '-d 03:00.0 s PF_TOTAL_SF=9 -y',
    '-yy -d 03:00.0 s PF_TOTAL_SF=9',
    '--yyes -d 03:00.0 s PF_TOTAL_SF=9',
  ])('%s does not ask', async (line) => {
    expect(await run(line)).toMatchObject({ code: 0, questions: [] });
    expect(nextBoot().PF_TOTAL_SF).toBe(9);
  });

  it('a later change builds on an earlier one', async () => {
    await run('-y -d 03:00.0 s PF_TOTAL_SF=9');
    await run('-y -d 03:00.0 s SRIOV_EN=1');
    expect(nextBoot()).toMatchObject({ PF_TOTAL_SF: 9, SRIOV_EN: 1 });
  });

  it.each([
    ['PF_TOTAL_SF=9 NOPE=1', '-E- Unknown Parameter NOPE\n'],
    ['PF_TOTAL_SF=70000', '-E- The value 70000 is not valid,  as its size is 16 bits\n'],
    [
      'PF_BAR2_ENABLE=1',
      '-E- Cannot set the value 1 for the parameter PER_PF_NUM_SF: PF_BAR2_ENABLE must be 0\n',
    ],
  ])('%s is refused whole', async (assignments, message) => {
    expect(await run(`-y -d 03:00.0 s ${assignments}`)).toMatchObject({ code: 1, out: message });
    expect(nextBoot()).toEqual(initialFirmwareStore().nextBoot);
  });
});

const SFS = 'PER_PF_NUM_SF=1 \\\nPF_TOTAL_SF=';
const BARS = ' \\\nPF_BAR2_ENABLE=0 \\\nPF_SF_BAR_SIZE=8 \\\n';
const HEAD = 'mlxconfig -d 03:00.0 s \\\nVIRTIO_NET_EMULATION_ENABLE=1 \\\n';
const emulation = (...values: string[]) =>
  values.map((value) => `VIRTIO_NET_EMULATION_NUM_${value} \\\n`).join('');
const ports = (on: 0 | 1, count: number) =>
  `PCI_SWITCH_EMULATION_ENABLE=${on} \\\nPCI_SWITCH_EMULATION_NUM_PORT=${count} \\\n`;
/** The guide's four configurations: name, command line, what its query then shows for the next boot. */
const CANONICAL: [string, string, Record<string, string>][] = [
  [
    '4 static PFs',
    `${HEAD}${emulation('PF=4', 'VF=0', 'MSIX=64')}${ports(0, 0)}${SFS}64${BARS}SRIOV_EN=0`,
    { VIRTIO_NET_EMULATION_NUM_PF: '4', PF_TOTAL_SF: '64', SRIOV_EN: 'False(0)' },
  ],
  [
    '16 hotplug PFs',
    `${HEAD}${emulation('PF=0', 'VF=0', 'MSIX=64')}${ports(1, 16)}${SFS}64${BARS}SRIOV_EN=0`,
    { PCI_SWITCH_EMULATION_NUM_PORT: '16', PCI_SWITCH_EMULATION_ENABLE: 'True(1)' },
  ],
  [
    '504 VFs',
    `${HEAD}${emulation('PF=4', 'VF=126', 'MSIX=64', 'VF_MSIX=64')}${ports(0, 0)}${SFS}512${BARS}NUM_VF_MSIX=0 \\\nSRIOV_EN=1`,
    { VIRTIO_NET_EMULATION_NUM_VF: '126', VIRTIO_NET_EMULATION_NUM_VF_MSIX: '64', PF_TOTAL_SF: '512' },
  ],
  [
    '15 hotplug PFs, 2 static PFs and 200 VFs',
    `${HEAD}${emulation('PF=2', 'VF=100', 'MSIX=10', 'VF_MSIX=64')}${ports(1, 15)}${SFS}256${BARS}NUM_VF_MSIX=0 \\\nSRIOV_EN=1`,
    { VIRTIO_NET_EMULATION_NUM_VF: '100', PCI_SWITCH_EMULATION_NUM_PORT: '15', PF_TOTAL_SF: '256' },
  ],
];

describe("the guide's configurations", () => {
  it.each(CANONICAL)(
    '%s: the command works as it is typed there, with its line ends',
    async (_, command, expected) => {
      const words = execFileSync('bash', ['-c', `mlxconfig() { printf '%s\\n' "$@"; }; ${command}`], {
        encoding: 'utf8',
      });
      await run('-y -d 03:00.0 reset');
      expect((await run(words.trim().split('\n').join(' '), 'y')).code).toBe(0);
      const { out } = await run('-d 03:00.0 -e q');
      const rows = out.split('\n').filter((line) => line.includes('*')); // the guide's `grep -i \*`
      const next = Object.fromEntries(rows.map((row) => [row.split(/ +/)[1], row.split(/ +/).at(-1)]));
      expect(next).toMatchObject(expected);
    },
  );
});

describe('virtnet-mlxconfig, while its question waits', () => {
  /** What `meanwhile` says happens before somebody says yes. */
  const yesAfter = (meanwhile: () => Promise<unknown>) => async () => {
    await meanwhile();
    return 'y';
  };
  const powerCycle = () =>
    updateFirmwareStore(storePath, (store) => ({ store: powerCycledFirmwareStore(store) }));

  it('another change is not undone', async () => {
    const other = yesAfter(() => run('-y -d 03:00.0 s SRIOV_EN=1'));
    expect(await run('-d 03:00.0 s PF_TOTAL_SF=9', other)).toMatchObject({ code: 0 });
    expect(nextBoot()).toMatchObject({ PF_TOTAL_SF: 9, SRIOV_EN: 1 });
  });

  it.each(['s PF_TOTAL_SF=9', 'r'])('a power cycle is not undone by %s', async (command) => {
    await run('-y -d 03:00.0 s PF_TOTAL_SF=100');
    expect(await run(`-d 03:00.0 ${command}`, yesAfter(powerCycle))).toMatchObject({ code: 0 });
    expect(readFirmwareStore(storePath)).toMatchObject({
      store: { current: { PF_TOTAL_SF: 100 }, recoveryObsolete: true },
    });
    expect(nextBoot().PF_TOTAL_SF).not.toBe(100);
  });

  it('a change that does not go with another one since then is refused', async () => {
    const other = yesAfter(() => run('-y -d 03:00.0 s PF_TOTAL_SF=0 PER_PF_NUM_SF=0 PF_SF_BAR_SIZE=0'));
    const { code, out } = await run('-d 03:00.0 s PF_TOTAL_SF=9', other);
    expect(code).toBe(1);
    expect(out).toMatch(
      /Applying\.\.\. Failed!\n-E- Cannot set the value 9 for the parameter PF_TOTAL_SF: PER_PF_NUM_SF must be 1\n$/,
    );
    expect(nextBoot()).toMatchObject({ PF_TOTAL_SF: 0, PER_PF_NUM_SF: 0 });
  });
});

describe('virtnet-mlxconfig reset', () => {
  it('sets the next boot to the defaults', async () => {
    expect(await run('-d 03:00.0 -y reset')).toMatchObject({ code: 0 });
    expect(nextBoot()).toMatchObject({ VIRTIO_NET_EMULATION_ENABLE: 0, NUM_OF_VFS: 16 });
  });

  it('asks unless -y', async () => {
    expect(await run('-d 03:00.0 r', 'n')).toMatchObject({ code: 1 });
    expect(nextBoot()).toEqual(initialFirmwareStore().nextBoot);
  });
});

describe('virtnet-mlxconfig, errors', () => {
  it('no device', async () => {
    expect(await run('q')).toMatchObject({ code: 1, out: '-E- missing device name\n' });
  });

  it('another device', async () => {
    const { code, out } = await run('-d 04:00.0 q');
    expect(code).toBe(1);
    expect(out).toMatch(/^-E- There is no device 04:00\.0/);
  });

  it('a store that cannot be believed is reported and left alone', async () => {
    writeFileSync(storePath, 'junk');
    const { code, out } = await run('-y -d 03:00.0 s PF_TOTAL_SF=9');
    expect(code).toBe(1);
    expect(out).toContain(`-E- ${storePath}: not JSON`);
    expect(readFileSync(storePath, 'utf8')).toBe('junk');
  });

  it('a store that cannot be written says so, names the file, and stays as it is', async () => {
    await run('-y -d 03:00.0 s PF_TOTAL_SF=9');
    const before = readFileSync(storePath, 'utf8');
    mkdirSync(`${storePath}.${process.pid}.tmp`);
    for (const command of ['s PF_TOTAL_SF=10', 'r']) {
      const { code, out } = await run(`-y -d 03:00.0 ${command}`);
      expect(code).toBe(1);
      expect(out).toMatch(/ing\.\.\. Failed!\n-E- .*fwconfig\.json.*\n$/);
      expect(out).not.toContain('Done!');
    }
    expect(readFileSync(storePath, 'utf8')).toBe(before);
  });

  it.each(['-d 03:00.0', '-d 03:00.0 nope', '-d 03:00.0 s', '-d'])(
    '%s is a wrong command line',
    async (line) => {
      const { code, err } = await run(line);
      expect(code).toBe(2);
      expect(err).toMatch(/^usage: virtnet-mlxconfig .*\nvirtnet-mlxconfig.*: error: /);
    },
  );
});
