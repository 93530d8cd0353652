/** The command line of vfe-vhostd-ha. */
import { Command, Option } from 'commander';

export interface VfeHaOptions {
  /** Starts vfe-vhostd, and again whenever it ends by itself. */
  readonly supervise: boolean;
  /** For the vfe-vhostd that is started. */
  readonly vhostdOptions: readonly string[];
  readonly logLevel: 'info' | 'err' | 'debug';
}

/** Reads `argv` as process.argv has it; exits with a message when it makes no sense. */
export function parseVfeOptions(argv: readonly string[]): VfeHaOptions {
  const command = new Command('vfe-vhostd-ha')
    .description(
      'keeps the connections of vfe-vhostd, so that one that was killed is followed by one that goes on; in the foreground, until SIGTERM',
    )
    .argument('[options...]', 'with --supervise, behind --: options of the vfe-vhostd that is started')
    .option(
      '--supervise',
      'start vfe-vhostd, and again whenever it dies; for systems without a service manager',
      false,
    )
    .addOption(new Option('--log-level <level>').choices(['info', 'err', 'debug']).default('info'))
    .parse(argv);
  const options = command.opts<Omit<VfeHaOptions, 'vhostdOptions'>>();
  if (command.args.length > 0 && !options.supervise)
    command.error('error: options of vfe-vhostd need --supervise');
  return { ...options, vhostdOptions: command.args };
}
