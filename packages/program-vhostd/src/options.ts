/** The command line of vfe-vhostd. */
import { Command, Option } from 'commander';

export interface VhostdOptions {
  readonly client: boolean;
  readonly logLevel: 'info' | 'err' | 'debug';
}

/** Reads `argv` as process.argv has it; exits with a message when it makes no sense. */
export function parseOptions(argv: readonly string[]): VhostdOptions {
  return new Command('vfe-vhostd')
    .description(
      'serves virtio-net functions to virtual machines over vhost-user, in the foreground, until SIGINT; at SIGTERM it leaves them to the next vfe-vhostd, if vfe-vhostd-ha runs',
    )
    .option('--client', 'connect to the sockets of virtual machines instead of listening for them', false)
    .addOption(new Option('--log-level <level>').choices(['info', 'err', 'debug']).default('info'))
    .allowExcessArguments(false)
    .parse(argv)
    .opts<VhostdOptions>();
}
