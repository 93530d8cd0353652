/**
 * @virtnet/engine-recovery: what outlives a crash and how it is told: the shelf, the device record's frame, and the
 * table by which processes are supervised. Pure: no clock, no I/O.
 *
 * @example
 *   const shelf = new Shelf<number>();
 *   const outcome = shelf.apply([{ kind: 'put', name: 'dev/a/page', blob, handle: fd, ttlWithoutHolderMs: 0 }]);
 *   if ('errno' in outcome) refuse(outcome.reason);
 */
export * from './crc32.js';
export * from './death-cause.js';
export * from './owners.js';
export * from './progress-watch.js';
export * from './record.js';
export * from './service-plan.js';
export * from './shelf.js';
export * from './shelf-desk.js';
export * from './shelf-follower.js';
export * from './shelf-loans.js';
export * from './shelf-message.js';
export * from './supervision.js';
export * from './suspicion.js';
