/**
 * completion.ts: completion files for bash and zsh, made from the definition of the command line.
 *
 * The files in `completion/` are what these functions yield; a test compares them. `completion-write.js` writes them.
 */
import type { Command, Option } from 'commander';
import { SHORT_FORMS } from './definition.js';

const NOTICE =
  'Made from the definition of the command line by completion-write.js; change that, not this file.';

/** An option with all the words that name it. */
interface OptionWords {
  readonly words: readonly string[];
  readonly description: string;
  readonly takesValue: boolean;
  /** The value is a file. */
  readonly isFile: boolean;
  /** What the value may be, when the definition says so. */
  readonly choices: readonly string[];
}

function optionsOf(command: Command): OptionWords[] {
  return command.createHelp().visibleOptions(command).map(wordsOf);
}

function wordsOf(option: Option): OptionWords {
  const { short, long, description, required, argChoices, flags } = option;
  const extra = long === undefined ? undefined : (SHORT_FORMS as Readonly<Record<string, string>>)[long];
  return {
    words: [short, extra, long].filter((word) => word !== undefined),
    description,
    takesValue: required,
    isFile: /<[A-Z_]*FILE>/.test(flags),
    choices: argChoices ?? [],
  };
}

/** Words that may stand where a command expects an argument of its own. */
function argumentWords(command: Command): string[] {
  const inner = command.commands.map((subcommand) => subcommand.name());
  return [...inner, ...command.registeredArguments.flatMap(({ argChoices }) => argChoices ?? [])];
}

/** The commands below one, with those below them, outermost first. */
function commandsBelow(command: Command): Command[] {
  return command.commands.flatMap((each) => [each, ...commandsBelow(each)]);
}

/** The words that lead to a command, as one pattern of bash; empty for the program. */
function pathOf(command: Command): string {
  const names: string[] = [];
  for (let at = command; at.parent !== null; at = at.parent) names.unshift(at.name());
  return names.length > 1 ? `'${names.join(' ')}'` : names.join('');
}

/** The completion file for bash. */
export function bashCompletion(program: Command): string {
  const name = program.name();
  const commands = commandsBelow(program);
  const inner = commands.filter(({ parent }) => parent !== program);
  const steps = inner.map((command) => `${pathOf(command.parent!)}:${command.name()}`).join('|');
  const offered = (command: Command) => optionsOf(command).flatMap(({ words }) => words);
  const values = commands.flatMap((command) =>
    optionsOf(command)
      .filter(({ takesValue }) => takesValue)
      .map(({ words, choices }) => {
        const patterns = words.map((word) => `${pathOf(command)}:${word}`).join('|');
        return `    ${patterns}) offered='${choices.join(' ')}' ;;`;
      }),
  );
  const perCommand = commands.map(
    (command) =>
      `    ${pathOf(command)}:*) offered='${[...argumentWords(command), ...offered(command)].join(' ')}' ;;`,
  );
  const first = [...argumentWords(program), ...offered(program)].join(' ');
  return `# bash completion of ${name}. ${NOTICE}
_${name}() {
  local current=\${COMP_WORDS[COMP_CWORD]} previous=\${COMP_WORDS[COMP_CWORD - 1]} command='' word offered=''
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD - 1}"; do
    case $command:$word in
      *:-*) ;;
      :*) command=$word ;;
      ${steps}) command+=" $word" ;;
    esac
  done
  case $command:$previous in
${values.join('\n')}
    :*) offered='${first}' ;;
${perCommand.join('\n')}
  esac
  mapfile -t COMPREPLY < <(compgen -W "$offered" -- "$current")
}
complete -o bashdefault -o default -F _${name} ${name}
`;
}

/** The completion file for zsh. */
export function zshCompletion(program: Command): string {
  const name = program.name();
  return `#compdef ${name}
# zsh completion of ${name}. ${NOTICE}
_${name}() {
  local context state state_descr line curcontext=$curcontext
  local -a commands
  local -A opt_args
${zshArguments(program, '  ')}
}
_${name} "$@"
`;
}

/** What completes the words behind a command. */
function zshArguments(command: Command, indent: string): string {
  const options = optionsOf(command).map(zshOption);
  const { commands } = command;
  const call = (specs: readonly string[]) => `${indent}_arguments ${specs.join(` \\\n${indent}  `)}`;
  if (commands.length === 0) {
    const words = argumentWords(command);
    return call(words.length === 0 ? options : [...options, `':argument:(${words.join(' ')})'`]);
  }
  const described = commands.map((each) => `${indent}  ${zshWord(`${each.name()}:${each.description()}`)}`);
  const cases = commands.map(
    (each) => `${indent}  ${each.name()})\n${zshArguments(each, `${indent}    `)} ;;`,
  );
  return `${indent}commands=(
${described.join('\n')}
${indent})
${indent}state=
${call(['-C', ...options, "'1:command:->command'", "'*::argument:->argument'"])}
${indent}case $state in
${indent}  command) _describe command commands ;;
${indent}  argument) ;;
${indent}  *) return ;;
${indent}esac
${indent}case $words[1] in
${cases.join('\n')}
${indent}esac`;
}

function zshOption({ words, description, takesValue, isFile, choices }: OptionWords): string {
  const text = description.replaceAll(/[[\]:]/g, '\\$&');
  const offered = isFile ? '_files' : choices.length === 0 ? '' : `(${choices.join(' ')})`;
  const value = takesValue ? `:value:${offered}` : '';
  const spec = zshWord(`[${text}]${value}`);
  return words.length === 1 ? `${words[0]}${spec}` : `'(${words.join(' ')})'{${words.join(',')}}${spec}`;
}

function zshWord(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
