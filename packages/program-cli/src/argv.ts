/**
 * argv.ts: the arguments as the original's users type them, in the form commander knows.
 *
 * Theory
 *   The original reads its command line with Python's argparse. Two of its habits commander does not have: short
 *   options of several letters (`-pkt_cnt`), and abbreviations of long ones (`--max_queue_s` when only one option
 *   begins so). The arguments are walked along the definition, so that a value is never taken for an option, and both
 *   are replaced by the long option that is meant.
 */
import type { Command, Option } from 'commander';
import { type ExtraShortForms, type ParseOutcome, usageError } from './usage.js';

export type Translated =
  | { readonly kind: 'translated'; readonly argv: string[]; readonly json: boolean }
  | Extract<ParseOutcome, { kind: 'usage' }>;

interface Word {
  /** What stands for the argument; null: an abbreviation of several. */
  readonly text: string | null;
  readonly option: Option | undefined;
  readonly candidates: readonly string[];
  /** The value is part of the argument. */
  readonly attached: boolean;
}

/** The arguments with short forms and abbreviations written out, without `--json`, which may stand anywhere. */
export function translateArgv(
  program: Command,
  argv: readonly string[],
  shortForms: ExtraShortForms,
): Translated {
  const translated: string[] = [];
  let json = false;
  let command = program;
  for (let i = 0; i < argv.length; i++) {
    const argument = argv[i]!;
    if (argument === '--') {
      translated.push(...argv.slice(i));
      break;
    }
    if (argument === '--json') {
      json = true;
    } else if (argument.startsWith('-') && argument !== '-') {
      const word = readOption(command, argument, shortForms);
      if (word.text === null) {
        const could = word.candidates.join(', ');
        return {
          kind: 'usage',
          text: usageError(command, `ambiguous option: ${argument} could match ${could}`),
        };
      }
      translated.push(word.text);
      if (word.option?.required === true && !word.attached && i + 1 < argv.length)
        translated.push(argv[++i]!);
    } else {
      translated.push(argument);
      command = command.commands.find((inner) => inner.name() === argument) ?? command;
    }
  }
  return { kind: 'translated', argv: translated, json };
}

function readOption(command: Command, argument: string, shortForms: ExtraShortForms): Word {
  const options = command.createHelp().visibleOptions(command);
  const equals = argument.indexOf('=');
  const name = equals < 0 ? argument : argument.slice(0, equals);
  const value = equals < 0 ? '' : argument.slice(equals);
  const attached = equals >= 0;
  const meant = (option: Option): Word => ({
    text: `${option.long}${value}`,
    option,
    candidates: [],
    attached,
  });
  if (argument.startsWith('--')) {
    const exact = options.find(({ long }) => long === name);
    if (exact !== undefined) return meant(exact);
    const beginning = options.filter(({ long }) => long?.startsWith(name));
    if (beginning.length === 1) return meant(beginning[0]!);
    const candidates = beginning.map(({ long }) => long!);
    return { text: beginning.length === 0 ? argument : null, option: undefined, candidates, attached };
  }
  const several = options.find(({ long }) => long !== undefined && shortForms[long] === name);
  if (several !== undefined) return meant(several);
  const option = options.find(({ short }) => short === argument.slice(0, 2));
  return { text: argument, option, candidates: [], attached: argument.length > 2 };
}
