/**
 * @virtnet/engine-virtio-net: a virtio network device: configuration, features, control commands, filters and the two
 * directions of the datapath. No I/O.
 *
 * @example
 *   const device = new NetDevice(profile);
 *   const { ack, changed } = executeControl(device, request);
 */
export * from './checksum.js';
export * from './coalescing.js';
export * from './control-queue.js';
export * from './control-state.js';
export * from './dynamic-moderation.js';
export * from './features.js';
export * from './flow-hash.js';
export * from './interrupt-moderation.js';
export * from './limits.js';
export * from './mac-address.js';
export * from './moderation.js';
export * from './net-device.js';
export * from './net-header.js';
export * from './net-profile.js';
export * from './port.js';
export * from './read-ahead.js';
export * from './receive-filter.js';
export * from './receive-offloads.js';
export * from './receive-queue.js';
export * from './receive-steering.js';
export * from './refusal.js';
export * from './segmenter.js';
export * from './spread-queue.js';
export * from './toeplitz.js';
export * from './transmit-queue.js';
