/**
 * What `virtnet modify` asks for, and the line that shows it.
 *
 * Only options that were typed are present: an option that is absent leaves the device as it is.
 */

import type { DeviceSelector } from './device-selector.js';
import type { EchoParams } from './format.js';

export const SWITCH_STATES = ['enable', 'disable'] as const;
export type SwitchState = (typeof SWITCH_STATES)[number];

/** Options of `modify device`, in the order in which the parameters line shows them. */
export type DeviceOptions = {
  readonly mac?: string;
  /** Bytes. */
  readonly mtu?: number;
  /** Mb/s. */
  readonly speed?: number;
  /** 0 down, 1 up. */
  readonly link?: number;
  /** Device status bits (virtio 1.3, 2.1). */
  readonly state?: number;
  /** Every feature the device shall offer, hexadecimal. */
  readonly features?: string;
  readonly supportedHashTypes?: number;
  readonly rssMaxKeySize?: number;
  /** Bit n is on when command n of class CTRL_RX is. */
  readonly rxMode?: number;
  readonly msixNum?: number;
  readonly maxQueueSize?: number;
  readonly maxQueuePairs?: number;
  readonly dstPort?: number;
  readonly rxDmaQNum?: number;
  readonly dropCounter?: SwitchState;
  readonly packetCounter?: SwitchState;
  readonly aarfs?: SwitchState;
  readonly dim?: SwitchState;
  /** The older name of `dim`. */
  readonly netDim?: SwitchState;
};
export type DeviceOption = keyof DeviceOptions;

export const PERIOD_MODES = ['event', 'cqe'] as const;

/** Options of `modify queue`. */
export type QueueOptions = {
  readonly periodMode: (typeof PERIOD_MODES)[number];
  /** Microseconds. */
  readonly period: number;
  readonly maxCount: number;
};

/** Exactly one of `device` and `queueOptions` is present: the sub-command. */
export interface ModifyRequest extends DeviceSelector {
  readonly device?: DeviceOptions;
  readonly queueOptions?: QueueOptions;
}

/** Names in the parameters line. Those the guide does not show follow its usage line. */
const ECHO_NAMES = {
  mac: 'mac',
  mtu: 'mtu',
  speed: 'speed',
  link: 'link',
  state: 'state',
  features: 'features',
  supportedHashTypes: 'supported_hash_types',
  rssMaxKeySize: 'rss_max_key_size',
  rxMode: 'rx_mode',
  msixNum: 'msix_num',
  maxQueueSize: 'max_queue_size',
  dstPort: 'dst_port',
  rxDmaQNum: 'rx_dma_q_num',
  dropCounter: 'drop_counter',
  packetCounter: 'packet_counter',
  aarfs: 'aarfs_config',
  maxQueuePairs: 'max_queue_pairs',
  dim: 'dim_config',
  netDim: 'net_dim_config',
} as const satisfies Record<DeviceOption, string>;

/** Numbers of the sub-commands in the parameters line. */
const SUBCOMMAND = { DEVICE: 0, QUEUE: 1 } as const;

/** The parameters line behind the chosen device. */
export function modifyEcho({ all, device, queueOptions }: ModifyRequest): EchoParams {
  const subcmd = queueOptions === undefined ? SUBCOMMAND.DEVICE : SUBCOMMAND.QUEUE;
  const echo: Record<string, number | string> = { all: all ? 1 : 0, subcmd };
  for (const [option, name] of Object.entries(ECHO_NAMES)) {
    const value = device?.[option as DeviceOption];
    if (value !== undefined) echo[name] = value;
  }
  if (queueOptions !== undefined) {
    echo.period_mode = queueOptions.periodMode;
    echo.period = queueOptions.period;
    echo.max_count = queueOptions.maxCount;
  }
  return echo;
}
