/** Builds the Debian package. See --help. */
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { type Compression, compressions, debianPackage } from './lib/debian-package.ts';
import { repository } from './lib/paths.ts';
import { setup } from './lib/setup.ts';
import { SetupError } from './lib/shell.ts';

const USAGE = `Usage: scripts/package [--version VERSION] [--output DIRECTORY] [--compression ${compressions.join('|')}]

Builds virtio-net-controller_<version>_<architecture>.deb for this machine's architecture and prints its path. The
package brings everything along, the Node runtime included; installing it needs no network.

  --version      instead of the repository's version
  --output       where to put it; default: dist/ in the repository
  --compression  default: xz
`;

function options(): { version?: string; output: string; compression: Compression } | null {
  const string = { type: 'string' } as const;
  try {
    const { values } = parseArgs({ options: { version: string, output: string, compression: string } });
    const compression = compressions.find((name) => name === (values.compression ?? 'xz'));
    if (compression === undefined) return null;
    const { version, output = 'dist' } = values;
    return {
      ...(version === undefined ? {} : { version }),
      output: resolve(repository, output),
      compression,
    };
  } catch {
    return null;
  }
}

const wanted = options();
if (process.argv.includes('-h') || process.argv.includes('--help')) process.stdout.write(USAGE);
else if (wanted === null) {
  process.stderr.write(USAGE);
  process.exitCode = 2;
} else {
  try {
    setup(['npm', 'build'], (line) => process.stderr.write(`setup: ${line}\n`));
    process.stdout.write(`${debianPackage(wanted)}\n`);
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    process.stderr.write(`${error.message}\n`);
    process.exitCode = 1;
  }
}
