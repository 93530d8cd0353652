/**
 * asked-first.ts: whose socket is opened first when a takeover opens many.
 *
 * Theory
 *   Rings of all functions run before the first socket is opened; sockets are opened one after the other. A guest whose request
 *   lies in its socket stands still in that request, all others notice nothing. So those who asked come first.
 */
import { readableBytes } from '@virtnet/host-linux';

/** Functions with a request in their socket, then the others; otherwise in the order given. */
export function askedFirst<T extends { readonly mirror: { readonly connectionFd: number } }>(
  functions: readonly T[],
): readonly T[] {
  const asked = Map.groupBy(functions, ({ mirror }) => readableBytes(mirror.connectionFd) > 0);
  return [...(asked.get(true) ?? []), ...(asked.get(false) ?? [])];
}
