/** temporary-root.fixture.ts: a directory for sockets that goes with the test. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export interface TemporaryRoot {
  readonly path: string;
  file(name: string): string;
  remove(): void;
}

export function temporaryRoot(): TemporaryRoot {
  const path = mkdtempSync(join(tmpdir(), 'virtnet-'));
  return {
    path,
    file: (name) => join(path, name),
    remove: () => rmSync(path, { recursive: true, force: true }),
  };
}

/** Resolves when `condition` holds; rejects after `deadlineMs`, saying `what` did not happen. */
export async function eventually(what: string, condition: () => boolean, deadlineMs = 5_000): Promise<void> {
  const endMs = performance.now() + deadlineMs;
  while (!condition()) {
    if (performance.now() > endMs) throw new Error(`within ${deadlineMs} ms did not happen: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}
