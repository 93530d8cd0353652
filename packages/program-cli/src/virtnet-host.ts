/** virtnet-host: the host's side of the emulated PCI functions. */
import { askController } from './controller.js';
import { driverProcess } from './driver-process.js';
import { processIo } from './io.js';
import { runHost } from './run-host.js';

// No await at the top: this ends up in a module of the older kind, see scripts/bundle.ts.
void runHost(process.argv.slice(2), processIo(), askController, driverProcess()).then((code) => {
  process.exitCode = code;
});
