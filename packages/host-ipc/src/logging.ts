/**
 * logging.ts: the one way our programs log.
 *
 * Theory
 *   JSON lines on standard error, or readable lines when standard error is a terminal; entries of the journal, each with
 *   the place in the source that wrote it, when standard error leads there (journal.ts). Writing is asynchronous: a
 *   reader of the log that stops reading must not stop a device. What does not fit the buffer is dropped, and counted.
 *
 * Invariants
 *   I1  logging never throws and never ends the process, whatever became of standard error.
 *   I2  logging never blocks the event loop.
 *
 * Limits  LOG_BUFFER_BYTES_MAX bytes wait for a slow reader.
 */
import { writeSync } from 'node:fs';
import { basename } from 'node:path';
import { getCallSites } from 'node:util';
import { pino } from 'pino';
import pretty from 'pino-pretty';
import type { LogLevelName } from './catalogue.js';
import { type Journal, openJournal } from './journal.js';
import { sourcePlace, sourceStack } from './source-lines.js';

const LOG_BUFFER_BYTES_MAX = 1024 * 1024;
const STDERR_FD = 2;

export type Logger = pino.Logger;

const pinoLevel = { err: 'error', info: 'info', debug: 'debug' } as const satisfies Record<
  LogLevelName,
  string
>;

/** Lines lost because nobody read standard error. */
export const logCounters = { dropped: 0 };

const processJournal = openJournal();

/** The root logger of a program. `program` is its process name. */
export function createLogger(
  program: string,
  level: LogLevelName = 'info',
  journal: Journal | null = processJournal,
): Logger {
  const options: pino.LoggerOptions = {
    level: pinoLevel[level],
    base: { program, pid: process.pid },
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }) },
    serializers: { error: describeError },
  };
  return journal === null
    ? pino(options, standardError())
    : pino({ ...options, mixin: placeOfCall }, journal);
}

function standardError(): pino.DestinationStream {
  const destination = pino.destination({ fd: STDERR_FD, sync: false, maxLength: LOG_BUFFER_BYTES_MAX });
  const lost = () => {
    logCounters.dropped += 1;
  };
  destination.on('drop', lost);
  destination.on('error', lost); // EPIPE: whoever read the log is gone, which is no reason to stop
  return process.stderr.isTTY ? pretty({ destination, ignore: 'program,hostname' }) : destination;
}

/** Frames between a call of the logger and placeOfCall: pino's own, and a few to spare. */
const CALL_FRAMES = 8;

/** Where in the source the logger was called. */
function placeOfCall(): { file?: string; line?: number; function?: string } {
  const [, ...callers] = getCallSites(CALL_FRAMES); // the first is this function
  for (const { scriptName, lineNumber, functionName } of callers) {
    const { file, line } = sourcePlace(scriptName, lineNumber);
    if (file.includes('node_modules/pino/')) continue;
    return { file: basename(file), line, function: functionName || 'main' };
  }
  return {};
}

/** An error as a field of a line. */
function describeError(error: Error): object {
  const { stack, ...others } = pino.stdSerializers.err(error);
  return typeof stack === 'string' ? { ...others, stack: sourceStack(stack) } : { ...others };
}

/** pino gives a child its parent's level once, at birth; these follow later changes. Entries go with their loggers. */
const children = new WeakMap<Logger, Set<WeakRef<Logger>>>();
const collected = new FinalizationRegistry<() => void>((forget) => forget());

/** A child of `logger` whose lines name the source file and, where it helps, the function. */
export function childLogger(logger: Logger, file: string, functionName?: string): Logger {
  const child = logger.child(functionName === undefined ? { file } : { file, function: functionName });
  const siblings = children.get(logger) ?? new Set();
  children.set(logger, siblings);
  const reference = new WeakRef(child);
  siblings.add(reference);
  collected.register(child, () => siblings.delete(reference));
  return child;
}

/** Applies a level of `virtnet log -l` to `logger` and to every child made of it with `childLogger`. */
export function setLogLevel(logger: Logger, level: LogLevelName): void {
  logger.level = pinoLevel[level];
  for (const reference of children.get(logger) ?? []) {
    const child = reference.deref();
    if (child !== undefined) setLogLevel(child, level);
  }
}

const FAULT_EXIT_CODE = 1;
const STACK_FRAME = /at (?:(?:async )?(?:new )?([^\s(]+) \()?(?:file:\/\/)?(\/[^\s()]+):(\d+):\d+\)?/;

/** Where an error was made, by the first frame of its stack. */
function placeOfFault(stack: string | undefined): { file?: string; line?: number; function?: string } {
  const [, functionName, path, line] = STACK_FRAME.exec(stack ?? '') ?? [];
  if (path === undefined) return {};
  const place = sourcePlace(path, Number(line));
  return { file: basename(place.file), line: place.line, function: functionName ?? 'main' };
}

/**
 * Our own fault ends the process, and recovery brings everything back: an exception nobody caught is written as one
 * last line, at once, and the process exits with 1. `lastAct` is called before everything else, and must not throw.
 */
export function exitOnFault(program: string, lastAct: (error: unknown) => void = () => {}): void {
  const end = (error: unknown) => {
    lastAct(error);
    const { message, stack } = error instanceof Error ? error : { message: String(error), stack: undefined };
    const line = {
      level: 'fatal',
      time: new Date().toISOString(),
      program,
      pid: process.pid,
      msg: message,
      stack: stack === undefined ? stack : sourceStack(stack),
    };
    try {
      if (processJournal === null) writeSync(STDERR_FD, `${JSON.stringify(line)}\n`);
      else processJournal.write(JSON.stringify({ ...line, ...placeOfFault(stack) }));
    } catch {
      // Standard error is full or gone: the exit code remains.
    }
    process.exit(FAULT_EXIT_CODE);
  };
  process.on('uncaughtException', end);
  process.on('unhandledRejection', end);
}
