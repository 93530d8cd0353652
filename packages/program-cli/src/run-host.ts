/**
 * run-host.ts: one run of virtnet-host, the host's side of the PCI functions.
 *
 * Theory
 *   Each command is one request to the controller, whose emulator holds the functions and the model of the host. What
 *   it changed is then brought about by the host's driver: of a function that this cannot take the binding is
 *   taken back, and nothing else: it had not been driven.
 *   Exit codes: 0 success; 1 an error that stdout or stderr describes; 2 a command line that is wrong.
 */
import {
  canonicalBdf,
  failure,
  HOST_DRIVERS,
  type HostRequest,
  type HostVerb,
  isFailure,
  type LspciOptions,
  lspciLines,
  type PciFilter,
  type PciRow,
  parsePciFilter,
  refusal,
  SUCCESS,
  UNDOES_BIND,
} from '@virtnet/engine-control';
import { Errno } from '@virtnet/wire';
import { Argument, Command, InvalidArgumentError } from 'commander';
import type { Ask } from './controller.js';
import type { ChannelsAnswer, DriverPort } from './driver-process.js';
import { channelsText, driverText } from './ethtool-text.js';
import { type Io, printJson } from './io.js';
import { packageVersion } from './package-version.js';
import { EXIT_USAGE, integer, parseWith, prepareProgram } from './usage.js';

const EXIT_FAILURE = 1;
const FAILED = { errno: -Errno.EIO, errstr: 'Input/output error' };

/** Names of the one module that is the virtio-net driver here. */
const DRIVER_MODULES: readonly string[] = ['virtio_net', 'virtio_pci'];
/** Modules of the other driver, which every host has. */
const LOADED_MODULES: readonly string[] = ['vfio', 'vfio_pci'];

type Task =
  | { readonly kind: 'lspci'; readonly options: LspciOptions }
  | { readonly kind: 'act'; readonly request: HostRequest }
  | {
      readonly kind: 'ethtool';
      readonly show: 'channels' | 'driver';
      readonly device: string;
      readonly combined: number | null;
    }
  | { readonly kind: 'nothing' }
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
      .usage(`[-h] FUNCTION {${HOST_DRIVERS.join(',')}}`)
      .argument('<FUNCTION>', 'address of the function')
      .addArgument(
        new Argument('<DRIVER>', 'virtio-pci gives the host a network interface').choices(HOST_DRIVERS),
      )
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
  program
    .command('autoprobe')
    .description(
      'whether VFs that a PF will have are bound to virtio-pci at once, while virtio_net is loaded',
    )
    .usage('[-h] PF {0,1}')
    .argument('<PF>', 'address of the PF')
    .argument('<VALUE>', '1, as at first, or 0', integer)
    .action((bdf: string, value: number) => collect(act('autoprobe', { bdf, value })));
  program
    .command('modprobe')
    .description('load the virtio-net driver, which then binds every function that is free; or unload it')
    .usage('[-h] [-r] [-v] MODULE [MODULE ...]')
    .option('-r', 'unload it')
    .option('-v', 'accepted')
    .argument('<MODULE...>', 'virtio_net or virtio_pci, which are one driver here; vfio, vfio_pci')
    .action((modules: string[], { r }: { r?: true }) => collect(modprobeTask(modules, r === true)));
  addEthtool(program, collect);
  return program;
}

function modprobeTask(modules: readonly string[], remove: boolean): Task {
  const names = modules.map((module) => module.replaceAll('-', '_'));
  if (names.every((name) => DRIVER_MODULES.includes(name))) return act('modprobe', { value: remove ? 0 : 1 });
  return !remove && names.every((name) => LOADED_MODULES.includes(name))
    ? { kind: 'nothing' }
    : { kind: 'unsupported' };
}

interface EthtoolFlags {
  showChannels?: string;
  setChannels?: string;
  driver?: string;
}

function addEthtool(program: Command, collect: (task: Task) => void): void {
  program
    .command('ethtool')
    .description('show or change the queue pairs of an interface of the virtio-net driver')
    .usage('[-h] {-l DEVICE | -L DEVICE combined N | -i DEVICE}')
    .option('-l, --show-channels <DEVICE>', 'how many queue pairs it can use, and uses')
    .option('-L, --set-channels <DEVICE>', 'use another number of them')
    .option('-i, --driver <DEVICE>', 'its driver and its function')
    .argument('[PARAMETERS...]', 'combined N')
    .allowUnknownOption()
    .action((words: string[], flags: EthtoolFlags) => collect(ethtoolTask(words, flags)));
}

/** DEVICE is an interface or the address of a function. */
function ethtoolTask(words: readonly string[], { showChannels, setChannels, driver }: EthtoolFlags): Task {
  const [device, ...others] = [showChannels, setChannels, driver].filter((name) => name !== undefined);
  const [parameter, value] = words;
  const combined = setChannels === undefined ? null : Number(value);
  const fits =
    setChannels === undefined ? words.length === 0 : parameter === 'combined' && words.length === 2;
  if (
    device === undefined ||
    others.length > 0 ||
    !fits ||
    (combined !== null && !Number.isInteger(combined))
  )
    return { kind: 'unsupported' };
  return { kind: 'ethtool', show: driver === undefined ? 'channels' : 'driver', device, combined };
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
export async function runHost(
  argv: readonly string[],
  io: Io,
  ask: Ask,
  driver: DriverPort,
): Promise<number> {
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
      return runTask(tasks[0]!, io, ask, driver);
  }
}

async function runTask(task: Task, io: Io, ask: Ask, driver: DriverPort): Promise<number> {
  if (task.kind === 'unsupported') {
    printJson(io, failure('OPT_NOT_SUPPORTED'));
    return EXIT_FAILURE;
  }
  if (task.kind === 'nothing') {
    printJson(io, SUCCESS);
    return 0;
  }
  if (task.kind === 'ethtool') return runEthtool(task, io, driver);
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
      return showOutcome(await followed(reply.answer, task.request, { io, ask, driver }), task.request, io);
  }
}

interface Followers {
  readonly io: Io;
  readonly ask: Ask;
  readonly driver: DriverPort;
}

/** Verbs after which other functions may be bound to the driver than before. */
const REBINDING: readonly HostVerb[] = ['sriov', 'bind', 'unbind', 'modprobe', 'warm-reboot', 'power-cycle'];

/**
 * Lets the driver follow what was changed. The answer to show: why it cannot take the function that was to be bound, or
 * some of those that modprobe binds.
 */
async function followed(answer: unknown, request: HostRequest, followers: Followers): Promise<unknown> {
  const { io, driver } = followers;
  const { verb, bdf, value } = request;
  if (!REBINDING.includes(verb) || typeof answer !== 'object' || answer === null) return answer;
  const binds = verb === 'bind' && request.driver === 'virtio-pci';
  // Whoever is bound to a driver that was killed gets it back.
  const comesBack =
    binds && isFailure(answer) && answer.errno === -Errno.EBUSY && (await isOrphan(bdf ?? '', followers));
  // A power cycle that fails for some PFs has happened.
  if (isFailure(answer) && !comesBack && verb !== 'power-cycle') return answer;
  const outcome = comesBack ? SUCCESS : answer;
  const starts = binds || (verb === 'modprobe' && value === 1);
  const mine = binds ? canonicalBdf(bdf ?? '') : null;
  try {
    let functions = await driver.sync(starts);
    if (functions === null && verb === 'sriov' && (await anyDriven(followers)))
      functions = await driver.sync(true);
    const refused = (functions ?? []).flatMap((driven) =>
      driven.failure === null ? [] : [{ bdf: driven.bdf, ...driven.failure }],
    );
    for (const { bdf: failed, reason } of refused) {
      io.err(`virtnet-host: 0000:${failed}: ${reason}\n`);
      await undoBind(failed, followers);
    }
    const [first, ...others] = refused;
    if (verb === 'modprobe' && first !== undefined) {
      const more = others.length === 0 ? '' : `, and ${others.length} more`;
      return { errno: first.errno, errstr: `0000:${first.bdf}: ${first.reason}${more}` };
    }
    const own = refused.find((each) => each.bdf === mine);
    if (own !== undefined) return { errno: own.errno, errstr: own.reason };
    if (mine === null || functions === null || functions.some((driven) => driven.bdf === mine))
      return outcome;
    io.err(`virtnet-host: 0000:${mine}: it is not bound any more\n`);
    return FAILED;
  } catch (error) {
    io.err(`virtnet-host: ${error instanceof Error ? error.message : String(error)}\n`);
    if (!starts) return outcome;
    if (verb === 'bind' && bdf !== null) await undoBind(bdf, followers);
    return FAILED;
  }
}

/** Takes a binding back with which the driver can do nothing; a PF keeps its VFs. */
async function undoBind(bdf: string, { ask, driver }: Followers): Promise<void> {
  const params = { verb: 'unbind', bdf, value: UNDOES_BIND, driver: 'virtio-pci' } as const;
  await ask({ command: 'host', params });
  await driver.sync(false).catch(() => null); // what went wrong is told already
}

async function anyDriven(followers: Followers): Promise<boolean> {
  return (await drivenRows(followers)).length > 0;
}

/** Whether a function is bound to the driver whose process is not there: it was killed. */
async function isOrphan(address: string, followers: Followers): Promise<boolean> {
  const bdf = canonicalBdf(address);
  if (!(await drivenRows(followers)).some((row) => row.bdf === bdf)) return false;
  const functions = await followers.driver.sync(false).catch(() => undefined);
  return functions === null;
}

/** The functions that are bound to the virtio-net driver. */
async function drivenRows({ ask }: Followers): Promise<readonly PciRow[]> {
  const params = { verb: 'functions', bdf: null, value: 0, driver: null } as const;
  const reply = await ask({ command: 'host', params });
  const rows = reply.kind === 'answer' ? pciRows(reply.answer) : null;
  return (rows ?? []).filter(({ driver }) => driver === 'virtio-pci');
}

async function runEthtool(
  { show, device, combined }: Extract<Task, { kind: 'ethtool' }>,
  io: Io,
  driver: DriverPort,
): Promise<number> {
  let answer: ChannelsAnswer | null;
  try {
    answer = await driver.channels(device, combined);
  } catch (error) {
    io.err(`virtnet-host: ${error instanceof Error ? error.message : String(error)}\n`);
    return EXIT_FAILURE;
  }
  const {
    errno,
    errstr,
    netdev = '',
    bdf = '',
    most,
    used,
  }: ChannelsAnswer = answer ?? refusal('ENODEV', 'the virtio-net driver does not run');
  if (errno !== 0) {
    printJson(io, { errno, errstr });
    return EXIT_FAILURE;
  }
  if (show === 'driver') io.out(driverText(bdf));
  else if (combined === null) io.out(channelsText(netdev, most, used));
  return 0;
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
