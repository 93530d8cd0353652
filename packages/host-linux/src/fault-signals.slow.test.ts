import { describe, expect, it } from 'vitest';
import { runChild } from './child.fixture.js';

/** Runs `last` on the main thread once another one blocks the signals and, told to, runs `fault`. */
const run = (last: string, fault = '') =>
  runChild(`
    import { Worker } from 'node:worker_threads';
    import { endByForeignFaultSignals } from '@virtnet/host-linux';
    endByForeignFaultSignals(() => console.log('heard'));
    const code = \`
      import { parentPort } from 'node:worker_threads';
      import { blockFaultSignals, viewAt } from '\${import.meta.resolve('@virtnet/host-linux')}';
      parentPort.on('message', async () => { ${fault} });
      parentPort.postMessage(blockFaultSignals());
    \`;
    const worker = new Worker(new URL('data:text/javascript,' + encodeURIComponent(code)));
    worker.once('message', (blocked) => {
      if (blocked === 0) { ${last} }
    });
    worker.on('error', (error) => { throw error; });
    setTimeout(() => {}, 20_000);`);

describe('signals that faults raise', () => {
  it.each(['SIGSEGV', 'SIGABRT'])('%s that somebody sends: heard, then the end', async (name) => {
    const { output, signal } = await run(`process.kill(process.pid, '${name}')`);
    expect([output, signal]).toEqual(['heard\n', 'SIGKILL']);
  });

  it('a thread that touches what is not mapped ends the process by SIGSEGV, and nobody hears it', async () => {
    const { output, signal } = await run('worker.postMessage(0)', 'new Uint8Array(viewAt(4096n, 8))[0] = 1');
    expect([output, signal]).toEqual(['', 'SIGSEGV']);
  });

  it('a thread that aborts ends the process by SIGABRT, and nobody hears it', async () => {
    const libc = import.meta.resolve('@virtnet/host-linux').replace('index.js', 'libc.js');
    const abort = `(await import('${libc}')).declare('abort', 'void', [])()`;
    for (let time = 0; time < 5; time++) {
      const { output, signal } = await run('worker.postMessage(0)', abort);
      expect([output, signal]).toEqual(['', 'SIGABRT']);
    }
  });

  it('an abort of the runtime ends the process by SIGABRT', async () => {
    const { signal } = await run('process.abort()');
    expect(signal).toBe('SIGABRT');
  });
});
