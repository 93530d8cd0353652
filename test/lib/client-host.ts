/**
 * client-host.ts: a vfio-user client that is there to be killed; a program of its own.
 *
 *   client-host.ts <socket> [held]    binds the function, starts its driver, sends frames for ever; prints `bound` once it
 *                                     does. `held`: prints `ready` first and waits for a line
 */
import { once } from 'node:events';
import { BoundFunction } from './bound-function.ts';
import { udpFrame } from './frames.ts';

const [socket = '', held] = process.argv.slice(2);
if (held === 'held') {
  process.stdout.write('ready\n');
  await once(process.stdin, 'data');
  process.stdin.destroy();
}
const fn = await BoundFunction.open(socket);
const driver = await fn.start({ vectors: 'per-queue' });
await driver.postReceive(0, 64);
const frame = udpFrame({
  destinationMac: 'FF:FF:FF:FF:FF:FF',
  sourceMac: '0C:C4:7A:FF:22:93',
  destination: '10.78.0.255',
  source: '10.78.0.2',
  port: 9,
  payload: Buffer.alloc(100),
});
process.stdout.write('bound\n');
for (;;) {
  driver.ring(1).collect();
  await driver.transmit(0, frame);
}
