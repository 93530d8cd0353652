import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { initialFirmwareStore } from '@virtnet/engine-control';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { readFirmwareStore } from './firmware-store.js';
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

async function run(line: string, answer?: string) {
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
      return answer;
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

  it.each(['-d 03:00.0', '-d 03:00.0 nope', '-d 03:00.0 s', '-d'])(
    '%s is a wrong command line',
    async (line) => {
      const { code, err } = await run(line);
      expect(code).toBe(2);
      expect(err).toMatch(/^usage: virtnet-mlxconfig .*\nvirtnet-mlxconfig.*: error: /);
    },
  );
});
