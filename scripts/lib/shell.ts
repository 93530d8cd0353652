/** Running programs for the setup: synchronous, and a failure is an error with the program's own words. */
import { spawnSync } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { join } from 'node:path';

const OUTPUT_BYTES_MAX = 256 * 1024 * 1024;

/** A failure the user can act on; its message is all that is shown. */
export class SetupError extends Error {}

export interface ShellOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly input?: string;
}

export function environment(extra: Readonly<Record<string, string>> = {}): NodeJS.ProcessEnv {
  return {
    ...process.env,
    PATH: `${process.env.PATH ?? ''}:/usr/sbin:/sbin:/usr/bin:/bin`,
    LC_ALL: 'C',
    ...extra,
  };
}

/** Runs a program and returns its stdout. */
export function shell(command: readonly string[], options: ShellOptions = {}): string {
  const [file = '', ...rest] = command;
  const result = spawnSync(file, rest, {
    cwd: options.cwd,
    env: environment(options.env),
    input: options.input ?? '',
    encoding: 'utf8',
    maxBuffer: OUTPUT_BYTES_MAX,
  });
  if (result.error) throw new SetupError(`${command.join(' ')}: ${result.error.message}`);
  if (result.status !== 0) {
    const said = `${result.stderr}${result.stdout}`.trim();
    throw new SetupError(`${command.join(' ')} failed (${result.status ?? result.signal})\n${said}`);
  }
  return result.stdout;
}

/** Where `name` is in PATH, or null. */
export function findProgram(name: string): string | null {
  for (const directory of (environment().PATH ?? '').split(':')) {
    const path = join(directory, name);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // not there
    }
  }
  return null;
}

export function isRoot(): boolean {
  return process.getuid?.() === 0;
}
