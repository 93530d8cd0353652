/**
 * handover.ts: a device moves from a process that serves it to another that is ready for it, while both live.
 *
 * Theory
 *   The lender answers the client's request under way, stops the rings between two frames, and records the final state;
 *   then it lends the device's names. All three are messages of one channel, so when the borrower hears of the loan it
 *   has the final record, and everything else it holds already. It continues each ring at the exact position, signals
 *   every vector once and looks at every ring, since a kick may have been lost between the two, and takes the sockets
 *   over. Nothing is lost or repeated: no ring is ever half worked.
 *   Ownership is the loan. The lender closes what it held as soon as the loan is sent; whatever happens then is the
 *   business of the standby, which knows everybody's devices (owners.ts).
 *   The loan and the announcement of it come by different ways; whichever is first waits for the other.
 *
 * Parties
 *   lender     the active emulator, and the only writer of names that are not lent.
 *   borrower   works and writes what was lent to it; takes the lease when it has everything.
 *
 * Invariants
 *   I1  no ring is worked by two: the loan is sent after the lender's workers let go of it.
 *   I2  when the state keeper is away at that instant nothing may go on in doubt: the lender ends, and the standby
 *       takes over.
 *   I3  after the state keeper was replaced a lender lends again what it had lent, and a borrower puts it anew: also a
 *       device that it is only just taking over, whose first loan may have ended with the former keeper.
 *
 * Limits  BORROW_MS for a loan that was announced.
 */
import { RpcError, type ShelfClient } from '@virtnet/host-ipc';
import { monotonicMs } from '@virtnet/host-linux';
import { Errno } from '@virtnet/wire';
import { encodeNote, pausedAt } from './handover-note.js';
import type { DeviceMirror, Mirror } from './mirror.js';
import type { Precedence } from './precedence.js';
import type { Device } from './served-device.js';
import { parseShelfName, shelfNames } from './shelf-names.js';

/** Longer than a client may keep the request under way waiting. */
const BORROW_MS = 6_000;

/** A device on its way here. */
interface Coming {
  /** The pause of its rings in milliseconds. */
  readonly promise: Promise<number>;
  readonly resolve: (pauseMs: number) => void;
  readonly reject: (error: Error) => void;
}

/** Continues the rings of a device; then the way to open its sockets, or null when the device cannot be served. */
export type Serve = (mirror: DeviceMirror) => Promise<(() => Promise<void>) | null>;

/** The lender's way to the state keeper. */
export type LendingShelf = Pick<ShelfClient, 'connected' | 'keeperPid' | 'lend'>;

export class Handover {
  readonly #shelf: LendingShelf;
  readonly #serve: Serve;
  readonly #precedence: Precedence;
  readonly #devices: ReadonlyMap<string, Device> & { delete(vuid: string): boolean };
  /** Announced or lent; at most one a device, until it was asked for and is here. */
  readonly #coming = new Map<string, Coming>();
  /** Here, but for their sockets; true: to be put anew with these (I3). */
  readonly #opening = new Map<string, boolean>();
  /** What was lent, and to whom. */
  readonly #lent = new Map<string, number>();

  constructor(shelf: LendingShelf, serve: Serve, devices: Map<string, Device>, precedence: Precedence) {
    this.#shelf = shelf;
    this.#serve = serve;
    this.#devices = devices;
    this.#precedence = precedence;
  }

  /** Lender: moves `device` to process `pid`. */
  async lend({ host, endpoint }: Device, pid: number): Promise<void> {
    const { vuid } = host;
    if (!this.#shelf.connected) throw new RpcError(-Errno.EAGAIN, 'the state keeper is away');
    await endpoint.detach();
    const { keeperPid } = this.#shelf;
    this.#precedence.hurry(keeperPid);
    const pausedMs = monotonicMs();
    await host.pause();
    const sent = this.#shelf.lend(shelfNames.device(vuid), pid, encodeNote(pausedMs));
    if (sent < 0) throw new Error(`${vuid} was given up and could not be lent: errno ${-sent}`); // I2
    this.#lent.set(vuid, pid);
    this.#devices.delete(vuid);
    this.#precedence.worked(keeperPid);
    host.relinquish();
    endpoint.relinquish();
  }

  /** Lender: after an upload to a new keeper (I3). */
  lendAgain(): void {
    const note = encodeNote();
    for (const [vuid, pid] of this.#lent) this.#shelf.lend(shelfNames.device(vuid), pid, note);
  }

  /** All is where it belongs: nothing is under way any more. */
  forget(): void {
    this.#lent.clear();
    this.#coming.clear();
  }

  /** Borrower: expects `vuid`; resolves to the pause of its rings in milliseconds. */
  async borrow(vuid: string): Promise<number> {
    const coming = this.#expect(vuid);
    const expire = () => this.#fail(vuid, -Errno.ETIMEDOUT, 'it was not lent in time');
    const timer = setTimeout(expire, BORROW_MS);
    try {
      return await coming.promise;
    } finally {
      clearTimeout(timer);
      if (this.#coming.get(vuid) === coming) this.#coming.delete(vuid);
    }
  }

  /** Borrower: the keeper says that names are lent to this process. */
  lent(prefix: string, note: Uint8Array, mirror: Mirror): void {
    const vuid = parseShelfName(`${prefix}record`)?.vuid;
    if (vuid === undefined) return;
    if (this.#opening.has(vuid)) {
      this.#opening.set(vuid, true);
      return;
    }
    if (this.#devices.has(vuid)) return this.#putAnew(vuid);
    const held = mirror.takeOne(vuid);
    if (held === null) this.#fail(vuid, -Errno.ENOENT, 'nothing is known of it');
    else void this.#take(vuid, held, note);
  }

  async #take(vuid: string, held: DeviceMirror, note: Uint8Array): Promise<void> {
    const paused = pausedAt(note);
    this.#opening.set(vuid, paused === null); // lent again
    const open = await this.#serve(held);
    if (open === null) {
      this.#opening.delete(vuid);
      return this.#fail(vuid, -Errno.EIO, 'it cannot be served');
    }
    const now = monotonicMs();
    const pauseMs = now - (paused ?? now);
    await open();
    const anew = this.#opening.get(vuid) === true;
    this.#opening.delete(vuid);
    if (anew) this.#putAnew(vuid);
    this.#expect(vuid).resolve(Math.max(0, pauseMs));
  }

  /** Puts everything of a device that is here on a keeper that may know nothing of it. */
  #putAnew(vuid: string): void {
    const here = this.#devices.get(vuid);
    here?.endpoint.upload();
    here?.host.upload();
  }

  #expect(vuid: string): Coming {
    const known = this.#coming.get(vuid);
    if (known !== undefined) return known;
    const coming = Promise.withResolvers<number>();
    coming.promise.catch(() => {}); // told to who asks
    this.#coming.set(vuid, coming);
    return coming;
  }

  #fail(vuid: string, errno: number, why: string): void {
    this.#expect(vuid).reject(new RpcError(errno, `${vuid}: ${why}`));
  }
}
