/**
 * stats.ts: the answer of `virtnet stats`: counters of the data queues of one device.
 *
 * The order of keys and the kinds of values follow the guide's example. A VF has `vf_id` behind `pf_id`, as in health.
 */
import type { Json, JsonObject } from './answers.js';
import { DEVICE_MISSING, failure, type Outcome } from './errors.js';
import type { DeviceIdentity, QueueFacts } from './facts.js';

/** One data queue. */
export interface QueueStatsFacts extends QueueFacts {
  /** Frames of each size class, smallest first; all 0 for a transmit queue. */
  readonly sizes: readonly number[];
  /** Times the worker's handler found the queue unusable. */
  readonly errHandlerSchdNum: number;
}

export interface StatsFacts extends Pick<DeviceIdentity, 'pfId' | 'vfId' | 'vuid'> {
  readonly countingSizes: boolean;
  /** Data queues the device has, in use or not. */
  readonly dataQueueCount: number;
  /** Those in use, ascending. */
  readonly queues: readonly QueueStatsFacts[];
}

const SIZE_KEYS = [
  'rx_64_or_less_octet_packets',
  'rx_65_to_127_octet_packets',
  'rx_128_to_255_octet_packets',
  'rx_256_to_511_octet_packets',
  'rx_512_to_1023_octet_packets',
  'rx_1024_to_1522_octet_packets',
  'rx_1523_to_2047_octet_packets',
  'rx_2048_to_4095_octet_packets',
  'rx_4096_to_8191_octet_packets',
  'rx_8192_to_9022_octet_packets',
] as const;

/** Answer of stats; `device` is the one selected, `queue` the only queue to show. */
export function statsAnswer(device: StatsFacts | undefined, queue: number | null): JsonObject | Outcome {
  if (device === undefined) return DEVICE_MISSING;
  if (queue !== null && !(Number.isInteger(queue) && queue >= 0 && queue < device.dataQueueCount))
    return failure('QUEUE_IDX_INVALID');
  const shown = device.queues.filter(({ index }) => queue === null || index === queue);
  return {
    device: {
      pf_id: device.pfId,
      ...(device.vfId === null ? {} : { vf_id: device.vfId }),
      packet_counters: device.countingSizes ? 'Enabled' : 'Disabled',
      'queues-stats': shown.map(queueStats),
    },
  };
}

function queueStats(queue: QueueStatsFacts): Json {
  return {
    'VQ Index': queue.index,
    ...Object.fromEntries(SIZE_KEYS.map((key, sizeClass) => [key, queue.sizes[sizeClass] ?? 0])),
    received_desc: String(queue.receivedDesc),
    completed_desc: String(queue.completedDesc),
    bad_desc_errors: String(queue.badDescErrors),
    error_cqes: String(queue.errorCqes),
    exceed_max_chain: String(queue.exceedMaxChain),
    invalid_buffer: String(queue.invalidBuffer),
    batch_number: String(queue.batchNumber),
    dma_q_used_number: String(queue.dmaQUsedNumber),
    handler_schd_number: String(queue.handlerSchdNumber),
    aux_handler_schd_number: String(queue.auxHandlerSchdNumber),
    max_post_desc_number: String(queue.maxPostDescNumber),
    total_bytes: String(queue.totalBytes),
    err_handler_schd_num: String(queue.errHandlerSchdNum),
    rq_cq_max_count: String(queue.rqCqMaxCount),
    rq_cq_period: String(queue.rqCqPeriod),
    rq_cq_period_mode: String(queue.rqCqPeriodMode),
  };
}
