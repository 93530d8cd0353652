/** The command line of virtio_net_ha. */
import { Command, Option } from 'commander';

export interface HaOptions {
  /** This keeper replaces one that died while others went on: they will upload. */
  readonly expectUpload: boolean;
  readonly logLevel: 'info' | 'err' | 'debug';
}

/** Reads `argv` as process.argv has it; exits with a message when it makes no sense. */
export function parseOptions(argv: readonly string[]): HaOptions {
  return new Command('virtio_net_ha')
    .description('keeps the state of virtio_net_emu: named blobs and descriptors, under VIRTNET_ROOT')
    .option('--expect-upload', 'replaces a keeper that died; wait for its clients to upload', false)
    .addOption(new Option('--log-level <level>').choices(['info', 'err', 'debug']).default('info'))
    .parse(argv)
    .opts<HaOptions>();
}
