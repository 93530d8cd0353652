/**
 * run-mlxconfig.ts: one run of virtnet-mlxconfig, which shows and changes the firmware configuration.
 *
 * A question may be answered long after it was asked. What is changed then is the store as it is by then, judged anew;
 * the table before the question shows it as it was.
 *
 * Errors go to stdout behind `-E-`, as the original's do. Exit codes: 0 success; 1 an error or a change that was
 * declined; 2 a command line that is wrong.
 */
import { writeFileSync } from 'node:fs';
import {
  ADAPTER_BDF,
  assign,
  chooseEntries,
  FIRMWARE_NAMES,
  type FirmwareProblem,
  type FirmwareStore,
  firmwareChangeTable,
  firmwareJson,
  firmwareTable,
  resetFirmwareStore,
} from '@virtnet/engine-control';
import { type FirmwareOutcome, readFirmwareStore, updateFirmwareStore } from '@virtnet/host-ipc';
import { Command } from 'commander';
import type { Io } from './io.js';
import { packageVersion } from './package-version.js';
import { EXIT_USAGE, parseWith, prepareProgram } from './usage.js';

const EXIT_FAILURE = 1;

/** Names under which the one adapter is known: PCI addresses and the device node of the original's driver. */
const DEVICE_NAMES: readonly string[] = [ADAPTER_BDF, `0000:${ADAPTER_BDF}`, '/dev/mst/mt41692_pciconf0'];

/** What a run needs from outside. */
export interface MlxconfigPorts {
  readonly io: Io;
  /** Where the store is. */
  readonly storePath: string;
  /** Asks a question; the answer's line, or an empty one when there is no more input. */
  ask(question: string): Promise<string>;
}

interface GlobalOptions {
  dev?: string;
  enable_verbosity?: true;
  yes?: true;
  yyes?: true;
  json_format?: string;
}
export type Task = (
  | { readonly kind: 'query'; readonly names: readonly string[] }
  | { readonly kind: 'set'; readonly assignments: readonly string[] }
  | { readonly kind: 'reset' }
) & { readonly options: GlobalOptions };

/** A short option of two letters, which commander would read as two options. */
const SHORT_FORMS = { '--yyes': '-yy' } as const;

/** The definition; `collect` is called with what a command asks for. */
export function buildMlxconfig(collect: (task: Task) => void): Command {
  const program = prepareProgram(new Command('virtnet-mlxconfig'), SHORT_FORMS)
    .usage('-d DEVICE [-e] [-y | -yy] [-j FILE] {q|query} [NAME ...] | {s|set} NAME=VALUE ... | {r|reset}')
    .description(
      'Firmware configuration of the emulated adapter. Changes take effect at the next power cycle.',
    )
    .version(packageVersion(), '-v, --version', 'show the version of this program and exit')
    .option('-d, --dev <DEVICE>', `the adapter: ${ADAPTER_BDF}`)
    .option('-e, --enable_verbosity', 'with q: show default and current values as well')
    .option('-y, --yes', 'do not ask')
    .option('--yyes', 'the same')
    .option('-j, --json_format <FILE>', 'with q: write JSON into this file instead of the table');
  const options = () => program.opts<GlobalOptions>();
  program
    .command('query')
    .alias('q')
    .description('show the configuration')
    .argument('[names...]', 'only these entries')
    .action((names: string[]) => collect({ kind: 'query', names, options: options() }));
  program
    .command('set')
    .alias('s')
    .description('change values for the next boot')
    .argument('<assignments...>', 'NAME=VALUE')
    .action((assignments: string[]) => collect({ kind: 'set', assignments, options: options() }));
  program
    .command('reset')
    .alias('r')
    .description('set all values for the next boot to their defaults')
    .action(() => collect({ kind: 'reset', options: options() }));
  return program;
}

/** Runs virtnet-mlxconfig with `argv`, the arguments behind the program's name; returns the exit code. */
export async function runMlxconfig(argv: readonly string[], ports: MlxconfigPorts): Promise<number> {
  const tasks: Task[] = [];
  const outcome = parseWith(
    buildMlxconfig((task) => tasks.push(task)),
    argv.map((argument) => (argument === '-yy' ? '--yyes' : argument)),
  );
  switch (outcome.kind) {
    case 'text':
      ports.io.out(outcome.text);
      return 0;
    case 'usage':
      ports.io.err(outcome.text);
      return EXIT_USAGE;
    case 'parsed': {
      const problem = await runTask(tasks[0]!, ports);
      if (problem !== null) ports.io.out(`-E- ${problem.problem}\n`);
      return problem === null ? 0 : EXIT_FAILURE;
    }
  }
}

async function runTask(task: Task, ports: MlxconfigPorts): Promise<FirmwareProblem | null> {
  const { dev } = task.options;
  if (dev === undefined) return { problem: 'missing device name' };
  if (!DEVICE_NAMES.includes(dev))
    return { problem: `There is no device ${dev}; the adapter is ${ADAPTER_BDF}` };
  const read = readFirmwareStore(ports.storePath);
  if ('problem' in read) return read;
  switch (task.kind) {
    case 'query':
      return showEntries(task, dev, read.store, ports.io);
    case 'set': {
      const assigned = assign(read.store, task.assignments);
      if ('problem' in assigned) return assigned;
      const { names, store } = assigned;
      ports.io.out(`${firmwareChangeTable(read.store.nextBoot, store.nextBoot, names, dev)}\n`);
      const change = (latest: FirmwareStore) => assign(latest, task.assignments);
      return changeStore(task, change, ports, { question: 'Apply new Configuration?', doing: 'Applying' });
    }
    case 'reset': {
      const store = resetFirmwareStore(read.store);
      ports.io.out(`${firmwareChangeTable(read.store.nextBoot, store.nextBoot, FIRMWARE_NAMES, dev)}\n`);
      const change = (latest: FirmwareStore) => ({ store: resetFirmwareStore(latest) });
      return changeStore(task, change, ports, { question: 'Reset configuration?', doing: 'Resetting' });
    }
  }
}

function showEntries(
  task: Extract<Task, { kind: 'query' }>,
  deviceName: string,
  store: FirmwareStore,
  io: Io,
): FirmwareProblem | null {
  const chosen = chooseEntries(task.names);
  if ('problem' in chosen) return chosen;
  const verbose = task.options.enable_verbosity === true;
  const file = task.options.json_format;
  if (file !== undefined)
    return writeJson(file, firmwareJson(store, chosen.names, { deviceName, verbose }), io);
  io.out(firmwareTable(store, chosen.names, { deviceName, verbose }));
  return null;
}

function writeJson(file: string, document: object, io: Io): FirmwareProblem | null {
  try {
    writeFileSync(file, `${JSON.stringify(document, null, 4)}\n`);
  } catch (error) {
    return { problem: error instanceof Error ? error.message : String(error) };
  }
  io.out(`Saving query output to ${file}... Done!\n`);
  return null;
}

async function changeStore(
  task: Task,
  change: (latest: FirmwareStore) => FirmwareOutcome,
  { io, ask, storePath }: MlxconfigPorts,
  words: { readonly question: string; readonly doing: string },
): Promise<FirmwareProblem | null> {
  if (task.options.yes !== true && task.options.yyes !== true) {
    const answer = await ask(` ${words.question} (y/n) [n] : `);
    if (!/^y(es)?$/i.test(answer.trim())) return { problem: 'Aborted by user.' };
  }
  io.out(`${words.doing}... `);
  const outcome = await updateFirmwareStore(storePath, change);
  if ('problem' in outcome) {
    io.out('Failed!\n');
    return outcome;
  }
  io.out('Done!\n-I- The new configuration is loaded at the next power cycle.\n');
  return null;
}
