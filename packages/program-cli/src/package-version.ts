/** package-version.ts: the version of this package, read where it is shown. */
import { existsSync, readFileSync } from 'node:fs';

/** Version in the nearest package.json above this module, which may have been put into a bundle. */
export function packageVersion(): string {
  let url = new URL('./package.json', import.meta.url);
  while (!existsSync(url) && url.pathname !== '/package.json') url = new URL('../package.json', url);
  return (JSON.parse(readFileSync(url, 'utf8')) as { version: string }).version;
}
