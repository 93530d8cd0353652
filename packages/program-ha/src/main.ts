/** virtio_net_ha: the state keeper. See wiring.ts. */
import { parseOptions } from './options.js';
import { serve } from './wiring.js';

await serve(parseOptions(process.argv));
process.exit(0);
