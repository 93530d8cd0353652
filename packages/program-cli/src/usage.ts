/**
 * usage.ts: what all three programs share in reading a command line with commander.
 *
 * Theory
 *   Commander parses; this file makes it quiet (nothing is written, nothing exits) and gives its outcome back as a
 *   value, with help and errors in the form of Python's argparse, which the original uses: a usage line and an
 *   `error:` line on stderr, exit code 2.
 */
import { type Command, CommanderError, type Help, InvalidArgumentError, type Option } from 'commander';

export const EXIT_USAGE = 2;

/** What a command line came to when it asked for nothing to be done. */
export type ParseOutcome =
  | { readonly kind: 'parsed' }
  /** Help or version, for stdout. */
  | { readonly kind: 'text'; readonly text: string }
  /** Usage and error line, for stderr. */
  | { readonly kind: 'usage'; readonly text: string };

/** Short forms that commander cannot declare, by long option: shown in help, translated before parsing. */
export type ExtraShortForms = Readonly<Record<string, string>>;

/** Makes `program` quiet and gives it the look of argparse. Call before commands are added: they inherit it. */
export function prepareProgram(program: Command, extraShortForms: ExtraShortForms = {}): Command {
  return program
    .exitOverride()
    .configureOutput({ writeOut: () => undefined, writeErr: () => undefined })
    .helpCommand(false)
    .helpOption('-h, --help', 'show this help and exit')
    .configureHelp({
      styleTitle: (title) => title.toLowerCase(),
      optionTerm: (option) => optionTerm(option, extraShortForms),
    });
}

function optionTerm(option: Option, extraShortForms: ExtraShortForms): string {
  const extra = option.long === undefined ? undefined : extraShortForms[option.long];
  return extra === undefined ? option.flags : `${extra}, ${option.flags}`;
}

/** Parses `argv`; the actions of the commands have run when the outcome is `parsed`. */
export function parseWith(program: Command, argv: readonly string[]): ParseOutcome {
  let shown = '';
  program.configureOutput({ writeOut: (text) => (shown += text) });
  for (const command of allCommands(program))
    command.configureOutput({ writeOut: (text) => (shown += text) });
  try {
    program.parse([...argv], { from: 'user' });
    return { kind: 'parsed' };
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.exitCode === 0) return { kind: 'text', text: shown };
    const message = error.code === 'commander.help' ? 'a command is required' : error.message;
    return { kind: 'usage', text: usageError(commandOf(program, argv), message) };
  }
}

function allCommands(command: Command): Command[] {
  return [command, ...command.commands.flatMap(allCommands)];
}

/** The command a command line means, for the usage line of an error. */
function commandOf(program: Command, argv: readonly string[]): Command {
  let command = program;
  for (const argument of argv) {
    const found = command.commands.find((c) => c.name() === argument || c.aliases().includes(argument));
    if (found !== undefined) command = found;
  }
  return command;
}

/** Usage and error line about `command`, as argparse writes them. */
export function usageError(command: Command, message: string): string {
  const usage = command.createHelp().commandUsage(command);
  let name = command.name();
  for (let outer = command.parent; outer !== null; outer = outer.parent) name = `${outer.name()} ${name}`;
  return `usage: ${usage}\n${name}: error: ${message.replace(/^error: /, '')}\n`;
}

const INTEGER_TEXT = /^[+-]?(?:0x[0-9a-f]+|[0-9]+)$/i;

/** Option parser: a whole number, decimal or `0x…`, with or without a sign. */
export function integer(text: string): number {
  const negative = text.startsWith('-');
  const value = INTEGER_TEXT.test(text) ? Number(text.replace(/^[+-]/, '')) : Number.NaN;
  if (!Number.isSafeInteger(value)) throw new InvalidArgumentError('It is not a whole number.');
  return negative ? -value : value;
}

const HEXADECIMAL_TEXT = /^(?:0x)?[0-9a-f]{1,12}$/i;

/** Option parser: a hexadecimal number, with or without `0x`. */
export function hexadecimal(text: string): number {
  if (!HEXADECIMAL_TEXT.test(text)) throw new InvalidArgumentError('It is not a hexadecimal number.');
  return Number.parseInt(text, 16);
}

const FEATURES_TEXT = /^(?:0x)?[0-9a-f]{1,16}$/i;

/** Option parser: a feature mask of 64 bits in hexadecimal, with or without `0x`. */
export function featureText(text: string): string {
  if (!FEATURES_TEXT.test(text)) throw new InvalidArgumentError('It is not a hexadecimal number of 64 bits.');
  return text;
}

export type { Help };
