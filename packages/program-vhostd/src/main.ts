/** vfe-vhostd: serves virtio-net functions over vhost-user. See wiring.ts. */
import { parseOptions } from './options.js';
import { serve } from './wiring.js';

process.exit(await serve(parseOptions(process.argv)));
