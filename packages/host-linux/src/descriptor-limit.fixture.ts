/** descriptor-limit.fixture.ts: lets this process have few more descriptors for a while, for tests. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { openDescriptorCount } from './process.js';

/** What may be raised stays what it is. */
function setLimit(most: number): void {
  execFileSync('prlimit', ['--pid', `${process.pid}`, `--nofile=${most}:`]);
}

/** From now on the process may have `left` more descriptors, until the function returned is called. */
export function leaveDescriptors(left: number): () => void {
  const before = Number(/^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))![1]);
  setLimit(openDescriptorCount() + left);
  return () => setLimit(before);
}
