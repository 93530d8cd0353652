/**
 * @virtnet/driver-virtio-net: the driver's side of a virtio-net function behind a vfio-user socket.
 *
 * @example
 *   const link = new FunctionLink({ path, poller, onUp: (fn) => …, onDown: () => …, onFailure: () => … });
 *   const card = new HostNetdev({ socket, name: 'vnet15s00f0', poller, onState: (text) => … });
 *   const failure = await card.bind();
 */
export * from './driver-features.js';
export * from './driver-ring.js';
export * from './function-link.js';
export * from './function-probe.js';
export * from './host-netdev.js';
export * from './limits.js';
export * from './pci-walk.js';
export * from './refusal.js';
export * from './serial-queue.js';
export * from './virtio-function.js';
