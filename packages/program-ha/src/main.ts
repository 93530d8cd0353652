/** virtio_net_ha: the state keeper. See wiring.ts. */
import { parseOptions } from './options.js';
import { serve, VERSION } from './wiring.js';

const options = parseOptions(process.argv);
if (options.check === true) process.stdout.write(`${VERSION}\n`);
else await serve(options);
process.exit(0);
