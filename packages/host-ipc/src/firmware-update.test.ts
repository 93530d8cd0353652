import { execFileSync, spawn } from 'node:child_process';
import {
  chownSync,
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { assign, type FirmwareStore, initialFirmwareStore } from '@virtnet/engine-control';
import { lockFile } from '@virtnet/host-linux';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { readFirmwareStore, writeFirmwareStore } from './firmware-store.js';
import { updateFirmwareStore } from './firmware-update.js';

const WRITERS = 4;
const CHANGES = 25;
/** Longer than any test. */
const PATIENT_MS = 60_000;

let directory: string;
let path: string;
let lock: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'virtnet-fwupdate-'));
  path = join(directory, 'opt/fwconfig.json');
  lock = `${path}.lock`;
});
afterEach(() => {
  rmSync(directory, { recursive: true, force: true });
});

const sfs = (count: number) => (store: FirmwareStore) => assign(store, [`PF_TOTAL_SF=${count}`]);
const nextSfs = () => {
  const read = readFirmwareStore(path);
  if ('problem' in read) throw new Error(read.problem);
  return read.store.nextBoot.PF_TOTAL_SF;
};

/** A program that gives the store at its first argument so many SFs more, one after the other. */
const adder = (changes: number): string[] => [
  '--input-type=module',
  '-e',
  `import { updateFirmwareStore } from '${new URL('../dist/firmware-update.js', import.meta.url).href}';
   import { assign } from '@virtnet/engine-control';
   const more = (store) => assign(store, ['PF_TOTAL_SF=' + (store.nextBoot.PF_TOTAL_SF + 1)]);
   for (let i = 0; i < ${changes}; i++) {
     const outcome = await updateFirmwareStore(process.argv[1], more, ${PATIENT_MS});
     if ('problem' in outcome) throw new Error(outcome.problem);
   }`,
  path,
];

describe('a change of the firmware store', () => {
  it('is made to the store that is there, and says what came of it', async () => {
    const first = await updateFirmwareStore(path, sfs(100));
    expect(first).toEqual(readFirmwareStore(path));
    expect(nextSfs()).toBe(100);
    await updateFirmwareStore(path, (store) => assign(store, ['SRIOV_EN=1']));
    expect(readFirmwareStore(path)).toMatchObject({
      store: { current: initialFirmwareStore().current, nextBoot: { PF_TOTAL_SF: 100, SRIOV_EN: 1 } },
    });
    expect(statSync(lock)).toMatchObject({ size: 0 });
    expect(statSync(lock).mode & 0o777).toBe(0o600);
  });

  it('that is refused leaves the file as it is', async () => {
    writeFirmwareStore(path, initialFirmwareStore());
    const before = readFileSync(path, 'utf8');
    expect(await updateFirmwareStore(path, sfs(70_000))).toHaveProperty('problem');
    writeFileSync(path, 'junk');
    expect(await updateFirmwareStore(path, sfs(1))).toMatchObject({
      problem: expect.stringContaining(`${path}: not JSON`),
    });
    expect([before === 'junk', readFileSync(path, 'utf8')]).toEqual([false, 'junk']);
  });

  it('is not lost when several processes make theirs at once', async () => {
    const writers = Array.from({ length: WRITERS }, () =>
      spawn(process.execPath, adder(CHANGES), { cwd: import.meta.dirname, stdio: 'inherit' }),
    );
    const codes = await Promise.all(
      writers.map((writer) => new Promise((resolve) => writer.once('exit', resolve))),
    );
    expect(codes).toEqual(writers.map(() => 0));
    expect(nextSfs()).toBe(initialFirmwareStore().nextBoot.PF_TOTAL_SF + WRITERS * CHANGES);
  });
});

describe('the lock of the firmware store', () => {
  /** Has the lock until it is closed. */
  function held(): number {
    mkdirSync(join(path, '..'), { recursive: true });
    const fd = openSync(lock, 'a');
    expect(lockFile(fd)).toBe(0);
    return fd;
  }

  it('that somebody else has for too long is a problem that names it, and nothing changes', async () => {
    writeFirmwareStore(path, initialFirmwareStore());
    const before = readFileSync(path, 'utf8');
    const fd = held();
    const outcome = await updateFirmwareStore(path, sfs(100), 50);
    closeSync(fd);
    expect(outcome).toEqual({
      problem: `${lock}: another process has had the lock for 0.05 seconds. Remedy: lslocks shows which one; end it, and try again.`,
    });
    expect(readFileSync(path, 'utf8')).toBe(before);
  });

  it('is waited for; what was written meanwhile is not undone', async () => {
    const fd = held();
    const waiting = updateFirmwareStore(path, (store) => assign(store, ['SRIOV_EN=1']), PATIENT_MS);
    const other = sfs(100)(initialFirmwareStore());
    if ('problem' in other) throw new Error(other.problem);
    writeFirmwareStore(path, other.store);
    closeSync(fd);
    expect(await waiting).toMatchObject({ store: { nextBoot: { PF_TOTAL_SF: 100, SRIOV_EN: 1 } } });
  });

  it('ends with the process that has it', async () => {
    mkdirSync(join(path, '..'), { recursive: true });
    const holder = spawn('flock', [lock, 'sh', '-c', 'echo locked; exec sleep 600'], {
      detached: true,
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    await new Promise((resolve) => holder.stdout.once('data', resolve));
    const waiting = updateFirmwareStore(path, sfs(100), PATIENT_MS);
    process.kill(-holder.pid!, 'SIGKILL');
    expect(await waiting).toHaveProperty('store');
  });

  it('that cannot be made, or is not a file of its own, is a problem that names it', async () => {
    writeFileSync(join(directory, 'opt'), '');
    expect(await updateFirmwareStore(path, sfs(1))).toMatchObject({
      problem: expect.stringContaining(lock),
    });
    rmSync(join(directory, 'opt'));
    mkdirSync(join(directory, 'opt'));
    symlinkSync(join(directory, 'elsewhere'), lock);
    expect(await updateFirmwareStore(path, sfs(1))).toMatchObject({
      problem: expect.stringMatching(/^ELOOP.*fwconfig\.json\.lock/),
    });
  });

  it.runIf(process.getuid?.() === 0)('made by root is for the store’s owner, too', async () => {
    const owner = 4321;
    writeFirmwareStore(path, initialFirmwareStore());
    // As installed: the directory is root's, and others may make files in it.
    execFileSync('chmod', ['1777', join(path, '..')]);
    execFileSync('chmod', ['711', directory]);
    chownSync(path, owner, owner);
    expect(await updateFirmwareStore(path, sfs(100))).toHaveProperty('store');
    expect(statSync(lock)).toMatchObject({ uid: owner, gid: owner });
    execFileSync(process.execPath, adder(1), { cwd: import.meta.dirname, uid: owner, gid: owner });
    expect(await updateFirmwareStore(path, (store) => assign(store, ['SRIOV_EN=1']))).toMatchObject({
      store: { nextBoot: { PF_TOTAL_SF: 101, SRIOV_EN: 1 } },
    });
  });
});
