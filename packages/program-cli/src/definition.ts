/**
 * definition.ts: the command line of virtnet: commands, options, and the request each one makes.
 *
 * Theory
 *   The names of commands and options are the original's. One commander definition is the only place that has them:
 *   help, errors and the completion files follow from it. Values are only read here; whether a device can have them
 *   is decided where the devices are.
 *
 * Limits
 *   Commander knows no short option of several letters and no abbreviation: argv.ts writes them out before parsing.
 */
import type { ControlRequest, LogLevel, QueryDisplay } from '@virtnet/engine-control';
import { Argument, Command, Option } from 'commander';
import { translateArgv } from './argv.js';
import { addModify, MODIFY_SHORT_FORMS } from './define-modify.js';
import { packageVersion } from './package-version.js';
import {
  addOneDevice,
  addSelector,
  pfOption,
  type SelectorOptions,
  selectorOf,
  vuidOption,
} from './selector.js';
import { featureText, integer, type ParseOutcome, parseWith, prepareProgram } from './usage.js';

/** What a command line asks for. */
export type Invocation =
  | Exclude<ParseOutcome, { kind: 'parsed' }>
  /** A request, and what the parameters line shows beside it. */
  | {
      readonly kind: 'request';
      readonly request: ControlRequest;
      readonly display: QueryDisplay;
      readonly json: boolean;
    }
  /** The verdict on a configuration file; null: the one in its place. */
  | { readonly kind: 'validate'; readonly file: string | null; readonly json: boolean };

type Action =
  Exclude<Invocation, ParseOutcome> extends infer T ? (T extends unknown ? Omit<T, 'json'> : never) : never;
type Collect = (action: Action) => void;

/** Short options of several letters, by long option. */
export const SHORT_FORMS = MODIFY_SHORT_FORMS;

const LOG_LEVEL_NAMES = ['info', 'err', 'debug'] as const satisfies readonly LogLevel[];

/** The definition; `collect` is called with what a command asks for. */
export function buildProgram(collect: Collect): Command {
  const program = prepareProgram(new Command('virtnet'), SHORT_FORMS)
    .usage('[-h] [-v] [--json] COMMAND ...')
    .description('Command line of the virtnet controller.')
    .enablePositionalOptions()
    .version(versionLine(), '-v, --version', 'show the version of this program and exit')
    .option('--json', 'print JSON only, without the line of parameters');
  addHotplug(program, collect);
  addUnplug(program, collect);
  program
    .command('list')
    .description('show the controller and all devices')
    .usage('[-h]')
    .action(() => collect(requested({ command: 'list', params: {} })));
  addQuery(program, collect);
  addModify(program, (params) => collect(requested({ command: 'modify', params })));
  addStats(program, collect);
  addHealth(program, collect);
  addLog(program, collect);
  program
    .command('version')
    .description('show the versions of the controller that runs and of the one installed')
    .usage('[-h]')
    .action(() => collect(requested({ command: 'version', params: {} })));
  program
    .command('debug')
    .description('show the processes of the service; its form may change')
    .usage('[-h]')
    .action(() => collect(requested({ command: 'debug', params: {} })));
  addValidate(program, collect);
  program
    .command('restart')
    .description('restart everything but the devices, without ending the service')
    .usage('[-h]')
    .action(() => collect(requested({ command: 'restart', params: {} })));
  addUpdate(program, collect);
  return program;
}

/** `v0.1.0`; the form of the original. */
function versionLine(): string {
  return `v${packageVersion()}`;
}

function requested(request: ControlRequest, display: QueryDisplay = {}): Action {
  return { kind: 'request', request, display };
}

interface HotplugOptions {
  ib_device: string;
  mac: string;
  mtu: number;
  max_queues?: number;
  max_queue_pairs?: number;
  max_queue_size: number;
  sf_num?: number;
  features?: string;
  legacy?: true;
}

function addHotplug(program: Command, collect: Collect): void {
  const command = program
    .command('hotplug')
    .description('make a hotplug PF')
    .usage(
      '[-h] -i IB_DEVICE -m MAC -t MTU {-n MAX_QUEUES | -qp MAX_QUEUE_PAIRS} -s MAX_QUEUE_SIZE [-u SF_NUM] [-f FEATURES] [-l]',
    )
    .requiredOption('-i, --ib_device <IB_DEVICE>', 'uplink: mlx5_0, mlx5_1 or mlx5_bond_0')
    .requiredOption('-m, --mac <MAC>', 'MAC address of the device')
    .requiredOption('-t, --mtu <MTU>', 'MTU in bytes, at most that of the uplink', integer)
    .addOption(
      new Option('-n, --max_queues <MAX_QUEUES>', 'virtqueues, control queue included (3 is one pair)')
        .argParser(integer)
        .conflicts('max_queue_pairs'),
    )
    .addOption(new Option('--max_queue_pairs <MAX_QUEUE_PAIRS>', 'data queue pairs').argParser(integer))
    .requiredOption('-s, --max_queue_size <MAX_QUEUE_SIZE>', 'entries per virtqueue, a power of two', integer)
    .option('-u, --sf_num <SF_NUM>', 'SF number, 2000 to 2999', integer)
    .option('-f, --features <FEATURES>', 'feature bits to add to the default ones, hexadecimal', featureText)
    .option('-l, --legacy', 'transitional device');
  command.action((options: HotplugOptions) => {
    if (options.max_queues === undefined && options.max_queue_pairs === undefined)
      command.error('one of -n, --max_queues and -qp, --max_queue_pairs is required');
    const params = {
      ibDevice: options.ib_device,
      mac: options.mac,
      mtu: options.mtu,
      queues: options.max_queues ?? null,
      queuePairs: options.max_queue_pairs ?? null,
      queueSize: options.max_queue_size,
      sfNum: options.sf_num ?? null,
      features: options.features ?? null,
      legacy: options.legacy === true,
    };
    collect(requested({ command: 'hotplug', params }));
  });
}

function addUnplug(program: Command, collect: Collect): void {
  const command = program
    .command('unplug')
    .description('remove a hotplug PF')
    .usage('[-h] {-p PF | -u VUID}')
    .addOption(pfOption().conflicts('vuid'))
    .addOption(vuidOption());
  command.action(({ pf, vuid }: SelectorOptions) => {
    if (pf === undefined && vuid === undefined) command.error('one of -p, --pf and -u, --vuid is required');
    collect(requested({ command: 'unplug', params: { pf: pf ?? null, vuid: vuid ?? null } }));
  });
}

interface QueryOptions extends SelectorOptions {
  brief?: true;
  queue_id?: number;
  dbg_stats?: true;
  latency_stats?: true;
  stats_clear?: true;
}

function addQuery(program: Command, collect: Collect): void {
  const command = addSelector(program.command('query'))
    .description('show devices in detail')
    .usage(
      '[-h] {-a | -p PF [-v VF] | -u VUID} [--dbg_stats] [-b] [--latency_stats] [-q QUEUE_ID] [--stats_clear]',
    )
    .option('--dbg_stats', 'add counters for debugging')
    .option('-b, --brief', 'no virtqueues')
    .option('--latency_stats', 'nothing here: there is no latency debugging')
    .option('-q, --queue_id <QUEUE_ID>', 'only this virtqueue', integer)
    .option('--stats_clear', 'set the counters for debugging back');
  command.action((options: QueryOptions) => {
    const selector = selectorOf(command, options);
    const params = {
      ...selector,
      brief: options.brief === true,
      queue: options.queue_id ?? null,
      ...(options.dbg_stats === true ? { dbgStats: true } : {}),
      ...(options.stats_clear === true ? { statsClear: true } : {}),
    };
    collect(requested({ command: 'query', params }, { latencyStats: options.latency_stats === true }));
  });
}

function addStats(program: Command, collect: Collect): void {
  const command = addOneDevice(program.command('stats'))
    .description('show the counters of the data queues of a device')
    .usage('[-h] {-p PF [-v VF] | -u VUID} [-q QUEUE_ID]')
    .option('-q, --queue_id <QUEUE_ID>', 'only this virtqueue', integer);
  command.action((options: SelectorOptions & { queue_id?: number }) => {
    if (options.pf === undefined && options.vuid === undefined)
      command.error('one of -p, --pf and -u, --vuid is required');
    const { pf, vf, vuid } = selectorOf(command, options);
    collect(requested({ command: 'stats', params: { pf, vf, vuid, queue: options.queue_id ?? null } }));
  });
}

function addHealth(program: Command, collect: Collect): void {
  const command = addSelector(program.command('health'))
    .description('show the health of devices')
    .usage('[-h] {-a | -p PF [-v VF] | -u VUID} show')
    .addArgument(new Argument('<subcommand>', 'what to do').choices(['show']));
  command.action((_show: string, options: SelectorOptions) => {
    collect(requested({ command: 'health', params: selectorOf(command, options) }));
  });
}

function addLog(program: Command, collect: Collect): void {
  program
    .command('log')
    .description('set the log level')
    .usage('[-h] -l {info,err,debug}')
    .addOption(new Option('-l, --level <LEVEL>', 'log level').choices(LOG_LEVEL_NAMES).makeOptionMandatory())
    .action(({ level }: { level: LogLevel }) => collect(requested({ command: 'log', params: { level } })));
}

function addValidate(program: Command, collect: Collect): void {
  program
    .command('validate')
    .description('check the configuration file')
    .usage('[-h] [-f PATH_TO_FILE]')
    .option('-f, --file <PATH_TO_FILE>', 'the file; without it virtnet.conf in its place')
    .action(({ file }: { file?: string }) => collect({ kind: 'validate', file: file ?? null }));
}

function addUpdate(program: Command, collect: Collect): void {
  const command = program
    .command('update')
    .description('move to the installed version while devices are in use')
    .usage('[-h] {-s | -t}')
    .addOption(new Option('-s, --start', 'start the update').conflicts('status'))
    .addOption(new Option('-t, --status', 'show how far it is, or how the last one ended'));
  command.action(({ start, status }: { start?: true; status?: true }) => {
    if (start === undefined && status === undefined)
      command.error('one of -s, --start and -t, --status is required');
    const params = { start: start === true, status: status === true };
    collect(requested({ command: 'update', params }));
  });
}

/** Reads a command line. */
export function parseVirtnet(argv: readonly string[]): Invocation {
  let action: Action | null = null;
  const program = buildProgram((collected) => {
    action = collected;
  });
  const translated = translateArgv(program, argv, SHORT_FORMS);
  if (translated.kind === 'usage') return translated;
  const outcome = parseWith(program, translated.argv);
  if (outcome.kind !== 'parsed') return outcome;
  if (action === null) throw new Error('a command was parsed and asked for nothing');
  return { ...(action as Action), json: translated.json };
}
