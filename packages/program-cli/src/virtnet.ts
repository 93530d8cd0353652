/** virtnet: the controller's command line. */
import { askController } from './controller.js';
import { processIo } from './io.js';
import { runVirtnet } from './run-virtnet.js';

// No await at the top: this ends up in a module of the older kind, see scripts/bundle.ts.
void runVirtnet(process.argv.slice(2), processIo(), askController).then((code) => {
  process.exitCode = code;
});
