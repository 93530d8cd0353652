/**
 * cli-arguments.ts: what a vfe-vhost-cli command line means.
 *
 * Options, texts and exit codes are the original's; the options of its migration tests (-d, -o, -b) are known and
 * refused, because there is nothing behind them here.
 */
import type { VfeRequest } from '@virtnet/host-ipc';
import { Command, CommanderError } from 'commander';

/** A request to send, or what to print instead and the exit code. */
export type CliIntent =
  | { readonly request: VfeRequest }
  | { readonly out: string; readonly error: string; readonly exitCode: number };

interface MgmtPfOptions {
  readonly add?: true;
  readonly remove?: true;
  readonly list?: true;
}

interface VfOptions extends MgmtPfOptions {
  readonly info?: true;
  readonly debug?: true;
  readonly operation?: string;
  readonly sizeMode?: string;
  readonly vhostSocket?: string;
  readonly uuid?: string;
}

const EXIT_FAILURE = 1;
const DEVICE_HELP = 'PCI address: domain:bus:slot.func or bus:slot.func';

/** A command line that makes no sense, with the original's words for it. */
class Mistake extends Error {}

const chosen = (...actions: (true | undefined)[]): number =>
  actions.filter((action) => action === true).length;

function mgmtpf(device: string | undefined, { add, remove, list }: MgmtPfOptions): VfeRequest {
  if (chosen(add, remove, list) !== 1) throw new Mistake('invalid action.');
  if (list) return { command: 'mgmtpf', params: { list } };
  if (device === undefined) throw new Mistake('No device specified for add/remove action.');
  return { command: 'mgmtpf', params: { ...(add ? { add } : { remove: true }), dev: device } };
}

function vf(device: string | undefined, options: VfOptions): VfeRequest {
  const { add, remove, list, info, debug, operation, sizeMode, vhostSocket, uuid } = options;
  if (debug || operation !== undefined || sizeMode !== undefined)
    throw new Mistake('vf debug (-d, -o, -b) is not supported.');
  if (chosen(add, remove, list, info) !== 1) throw new Mistake('invalid action.');
  if (list) {
    if (device === undefined) throw new Mistake('No pf device specified for list vf action.');
    return { command: 'vf', params: { list, mgmtpf: device } };
  }
  const action = add ? 'add' : remove ? 'remove' : 'info';
  if (device === undefined) throw new Mistake(`No vf device specified for ${action} vf action.`);
  if (!add) return { command: 'vf', params: { [action]: true, vfdev: device } };
  return {
    command: 'vf',
    params: {
      add,
      vfdev: device,
      ...(vhostSocket === undefined ? {} : { socket_file: vhostSocket }),
      ...(uuid === undefined ? {} : { uuid }),
    },
  };
}

/** Reads the words behind the program's name. */
export function readArguments(words: readonly string[]): CliIntent {
  let out = '';
  let error = '';
  let request: VfeRequest | null = null;
  const program = new Command('vfe-vhost-cli')
    .description('asks vfe-vhostd to serve virtio-net functions over vhost-user')
    .exitOverride()
    .configureOutput({
      writeOut: (text) => {
        out += text;
      },
      writeErr: (text) => {
        error += text;
      },
    });
  program
    .command('version')
    .description('versions of the daemon and its state keeper')
    .action(() => {
      request = { command: 'version', params: {} };
    });
  const pf = program.command('mgmtpf').description('management PFs');
  pf.option('-a, --add', 'register a PF')
    .option('-r, --remove', 'forget a PF')
    .option('-l, --list', 'list all PFs')
    .argument('[DEVICE]', DEVICE_HELP)
    .action((device: string | undefined, options: MgmtPfOptions) => {
      request = explaining(pf, () => mgmtpf(device, options));
    });
  const vfs = program.command('vf').description('functions served to virtual machines');
  vfs
    .option('-a, --add', 'serve a function')
    .option('-r, --remove', 'stop serving a function')
    .option('-l, --list', 'list the served functions of a PF')
    .option('-i, --info', 'show a served function')
    .option('-d, --debug', 'not supported')
    .option('-o, --operation <OP>', 'not supported')
    .option('-b, --size-mode <MODE>', 'not supported')
    .option('-v, --vhost-socket <SOCKET>', 'socket shared with the virtual machine')
    .option('-u, --uuid <UUID>', 'UUID of the virtual machine')
    .argument('[DEVICE]', DEVICE_HELP)
    .action((device: string | undefined, options: VfOptions) => {
      request = explaining(vfs, () => vf(device, options));
    });
  try {
    program.parse([...words], { from: 'user' });
  } catch (problem) {
    if (problem instanceof CommanderError)
      return { out, error, exitCode: problem.exitCode === 0 ? 0 : EXIT_FAILURE };
    if (problem instanceof Mistake)
      return { out, error: `${error}${problem.message}\n`, exitCode: EXIT_FAILURE };
    throw problem;
  }
  return request === null ? { out: program.helpInformation(), error, exitCode: EXIT_FAILURE } : { request };
}

/** Puts the usage behind a mistake. */
function explaining(command: Command, read: () => VfeRequest): VfeRequest {
  try {
    return read();
  } catch (problem) {
    if (!(problem instanceof Mistake)) throw problem;
    throw new Mistake(`Error: ${problem.message}\nusage: vfe-vhost-cli ${command.name()} ${command.usage()}`);
  }
}

/** Splits a line of standard input into words; quotes keep blanks together. */
export function splitWords(line: string): string[] {
  return Array.from(
    line.matchAll(/"([^"]*)"|'([^']*)'|(\S+)/g),
    ([, double, single, plain]) => double ?? single ?? plain ?? '',
  );
}
