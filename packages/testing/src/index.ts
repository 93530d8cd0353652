/**
 * @virtnet/testing: the driver's side of rings, well-behaved and hostile, and the contracts every ring must keep.
 *
 * @example
 *   ringContract({ describe, it }, 'split', splitFixture);
 */
export * from './crash-points.js';
export * from './driver-buffers.js';
export * from './driver-memory.js';
export * from './function-access.js';
export * from './function-fixture.js';
export * from './fuzz/fuzzer.js';
export * from './fuzz/targets.js';
export * from './memory-port.js';
export * from './net-fixture.js';
export * from './packed-driver.js';
export * from './packed-ring-fixture.js';
export * from './pci-enumeration.js';
export * from './ring-contract.js';
export * from './ring-driver.js';
export * from './simulation/simulation.js';
export * from './split-driver.js';
export * from './split-ring-fixture.js';
export * from './switch-fixture.js';
export * from './virtio-net-driver.js';
export * from './virtio-pci-driver.js';
export * from './window-room.js';
