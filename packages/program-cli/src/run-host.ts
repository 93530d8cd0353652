/**
 * run-host.ts: one run of virtnet-host, the host's side of the PCI functions.
 *
 * Only `lspci` exists; its rows come from what the controller says about each function. Exit codes: 0 success; 1 an
 * error that stdout or stderr describes; 2 a command line that is wrong.
 */
import { failure, lspciLines, type PciFilter, type PciRow, parsePciFilter } from '@virtnet/engine-control';
import { Command, InvalidArgumentError } from 'commander';
import type { Ask } from './controller.js';
import { type Io, printJson } from './io.js';
import { packageVersion } from './package-version.js';
import { EXIT_USAGE, parseWith, prepareProgram } from './usage.js';

const EXIT_FAILURE = 1;

/** Commands that will follow; they answer "Option is not supported". */
const UNSUPPORTED_COMMANDS = {
  sriov: 'make or remove the VFs of a PF',
  autoprobe: 'bind new VFs to the driver at once or not',
  bind: 'bind a function to a driver',
  unbind: 'take a function from its driver',
  modprobe: 'load or unload the virtio-net driver',
  flr: 'reset a function',
  'warm-reboot': 'reboot the host',
  'power-cycle': 'power-cycle host and adapter',
  dmesg: 'show what happened to the functions',
  ethtool: 'show or change channels of a driver',
} as const;

type Task =
  | { readonly kind: 'lspci'; readonly numeric: boolean; readonly filter: PciFilter | null }
  | { readonly kind: 'unsupported' };

interface LspciOptions {
  n?: true;
  D?: true;
  k?: true;
  v?: true;
  s?: PciFilter;
}

function pciFilter(text: string): PciFilter {
  const filter = parsePciFilter(text);
  if (filter === null) throw new InvalidArgumentError('It is not [[domain:]bus:][device][.function].');
  return filter;
}

function buildProgram(collect: (task: Task) => void): Command {
  const program = prepareProgram(new Command('virtnet-host'))
    .usage('[-h] [-v] COMMAND ...')
    .description("The host's side of the emulated PCI functions.")
    .enablePositionalOptions()
    .version(packageVersion(), '-v, --version', 'show the version of this program and exit');
  program
    .command('lspci')
    .description('list the functions')
    .usage('[-h] [-n] [-s [[DOMAIN:]BUS:][DEVICE][.FUNCTION]]')
    .option('-n', 'show numbers instead of names')
    .option('-s <SLOT>', 'only these functions', pciFilter)
    .option('-v', 'not supported yet')
    .option('-k', 'not supported yet')
    .option('-D', 'not supported yet')
    .action(({ n, s, v, k, D }: LspciOptions) => {
      const beyond = v !== undefined || k !== undefined || D !== undefined;
      collect(beyond ? { kind: 'unsupported' } : { kind: 'lspci', numeric: n === true, filter: s ?? null });
    });
  for (const [name, description] of Object.entries(UNSUPPORTED_COMMANDS))
    program
      .command(name)
      .description(`${description} (not supported yet)`)
      .usage('...')
      .allowUnknownOption()
      .allowExcessArguments()
      .action(() => collect({ kind: 'unsupported' }));
  return program;
}

/** Runs virtnet-host with `argv`, the arguments behind the program's name; returns the exit code. */
export async function runHost(argv: readonly string[], io: Io, ask: Ask): Promise<number> {
  const tasks: Task[] = [];
  const outcome = parseWith(
    buildProgram((task) => tasks.push(task)),
    argv,
  );
  switch (outcome.kind) {
    case 'text':
      io.out(outcome.text);
      return 0;
    case 'usage':
      io.err(outcome.text);
      return EXIT_USAGE;
    case 'parsed':
      return runTask(tasks[0]!, io, ask);
  }
}

async function runTask(task: Task, io: Io, ask: Ask): Promise<number> {
  if (task.kind === 'unsupported') {
    printJson(io, failure('OPT_NOT_SUPPORTED'));
    return EXIT_FAILURE;
  }
  const everything = { all: true, pf: null, vf: null, vuid: null, brief: true, queue: null };
  const reply = await ask({ command: 'query', params: everything });
  switch (reply.kind) {
    case 'unavailable':
      io.err(`virtnet-host: ${reply.reason}\n`);
      return EXIT_FAILURE;
    case 'refused':
      printJson(io, { errno: reply.errno, errstr: reply.errstr });
      return EXIT_FAILURE;
    case 'answer':
      return showRows(reply.answer, reply.exitCode, task, io);
  }
}

function showRows(answer: unknown, exitCode: number, task: Extract<Task, { kind: 'lspci' }>, io: Io): number {
  const rows = pciRows(answer);
  if (exitCode !== 0 || rows === null) {
    printJson(io, answer);
    return EXIT_FAILURE;
  }
  for (const line of lspciLines(rows, task)) io.out(`${line}\n`);
  return 0;
}

/** The functions of a query's answer; null when it is none. A device without an address in it is left out. */
export function pciRows(answer: unknown): PciRow[] | null {
  if (typeof answer !== 'object' || answer === null || !('devices' in answer)) return null;
  const { devices } = answer;
  return Array.isArray(devices) ? devices.flatMap(pciRow) : null;
}

function pciRow(device: unknown): PciRow[] {
  if (typeof device !== 'object' || device === null) return [];
  const facts = device as Readonly<Record<string, unknown>>;
  if (typeof facts.pci_bdf !== 'string') return [];
  return [
    {
      bdf: facts.pci_bdf,
      classCode: Number(facts.pci_class_code),
      vendorId: Number(facts.pci_vendor_id),
      deviceId: Number(facts.pci_dev_id),
      revisionId: Number(facts.pci_revision_id),
    },
  ];
}
