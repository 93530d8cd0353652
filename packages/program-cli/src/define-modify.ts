/** `virtnet modify`: its options, in the guide's order, and the request they make. */
import type {
  DeviceOptions,
  LinkSpeed,
  ModifyRequest,
  QueueOptions,
  SwitchState,
} from '@virtnet/engine-control';
import { type Command, Option } from 'commander';
import { addSelector, type SelectorOptions, selectorOf } from './selector.js';
import { featureText, hexadecimal, integer } from './usage.js';

/** Short options of several letters, by long option. The guide does not name the long form of all of them. */
export const MODIFY_SHORT_FORMS = {
  '--max_queue_pairs': '-qp',
  '--drop_counter': '-dc',
  '--packet_counter': '-pkt_cnt',
  '--aarfs_config': '-aarfs',
  '--dim_config': '-dim',
  '--net_dim_config': '-netdim',
} as const;

// Written out and held to their types, so that a command line is read without loading what judges it.
const SWITCH_STATES = ['enable', 'disable'] as const satisfies readonly SwitchState[];
const PERIOD_MODES = ['event', 'cqe'] as const satisfies readonly QueueOptions['periodMode'][];
/** As the help of `-e` lists them. */
export const SPEEDS_SHOWN = [
  1000, 2500, 5000, 10_000, 25_000, 40_000, 50_000, 100_000, 200_000, 400_000, 800_000,
] as const satisfies readonly LinkSpeed[];

interface TypedDeviceOptions {
  mac?: string;
  mtu?: number;
  speed?: number;
  link?: number;
  state?: number;
  features?: string;
  supported_hash_types?: number;
  rss_max_key_size?: number;
  rx_mode?: number;
  msix_num?: number;
  max_queue_size?: number;
  max_queue_pairs?: number;
  dst_port?: number;
  rx_dma_q_num?: number;
  drop_counter?: DeviceOptions['dropCounter'];
  packet_counter?: DeviceOptions['packetCounter'];
  aarfs_config?: DeviceOptions['aarfs'];
  dim_config?: DeviceOptions['dim'];
  net_dim_config?: DeviceOptions['netDim'];
}

const FIELDS = {
  mac: 'mac',
  mtu: 'mtu',
  speed: 'speed',
  link: 'link',
  state: 'state',
  features: 'features',
  supported_hash_types: 'supportedHashTypes',
  rss_max_key_size: 'rssMaxKeySize',
  rx_mode: 'rxMode',
  msix_num: 'msixNum',
  max_queue_size: 'maxQueueSize',
  max_queue_pairs: 'maxQueuePairs',
  dst_port: 'dstPort',
  rx_dma_q_num: 'rxDmaQNum',
  drop_counter: 'dropCounter',
  packet_counter: 'packetCounter',
  aarfs_config: 'aarfs',
  dim_config: 'dim',
  net_dim_config: 'netDim',
} as const satisfies Record<keyof TypedDeviceOptions, keyof DeviceOptions>;

/** The options that were typed, by the request's names. */
function deviceOptions(typed: TypedDeviceOptions): DeviceOptions {
  const given = Object.entries(FIELDS).map(([name, field]) => [
    field,
    typed[name as keyof TypedDeviceOptions],
  ]);
  return Object.fromEntries(given.filter(([, value]) => value !== undefined)) as DeviceOptions;
}

/** A mask as the parameters line shows it. */
function mask(text: string): string {
  return `0x${BigInt(`0x${featureText(text).replace(/^0x/i, '')}`).toString(16)}`;
}

function onOff(flags: string, description: string): Option {
  return new Option(flags, description).choices(SWITCH_STATES);
}

/** Adds the command; `collect` is called with the request a command line makes. */
export function addModify(program: Command, collect: (params: ModifyRequest) => void): void {
  const modify = addSelector(program.command('modify'))
    .description('change a device or its queues')
    .usage('[-h] {-a | -p PF [-v VF] | -u VUID} {device,queue} ...')
    .enablePositionalOptions();
  const chosen = () => selectorOf(modify, modify.opts<SelectorOptions>());
  modify
    .command('device')
    .description('change a device')
    .usage(
      '[-h] [-m MAC] [-t MTU] [-e SPEED] [-l LINK] [-s STATE] [-f FEATURES] [-o SUPPORTED_HASH_TYPES] ' +
        '[-k RSS_MAX_KEY_SIZE] [-r RX_MODE] [-n MSIX_NUM] [-q MAX_QUEUE_SIZE] [-qp MAX_QUEUE_PAIRS] ' +
        '[-d DST_PORT] [-b RX_DMA_Q_NUM] [-dc {enable,disable}] [-pkt_cnt {enable,disable}] ' +
        '[-aarfs {enable,disable}] [-dim {enable,disable}]',
    )
    .option('-m, --mac <MAC>', 'MAC address (no driver)')
    .option('-t, --mtu <MTU>', 'MTU in bytes, at most that of the uplink (no driver)', integer)
    .option('-e, --speed <SPEED>', `link speed in Mb/s: ${SPEEDS_SHOWN.join(', ')}`, integer)
    .option('-l, --link <LINK>', 'link: 0 down, 1 up', integer)
    .option('-s, --state <STATE>', 'device status: 0 resets, 0x40 asks the driver to reset', integer)
    .option('-f, --features <FEATURES>', 'all feature bits to offer, hexadecimal (no driver)', mask)
    .option(
      '-o, --supported_hash_types <SUPPORTED_HASH_TYPES>',
      'hash types, hexadecimal, 0x1 to 0x1ff',
      hexadecimal,
    )
    .option('-k, --rss_max_key_size <RSS_MAX_KEY_SIZE>', 'bytes of the hash key: 40', integer)
    .option(
      '-r, --rx_mode <RX_MODE>',
      'receive mode, hexadecimal: 0x1 promiscuous, 0x2 all multicast, 0x4 all unicast, 0x8 no multicast, ' +
        '0x10 no unicast, 0x20 no broadcast',
      hexadecimal,
    )
    .option('-n, --msix_num <MSIX_NUM>', 'MSI-X vectors of a VF, even (no driver)', integer)
    .option(
      '-q, --max_queue_size <MAX_QUEUE_SIZE>',
      'entries per virtqueue, a power of two (no driver)',
      integer,
    )
    .option('--max_queue_pairs <MAX_QUEUE_PAIRS>', 'data queue pairs (no driver); not with -n', integer)
    .option('-d, --dst_port <DST_PORT>', 'not supported', hexadecimal)
    .option('-b, --rx_dma_q_num <RX_DMA_Q_NUM>', 'not supported', integer)
    .addOption(onOff('--drop_counter <STATE>', 'count frames that find no buffer (with a driver)'))
    .addOption(onOff('--packet_counter <STATE>', 'count received frames by size (with a driver)'))
    .addOption(
      onOff(
        '--aarfs_config <STATE>',
        'let received frames follow the queue their flow is answered with (PFs)',
      ),
    )
    .addOption(onOff('--dim_config <STATE>', 'moderate interrupts dynamically (no driver)'))
    .addOption(onOff('--net_dim_config <STATE>', 'older name of -dim'))
    .action((typed: TypedDeviceOptions) => collect({ ...chosen(), device: deviceOptions(typed) }));
  modify
    .command('queue')
    .description('change the moderation of interrupts')
    .usage('[-h] -e {event,cqe} -n PERIOD -c MAX_COUNT')
    .addOption(
      new Option('-e, --period_mode <PERIOD_MODE>', 'what restarts the period')
        .choices(PERIOD_MODES)
        .makeOptionMandatory(),
    )
    .requiredOption('-n, --period <PERIOD>', 'microseconds', integer)
    .requiredOption('-c, --max_count <MAX_COUNT>', 'completions', integer)
    .action((typed: { period_mode: QueueOptions['periodMode']; period: number; max_count: number }) =>
      collect({
        ...chosen(),
        queueOptions: { periodMode: typed.period_mode, period: typed.period, maxCount: typed.max_count },
      }),
    );
}
