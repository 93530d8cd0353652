/**
 * commands-private.ts: what our own client may ask beyond the protocol, after both announced it in VERSION.
 *
 * Theory
 *   A vhost-user backend gets its kick eventfds and queue positions from QEMU; with these commands it hands them on,
 *   so that packets never pass through it and its death stalls no guest.
 *
 * Invariants
 *   I1  queue numbers are the device's to judge; an answer is its errno.
 *
 * Limits  one descriptor, with QUEUE_KICK.
 */
import {
  Errno,
  VfioUserQueue,
  VfioUserQueueBase,
  VfioUserQueueEnable,
  VfioUserQueueKick,
} from '@virtnet/wire';
import type { Command } from './command.js';
import { type Answer, andThen } from './outcome.js';

export const queueKick: Command = {
  bodyBytesMin: VfioUserQueueKick.sizeBytes,
  fdsMax: 1,
  changes: true,
  run({ device }, { view, fds }) {
    const { queue, flags } = VfioUserQueueKick.decode(view);
    return device.queueKick(queue, fds[0] ?? null, flags);
  },
};

export const queueBaseSet: Command = {
  bodyBytesMin: VfioUserQueueBase.sizeBytes,
  fdsMax: 0,
  changes: true,
  run({ device }, { view }) {
    const { queue, base } = VfioUserQueueBase.decode(view);
    return device.queueBaseSet(queue, base);
  },
};

export const queueBaseGet: Command = {
  bodyBytesMin: VfioUserQueue.sizeBytes,
  fdsMax: 0,
  changes: true, // stops the queue
  run({ device }, { view }) {
    const { queue } = VfioUserQueue.decode(view);
    return andThen(device.queueBaseGet(queue), (base): Answer => {
      return base < 0 ? base : { body: VfioUserQueueBase.bytes({ queue, base }) };
    });
  },
};

export const queueEnable: Command = {
  bodyBytesMin: VfioUserQueueEnable.sizeBytes,
  fdsMax: 0,
  changes: true,
  run({ device }, { view }) {
    const { queue, enabled } = VfioUserQueueEnable.decode(view);
    return enabled > 1 ? -Errno.EINVAL : device.queueEnable(queue, enabled === 1);
  },
};
