/** holdings.ts: what a leak shows up in: descriptors and mappings of this process, or of another. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';

/** Descriptors open now, those of the listing itself excluded. */
export function openFds(): number {
  return readdirSync('/proc/self/fd').length - 1;
}

export function isOpen(fd: number): boolean {
  try {
    readlinkSync(`/proc/self/fd/${fd}`);
    return true;
  } catch {
    return false;
  }
}

/** Mappings of files whose name contains `name`: only ours, the engine's own come and go. */
export function mappingsOf(name: string): number {
  return readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .filter((line) => line.includes(name)).length;
}
