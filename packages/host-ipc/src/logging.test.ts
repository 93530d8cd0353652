import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { childLogger, createLogger, setLogLevel } from './logging.js';

const here = fileURLToPath(new URL('../dist/logging.js', import.meta.url));

/** Runs `body` in a process of its own; resolves to exit code and what it wrote to standard error. */
function run(body: string, closeEarly = false): Promise<{ code: number | null; stderr: string }> {
  const script = `import { childLogger, createLogger, exitOnFault, logCounters } from ${JSON.stringify(here)};\n${body}`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let stderr = '';
  child.stderr.on('data', (chunk) => {
    stderr += chunk;
  });
  if (closeEarly) child.stderr.destroy();
  return new Promise((resolve) => child.on('close', (code) => resolve({ code, stderr })));
}

describe('logger', () => {
  it('writes one JSON line per call to standard error, with level, time, program, file and function', async () => {
    const { stderr } = await run(
      `childLogger(createLogger('virtio_net_x'), 'a.ts', 'f').info({ n: 1 }, 'hello');`,
    );
    expect(JSON.parse(stderr)).toMatchObject({
      level: 'info',
      time: expect.stringMatching(/^\d{4}-\d\d-\d\dT.*Z$/),
      program: 'virtio_net_x',
      file: 'a.ts',
      function: 'f',
      n: 1,
      msg: 'hello',
    });
  });

  it('a level set later reaches children made before', () => {
    const log = createLogger('x', 'info');
    const child = childLogger(log, 'a.ts');
    const grandchild = childLogger(child, 'b.ts');
    setLogLevel(log, 'debug');
    expect([child.level, grandchild.level]).toEqual(['debug', 'debug']);
    setLogLevel(log, 'err');
    expect([log.level, child.level, grandchild.level]).toEqual(['error', 'error', 'error']);
  });

  it('whoever read standard error is gone: the process goes on', async () => {
    const body = `
      const log = createLogger('x');
      let turns = 0;
      const timer = setInterval(() => {
        log.info('x'.repeat(1000));
        if (++turns === 30) { clearInterval(timer); process.exitCode = 42; }
      }, 2);`;
    expect(await run(body, true)).toMatchObject({ code: 42 });
  });

  it('an exception nobody caught is the last line, and the exit code is 1', async () => {
    for (const fault of ['throw new Error("ours")', 'Promise.reject(new Error("ours"))']) {
      const { code, stderr } = await run(`exitOnFault('x'); setImmediate(() => { ${fault}; });`);
      expect(code).toBe(1);
      expect(JSON.parse(stderr)).toMatchObject({ level: 'fatal', msg: 'ours', stack: expect.any(String) });
    }
  });
});
