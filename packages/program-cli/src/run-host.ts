/**
 * run-host.ts: one run of virtnet-host, the host's side of the PCI functions.
 *
 * Theory
 *   Each command is one request to the controller, whose emulator holds the functions and the model of the host.
 *   Exit codes: 0 success; 1 an error that stdout or stderr describes; 2 a command line that is wrong.
 */
import {
  failure,
  type HostRequest,
  isFailure,
  type LspciOptions,
  lspciLines,
  type PciFilter,
  type PciRow,
  parsePciFilter,
} from '@virtnet/engine-control';
import { Argument, Command, InvalidArgumentError } from 'commander';
import type { Ask } from './controller.js';
import { type Io, printJson } from './io.js';
import { packageVersion } from './package-version.js';
import { EXIT_USAGE, integer, parseWith, prepareProgram } from './usage.js';

const EXIT_FAILURE = 1;

/** Commands that will follow; they answer "Option is not supported". */
const UNSUPPORTED_COMMANDS = {
  autoprobe: 'bind new VFs to the driver at once or not',
  modprobe: 'load or unload the virtio-net driver',
  ethtool: 'show or change channels of a driver',
} as const;

/** Drivers of the host, those that will follow included. */
const DRIVERS = ['vfio-pci', 'virtio-pci'] as const;

type Task =
  | { readonly kind: 'lspci'; readonly options: LspciOptions }
  | { readonly kind: 'act'; readonly request: HostRequest }
  | { readonly kind: 'unsupported' };

interface LspciFlags {
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

function act(verb: HostRequest['verb'], more: Partial<HostRequest> = {}): Task {
  return { kind: 'act', request: { verb, bdf: null, value: null, driver: null, ...more } };
}

function buildProgram(collect: (task: Task) => void): Command {
  const program = prepareProgram(new Command('virtnet-host'))
    .usage('[-h] [-v] COMMAND ...')
    .description("The host's side of the emulated PCI functions.")
    .enablePositionalOptions()
    .version(packageVersion(), '-v, --version', 'show the version of this program and exit');
  addLspci(program, collect);
  program
    .command('sriov')
    .description('make or remove the VFs of a PF: from 0 to a number, or to 0')
    .usage('[-h] PF COUNT')
    .argument('<PF>', 'address of the PF, [0000:]bus:device.function')
    .argument('<COUNT>', 'VFs it shall have', integer)
    .action((bdf: string, value: number) => collect(act('sriov', { bdf, value })));
  for (const verb of ['bind', 'unbind'] as const)
    program
      .command(verb)
      .description(verb === 'bind' ? 'bind a function to a driver' : 'take a function from its driver')
      .usage(`[-h] FUNCTION {${DRIVERS.join(',')}}`)
      .argument('<FUNCTION>', 'address of the function')
      .addArgument(new Argument('<DRIVER>', 'virtio-pci is not supported yet').choices(DRIVERS))
      .action((bdf: string, driver: string) => collect(act(verb, { bdf, driver })));
  program
    .command('flr')
    .description('reset a function')
    .usage('[-h] FUNCTION')
    .argument('<FUNCTION>', 'address of the function')
    .action((bdf: string) => collect(act('flr', { bdf })));
  for (const [verb, description] of [
    ['warm-reboot', 'reboot the host: its VFs and bindings are gone'],
    ['power-cycle', 'power-cycle host and adapter: the next-boot firmware values take effect'],
    ['dmesg', 'show what happened to the functions'],
  ] as const)
    program
      .command(verb)
      .description(description)
      .usage('[-h]')
      .action(() => collect(act(verb)));
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

function addLspci(program: Command, collect: (task: Task) => void): void {
  program
    .command('lspci')
    .description('list the functions')
    .usage('[-h] [-n] [-D] [-k] [-v] [-s [[DOMAIN:]BUS:][DEVICE][.FUNCTION]]')
    .option('-n', 'show numbers instead of names')
    .option('-D', 'show the domain')
    .option('-k', 'show the driver')
    .option('-v', 'show capabilities and driver; -vv and -vvv are the same')
    .option('-s <SLOT>', 'only these functions', pciFilter)
    .action(({ n, s, v, k, D }: LspciFlags) => {
      const options = { numeric: n === true, verbose: v === true, kernel: k === true, domain: D === true };
      collect({ kind: 'lspci', options: { ...options, filter: s ?? null } });
    });
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
  const verbose = task.kind === 'lspci' && task.options.verbose === true;
  const looking = act('functions', { value: verbose ? 1 : 0 }) as Extract<Task, { kind: 'act' }>;
  const params = task.kind === 'lspci' ? looking.request : task.request;
  const reply = await ask({ command: 'host', params });
  switch (reply.kind) {
    case 'unavailable':
      io.err(`virtnet-host: ${reply.reason}\n`);
      return EXIT_FAILURE;
    case 'refused':
      printJson(io, { errno: reply.errno, errstr: reply.errstr });
      return EXIT_FAILURE;
    case 'answer':
      if (task.kind === 'lspci') return showRows(reply.answer, reply.exitCode, task.options, io);
      return showOutcome(reply.answer, task.request, io);
  }
}

/** The log as lines; of everything else the outcome. */
function showOutcome(answer: unknown, { verb }: HostRequest, io: Io): number {
  const isObject = typeof answer === 'object' && answer !== null;
  if (verb === 'dmesg' && isObject && 'lines' in answer && Array.isArray(answer.lines)) {
    for (const line of answer.lines) io.out(`${String(line)}\n`);
    return 0;
  }
  printJson(io, answer);
  return isObject && !isFailure(answer) && 'errno' in answer ? 0 : EXIT_FAILURE;
}

function showRows(answer: unknown, exitCode: number, options: LspciOptions, io: Io): number {
  const rows = pciRows(answer);
  if (exitCode !== 0 || rows === null) {
    printJson(io, answer);
    return EXIT_FAILURE;
  }
  for (const line of lspciLines(rows, options)) io.out(`${line}\n`);
  return 0;
}

/** The functions of an answer; null when it is none. A function without an address in it is left out. */
export function pciRows(answer: unknown): PciRow[] | null {
  if (typeof answer !== 'object' || answer === null || !('functions' in answer)) return null;
  const { functions } = answer;
  return Array.isArray(functions) ? functions.flatMap(pciRow) : null;
}

function pciRow(entry: unknown): PciRow[] {
  if (typeof entry !== 'object' || entry === null) return [];
  const facts = entry as Readonly<Record<string, unknown>>;
  if (typeof facts.bdf !== 'string') return [];
  const { bdf, classCode, vendorId, deviceId, revisionId, driver, config } = facts;
  return [
    {
      bdf,
      classCode: Number(classCode),
      vendorId: Number(vendorId),
      deviceId: Number(deviceId),
      revisionId: Number(revisionId),
      driver: typeof driver === 'string' ? driver : '',
      ...(typeof config === 'string' ? { config: new Uint8Array(Buffer.from(config, 'base64')) } : {}),
    },
  ];
}
