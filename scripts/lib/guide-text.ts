/**
 * guide-text.ts: what the text of the guide says about commands, read by a program.
 *
 * Theory
 *   The text is what a page leaves when its markup goes. Code stands in two forms. A block begins with a line of twelve
 *   spaces, its first line is indented by as many, the others are as on the page, and a line of four spaces, or the text
 *   behind those, ends it. A step of a list is one line: prose and code follow one another there, line breaks are gone, and
 *   "- " stands wherever the page changed the typeface, also inside a command.
 *
 *   A command is what stands behind a prompt. In a block its output is the lines up to the next prompt; without any, the
 *   next block, if only one line stands between them, which ends with a colon. In a step a command ends where an output
 *   or prose begins, which is known from how those begin (OUTPUTS, PROSE).
 *
 *   Answers are not always JSON: entries are left out (`...`), brackets are missing, keys stand without their object.
 *   They are read as far as they go. What was left out makes an answer `partial`.
 *
 * Invariants
 *   I1  of an output only keys, order and kinds are kept, and what stands for itself: rows of tables, configuration
 *       files, lines of fixed text.
 */
import { shapeOf } from '../../test/lib/answer-shape.ts';

export interface GuideExample {
  /** Line of the guide, from 1. */
  readonly at: number;
  /** Where it is typed. A prompt that does not say so is one of the DPU. */
  readonly side: 'dpu' | 'host' | 'vm';
  readonly command: string;
  /** The line of parameters before the answer. */
  readonly parameters?: string;
  /** The form of an answer in JSON: answer-shape.ts. */
  readonly shape?: readonly string[];
  readonly partial?: true;
  /** The form of what grep lets through. */
  readonly found?: readonly string[];
  /** An answer that is not JSON. */
  readonly text?: string;
  /** Keys of `ethtool`. */
  readonly keys?: readonly string[];
  /** Rows of `lspci` and `mlxconfig`. */
  readonly rows?: readonly string[];
}

/** A usage line: the command and its options in their order. */
export interface GuideSyntax {
  readonly at: number;
  readonly command: string;
  readonly options: readonly string[];
}

export interface GuideFacts {
  readonly examples: readonly GuideExample[];
  readonly syntax: readonly GuideSyntax[];
  /** Configuration and recovery files, on one line. */
  readonly files: readonly { readonly at: number; readonly content: string }[];
  /** Names of feature bits. */
  readonly features: Readonly<Record<string, string>>;
}

/** A command and what stands behind it. */
interface Typed {
  readonly at: number;
  readonly side: GuideExample['side'];
  readonly command: string;
  readonly output: string;
}

interface Block {
  /** Line of the guide of the first entry. */
  readonly at: number;
  readonly lines: readonly string[];
  /** The line before it, when that is the only one since the block before. */
  readonly lead: string | null;
}

const PROMPT = /^\s*(?:\[(dpu|host|vm)\]#|[#$]) +(.*)$/;
const STEP_PROMPT = /\[(dpu|host|vm)\]# */;
const ADDRESS = String.raw`(?:[0-9a-f]{4}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]`;
const JSON_BEGIN = /\{ *["']|\{ *\.\.\.|\.\.\. *\{|(?<!')"[\w -]+": /;
/** How outputs begin in a step. */
const OUTPUTS: readonly RegExp[] = [
  JSON_BEGIN,
  new RegExp(`${ADDRESS} (?=[A-Z]|\\d{4}:)`), // lspci
  /Kernel driver in use: /,
  /driver: /, // ethtool -i
  /\d+: \w+: </, // ip link
  /\[\d+\.\d+\]/, // dmesg
  /Id Name State/, // virsh
  /[\w-]+\[\d+\]: /, // journalctl
];
/** How prose goes on in a step. Figures of a command may be set in another typeface. */
const PROSE = /(?:- (?!\d+(?:[:[a-z-]|$))|(?:Info|Note)-? )/;

/**
 * What the guide says. Numbers of lines count from 1.
 * @param guide its text, as told in the theory above; what is neither a block nor a step is passed over
 */
export function guideFacts(guide: string): GuideFacts {
  const text = guide.replaceAll('\u00a0', ' ');
  const lines = text.split('\n');
  const blocks = blocksOf(lines);
  const inBlocks = new Set(blocks.flatMap(({ at, lines }) => lines.map((_, i) => at + i)));
  const typed: Typed[] = [];
  const syntax: GuideSyntax[] = [];
  const files: { at: number; content: string }[] = [];
  for (const block of blocks) {
    const commands = typedIn(block);
    const [first = ''] = block.lines;
    const usage = /^\s*(?:\[dpu\]# )?(?:usage: )?(virtnet .*[[{].*)$/.exec(first)?.[1];
    const last = typed.at(-1);
    if (usage !== undefined && !JSON_BEGIN.test(first)) syntax.push(syntaxOf(block, usage));
    else if (commands.length > 0) typed.push(...commands);
    else if (last?.command.startsWith('virtnet ') && last.output === '' && block.lead?.endsWith(':')) {
      typed[typed.length - 1] = { ...last, output: block.lines.join('\n').trim() };
    } else if (first.trim() === '{') files.push({ at: block.at, content: oneLine(block.lines.join('\n')) });
  }
  lines.forEach((line, i) => {
    if (!inBlocks.has(i + 1)) typed.push(...typedInStep(line, i + 1));
  });
  for (const { at, command, output } of typed)
    if (/^cat .*\.conf$/.test(command)) files.push({ at, content: oneLine(output) });
  const byLine = (a: { at: number }, b: { at: number }) => a.at - b.at;
  const examples = typed.filter(({ command }) => !command.startsWith('cat ')).map(exampleOf);
  return {
    examples: examples.sort(byLine),
    syntax: syntax.sort(byLine),
    files: files.sort(byLine),
    features: featuresOf(text),
  };
}

function blocksOf(lines: readonly string[]): Block[] {
  const blocks: Block[] = [];
  let begun: { at: number; lines: string[]; lead: string | null } | null = null;
  let between: string[] = [];
  const end = () => {
    if (begun !== null && begun.lines.length > 0) blocks.push(begun);
    begun = null;
  };
  lines.forEach((line, i) => {
    if (/^ {12}$/.test(line)) {
      end();
      begun = { at: i + 2, lines: [], lead: between.length === 1 ? between[0]! : null };
      between = [];
    } else if (/^ {4}(?:$|\||The )/.test(line)) end();
    else if (begun !== null) begun.lines.push(line);
    else if (line.trim() !== '') between.push(line.trim());
  });
  end();
  return blocks;
}

/** The commands of a block. */
function typedIn({ at, lines }: Block): Typed[] {
  const typed: (Omit<Typed, 'output'> & { output: string[] })[] = [];
  let continues = false;
  lines.forEach((line, i) => {
    const [, side = 'dpu', begun] = PROMPT.exec(line) ?? [];
    const last = typed.at(-1);
    const words = (begun ?? line).trim().replace(/ *\\$/, '');
    if (begun !== undefined)
      typed.push({ at: at + i, side: side as Typed['side'], command: words, output: [] });
    else if (last !== undefined && continues)
      typed[typed.length - 1] = { ...last, command: `${last.command} ${words}` };
    else last?.output.push(line.trimEnd());
    continues = (begun !== undefined || continues) && line.trimEnd().endsWith(' \\');
  });
  return typed.map((each) => ({ ...each, output: each.output.join('\n').trim() }));
}

/** The commands of a step, which is one line. */
function typedInStep(line: string, at: number): Typed[] {
  const parts = line.split(STEP_PROMPT).slice(1);
  const typed: Typed[] = [];
  for (let i = 0; i + 1 < parts.length; i += 2) {
    const text = parts[i + 1]!.trim();
    const command = plainCommand(text.slice(0, firstOf([...OUTPUTS, PROSE], text)));
    const rest = text.slice(firstOf(OUTPUTS, text));
    typed.push({ at, side: parts[i] as Typed['side'], command, output: rest });
  }
  return typed;
}

/** Where the first of the patterns begins; the end of the text without any. */
function firstOf(patterns: readonly RegExp[], text: string): number {
  const found = patterns.map((pattern) => text.search(pattern)).filter((at) => at >= 0);
  return Math.min(text.length, ...found);
}

/** A command without the marks of typefaces and the breaks in its words. */
function plainCommand(text: string): string {
  return text
    .replace(/:- (?=\d)/g, ':')
    .replace(/ ?- (\d+)(?=[a-z-])/g, ' $1 ')
    .replace(/ ?- (?=\d)/g, ' ')
    .replace(/_ (?=[A-Z])/g, '_')
    .replace(/ +/g, ' ')
    .trim();
}

function syntaxOf({ at, lines }: Block, usage: string): GuideSyntax {
  let plain = usage;
  for (const nested of [/\[[^[\]{}]*\]/g, /\{[^{}]*\}/g, /\[[^[\]]*\]/g]) plain = plain.replace(nested, '');
  const words = plain.split(/ +/).filter((word) => /^[a-z]+$/.test(word));
  const options = lines.join('\n').match(/(?<![\w-])--?[a-z_]+/g) ?? [];
  return { at, command: words.join(' '), options: [...new Set(options)] };
}

function exampleOf({ at, side, command, output }: Typed): GuideExample {
  return { at, side, command, ...outputOf(command, output) };
}

function outputOf(command: string, output: string): Partial<GuideExample> {
  if (output === '') return {};
  if (command.startsWith('ethtool ')) {
    const lines = output.includes('\n')
      ? output
      : output.replace(/(?<= )[a-z]+(?:-[a-z]+)*:(?= |$)/g, '\n$&');
    const keys = [...lines.matchAll(/^([A-Za-z][A-Za-z -]*?):/gm)].map(([, key]) => key!);
    return keys.length === 0 ? {} : { keys };
  }
  if (/^lspci |^mlxconfig .* q\b/.test(command)) return { rows: rowsOf(output) };
  if (!command.startsWith('virtnet ')) return {};
  if (command.includes('| grep')) {
    const found = [...output.matchAll(/"[^"]+": (?:"[^"]*"|[\d.]+)/g)].map(
      ([pair]) => shapeOf(JSON.parse(`{${pair}}`))[0]!,
    );
    return found.length === 0 ? {} : { found };
  }
  const [parameters] = /^\{'.*?\}/.exec(output) ?? [];
  const answer = output.slice(parameters?.length ?? 0).trim();
  const read = readAnswer(answer);
  return {
    ...(parameters !== undefined && { parameters }),
    ...(read === null ? answer !== '' && { text: answer } : { shape: shapeOf(read.value) }),
    ...(read?.partial === true && { partial: true }),
  };
}

/** Rows of a table; those of a step stand on one line. */
function rowsOf(output: string): string[] {
  const begin = new RegExp(`(?<=\\S )(?=${ADDRESS} )`, 'g');
  return output
    .replace(begin, '\n')
    .split('\n')
    .map((row) => row.slice(0, firstOf([/ - /, / (?:Info|Note)-? /], row)).trimEnd())
    .filter((row) => row !== '');
}

const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?|[{}[\]:]|\.{3,}|#[^\n]*|[\s,]+/y;

/**
 * Reads an answer in JSON as far as it goes: closing brackets may be missing, entries left out, and several values, or
 * keys without their object, stand for the whole. Null: it does not begin as JSON does.
 */
function readAnswer(text: string): { readonly value: unknown; readonly partial: boolean } | null {
  const tokens: string[] = [];
  for (TOKEN.lastIndex = 0; ; ) {
    const [token] = TOKEN.exec(text) ?? [];
    if (token === undefined) break;
    if (!/^[\s,#]/.test(token)) tokens.push(token);
  }
  if (tokens.length === 0) return null;
  let partial = tokens.some((token) => token.startsWith('...'));
  const left = tokens.filter((token) => !token.startsWith('...'));
  let at = 0;
  const value = (): unknown => {
    const token = left[at++]!;
    if (token === '{') return entries('}');
    if (token !== '[') return JSON.parse(token);
    const list: unknown[] = [];
    while (at < left.length && left[at] !== ']' && left[at] !== '}') list.push(value());
    if (left[at] === ']') at += 1;
    return list;
  };
  const entries = (end: '}' | null): Record<string, unknown> => {
    const object: Record<string, unknown> = {};
    while (left[at + 1] === ':') {
      const key = JSON.parse(left[at]!) as string;
      at += 2;
      if (at < left.length) object[key] = value();
    }
    if (left[at] === end) at += 1;
    return object;
  };
  if (left[1] === ':') {
    partial = true;
    return { value: entries(null), partial };
  }
  const values: unknown[] = [value()];
  while (left[at] === '{') values.push(value());
  return { value: values.length === 1 ? values[0] : values, partial };
}

/** A file on one line, without what stands for entries left out. */
function oneLine(text: string): string {
  const end = text.lastIndexOf('}') + 1;
  return text
    .slice(0, end)
    .replace(/\.{3,}/g, ' ')
    .replace(/\s+/g, ' ')
    .trim();
}

function featuresOf(text: string): Record<string, string> {
  const features: Record<string, string> = {};
  for (const [, bit, name] of text.matchAll(/" *(\d+)": "(VIRTIO_\w+)"/g)) features[bit!] ??= name!;
  return features;
}

/** What differs between the guide and what is kept of it: a line each. */
export function differences(guide: GuideFacts, kept: GuideFacts): string[] {
  const said: string[] = [];
  const compare = (kind: string, now: readonly { at: number }[], then: readonly { at: number }[]) => {
    const before = numbered(then);
    for (const [name, entry] of numbered(now)) {
      const old = before.get(name);
      before.delete(name);
      if (old === undefined) said.push(`${kind} ${name}: only in the guide`);
      else if (JSON.stringify(entry) !== JSON.stringify(old)) said.push(`${kind} ${name}: differs`);
    }
    for (const name of before.keys()) said.push(`${kind} ${name}: only in the file`);
  };
  compare('example', guide.examples, kept.examples);
  compare('usage', guide.syntax, kept.syntax);
  compare('configuration file', guide.files, kept.files);
  for (const bit of new Set([...Object.keys(guide.features), ...Object.keys(kept.features)])) {
    const [now, then] = [guide.features[bit], kept.features[bit]];
    if (now !== then)
      said.push(`feature ${bit}: ${now ?? 'none'} in the guide, ${then ?? 'none'} in the file`);
  }
  return said;
}

/** Entries by their place and command. */
function numbered(entries: readonly { at: number; command?: string }[]): Map<string, unknown> {
  const named = new Map<string, unknown>();
  for (const entry of entries) {
    const name = [entry.at, ...(entry.command === undefined ? [] : [entry.command])].join(': ');
    named.set(named.has(name) ? `${name} (again)` : name, entry);
  }
  return named;
}
