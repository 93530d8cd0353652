/**
 * @virtnet/program-ha: `virtio_net_ha`, the state keeper. It stores, returns and forgets named descriptors and blobs and
 * never interprets them; what it does is in host-ipc's ShelfServer.
 *
 * @example
 *   VIRTNET_ROOT=/some/dir virtio_net_ha --expect-upload
 */
export { PROGRAM, serve } from './wiring.js';
