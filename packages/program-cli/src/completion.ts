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

/** Options of a command and of its sub-commands; of several with one name, the first. */
function optionsOf(command: Command): OptionWords[] {
  const own = command.createHelp().visibleOptions(command).map(wordsOf);
  if (command.parent === null) return own;
  const all = [...own, ...command.commands.flatMap(optionsOf)];
  const known = new Set<string>();
  return all.filter(({ words }) => {
    const isNew = words.every((word) => !known.has(word));
    for (const word of words) known.add(word);
    return isNew;
  });
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

/** The completion file for bash. */
export function bashCompletion(program: Command): string {
  const name = program.name();
  const commands = program.commands;
  const offered = (command: Command) => optionsOf(command).flatMap(({ words }) => words);
  const values = commands.flatMap((command) =>
    optionsOf(command)
      .filter(({ takesValue }) => takesValue)
      .map(({ words, choices }) => {
        const patterns = words.map((word) => `${command.name()}:${word}`).join('|');
        return `    ${patterns}) offered='${choices.join(' ')}' ;;`;
      }),
  );
  const perCommand = commands.map(
    (command) =>
      `    ${command.name()}:*) offered='${[...argumentWords(command), ...offered(command)].join(' ')}' ;;`,
  );
  const first = [...commands.map((command) => command.name()), ...offered(program)].join(' ');
  return `# bash completion of ${name}. ${NOTICE}
_${name}() {
  local current=\${COMP_WORDS[COMP_CWORD]} previous=\${COMP_WORDS[COMP_CWORD - 1]} command='' word offered=''
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD - 1}"; do
    case $word in -*) ;; *) command=$word; break ;; esac
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
  const commands = program.commands;
  const described = commands.map((command) => `    ${zshWord(`${command.name()}:${command.description()}`)}`);
  const cases = commands.map((command) => {
    const words = argumentWords(command);
    const positional = words.length === 0 ? [] : [`':argument:(${words.join(' ')})'`];
    const specs = [...optionsOf(command).map(zshOption), ...positional];
    return `    ${command.name()})\n      _arguments ${specs.join(' \\\n        ')} ;;`;
  });
  return `#compdef ${name}
# zsh completion of ${name}. ${NOTICE}
_${name}() {
  local -a commands=(
${described.join('\n')}
  )
  _arguments -C ${optionsOf(program).map(zshOption).join(' \\\n    ')} \\
    '1:command:->command' '*::argument:->argument'
  case $state in
    command) _describe command commands ;;
    argument) ;;
    *) return ;;
  esac
  case $words[1] in
${cases.join('\n')}
  esac
}
_${name} "$@"
`;
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
