/**
 * @virtnet/engine-pci: a modern virtio PCI function, without I/O.
 *
 * @example
 *   const fn = new VirtioPciFunction({ device, classCode: 0x020000, msixVectors: 8 });
 *   for (const effect of fn.writeRegion(0, 20, Uint8Array.of(0))) carryOut(effect);
 */
export * from './bar-layout.js';
export type { CapabilityOffsets } from './capabilities.js';
export * from './effects.js';
export type { SriovRole } from './extended.js';
export type { FunctionOptions } from './function-options.js';
export type { FunctionState } from './function-state.js';
export * from './limits.js';
export type { QueueView } from './queue-registers.js';
export * from './virtio-device.js';
export * from './virtio-function.js';
