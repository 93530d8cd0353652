/** The version a program says of itself: that of its package, read when it starts. */
import { readFileSync } from 'node:fs';

/** The version in a package.json. Throws when there is none. */
export function packageVersion(packageFile: URL | string): string {
  const { version } = JSON.parse(readFileSync(packageFile, 'utf8')) as { version?: unknown };
  if (typeof version !== 'string') throw new TypeError(`${String(packageFile)} names no version`);
  return version;
}
