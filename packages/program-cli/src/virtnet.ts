/** virtnet: the controller's command line. Modules are loaded behind the cache of compiled code, which saves a third. */
import { enableCompileCache } from 'node:module';
import { fileURLToPath } from 'node:url';

enableCompileCache(fileURLToPath(new URL('./.compile-cache', import.meta.url)));
const [{ runVirtnet }, { processIo }, { askController }] = await Promise.all([
  import('./run-virtnet.js'),
  import('./io.js'),
  import('./controller.js'),
]);
process.exitCode = await runVirtnet(process.argv.slice(2), processIo(), askController);
