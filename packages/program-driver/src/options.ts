/** The command line of virtio_net_driver. */
import { Command, Option } from 'commander';

export interface DriverOptions {
  readonly logLevel: 'info' | 'err' | 'debug';
}

/** Reads `argv` as process.argv has it; exits with a message when it makes no sense. */
export function parseOptions(argv: readonly string[]): DriverOptions {
  return new Command('virtio_net_driver')
    .description(
      'drives the functions that are bound to virtio-pci, each as a network interface of this network namespace;' +
        ' started by virtnet-host, ends when none is left and virtio_net is unloaded',
    )
    .addOption(new Option('--log-level <level>').choices(['info', 'err', 'debug']).default('info'))
    .allowExcessArguments(false)
    .parse(argv)
    .opts<DriverOptions>();
}
