/** virtio_net_emu: emulates virtio-net PCI functions. See wiring.ts. */
import { parseOptions } from './options.js';
import { serve } from './wiring.js';

await serve(parseOptions(process.argv));
process.exit(0);
