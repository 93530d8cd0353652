/** stale-sockets.ts: what a predecessor that died over an unplug or a hotplug left of devices that do not exist. */
import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';

/** Removes the sockets in `folder` that are none of `served`. */
export function removeStaleSockets(folder: string, served: ReadonlySet<string>): void {
  try {
    for (const name of readdirSync(folder)) {
      const path = join(folder, name);
      if (name.endsWith('.sock') && !served.has(path)) rmSync(path, { force: true });
    }
  } catch {
    // there is no directory as long as there was no device
  }
}
