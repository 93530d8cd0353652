/**
 * keeper.ts: vfe-vhostd's end of vfe-vhostd-ha: what is kept there, and what a predecessor left.
 *
 * Theory
 *   Of each function a record and its descriptors are kept, as entries `vf/<address>/<name>`. A change is one
 *   transaction that holds what differs, so the keeper never has half of one. Nobody waits for the keeper: without one,
 *   and while one is away, this process goes on, and a new keeper is told everything. Only what promises something, an
 *   answer, waits for that (`kept`, of ShelfClient).
 *   Both may have been killed at once: then a service manager starts both again, and has what the keeper had. So nothing
 *   is uploaded to the first keeper that is met before what it has was taken, however late that is; one that is started
 *   while a keeper is dead, and not ended, waits a little for the next.
 *   With both of them may go what the keeper had not read. So each change has a number, which is kept with it: whoever is
 *   promised a change writes its number down where it survives (function-page.ts), and a record with a lower one is not
 *   how things stand.
 *   A keeper whose vfe-vhostd is gone lets go of descriptors after KEPT_WITHOUT_US_MS, but for those of a machine that
 *   is still connected.
 *
 * Invariants
 *   I1  what the keeper was told of a function is as the record says, or the connection was lost and is made again.
 *   I2  at most COMING_WAIT_MS and twice FOUND_WAIT_MS pass before this process serves, whatever the keeper does.
 *
 * Limits  a record and its changes fit one message, or the function is not kept and that is logged.
 */
import { existsSync } from 'node:fs';
import { type Logger, ShelfClient, type ShelfOperation } from '@virtnet/host-ipc';
import { close, type Poller } from '@virtnet/host-linux';
import { Errno, LeaseMode } from '@virtnet/wire';

/** What one function has to be kept. */
export interface Kept {
  readonly record: Uint8Array;
  /** The number of the last change that the frontend was answered on; the next is higher. */
  readonly promised: number;
  /** They stay the function's. */
  readonly fds: ReadonlyMap<string, number>;
}

/** Everything that a process has to be kept, told again to a new keeper. */
export interface KeptSource {
  pfs(): Iterable<string>;
  /** Functions by address; `kept` resolves when nothing is under way, null when it is gone by then. */
  functions(): Iterable<{ readonly bdf: string; kept(): Promise<Kept | null> }>;
  /**
   * Goes on with what a keeper had that was met late; what is served already under the same address stays. False: nothing
   * is served any more.
   */
  restore(found: Found): Promise<boolean>;
}

/** What a predecessor left. Descriptors are the receiver's. */
export interface Found {
  readonly pfs: readonly string[];
  readonly functions: ReadonlyMap<string, FoundFunction>;
}
export interface FoundFunction {
  readonly record: Uint8Array;
  /** The number of the change that the record is from; null: whoever kept it gave none. */
  readonly number: number | null;
  readonly fds: Map<string, number>;
}

const RECORD = 'record';
/** Nobody is at its other end, and what it says is needed as long as there is a record. */
const PAGE = 'page';
const NUMBER = 'number';
const NUMBER_BYTES = 4;
/** The keeper may look again half a second later: a machine that is gone is let go of within three seconds. */
const KEPT_WITHOUT_US_MS = 2_000;
const FOUND_WAIT_MS = 3_000;
const COMING_WAIT_MS = 3_000;
/** Most descriptors that are put into one message; the kernel's limit is 253. */
const FDS_PER_MESSAGE = 200;

type Entries = Map<string, { readonly blob: Uint8Array; readonly fd: number }>;

export class Keeper {
  readonly #client: ShelfClient;
  readonly #path: string;
  readonly #log: Logger;
  /** What was said of each function: its record, and its descriptors by name. */
  readonly #said = new Map<string, Kept>();
  /** The number of the last change of each function. */
  readonly #numbers = new Map<string, number>();
  /** This process writes, or does as soon as there is a keeper again. */
  #writes = false;
  /** What is kept when it did not come in time: resolves when the first keeper was met. */
  #late: Promise<Found> | null = null;
  /** Resolves when everything that was found is served. */
  readonly #sourceKnown = Promise.withResolvers<KeptSource>();

  constructor(options: { readonly path: string; readonly poller: Poller; readonly log: Logger }) {
    this.#log = options.log;
    this.#path = options.path;
    this.#client = new ShelfClient(options);
    this.#client.on('lost', (reason) => this.#log.warn({ reason }, 'vfe-vhostd-ha is away: nothing is kept'));
    this.#client.on('keeper-missing', () =>
      this.#log.warn('no vfe-vhostd-ha came: nobody waits for one any more'),
    );
    this.#client.on('refused', (errno) => this.#log.error({ errno }, 'vfe-vhostd-ha refused a change'));
  }

  /** A keeper said what it has. */
  get met(): boolean {
    return this.#writes;
  }

  get connected(): boolean {
    return this.#client.connected;
  }

  /**
   * Becomes the one who writes, and resolves with what was kept; with null when no keeper says so in time. What one
   * that comes later has goes to `restore` of what is served. `restarted`: one that died is started again.
   */
  async take(restarted: boolean): Promise<Found | null> {
    this.#client.start();
    if (restarted && !this.#client.connected && existsSync(this.#path)) await this.#coming();
    const entries = this.#entries();
    const inTime = this.#client.connected ? await soon(entries) : null;
    if (inTime !== null) return this.#become(inTime, LeaseMode.ADOPT);
    if (this.#client.connected) this.#log.error('vfe-vhostd-ha does not answer');
    else this.#log.warn('vfe-vhostd-ha does not run: nothing is kept');
    this.#late = entries.then((found) => this.#become(found, LeaseMode.UPLOAD));
    return null;
  }

  /** From now on this is what there is; before, a new keeper is told nothing. */
  serve(source: KeptSource): void {
    this.#client.on('connected', () => this.#log.info('vfe-vhostd-ha is there'));
    if (this.#late === null) this.#sourceKnown.resolve(source);
    else void this.#restoreLate(this.#late, source);
  }

  async #restoreLate(late: Promise<Found>, source: KeptSource): Promise<void> {
    if (await source.restore(await late)) this.#sourceKnown.resolve(source);
  }

  /** Writes from now on, to a keeper that has `entries`. */
  async #become(entries: Entries, mode: LeaseMode): Promise<Found> {
    this.#writes = true;
    const errno = await soon(this.#client.lease(() => this.#upload(), mode));
    if (errno === null) this.#log.error('vfe-vhostd-ha does not answer');
    else if (errno < 0) this.#log.warn({ errno }, 'vfe-vhostd-ha is told everything anew');
    return this.#sorted(entries);
  }

  /** Resolves when the keeper is there, or does not come. */
  #coming(): Promise<void> {
    this.#log.info('vfe-vhostd-ha died: waiting for the next');
    return new Promise((resolve) => {
      const end = () => {
        clearTimeout(patience);
        this.#client.off('connected', end);
        resolve();
      };
      const patience = setTimeout(end, COMING_WAIT_MS);
      this.#client.on('connected', end);
    });
  }

  /**
   * Says what changed of a function. The number of the last change, this or a former one: what the keeper has is at least
   * this new when it has that number.
   */
  put(bdf: string, kept: Kept): number {
    const said = this.#said.get(bdf);
    const operations: ShelfOperation[] = [];
    for (const name of said?.fds.keys() ?? [])
      if (!kept.fds.has(name)) operations.push({ delete: entry(bdf, name) });
    for (const [name, fd] of kept.fds)
      if (said?.fds.get(name) !== fd)
        operations.push({
          put: entry(bdf, name),
          fd,
          ttlWithoutHolderMs: name === PAGE ? 0 : KEPT_WITHOUT_US_MS,
        });
    const former = Math.max(this.#numbers.get(bdf) ?? 0, kept.promised);
    const recordChanged = said === undefined || Buffer.compare(said.record, kept.record) !== 0;
    if (operations.length === 0 && !recordChanged) return former;
    const number = former + 1;
    const blob = Buffer.alloc(NUMBER_BYTES);
    blob.writeUInt32LE(number);
    operations.push({ put: entry(bdf, NUMBER), blob });
    if (recordChanged) operations.push({ put: entry(bdf, RECORD), blob: kept.record });
    this.#said.set(bdf, { ...kept, fds: new Map(kept.fds) });
    this.#numbers.set(bdf, number);
    this.#send(operations, bdf);
    return number;
  }

  drop(bdf: string): void {
    this.#numbers.delete(bdf);
    if (this.#said.delete(bdf)) this.#send([{ deletePrefix: entry(bdf, '') }], bdf);
  }

  putPf(bdf: string): void {
    this.#send([{ put: `pf/${bdf}` }], bdf);
  }

  dropPf(bdf: string): void {
    this.#send([{ delete: `pf/${bdf}` }], bdf);
  }

  /** Null when what was said survives this process; else resolves when it does, or nobody is to wait any longer. */
  kept(): Promise<void> | null {
    return this.#client.kept();
  }

  /** Whether a successor finds everything here; waits for a keeper that is being replaced. */
  async hasAll(): Promise<boolean> {
    await this.#client.kept();
    return this.#client.told;
  }

  close(): void {
    this.#client.close();
  }

  /** The record goes last: entries without one are of no use. Before this process writes, nothing: all is said then. */
  #send(operations: readonly ShelfOperation[], bdf: string): void {
    if (!this.#writes) return;
    for (let at = 0; at < operations.length; at += FDS_PER_MESSAGE) {
      const errno = this.#client.transaction(operations.slice(at, at + FDS_PER_MESSAGE));
      if (errno === 0) continue;
      // Without a keeper there is nobody to tell; a new one is told everything.
      const lost = errno === -Errno.ENOTCONN || errno === -Errno.EPIPE || errno === -Errno.ETIMEDOUT;
      if (!lost && this.#client.connected) this.#log.error({ bdf, errno: -errno }, 'cannot be kept');
      return;
    }
  }

  async #upload(): Promise<void> {
    const source = await this.#sourceKnown.promise;
    this.#said.clear();
    for (const bdf of source.pfs()) this.putPf(bdf);
    for (const { bdf, kept } of [...source.functions()]) {
      const now = await kept();
      if (now !== null) this.put(bdf, now);
    }
  }

  /** Everything the first keeper has that says so. */
  #entries(): Promise<Entries> {
    const entries: Entries = new Map();
    const { promise, resolve } = Promise.withResolvers<Entries>();
    const forget = (name: string) => {
      const known = entries.get(name);
      if (known !== undefined && known.fd >= 0) close(known.fd);
      entries.delete(name);
    };
    this.#client.subscribe({
      onEntry: (name, blob, fd) => {
        forget(name);
        entries.set(name, { blob, fd });
      },
      onDelete: forget,
      onSynced: () => resolve(entries),
      onLeaseLost: () => {},
    });
    return promise;
  }

  #sorted(entries: Entries): Found {
    const pfs: string[] = [];
    const fds = new Map<string, Map<string, number>>();
    const records = new Map<string, Uint8Array>();
    const numbers = new Map<string, number>();
    for (const [name, { blob, fd }] of entries) {
      const [kind, bdf = '', ...rest] = name.split('/');
      const part = rest.join('/');
      if (kind === 'pf' && fd < 0) pfs.push(bdf);
      else if (kind === 'vf' && part === RECORD && fd < 0) records.set(bdf, blob);
      else if (kind === 'vf' && part === NUMBER && fd < 0 && blob.byteLength === NUMBER_BYTES)
        numbers.set(bdf, Buffer.from(blob).readUInt32LE());
      else if (kind === 'vf' && fd >= 0) fds.set(bdf, (fds.get(bdf) ?? new Map()).set(part, fd));
      else if (fd >= 0) close(fd);
    }
    const functions = new Map<string, FoundFunction>();
    for (const [bdf, record] of records) {
      const number = numbers.get(bdf) ?? null;
      functions.set(bdf, { record, number, fds: fds.get(bdf) ?? new Map() });
    }
    for (const bdf of new Set([...records.keys(), ...fds.keys()])) {
      const held = fds.get(bdf) ?? new Map();
      const isWhole = records.has(bdf);
      if (!isWhole) for (const fd of held.values()) close(fd);
      if (this.#said.has(bdf)) continue; // added meanwhile: what the keeper has of it goes when everything was told anew
      this.#said.set(bdf, { record: NO_RECORD, promised: 0, fds: new Map(held) });
      this.#numbers.set(bdf, numbers.get(bdf) ?? 0);
      if (!isWhole) this.drop(bdf);
    }
    return { pfs, functions };
  }
}

/** What comes of it in time, else null. */
async function soon<T>(coming: Promise<T>): Promise<T | null> {
  const { promise: over, resolve } = Promise.withResolvers<null>();
  const patience = setTimeout(() => resolve(null), FOUND_WAIT_MS);
  const first = await Promise.race([coming, over]);
  clearTimeout(patience);
  return first;
}

const NO_RECORD = new Uint8Array(0);
const entry = (bdf: string, name: string) => `vf/${bdf}/${name}`;
