/** Reads the examples out of the guide's text, or compares them with those that are kept. See --help. */
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { differences, type GuideFacts, guideFacts } from './lib/guide-text.ts';
import { repository } from './lib/paths.ts';

const USAGE = `Usage: scripts/guide-examples [--check] GUIDE

Reads what test/guide.test.ts compares with out of GUIDE, the text of the DOCA Virtio-net Service Guide with the code
blocks of its page indented, and writes test/lib/guide-examples.json: each example command with the keys, order and types
of its answer, the options of each usage line, the configuration files and the names of feature bits. The guide's sentences
stay out of it.

  --check  writes nothing; says what differs between GUIDE and the file

Exit code: 0 written, or nothing differs; 1 something differs, or GUIDE cannot be read; 2 wrong usage.
`;

const FILE = join(repository, 'test/lib/guide-examples.json');

function main(words: readonly string[]): number {
  const options = parse(words);
  if (options === null) {
    const asked = words.includes('-h') || words.includes('--help');
    process[asked ? 'stdout' : 'stderr'].write(USAGE);
    return asked ? 0 : 2;
  }
  const { guide, check } = options;
  let text: string;
  try {
    text = readFileSync(guide, 'utf8');
  } catch (error) {
    process.stderr.write(`${guide}: ${(error as NodeJS.ErrnoException).code}\n`);
    return 1;
  }
  const facts = guideFacts(text);
  const { examples, syntax, files } = facts;
  if (examples.length === 0) {
    process.stderr.write(`${guide}: has no example\n`);
    return 1;
  }
  if (!check) {
    writeFileSync(FILE, JSON.stringify(facts, null, 2));
    execFileSync(join(repository, 'node_modules/.bin/biome'), ['format', '--write', FILE], {
      stdio: 'ignore',
    });
    process.stdout.write(
      `${FILE}: ${examples.length} examples, ${syntax.length} usages, ${files.length} files\n`,
    );
    return 0;
  }
  const said = differences(facts, JSON.parse(readFileSync(FILE, 'utf8')) as GuideFacts);
  for (const line of said) process.stdout.write(`${line}\n`);
  return said.length === 0 ? 0 : 1;
}

function parse(words: readonly string[]): { guide: string; check: boolean } | null {
  try {
    const { values, positionals } = parseArgs({
      args: [...words],
      options: { check: { type: 'boolean', default: false } },
      allowPositionals: true,
    });
    const [guide, ...others] = positionals;
    return guide === undefined || others.length > 0 ? null : { guide, check: values.check };
  } catch {
    return null;
  }
}

process.exitCode = main(process.argv.slice(2));
