/** virtio_net_driver: gives the host network interfaces of its functions. See wiring.ts. */
import { parseOptions } from './options.js';
import { drive } from './wiring.js';

// No await at the top: this ends up in a module of the older kind, see scripts/bundle.ts.
void drive(parseOptions(process.argv)).then((code) => process.exit(code));
