/**
 * shelf-writer.fixture.ts: a writer that dies: takes the lease, sends `count` transactions in one go, each with a
 * descriptor, and kills itself without reading what the keeper answered; or, with `stop`, stops itself instead, so that
 * its connection does not end.
 */

import { ShelfClient } from '@virtnet/host-ipc';
import { memfdCreate, Poller } from '@virtnet/host-linux';

const [path = '', count = '0', end] = process.argv.slice(2);
const shelf = new ShelfClient({ path, poller: new Poller() });
shelf.start();
void shelf.lease(() => {});
const fd = memfdCreate('written', 4096);
for (let index = 0; index < Number(count); index++) {
  const result = shelf.transaction([{ put: `n/${index}`, blob: Uint8Array.of(index & 0xff), fd }]);
  if (result !== 0) process.exit(2);
}
process.kill(process.pid, end === 'stop' ? 'SIGSTOP' : 'SIGKILL');
