/** What tests of bursts have in common: a page for a ring, whether there are rings here, and who kills their owners. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { BURST_PAGE_BYTES } from '@virtnet/wire';
import { BurstRing, type EntryTable } from './burst-ring.js';
import { close } from './fd.js';
import { memfdCreate, type SharedMapping, sharedMapping } from './memory.js';

export const KILLS = 20;
const KILL_MS_MAX = 30;
/** Between the call and its accounts, so that many are killed there. */
export const LINGER_MS = 0.2;

export interface BurstPage {
  readonly fd: number;
  readonly mapping: SharedMapping;
}

export function burstPage(): BurstPage {
  const fd = memfdCreate('burst-test', BURST_PAGE_BYTES);
  const mapping = sharedMapping(fd, BURST_PAGE_BYTES);
  if (typeof mapping === 'number') throw new Error(`errno ${-mapping}`);
  return { fd, mapping };
}

/** Why there can be no rings of such a table here; null when there can. */
export function burstObstacle(create: () => EntryTable | null): string | null {
  const { fd, mapping } = burstPage();
  const table = create()!;
  const ring = BurstRing.open(table, Number(mapping.address));
  if (typeof ring !== 'number') ring.close();
  table.close();
  mapping.close();
  close(fd);
  return typeof ring === 'number' ? `no rings in memory of ours here (errno ${-ring})` : null;
}

/** Has somebody else kill a child at any instant soon. Resolves when both have ended, and the pipes of the child as well. */
export async function killSoon(child: ChildProcess): Promise<void> {
  const seconds = (Math.random() * KILL_MS_MAX) / 1_000;
  const killer = spawn('sh', ['-c', `sleep ${seconds}; kill -9 ${child.pid}`], { stdio: 'ignore' });
  await Promise.all([once(child, 'close'), once(killer, 'exit')]);
}
