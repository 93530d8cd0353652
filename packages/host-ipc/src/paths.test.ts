import { chmodSync, chownSync, mkdirSync, statSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { SOCKET_PATH_BYTES_MAX, virtnetPaths } from './paths.js';
import { type TemporaryRoot, temporaryRoot } from './temporary-root.fixture.js';

let root: TemporaryRoot;
beforeEach(() => {
  root = temporaryRoot();
});
afterEach(() => root.remove());
const mode = (path: string) => statSync(path).mode & 0o777;

describe('paths', () => {
  it('every path is below the root, and directories of sockets are 0700', () => {
    const paths = virtnetPaths(root.path);
    expect(paths.pciSocket('0000:15:00.0')).toBe(join(root.path, 'run/virtnet/pci/0000:15:00.0.sock'));
    expect(paths.recovery).toBe(join(root.path, 'opt/mellanox/mlnx_virtnet/recovery'));
    for (const directory of [paths.run, paths.pci, paths.vfeRun]) expect(mode(directory)).toBe(0o700);
  });

  it('an existing directory that is open to others is closed', () => {
    mkdirSync(join(root.path, 'run/virtnet'), { recursive: true });
    chmodSync(join(root.path, 'run/virtnet'), 0o777);
    expect(mode(virtnetPaths(root.path).run)).toBe(0o700);
  });

  it.runIf(process.getuid!() === 0)('a directory of another user is refused, and the way out is told', () => {
    const directory = join(root.path, 'run/virtnet');
    mkdirSync(directory, { recursive: true });
    chownSync(directory, 65_534, 65_534);
    expect(() => virtnetPaths(root.path)).toThrow(
      `${directory} belongs to uid 65534, as of a service that another user runs: not used for sockets; VIRTNET_ROOT`,
    );
  });

  it('a link in place of the directory is refused', () => {
    mkdirSync(join(root.path, 'run'));
    mkdirSync(join(root.path, 'elsewhere'));
    symlinkSync(join(root.path, 'elsewhere'), join(root.path, 'run/virtnet'));
    expect(() => virtnetPaths(root.path)).toThrow('not a directory');
  });

  it('a client creates nothing', () => {
    const { run } = virtnetPaths(root.path, { create: false });
    expect(() => statSync(run)).toThrow('ENOENT');
  });

  it('the longest root whose sockets fit is taken, one byte more is refused', () => {
    const longest = (spare: number) => join(root.path, 'r'.repeat(spare - root.path.length - 1));
    let length = SOCKET_PATH_BYTES_MAX;
    while (length > 0) {
      try {
        virtnetPaths(longest(length), { create: false });
        break;
      } catch {
        length--;
      }
    }
    const paths = virtnetPaths(longest(length), { create: false });
    expect(paths.pciSocket('0000:15:00.0').length).toBeLessThanOrEqual(SOCKET_PATH_BYTES_MAX);
    expect(paths.emuIpc(999_999).length).toBeLessThanOrEqual(SOCKET_PATH_BYTES_MAX);
    expect(length).toBeGreaterThan(60);
    expect(() => virtnetPaths(longest(length + 1), { create: false })).toThrow('too long');
  });
});
