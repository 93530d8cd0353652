/**
 * @virtnet/engine-virtqueue: the device's end of virtqueues, pure over guest memory.
 *
 * @example
 *   const ring = openRing({ packed, queueSize: 256, memory: new GuestMemory(regions), ...addresses, ...negotiated });
 *   if (!isRing(ring)) return refuse(describeFault(ring));
 *   while (ring.take() > 0) {
 *     ring.scatter(0, answer, 0, answer.length);
 *     ring.give(answer.length);
 *   }
 *   if (ring.publish()) interruptTheDriver();
 */
export * from './chain.js';
export * from './chain-copy.js';
export * from './copy-window.js';
export * from './device-ring.js';
export * from './fault.js';
export * from './frame-burst.js';
export * from './frame-room.js';
export * from './guest-memory.js';
export * from './limits.js';
export * from './notification.js';
export * from './open-ring.js';
export * from './packed-config.js';
export * from './packed-ring.js';
export * from './plain-burst.js';
export * from './plain-chains.js';
export * from './queue-ledger.js';
export { type RingExtent, type RingPlace, ringExtents } from './ring-parts.js';
export * from './ring-room.js';
export * from './split-ring.js';
export * from './worked-queue.js';
