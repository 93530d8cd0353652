/**
 * @virtnet/program-emu: the emulator process, `virtio_net_emu`.
 *
 * @example
 *   virtio_net_emu --instance 1
 */
export { parseOptions } from './options.js';
export { serve } from './wiring.js';
