/** virtio_net_ha: the state keeper. See wiring.ts. */
import { parseOptions } from './options.js';
import { serve, VERSION } from './wiring.js';

const options = parseOptions(process.argv);
if (options.check === true) {
  process.stdout.write(`${VERSION}\n`);
  process.exit(0);
}
// No await at the top: this ends up in a module of the older kind, see scripts/bundle.ts.
void serve(options).then(() => process.exit(0));
