/** io.ts: where a program's text goes. */

/** The two outputs of a program. Texts are complete: they carry their own line ends. */
export interface Io {
  out(text: string): void;
  err(text: string): void;
}

/** What a shell reports for a program that SIGPIPE ended. */
const EXIT_BROKEN_PIPE = 141;

/** The outputs of this process. A reader that goes away (`virtnet list | head`) ends the process quietly. */
export function processIo(): Io {
  const gone = (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? EXIT_BROKEN_PIPE : 1);
  process.stdout.on('error', gone);
  process.stderr.on('error', gone);
  return {
    out: (text) => void process.stdout.write(text),
    err: (text) => void process.stderr.write(text),
  };
}

/** Prints a value as JSON, two blanks per level, one key per line. */
export function printJson(io: Io, value: unknown): void {
  io.out(`${JSON.stringify(value, null, 2)}\n`);
}
