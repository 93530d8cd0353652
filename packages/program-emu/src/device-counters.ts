/** device-counters.ts: counters that an operator switches on, or sets back, and what is shown of them. */
import type { StatsFacts } from '@virtnet/engine-control';
import { transmitDropped } from '@virtnet/host-linux';
import { QueueCounter, SIZE_CLASSES } from '@virtnet/wire';
import { setBack } from './clearable-counters.js';
import type { DeviceHost } from './device-host.js';
import { queueFacts } from './queue-facts.js';

/** Sets the counters for debugging back. */
export function clearDebugCounters(host: DeviceHost): void {
  for (const queue of host.fn.queues.keys()) setBack(host.state.block(queue).counters);
}

/** Frames for which the driver had no buffer, since the representor was made: a TAP counts them, or our own switch. */
export function framesWithoutBuffer({ plan, fn, state }: DeviceHost): number {
  let frames = transmitDropped(plan.representor) ?? 0;
  for (const queue of fn.queues.keys()) frames += state.block(queue).counters[QueueCounter.DROP_NO_DESC]!;
  return frames;
}

/** The same since the drop counter was switched on; null while it is off. */
export function droppedFrames(host: DeviceHost): number | null {
  const { dropsFrom } = host.settings;
  return dropsFrom === null ? null : Math.max(0, framesWithoutBuffer(host) - dropsFrom);
}

export function statsFacts(host: DeviceHost): StatsFacts {
  const { plan, fn, net, settings, state } = host;
  const dataQueueCount = 2 * plan.queuePairs;
  const used = fn.queues.filter(({ index, enabled }) => enabled && isData(net.roleOf(index)));
  return {
    pfId: plan.pfId,
    vfId: plan.vfId,
    vuid: plan.vuid,
    countingSizes: settings.countSizes,
    dataQueueCount,
    queues: used.map(({ index }) => {
      const { counters } = state.block(index);
      const first = QueueCounter.SIZE_CLASS_FIRST;
      return {
        ...queueFacts(host, index),
        sizes: [...counters.subarray(first, first + SIZE_CLASSES)],
        errHandlerSchdNum: state.broken.has(index) ? 1 : 0,
      };
    }),
  };
}

function isData(role: ReturnType<DeviceHost['net']['roleOf']>): boolean {
  return role === 'receive' || role === 'transmit';
}
