/** Names under which the emulator shelves descriptors and blobs; readable, so `ha.list` explains itself. */

/** The keeper may look again half a second later: it is gone three seconds after its machine. */
const GUEST_MEMORY_KEPT_MS = 2000;
const UNPLUGGED = 'unplugged/';
const POOLED = /^pool\/([\w.-]{1,15})\/(0|[1-9]\d{0,2})$/;
const UPLINK = /^uplink\/([01])\/page$/;
const DEVICE = /^dev\/([^/]+)\/(.+)$/;

export const shelfNames = {
  device: (vuid: string) => `dev/${vuid}/`,
  record: (vuid: string) => `dev/${vuid}/record`,
  page: (vuid: string) => `dev/${vuid}/page`,
  listener: (vuid: string) => `dev/${vuid}/listener`,
  connection: (vuid: string) => `dev/${vuid}/connection`,
  tap: (vuid: string, pair: number) => `dev/${vuid}/tap/${pair}`,
  dma: (vuid: string, iova: bigint) => `dev/${vuid}/dma/${iova.toString(16)}`,
  allDma: (vuid: string) => `dev/${vuid}/dma/`,
  irq: (vuid: string, index: number, vector: number) => `dev/${vuid}/irq/${index}/${vector}`,
  allIrqs: (vuid: string) => `dev/${vuid}/irq/`,
  kick: (vuid: string, queue: number) => `dev/${vuid}/kick/${queue}`,
  allKicks: (vuid: string) => `dev/${vuid}/kick/`,
  unplugged: (requestId: string) => `${UNPLUGGED}${requestId}`,
  pool: 'pool/',
  pooled: (representor: string) => `pool/${representor}/`,
  pooledTap: (representor: string, pair: number) => `pool/${representor}/${pair}`,
  uplinkPage: (port: number) => `uplink/${port}/page`,
} as const;

/**
 * How long the keeper may hold an entry while it has no client at all, in milliseconds; 0: for ever. Guest memory is let
 * go: a machine that was killed together with all of us must be able to start again.
 */
export function keepWithoutClientsMs(name: string): number {
  return parseShelfName(name)?.part.startsWith('dma/') === true ? GUEST_MEMORY_KEPT_MS : 0;
}

/** The request that a name stands for which was carried out; null for any other name. */
export function parseUnplugged(name: string): string | null {
  return name.startsWith(UNPLUGGED) && name.length > UNPLUGGED.length ? name.slice(UNPLUGGED.length) : null;
}

/** Splits a shelf name into the device it belongs to and the part of it; null for a name that is not a device's. */
export function parseShelfName(name: string): { vuid: string; part: string } | null {
  const match = DEVICE.exec(name);
  return match === null ? null : { vuid: match[1]!, part: match[2]! };
}

/** Splits a shelf name into the representor and queue of the pool; null for a name that is not the pool's. */
export function parsePoolName(name: string): { representor: string; pair: number } | null {
  const match = POOLED.exec(name);
  return match === null ? null : { representor: match[1]!, pair: Number(match[2]) };
}

/** The port whose uplink a name's page is of; null for any other name. */
export function parseUplinkPage(name: string): number | null {
  const match = UPLINK.exec(name);
  return match === null ? null : Number(match[1]);
}
