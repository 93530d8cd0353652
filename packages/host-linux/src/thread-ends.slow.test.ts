import { afterEach, expect, it } from 'vitest';
import { ended, startChild } from './child.fixture.js';
import { Poller } from './poller.js';
import { isAlive } from './process.js';
import { ProgressPage } from './progress.js';
import { ThreadEnds } from './thread-ends.js';

const PAGE_FD = 3;
const cleanups: (() => void)[] = [];
afterEach(() => {
  for (const cleanup of cleanups.splice(0).reverse()) cleanup();
});

/** A child whose main thread and one worker have lanes, and that is so far. */
async function twoThreads(more = '') {
  const page = ProgressPage.create() as ProgressPage;
  const worker = `
    const { laneAt } = await import('@virtnet/host-linux');
    const { parentPort, workerData } = await import('node:worker_threads');
    laneAt(workerData, 1).begin();
    parentPort.postMessage('begun');
    parentPort.on('message', () => process.exit());`;
  const child = startChild(
    `import { ProgressPage } from '@virtnet/host-linux';
     import { Worker } from 'node:worker_threads';
     const page = ProgressPage.open(${PAGE_FD});
     page.lane(0).begin();
     const worker = new Worker(${JSON.stringify(worker)}, { eval: true, workerData: page.address });
     worker.once('message', () => console.log('begun'));
     ${more}
     setInterval(() => {}, 1000);`,
    [page.fd],
  );
  const end = ended(child);
  const poller = new Poller();
  poller.start();
  cleanups.push(
    () => page.close(),
    () => poller.stop(),
    () => child.kill('SIGKILL'),
  );
  await new Promise((resolve) => child.stdout?.once('data', resolve));
  return { child, pid: child.pid as number, end, poller, page };
}

it('the ends of all threads are told, once, when the process is killed', async () => {
  const { child, pid, end, poller } = await twoThreads();
  let told = 0;
  const { promise, resolve } = Promise.withResolvers<void>();
  const watch = ThreadEnds.watch(pid, PAGE_FD, poller, () => {
    told += 1;
    resolve();
  });
  expect(watch).not.toBeNull();
  await new Promise((passed) => setTimeout(passed, 100));
  expect(told).toBe(0);
  child.kill('SIGKILL');
  await promise;
  await end;
  expect(told).toBe(1);
});

it('the end of a worker alone is not the end', async () => {
  const { child, pid, end, poller, page } =
    await twoThreads(`setTimeout(() => worker.postMessage('end'), 300);
    worker.once('exit', () => console.log('worker gone'));`);
  let told = false;
  const { promise, resolve } = Promise.withResolvers<void>();
  ThreadEnds.watch(pid, PAGE_FD, poller, () => {
    told = true;
    resolve();
  });
  await new Promise((passed) => child.stdout?.on('data', (text) => /gone/.test(text) && passed(null)));
  await new Promise((passed) => setTimeout(passed, 100));
  expect([told, isAlive(pid), page.read().length]).toEqual([false, true, 2]);
  child.kill('SIGKILL');
  await promise;
  await end;
});

it('a process without a page, and one whose lanes nobody began, cannot be watched', async () => {
  const { poller } = await twoThreads();
  expect(ThreadEnds.watch(process.pid, 9_999, poller, () => undefined)).toBeNull();
  const page = ProgressPage.create() as ProgressPage;
  cleanups.push(() => page.close());
  expect(ThreadEnds.watch(process.pid, page.fd, poller, () => undefined)).toBeNull();
});
