/** Where things are in the checkout. */
import { join, resolve } from 'node:path';
export const repository = resolve(import.meta.dirname, '../..');
/** Everything that can be made again: guest kernel and initramfs, the setup's lock. Not in git. */
export const cache = join(repository, '.cache');
export const guestCache = join(cache, 'guest');
export const pinnedNode = join(repository, 'scripts/node');
/** One of the products' programs, as `npm ci` links it. */
export function program(name) {
  return join(repository, 'node_modules/.bin', name);
}
//# sourceMappingURL=paths.js.map
