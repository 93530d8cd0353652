/** child.fixture.ts: for tests that need a process of their own: one that dies, or one in another network namespace. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

/** Where `import '@virtnet/host-linux'` finds the package as built. */
const packageFolder = fileURLToPath(new URL('..', import.meta.url));
const CHILD_DEADLINE_MS = 15_000;

export interface ChildEnd {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly output: string;
  readonly errors: string;
}

/** Starts Node with `script`, an ES module; `fds` become descriptors 3, 4, … of the child. */
export function startChild(script: string, fds: readonly number[] = []): ChildProcess {
  return spawn(process.execPath, ['--input-type=module', '--eval', script], {
    cwd: packageFolder,
    stdio: ['ignore', 'pipe', 'pipe', ...fds],
  });
}

/** Waits for the end of a child; kills it when that takes too long. */
export function ended(child: ChildProcess): Promise<ChildEnd> {
  return new Promise((resolve, reject) => {
    let output = '';
    let errors = '';
    child.stdout?.on('data', (chunk) => {
      output += chunk;
    });
    child.stderr?.on('data', (chunk) => {
      errors += chunk;
    });
    const deadline = setTimeout(() => child.kill('SIGKILL'), CHILD_DEADLINE_MS);
    child.once('error', reject);
    child.once('close', (code, signal) => {
      clearTimeout(deadline);
      resolve({ code, signal, output, errors });
    });
  });
}

export function runChild(script: string, fds: readonly number[] = []): Promise<ChildEnd> {
  return ended(startChild(script, fds));
}

/** Runs `script` in a network namespace of its own, where it may make interfaces. */
export function runInNetworkNamespace(script: string): Promise<ChildEnd> {
  const node = [process.execPath, '--input-type=module', '--eval', script];
  return ended(spawn('unshare', ['-n', ...node], { cwd: packageFolder, stdio: ['ignore', 'pipe', 'pipe'] }));
}

/** Why network namespaces cannot be made here; null when they can. */
export function namespaceObstacle(): string | null {
  const attempt = spawnSync('unshare', ['-n', 'test', '-c', '/dev/net/tun']);
  if (attempt.error) return 'unshare is not installed';
  return attempt.status === 0 ? null : 'no network namespace or no /dev/net/tun';
}
