/** What the answers show of one virtqueue, read from its registers and its block of the state page. */
import type { QueueFacts } from '@virtnet/engine-control';
import { DYNAMIC_LEVELS, type Moderation } from '@virtnet/engine-virtio-net';
import { QueueCounter, QueueWord } from '@virtnet/wire';
import { sinceMark } from './clearable-counters.js';
import type { DeviceHost } from './device-host.js';
import { POLL_BUDGET } from './limits.js';

/** Bytes; a larger MTU is a jumbo MTU. */
const ORDINARY_MTU = 1500;

/** Values of rq_cq_period_mode. */
const PeriodMode = { DEFAULT: 0, UPON_EVENT: 1, UPON_CQE: 2 } as const;
const PERIOD_MODES = {
  'first-frame': PeriodMode.DEFAULT,
  'last-interrupt': PeriodMode.UPON_EVENT,
  'last-frame': PeriodMode.UPON_CQE,
} as const satisfies Record<Moderation['mode'], number>;

type ModerationFacts = Pick<QueueFacts, 'rqCqMaxCount' | 'rqCqPeriod' | 'rqCqPeriodMode'>;

/** The moderation in force. Where there is none, mode and zeros are those of the guide's examples. */
function moderationFacts(host: DeviceHost, index: number): ModerationFacts {
  const wanted = host.state.moderation(index);
  const level = host.state.block(index).words[QueueWord.MODERATION_LEVEL]!;
  const moderation = wanted === 'dynamic' ? DYNAMIC_LEVELS[level] : wanted;
  if (moderation === null || moderation === undefined || moderation.usecs === 0) {
    const cqe = wanted === null && host.settings.moderation?.periodMode === 'cqe';
    return {
      rqCqMaxCount: 0,
      rqCqPeriod: 0,
      rqCqPeriodMode: cqe ? PeriodMode.UPON_CQE : PeriodMode.UPON_EVENT,
    };
  }
  return {
    rqCqMaxCount: moderation.frames,
    rqCqPeriod: moderation.usecs,
    rqCqPeriodMode: PERIOD_MODES[moderation.mode],
  };
}

export function queueFacts(host: DeviceHost, index: number): QueueFacts {
  const queue = host.fn.queues[index]!;
  const { counters } = host.state.block(index);
  const count = (counter: QueueCounter) => counters[counter]!;
  const shown = (counter: QueueCounter) => sinceMark(counters, counter);
  const receives = host.net.roleOf(index) === 'receive';
  return {
    index,
    size: queue.size,
    msixVector: queue.vector,
    enabled: queue.enabled,
    notifyOffset: queue.notifyOffset,
    descriptorAddress: queue.descriptorAddress,
    driverAddress: queue.driverAddress,
    deviceAddress: queue.deviceAddress,
    receivedDesc: count(QueueCounter.RECEIVED_DESC),
    completedDesc: count(QueueCounter.COMPLETED_DESC),
    badDescErrors: count(QueueCounter.BAD_DESC_ERRORS),
    errorCqes: count(QueueCounter.DROP_TAP_ERROR),
    exceedMaxChain: count(QueueCounter.EXCEED_MAX_CHAIN),
    invalidBuffer: count(QueueCounter.INVALID_BUFFER),
    batchNumber: POLL_BUDGET,
    dmaQUsedNumber: count(QueueCounter.BATCHES),
    handlerSchdNumber: count(QueueCounter.HANDLER_RUNS),
    auxHandlerSchdNumber: count(QueueCounter.INTERRUPTS),
    maxPostDescNumber: count(QueueCounter.MAX_POSTED),
    totalBytes: count(QueueCounter.BYTES),
    ...moderationFacts(host, index),
    debug: {
      ...(receives ? { jumbo_mtu: host.plan.mtu > ORDINARY_MTU ? 1 : 0 } : {}),
      frames: shown(QueueCounter.FRAMES),
      spurious_kicks: shown(QueueCounter.SPURIOUS_KICKS),
      drop_header: shown(QueueCounter.DROP_HEADER),
      drop_tap_again: shown(QueueCounter.DROP_TAP_AGAIN),
      drop_tap_error: shown(QueueCounter.DROP_TAP_ERROR),
      drop_link_down: shown(QueueCounter.DROP_LINK_DOWN),
      drop_filter_mac: shown(QueueCounter.DROP_FILTER_MAC),
      drop_filter_vlan: shown(QueueCounter.DROP_FILTER_VLAN),
      drop_mtu: shown(QueueCounter.DROP_MTU),
      drop_no_buffer: shown(QueueCounter.DROP_NO_BUFFER),
      drop_bad_chain: shown(QueueCounter.DROP_BAD_CHAIN),
      drop_no_desc: shown(QueueCounter.DROP_NO_DESC),
      drop_no_destination: shown(QueueCounter.DROP_NO_DESTINATION),
      drop_same_port: shown(QueueCounter.DROP_SAME_PORT),
      drop_not_switched: shown(QueueCounter.DROP_NOT_SWITCHED),
      stations_refused: shown(QueueCounter.STATIONS_REFUSED),
      uplink_missed: shown(QueueCounter.UPLINK_MISSED),
    },
  };
}
