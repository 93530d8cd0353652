/**
 * transcript.fixture.ts: conversations in Markdown, as data.
 *
 * Theory
 *   A transcript is a Markdown file. Headings name what happens; fenced blocks say what is sent and what must come:
 *
 *     ```client            a message of the client; several in a row are sent without waiting
 *     DMA_MAP 7 fds=1      command, message id, then any of: fds=<count>, posted
 *     20 00 00 00          its body: bytes in hex (00x4: four of them); # begins a comment
 *     u64 0x100000         a number of 16, 32 or 64 bits, little-endian
 *     'text'               its bytes
 *     ```
 *     ```server            the next message the server must send
 *     DMA_MAP 7            the same; errno=<number> for an error
 *     ..                   any byte
 *     *                    any bytes from here on
 *     ```
 *     ```device            what the device must have been asked since the last such block, one call a line
 *     ```
 *
 * Invariants  a line that is not understood is an error with its number, never skipped.
 * Limits      what the tests need.
 */
import { VfioUserCommand } from '@virtnet/wire';

export interface TranscriptMessage {
  readonly kind: 'client' | 'server';
  readonly line: number;
  readonly title: string;
  readonly command: number;
  readonly id: number;
  readonly fds: number;
  readonly posted: boolean;
  readonly errno: number;
  /** null: any byte. */
  readonly body: readonly (number | null)[];
  /** More may follow. */
  readonly open: boolean;
}

export interface TranscriptCalls {
  readonly kind: 'device';
  readonly line: number;
  readonly title: string;
  readonly calls: readonly string[];
}

export type TranscriptStep = TranscriptMessage | TranscriptCalls;

const NUMBER_BYTES: Record<string, number> = { u16: 2, u32: 4, u64: 8 };

/** The steps of a transcript, in order. Throws with the line's number when one is not understood. */
export function parseTranscript(text: string): TranscriptStep[] {
  const steps: TranscriptStep[] = [];
  const lines = text.split('\n');
  let title = '';
  for (let i = 0; i < lines.length; i++) {
    const line = lines[i] ?? '';
    if (line.startsWith('#')) title = line.replace(/^#+ */, '');
    const fence = /^```(\w+)$/.exec(line);
    if (fence === null) continue;
    const end = lines.indexOf('```', i + 1);
    if (end < 0) throw new SyntaxError(`line ${i + 1}: block without an end`);
    const content = lines.slice(i + 1, end);
    const [, kind] = fence;
    if (kind === 'device') steps.push({ kind, line: i + 1, title, calls: content.filter((c) => c !== '') });
    else if (kind === 'client' || kind === 'server') steps.push(parseMessage(kind, title, content, i + 1));
    else throw new SyntaxError(`line ${i + 1}: what is a ${kind} block?`);
    i = end;
  }
  return steps;
}

function parseMessage(
  kind: 'client' | 'server',
  title: string,
  content: readonly string[],
  line: number,
): TranscriptMessage {
  const [head = '', ...rest] = content;
  const [name = '', id = '', ...options] = head.trim().split(/\s+/);
  const command = VfioUserCommand[name as keyof typeof VfioUserCommand];
  if (command === undefined || !/^\d+$/.test(id)) throw new SyntaxError(`line ${line + 1}: ${head}`);
  const option = (word: string) => Number(options.find((o) => o.startsWith(`${word}=`))?.split('=')[1] ?? 0);
  const known = options.every((o) => o === 'posted' || /^(fds|errno)=\d+$/.test(o));
  if (!known) throw new SyntaxError(`line ${line + 1}: ${head}`);
  const body: (number | null)[] = [];
  let open = false;
  for (const [i, each] of rest.entries()) {
    if (each.trim() === '*') open = true;
    else body.push(...parseBytes(each, line + 2 + i));
  }
  const posted = options.includes('posted');
  return {
    kind,
    line,
    title,
    command,
    id: Number(id),
    fds: option('fds'),
    posted,
    errno: option('errno'),
    body,
    open,
  };
}

function parseBytes(text: string, line: number): (number | null)[] {
  const bytes: (number | null)[] = [];
  let left = text.trim();
  while (left !== '' && !left.startsWith('#')) {
    const token =
      /^(?:'([^']*)'|(u16|u32|u64) (0x[0-9a-f]+|\d+)|([0-9a-f]{2})(?:x(\d+))?|(\.\.)(?:x(\d+))?)(?=\s|$)/.exec(
        left,
      );
    if (token === null) throw new SyntaxError(`line ${line}: ${left}`);
    const [whole, quoted, width, number, byte, times, any, anyTimes] = token;
    if (quoted !== undefined) bytes.push(...new TextEncoder().encode(quoted));
    else if (width !== undefined && number !== undefined) bytes.push(...littleEndian(BigInt(number), width));
    else if (byte !== undefined) bytes.push(...Array(Number(times ?? 1)).fill(Number.parseInt(byte, 16)));
    else if (any !== undefined) bytes.push(...Array(Number(anyTimes ?? 1)).fill(null));
    left = left.slice(whole.length).trimStart();
  }
  return bytes;
}

function littleEndian(value: bigint, width: string): number[] {
  const count = NUMBER_BYTES[width] ?? 0;
  return Array.from({ length: count }, (_, i) => Number((value >> BigInt(8 * i)) & 0xffn));
}
