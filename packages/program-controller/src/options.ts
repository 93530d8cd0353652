/** The command line of virtio_net_controller. */
import { Command, Option } from 'commander';

export interface ControllerOptions {
  readonly logLevel: 'info' | 'err' | 'debug';
  /** Main module of the emulator; another one than the installed only for tests. */
  readonly emu?: string;
  /** Only prints the version: proof that everything can be loaded. */
  readonly check?: true;
}

/** Reads `argv` as process.argv has it; exits with a message when it makes no sense. */
export function parseOptions(argv: readonly string[]): ControllerOptions {
  return new Command('virtio_net_controller')
    .description('serves virtio-net devices in the foreground, under VIRTNET_ROOT, until SIGTERM')
    .addOption(new Option('--log-level <level>').choices(['info', 'err', 'debug']).default('info'))
    .addOption(new Option('--check', 'print the version and exit'))
    .addOption(new Option('--emu <module>', 'main module of the emulator').hideHelp())
    .parse(argv)
    .opts<ControllerOptions>();
}
