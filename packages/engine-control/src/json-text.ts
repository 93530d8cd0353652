/**
 * json-text.ts: JSON that a person wrote, with the place of everything in it.
 *
 * Theory
 *   JSON.parse says that a text is wrong, hardly where, and not what to do. This reader keeps line and column of every
 *   key and value, so that whoever judges the values can point at them, and gives a remedy with each fault.
 *   It takes RFC 8259 and one thing more: a comma behind the last member or item, which the guide's own example has.
 *
 * Invariants
 *   I1  what JSON.parse takes is taken, with the same values; a key that stands twice is a fault here.
 *   I2  never throws, and reads nothing twice: the time is linear in the text.
 *
 * Limits  DEPTH_MAX levels; the caller bounds the text.
 */

/** A place in the text, both counted from 1; columns in UTF-16 units. */
export interface TextPlace {
  readonly line: number;
  readonly column: number;
}

/** A value with its place. */
export type JsonNode =
  | { readonly kind: 'object'; readonly at: number; readonly members: ReadonlyMap<string, JsonMember> }
  | { readonly kind: 'array'; readonly at: number; readonly items: readonly JsonNode[] }
  | { readonly kind: 'scalar'; readonly at: number; readonly value: string | number | boolean | null };

export interface JsonMember {
  /** Where the key stands. */
  readonly keyAt: number;
  readonly value: JsonNode;
}

/** Why a text is not JSON. */
export interface JsonFault {
  readonly at: number;
  readonly fault: string;
  readonly remedy: string;
}

export const DEPTH_MAX = 16;

/** Reads `text`; offsets become places by `placeOf`. */
export function readJson(text: string): { readonly node: JsonNode } | JsonFault {
  const reader = new Reader(text);
  try {
    return { node: reader.document() };
  } catch (error) {
    if (error instanceof Stop) return error.reason;
    throw error;
  }
}

/** Line and column of an offset. */
export function placeOf(text: string, at: number): TextPlace {
  const before = text.slice(0, at);
  const lines = before.split('\n');
  return { line: lines.length, column: lines.at(-1)!.length + 1 };
}

/** The plain value of a node; keys such as `__proto__` are keys like any other. */
export function plainValue(node: JsonNode): unknown {
  switch (node.kind) {
    case 'object':
      return Object.fromEntries([...node.members].map(([key, { value }]) => [key, plainValue(value)]));
    case 'array':
      return node.items.map(plainValue);
    case 'scalar':
      return node.value;
  }
}

/** Leaves the recursion at the first fault. */
class Stop extends Error {
  readonly reason: JsonFault;

  constructor(reason: JsonFault) {
    super(reason.fault);
    this.reason = reason;
  }
}

const BLANK = /[ \t\r\n]*/y;
const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
// biome-ignore lint/suspicious/noControlCharactersInRegex: JSON forbids exactly these inside a string
const STRING = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y;
const WORD = /[A-Za-z_][A-Za-z_0-9]*/y;
const WORDS: ReadonlyMap<string, boolean | null> = new Map([
  ['true', true],
  ['false', false],
  ['null', null],
]);

class Reader {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  document(): JsonNode {
    if (this.#text.startsWith('\ufeff'))
      throw this.#stop('a byte order mark stands before the text', 'save the file as UTF-8 without a mark');
    this.#skip();
    if (this.#at === this.#text.length) throw this.#stop('nothing is here', 'write {}');
    const node = this.#value(1);
    this.#skip();
    if (this.#at < this.#text.length)
      throw this.#stop('something follows the end of the document', 'remove what follows the last bracket');
    return node;
  }

  #value(depth: number): JsonNode {
    const at = this.#at;
    if (depth > DEPTH_MAX) throw this.#stop(`more than ${DEPTH_MAX} levels deep`, 'remove levels');
    const first = this.#text[at];
    if (first === '{') return this.#object(at, depth);
    if (first === '[') return this.#array(at, depth);
    if (first === '"') return { kind: 'scalar', at, value: this.#string() };
    const number = this.#take(NUMBER);
    if (number !== null) return this.#number(at, number);
    const word = this.#take(WORD);
    if (word === null) throw this.#unexpected('a value');
    const value = WORDS.get(word);
    if (value === undefined) {
      this.#at = at;
      throw this.#stop(`${word} is not a value`, wordRemedy(word));
    }
    return { kind: 'scalar', at, value };
  }

  #number(at: number, text: string): JsonNode {
    const next = this.#text[this.#at] ?? '';
    if (/[0-9A-Za-z_.]/.test(next)) {
      this.#at = at;
      const hex = /[xX]/.test(next);
      throw this.#stop(
        'not a number',
        hex ? 'write a hexadecimal number in double quotes' : 'write a decimal number',
      );
    }
    return { kind: 'scalar', at, value: Number(text) };
  }

  #object(at: number, depth: number): JsonNode {
    const members = new Map<string, JsonMember>();
    this.#list(at, '}', () => {
      if (this.#text[this.#at] !== '"') throw this.#keyExpected();
      const keyAt = this.#at;
      const key = this.#string();
      if (members.has(key)) {
        const first = placeOf(this.#text, members.get(key)!.keyAt);
        this.#at = keyAt;
        throw this.#stop(`"${key}" stands here and on line ${first.line}`, 'remove one of them');
      }
      this.#skip();
      if (this.#text[this.#at] !== ':') throw this.#unexpected(`a colon behind "${key}"`);
      this.#at++;
      this.#skip();
      members.set(key, { keyAt, value: this.#value(depth + 1) });
    });
    return { kind: 'object', at, members };
  }

  #array(at: number, depth: number): JsonNode {
    const items: JsonNode[] = [];
    this.#list(at, ']', () => items.push(this.#value(depth + 1)));
    return { kind: 'array', at, items };
  }

  /** What stands between a bracket and its end, separated by commas; one may follow the last. */
  #list(openedAt: number, end: '}' | ']', readOne: () => void): void {
    this.#at++;
    for (;;) {
      this.#skip();
      if (this.#text[this.#at] === end) break;
      if (this.#at >= this.#text.length) throw this.#unclosed(openedAt);
      readOne();
      this.#skip();
      if (this.#at >= this.#text.length) throw this.#unclosed(openedAt);
      if (this.#text[this.#at] === end) break;
      if (this.#text[this.#at] !== ',') throw this.#unexpected('a comma');
      this.#at++;
    }
    this.#at++;
  }

  #string(): string {
    const text = this.#take(STRING);
    if (text !== null) return JSON.parse(text) as string;
    throw this.#stop(
      'this text has no end on its line, or a backslash that means nothing',
      'close it with ", and write \\\\ for a backslash',
    );
  }

  #skip(): void {
    this.#take(BLANK);
  }

  #take(pattern: RegExp): string | null {
    pattern.lastIndex = this.#at;
    const match = pattern.exec(this.#text);
    if (match === null) return null;
    this.#at += match[0].length;
    return match[0];
  }

  #keyExpected(): Stop {
    const text = this.#text.slice(this.#at);
    if (text.startsWith(',')) return this.#stop('two commas, or one before the first key', 'remove a comma');
    const word = /^'?([A-Za-z_]\w*)'?/.exec(text)?.[1];
    if (word !== undefined) return this.#stop('a key is not in double quotes', `write "${word}"`);
    return this.#unexpected('a key in double quotes');
  }

  #unexpected(expected: string): Stop {
    const text = this.#text.slice(this.#at);
    if (/^(?:\/\/|\/\*|#)/.test(text)) return this.#stop('JSON has no comments', 'remove the comment');
    if (text.startsWith("'")) return this.#stop("text between '", 'use double quotes');
    const found = text === '' ? 'the end of the file' : JSON.stringify([...text][0]);
    const remedy = expected === 'a comma' ? 'put a comma between the two' : `put ${expected} here`;
    return this.#stop(`${expected} is expected, ${found} is found`, remedy);
  }

  #unclosed(openedAt: number): Stop {
    const bracket = this.#text[openedAt]!;
    const { line } = placeOf(this.#text, openedAt);
    const end = bracket === '{' ? '}' : ']';
    return this.#stop(`the ${bracket} of line ${line} is not closed`, `add the ${end}`);
  }

  #stop(fault: string, remedy: string): Stop {
    return new Stop({ at: this.#at, fault, remedy });
  }
}

function wordRemedy(word: string): string {
  const meant = /^(?:true|false|none|null)$/i.exec(word)?.[0].toLowerCase();
  if (meant === undefined) return 'put text in double quotes';
  return `write ${meant === 'none' ? 'null' : meant}`;
}
