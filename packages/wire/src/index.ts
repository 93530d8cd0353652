/**
 * @virtnet/wire: layouts and constants of everything that crosses a boundary. It knows no behaviour.
 *
 * @example
 *   const header = VfioUserHeader.decode(viewOf(bytes));
 */

export * from './device-record.js';
export * from './errno.js';
export * from './ethernet.js';
export * from './layout.js';
export * from './linux.js';
export * from './linux-netlink.js';
export * from './linux-uring.js';
export * from './packed-ring.js';
export * from './pci.js';
export * from './plain-reader.js';
export * from './progress-page.js';
export * from './shelf-channel.js';
export * from './state-page.js';
export * from './vfio-user.js';
export * from './vhost-user.js';
export * from './virtio-features.js';
export * from './virtio-net.js';
export * from './virtio-pci.js';
export * from './virtio-ring.js';
