import { execFileSync, spawn } from 'node:child_process';
import {
  chownSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { assign, FIRMWARE_STORE_BYTES_MAX, initialFirmwareStore } from '@virtnet/engine-control';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { readFirmwareStore, writeFirmwareStore } from './firmware-store.js';

let directory: string;
let path: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'virtnet-fwconfig-'));
  path = join(directory, 'opt/mlnx_virtnet/fwconfig.json');
});
afterEach(() => {
  rmSync(directory, { recursive: true, force: true });
});

const changed = () => {
  const result = assign(initialFirmwareStore(), ['PF_TOTAL_SF=100']);
  if ('problem' in result) throw new Error(result.problem);
  return result.store;
};

describe('firmware store file', () => {
  it('that is absent is the initial store, and is not made by reading', () => {
    expect(readFirmwareStore(path)).toEqual({ store: initialFirmwareStore() });
    expect(readdirSync(directory)).toEqual([]);
  });

  it.runIf(process.getuid?.() === 0)(
    'replaced by root stays its owner’s; made by root it is the directory’s owner’s',
    () => {
      const owner = 4321;
      mkdirSync(join(directory, 'opt/mlnx_virtnet'), { recursive: true });
      chownSync(join(directory, 'opt/mlnx_virtnet'), owner, owner);
      expect(writeFirmwareStore(path, initialFirmwareStore())).toBeNull();
      expect(statSync(path)).toMatchObject({ uid: owner, gid: owner });
      chownSync(join(directory, 'opt/mlnx_virtnet'), 0, 0);
      expect(writeFirmwareStore(path, changed())).toBeNull();
      expect(statSync(path)).toMatchObject({ uid: owner, gid: owner });
    },
  );

  it('reads back what was written, and only the owner can read it', () => {
    expect(writeFirmwareStore(path, changed())).toBeNull();
    expect(readFirmwareStore(path)).toEqual({ store: changed() });
    expect(statSync(path).mode & 0o777).toBe(0o600);
  });

  it('a write leaves nothing else behind, also after a writer of the same number died', () => {
    mkdirSync(join(path, '..'), { recursive: true });
    writeFileSync(`${path}.${process.pid}.tmp`, 'torn');
    expect(writeFirmwareStore(path, changed())).toBeNull();
    expect(readdirSync(join(path, '..'))).toEqual(['fwconfig.json']);
  });

  it('a write that fails says why and keeps the old file', () => {
    writeFirmwareStore(path, initialFirmwareStore());
    const before = readFileSync(path, 'utf8');
    mkdirSync(`${path}.${process.pid}.tmp`);
    writeFileSync(join(`${path}.${process.pid}.tmp`, 'x'), '');
    expect(writeFirmwareStore(path, changed())?.problem).toContain('.tmp');
    expect(readFileSync(path, 'utf8')).toBe(before);
  });

  it('a write for which there is no room says of which file, keeps the old one and leaves nothing', () => {
    writeFirmwareStore(path, initialFirmwareStore());
    const before = readFileSync(path, 'utf8');
    const script = `
      import { writeFirmwareStore } from '${new URL('../dist/firmware-store.js', import.meta.url).href}';
      import { resetFirmwareStore, initialFirmwareStore } from '@virtnet/engine-control';
      process.stdout.write(writeFirmwareStore(process.argv[1], resetFirmwareStore(initialFirmwareStore())).problem);`;
    // The limit is met as a full disk is: by the write, whose error names no file.
    const limited = 'trap "" XFSZ; ulimit -f 0; exec "$@"';
    const command = [process.execPath, '--input-type=module', '-e', script, path];
    const problem = execFileSync('sh', ['-c', limited, 'sh', ...command], {
      cwd: import.meta.dirname,
      encoding: 'utf8',
    });
    expect(problem).toBe(`${path}: EFBIG: file too large, write`);
    expect(readFileSync(path, 'utf8')).toBe(before);
    expect(readdirSync(join(path, '..'))).toEqual(['fwconfig.json']);
  });

  it.each<[string, () => void, string]>([
    ['torn', () => writeFileSync(path, '{"version":1,"cur'), 'not JSON'],
    ['empty', () => writeFileSync(path, ''), 'not JSON'],
    ['too large', () => writeFileSync(path, ' '.repeat(FIRMWARE_STORE_BYTES_MAX + 1)), 'larger than'],
    ['a directory', () => mkdirSync(path), 'not a regular file'],
    ['a FIFO nobody writes', () => execFileSync('mkfifo', [path]), 'not a regular file'],
    ['a link to itself', () => symlinkSync(path, path), 'ELOOP'],
  ])('that is %s is a problem that names the file', (_, make, expected) => {
    mkdirSync(join(path, '..'), { recursive: true });
    make();
    const read = readFirmwareStore(path);
    expect('problem' in read && read.problem).toContain(expected);
    expect('problem' in read && read.problem).toContain('fwconfig.json');
  });

  it('a writer killed at any instant leaves the old document or the new one', async () => {
    const module = new URL('../dist/firmware-store.js', import.meta.url).href;
    const script = `
      import { writeFirmwareStore } from '${module}';
      import { initialFirmwareStore, resetFirmwareStore } from '@virtnet/engine-control';
      const stores = [initialFirmwareStore(), resetFirmwareStore(initialFirmwareStore())];
      process.stdout.write('go');
      for (let i = 0; ; i++) writeFirmwareStore(process.argv[1], stores[i % 2]);`;
    for (let round = 0; round < 5; round++) {
      const writer = spawn(process.execPath, ['--input-type=module', '-e', script, path], {
        cwd: import.meta.dirname,
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      const ended = new Promise((resolve) => writer.once('exit', resolve));
      await new Promise((resolve) => writer.stdout.once('data', resolve));
      await new Promise((resolve) => setTimeout(resolve, 7 * round));
      writer.kill('SIGKILL');
      await ended;
      expect(readFirmwareStore(path)).toHaveProperty('store');
    }
  });
});
