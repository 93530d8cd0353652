import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { virtnetPaths } from '@virtnet/host-ipc';
import { describe, expect, it, onTestFinished } from 'vitest';
import { readBuild, readDestination } from './builds.js';

function directory(): string {
  const path = mkdtempSync(join(tmpdir(), 'virtnet-builds-'));
  onTestFinished(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** A build in which nothing runs. */
function install(versions: string, version: string): string {
  const root = join(versions, version);
  for (const name of ['program-controller', 'program-emu', 'program-ha']) {
    mkdirSync(join(root, 'packages', name, 'dist'), { recursive: true });
    writeFileSync(join(root, 'packages', name, 'dist/main.cjs'), '');
  }
  writeFileSync(join(root, 'packages/program-controller/package.json'), JSON.stringify({ version }));
  return root;
}

describe('versions on this machine', () => {
  it('the link `current` in the root names the destination, whatever it leads through', () => {
    const paths = virtnetPaths(directory());
    const running = readBuild(install(join(paths.opt, 'versions'), '0.1.0'));
    expect(readDestination(paths, running)).toBe(running);
    install(join(paths.opt, 'versions'), '0.2.0');
    symlinkSync('versions/0.2.0', join(paths.opt, 'current'));
    const destination = readDestination(paths, running);
    expect(destination).toMatchObject({ version: '0.2.0', root: join(paths.opt, 'versions/0.2.0') });
    expect(destination.mains.emu).toBe(join(destination.root, 'packages/program-emu/dist/main.cjs'));
    expect(destination.node).toBe(process.execPath); // none of its own
  });

  it('without one there, the link beside the versions of the running build', () => {
    const installed = directory();
    const running = readBuild(install(join(installed, 'versions'), '0.1.0'));
    symlinkSync(install(join(installed, 'versions'), '0.2.0'), join(installed, 'current'));
    expect(readDestination(virtnetPaths(directory()), running).version).toBe('0.2.0');
  });

  it('a build brings its own Node', () => {
    const root = install(directory(), '0.1.0');
    const bin = join(root, `node_modules/node-linux-${process.arch}/bin`);
    mkdirSync(bin, { recursive: true });
    writeFileSync(join(bin, 'node'), '');
    expect(readBuild(root).node).toBe(join(bin, 'node'));
  });

  it('a link to nothing, and a directory that is no build, are errors', () => {
    const paths = virtnetPaths(directory());
    const running = readBuild(install(join(paths.opt, 'versions'), '0.1.0'));
    symlinkSync('versions/0.2.0', join(paths.opt, 'current'));
    expect(() => readDestination(paths, running)).toThrow(/ENOENT/);
    mkdirSync(join(paths.opt, 'versions/0.2.0'));
    expect(() => readDestination(paths, running)).toThrow(/is no build/);
  });
});
