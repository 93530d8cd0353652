/**
 * client-process.fixture.ts: a process with a client for each of the sockets it is given, busy with everything a client
 * can be busy with, until somebody kills it. Begins when it is told to over Node's IPC, and says 'up' when every device
 * was at DRIVER_OK once.
 */
import { close, eventfd, memfdCreate, Poller, sharedMapping } from '@virtnet/host-linux';
import { VfioUserClient } from '@virtnet/server-vfio-user';
import { VfioPciIrq } from '@virtnet/wire';
import { DriverMemory } from '../driver-memory.js';
import { overRegions } from '../function-access.js';
import { VirtioNetDriver } from '../virtio-net-driver.js';

const MEMORY_BYTES = 4 << 20;
const IOVA = 0x1_0000_0000n;
const EXTRA_IOVA = 0x9_0000_0000n;
const EXTRA_BYTES = 1 << 20;
const VECTORS = 4;

const poller = new Poller();
poller.start();

async function beBusy(path: string, onUp: () => void): Promise<never> {
  const client = await VfioUserClient.connect(path, { poller, timeoutMs: 60_000 });
  const memoryFd = memfdCreate('test-guest', MEMORY_BYTES);
  const extraFd = memfdCreate('test-extra', EXTRA_BYTES);
  const mapping = sharedMapping(memoryFd, MEMORY_BYTES);
  if (typeof mapping === 'number') throw new Error(`mmap: errno ${-mapping}`);
  const all = { fdOffset: 0, readable: true, writable: true };
  await client.dmaMap({ ...all, iova: IOVA, sizeBytes: MEMORY_BYTES, fd: memoryFd });
  for (let round = 0; ; round++) {
    const memory = new DriverMemory({ sizeBytes: MEMORY_BYTES, iova: IOVA, buffer: mapping.buffer });
    const fds = Array.from({ length: VECTORS }, () => eventfd());
    const vectors = {
      index: VfioPciIrq.MSIX,
      start: 0,
      count: VECTORS,
      action: 'trigger',
      data: 'eventfd',
    } as const;
    await client.setIrqs({ ...vectors, fds });
    const driver = await VirtioNetDriver.start(overRegions(client), {
      memory,
      vectors: 'per-queue',
      queueSize: 64,
    });
    for (const queue of [0, 1, 2]) await client.queueKick(queue, fds[queue]!);
    await driver.postReceive(0, 32);
    for (let i = 0; i < 8; i++) await driver.transmit(0, new Uint8Array(60));
    await driver.setMac(Uint8Array.of(2, 0, 0, 0, 0, round & 0xff));
    const extra = { iova: EXTRA_IOVA, sizeBytes: EXTRA_BYTES };
    await client.dmaMap({ ...all, ...extra, fd: extraFd });
    if (round === 0) onUp();
    if (round % 2 === 0) await client.dmaUnmap(extra);
    else await client.dmaUnmap(extra).then(() => client.reset());
    for (const fd of fds) close(fd);
  }
}

const paths = process.argv.slice(2);
process.once('message', () => {
  let up = 0;
  for (const path of paths) {
    void beBusy(path, () => {
      if (++up === paths.length) process.send?.('up');
    });
  }
});
