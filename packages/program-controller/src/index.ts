/**
 * @virtnet/program-controller: `virtio_net_controller`. It starts the state keeper and two emulators, promotes one,
 * replaces whoever dies or hangs, and answers the command line. It holds no device logic.
 *
 * @example
 *   VIRTNET_ROOT=/some/dir virtio_net_controller   # prints `ready` when it serves
 */
export { PROGRAM, serve } from './wiring.js';
