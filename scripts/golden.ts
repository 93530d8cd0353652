/** Keeps what this version writes for others, where it is not kept yet. See --help. */
import { setup } from './lib/setup.ts';

const USAGE = `Usage: scripts/golden

Records, pages, messages and files that one version leaves to another have versions, and test/golden keeps what each
version wrote. After a change of one of them this writes the file that is missing: the next revision when older readers
pass over what is new, the first one of a new version when its number was raised. A change that older readers could not
cope with is refused under the old number, with what is in the way. Files that exist are never changed; one
that no release contains yet may be removed and made anew.

Exit code: 0 all is kept, 1 something cannot be kept, 2 wrong usage.
`;

async function main(words: readonly string[]): Promise<number> {
  if (words.length > 0) {
    const asked = words.every((word) => word === '-h' || word === '--help');
    process[asked ? 'stdout' : 'stderr'].write(USAGE);
    return asked ? 0 : 2;
  }
  setup(['npm', 'build'], (line) => process.stderr.write(`${line}\n`));
  const { goldensOf, keep, nextGolden } = await import('../test/lib/golden.ts');
  const { goldenKindList } = await import('../test/lib/golden-kinds.ts');
  let failed = false;
  for (const kind of goldenKindList) {
    const next = await nextGolden(kind, goldensOf(kind));
    failed ||= typeof next === 'string';
    const outcome = next === null ? 'is kept' : typeof next === 'string' ? next : keep(next);
    process.stdout.write(`${kind.name.padEnd(14)} ${kind.version}: ${outcome}\n`);
  }
  return failed ? 1 : 0;
}

process.exitCode = await main(process.argv.slice(2));
