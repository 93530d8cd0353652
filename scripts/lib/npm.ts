/** npm packages as the lockfile says, and the build. */
import { accessSync, constants, existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { repository } from './paths.ts';
import { findProgram, SetupError, shell } from './shell.ts';

interface LockedPackage {
  readonly version?: string;
  readonly integrity?: string;
  readonly optional?: boolean;
  readonly dev?: boolean;
  readonly link?: boolean;
}

/** Runs `npm ci` when what is installed is not what the lockfile names. */
export function ensureNpmPackages(say: (line: string) => void): void {
  if (installedAsLocked()) return;
  if (findProgram('npm') === null)
    throw new SetupError('npm is missing; install Node >= 20 with npm first (https://nodejs.org)');
  say('installing npm packages');
  shell(['npm', 'ci', '--no-audit', '--no-fund', '--loglevel=error'], { cwd: repository });
}

function installedAsLocked(): boolean {
  const locked = lockedPackages(join(repository, 'package-lock.json'));
  const installed = lockedPackages(join(repository, 'node_modules/.package-lock.json'));
  for (const [path, wanted] of Object.entries(locked)) {
    if (!path.includes('node_modules/')) continue;
    const present = installed[path];
    if (present === undefined) {
      if (wanted.optional !== true) return false; // optional: for another platform
      continue;
    }
    if (present.version !== wanted.version || present.integrity !== wanted.integrity) return false;
    if (wanted.link === true && !existsSync(join(repository, path))) return false;
  }
  return true;
}

export function lockedPackages(path: string): Readonly<Record<string, LockedPackage>> {
  if (!existsSync(path)) return {};
  const lock = JSON.parse(readFileSync(path, 'utf8')) as { packages?: Record<string, LockedPackage> };
  return lock.packages ?? {};
}

/** The command that compiles every package whose sources changed: what `npm run build` runs. */
export function buildCommand(): readonly string[] {
  const { scripts } = JSON.parse(readFileSync(join(repository, 'package.json'), 'utf8')) as {
    scripts: { build: string };
  };
  return ['sh', '-c', scripts.build];
}

/** Builds; in a checkout of somebody else it only looks whether that was done. */
export function build(): void {
  const compiled = join(repository, 'packages/program-emu/dist/main.cjs');
  if (isWritable(join(repository, 'packages'))) shell(buildCommand(), { cwd: repository });
  else if (!existsSync(compiled))
    throw new SetupError(`${repository} is not built and not ours; its owner has to run scripts/setup first`);
}

function isWritable(path: string): boolean {
  try {
    accessSync(path, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}
