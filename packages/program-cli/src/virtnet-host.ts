/** virtnet-host: the host's side of the emulated PCI functions. */
import { askController } from './controller.js';
import { driverProcess } from './driver-process.js';
import { processIo } from './io.js';
import { runHost } from './run-host.js';

process.exitCode = await runHost(process.argv.slice(2), processIo(), askController, driverProcess());
