/** refusal.ts: what a function refuses, told apart from a connection that failed. */
import { VfioUserError } from '@virtnet/server-vfio-user';
import { Errno } from '@virtnet/wire';

/** The function did not do what was asked of it; `errno` is positive. */
export class Refusal extends Error {
  override readonly name = 'Refusal';
  readonly errno: number;

  constructor(errno: number) {
    super(`refused: errno ${errno}`);
    this.errno = errno;
  }
}

/** What a request fails with when the connection is at fault. */
const CONNECTION_ERRNOS: ReadonlySet<number> = new Set([
  Errno.ENOTCONN,
  Errno.ETIMEDOUT,
  Errno.EPROTO,
  Errno.ENOBUFS,
]);

/** Whether nothing more can be had over this connection. */
export function isConnectionFailure(error: unknown): boolean {
  return error instanceof VfioUserError && CONNECTION_ERRNOS.has(error.errno);
}

/** Whether a request was not answered in time, and the connection stands: a successor of who was asked may answer yet. */
export function isSilence(error: unknown): boolean {
  return error instanceof VfioUserError && error.errno === Errno.ETIMEDOUT;
}

/** Waits for requests to a function. 0, or the negative errno of a refusal; anything else is thrown on. */
export async function refusalOf(work: Promise<unknown>): Promise<number> {
  try {
    await work;
    return 0;
  } catch (error) {
    if (error instanceof Refusal) return -error.errno;
    if (error instanceof VfioUserError && !isConnectionFailure(error)) return -error.errno;
    throw error;
  }
}
