/** vfe-vhostd: serves virtio-net functions over vhost-user. See wiring.ts. */
import { parseOptions } from './options.js';
import { serve } from './wiring.js';

// No await at the top: this ends up in a module of the older kind, see scripts/bundle.ts.
void serve(parseOptions(process.argv)).then((code) => process.exit(code));
