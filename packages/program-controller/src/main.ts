/** virtio_net_controller: supervisor and front of the command line. See wiring.ts. */
import { parseOptions } from './options.js';
import { check, serve } from './wiring.js';

const options = parseOptions(process.argv);
if (options.check === true) {
  process.exit(check());
}
// No await at the top: this ends up in a module of the older kind, see scripts/bundle.ts.
void serve(options).then((code) => process.exit(code));
