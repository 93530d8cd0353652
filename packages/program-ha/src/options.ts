/** The command line of virtio_net_ha. */
import { Command, InvalidArgumentError, Option } from 'commander';

export interface HaOptions {
  /** This keeper replaces one that died while others went on: they will upload. */
  readonly expectUpload: boolean;
  /** Descriptor of the progress page it was started with; absent: nobody watches. */
  readonly progressFd?: number;
  /** Descriptors of the shelf's log, which the service manager keeps; absent: there is no such manager. */
  readonly logFds?: readonly [number, number];
  readonly logLevel: 'info' | 'err' | 'debug';
  /** Only prints the version: proof that everything can be loaded. */
  readonly check?: true;
}

/** Reads `argv` as process.argv has it; exits with a message when it makes no sense. */
export function parseOptions(argv: readonly string[]): HaOptions {
  return new Command('virtio_net_ha')
    .description('keeps the state of virtio_net_emu: named blobs and descriptors, under VIRTNET_ROOT')
    .option('--expect-upload', 'replaces a keeper that died; wait for its clients to upload', false)
    .addOption(new Option('--progress-fd <number>', 'descriptor of its progress page').argParser(Number))
    .addOption(new Option('--log-fds <a,b>', 'descriptors of the shelf’s log').argParser(twoDescriptors))
    .option('--check', 'print the version and exit')
    .addOption(new Option('--log-level <level>').choices(['info', 'err', 'debug']).default('info'))
    .parse(argv)
    .opts<HaOptions>();
}

function twoDescriptors(text: string): readonly [number, number] {
  const match = /^(\d{1,7}),(\d{1,7})$/.exec(text);
  if (match === null) throw new InvalidArgumentError('two descriptors, separated by a comma');
  return [Number(match[1]), Number(match[2])];
}
