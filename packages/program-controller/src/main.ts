/** virtio_net_controller: supervisor and front of the command line. See wiring.ts. */
import { parseOptions } from './options.js';
import { serve } from './wiring.js';

process.exit(await serve(parseOptions(process.argv)));
