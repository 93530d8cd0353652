/** Command line of virtio_net_emu; the controller is who types it. */
import { Command, InvalidArgumentError } from 'commander';

export interface EmuOptions {
  /** Number of this emulator, counted up for ever by the controller. */
  readonly instance: number;
  /** Datapath threads; null: by the machine. */
  readonly workers: number | null;
  /** It does not take over by itself: a handover to it is planned. */
  readonly reserve: boolean;
  /** Guests wait for their devices: be ready as soon as these are known, without practising. */
  readonly urgent: boolean;
  /** Descriptor of the progress page it was started with; null: nobody watches. */
  readonly progressFd: number | null;
}

function whole(least: number, most: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!Number.isInteger(value) || value < least || value > most) {
      throw new InvalidArgumentError(`a whole number from ${least} to ${most}`);
    }
    return value;
  };
}

export function parseOptions(argv: readonly string[]): EmuOptions {
  const command = new Command('virtio_net_emu')
    .description('Emulates virtio-net PCI functions. Started by virtio_net_controller, as a standby.')
    .requiredOption('--instance <number>', 'number of this emulator', whole(1, 2 ** 31))
    .option('--role <role>', 'always standby: who is active is decided later', 'standby')
    .option('--workers <count>', 'datapath threads', whole(1, 24))
    .option('--reserve', 'does not take over by itself: devices are handed to it')
    .option('--urgent', 'do not practise taking over before being ready', false)
    .option('--progress-fd <number>', 'descriptor of its progress page', whole(3, 2 ** 20))
    .parse([...argv]);
  const options = command.opts<{
    instance: number;
    role: string;
    workers?: number;
    reserve?: true;
    urgent: boolean;
    progressFd?: number;
  }>();
  if (options.role !== 'standby') command.error(`error: role ${options.role} is not supported`);
  return {
    instance: options.instance,
    workers: options.workers ?? null,
    reserve: options.reserve === true,
    urgent: options.urgent,
    progressFd: options.progressFd ?? null,
  };
}
