/** virtio_net_driver: gives the host network interfaces of its functions. See wiring.ts. */
import { parseOptions } from './options.js';
import { drive } from './wiring.js';

process.exit(await drive(parseOptions(process.argv)));
