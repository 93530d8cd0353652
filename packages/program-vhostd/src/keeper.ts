/**
 * keeper.ts: vfe-vhostd's end of vfe-vhostd-ha: what is kept there, and what a predecessor left.
 *
 * Theory
 *   Of each function a record and its descriptors are kept, as entries `vf/<address>/<name>`. A change is one
 *   transaction that holds what differs, so the keeper never has half of one. Nobody waits for the keeper: without one,
 *   and while one is away, this process goes on, and a new keeper is told everything. Only what promises something, an
 *   answer, waits for that (`kept`, of ShelfClient).
 *   A keeper whose vfe-vhostd is gone lets go of descriptors after KEPT_WITHOUT_US_MS, but for those of a machine that
 *   is still connected.
 *
 * Invariants
 *   I1  what the keeper was told of a function is as the record says, or the connection was lost and is made again.
 *   I2  at most FOUND_WAIT_MS pass before this process serves, whatever the keeper does.
 *
 * Limits  a record and its changes fit one message, or the function is not kept and that is logged.
 */
import { type Logger, ShelfClient, type ShelfOperation } from '@virtnet/host-ipc';
import { close, type Poller } from '@virtnet/host-linux';
import { Errno } from '@virtnet/wire';

/** What one function has to be kept. */
export interface Kept {
  readonly record: Uint8Array;
  /** They stay the function's. */
  readonly fds: ReadonlyMap<string, number>;
}

/** Everything that a process has to be kept, told again to a new keeper. */
export interface KeptSource {
  pfs(): Iterable<string>;
  /** Functions by address; `kept` resolves when nothing is under way, null when it is gone by then. */
  functions(): Iterable<{ readonly bdf: string; kept(): Promise<Kept | null> }>;
}

/** What a predecessor left. Descriptors are the receiver's. */
export interface Found {
  readonly pfs: readonly string[];
  readonly functions: ReadonlyMap<string, FoundFunction>;
}
export interface FoundFunction {
  readonly record: Uint8Array;
  readonly fds: Map<string, number>;
}

const RECORD = 'record';
const KEPT_WITHOUT_US_MS = 3_000;
const FOUND_WAIT_MS = 3_000;
/** Most descriptors that are put into one message; the kernel's limit is 253. */
const FDS_PER_MESSAGE = 200;
const NOTHING: Found = { pfs: [], functions: new Map() };

export class Keeper {
  readonly #client: ShelfClient;
  readonly #log: Logger;
  /** What was said of each function: its record, and its descriptors by name. */
  readonly #said = new Map<string, Kept>();
  #source: KeptSource | null = null;
  readonly #sourceKnown = Promise.withResolvers<KeptSource>();

  constructor(options: { readonly path: string; readonly poller: Poller; readonly log: Logger }) {
    this.#log = options.log;
    this.#client = new ShelfClient(options);
    this.#client.on('lost', (reason) => this.#log.warn({ reason }, 'vfe-vhostd-ha is away: nothing is kept'));
    this.#client.on('keeper-missing', () =>
      this.#log.warn('no vfe-vhostd-ha came: nobody waits for one any more'),
    );
    this.#client.on('refused', (errno) => this.#log.error({ errno }, 'vfe-vhostd-ha refused a change'));
  }

  get connected(): boolean {
    return this.#client.connected;
  }

  /** Becomes the one who writes, and resolves with what was kept; with nothing when there is no keeper. */
  async take(): Promise<Found> {
    this.#client.start();
    const upload = () => this.#upload();
    if (!this.#client.connected) {
      this.#log.warn('vfe-vhostd-ha does not run: nothing is kept');
      void this.#client.lease(upload);
      return NOTHING;
    }
    const entries = await this.#entries();
    const asked = this.#client.lease(upload);
    if (entries === null) {
      this.#log.error('vfe-vhostd-ha does not answer');
      return NOTHING;
    }
    const errno = await asked;
    if (errno < 0) this.#log.warn({ errno }, 'vfe-vhostd-ha is told everything anew');
    return this.#sorted(entries);
  }

  /** From now on this is what there is; before, a new keeper is told nothing. */
  serve(source: KeptSource): void {
    this.#source = source;
    this.#sourceKnown.resolve(source);
    this.#client.on('connected', () => this.#log.info('vfe-vhostd-ha is there'));
  }

  /** Says what changed of a function. */
  put(bdf: string, kept: Kept): void {
    const said = this.#said.get(bdf);
    const operations: ShelfOperation[] = [];
    for (const name of said?.fds.keys() ?? [])
      if (!kept.fds.has(name)) operations.push({ delete: entry(bdf, name) });
    for (const [name, fd] of kept.fds)
      if (said?.fds.get(name) !== fd)
        operations.push({ put: entry(bdf, name), fd, ttlWithoutHolderMs: KEPT_WITHOUT_US_MS });
    const recordChanged = said === undefined || Buffer.compare(said.record, kept.record) !== 0;
    if (recordChanged) operations.push({ put: entry(bdf, RECORD), blob: kept.record });
    if (operations.length === 0) return;
    this.#said.set(bdf, { record: kept.record, fds: new Map(kept.fds) });
    this.#send(operations, bdf);
  }

  drop(bdf: string): void {
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

  /** The record goes last: entries without one are of no use. */
  #send(operations: readonly ShelfOperation[], bdf: string): void {
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
    const source = this.#source ?? (await this.#sourceKnown.promise);
    this.#said.clear();
    for (const bdf of source.pfs()) this.putPf(bdf);
    for (const { bdf, kept } of [...source.functions()]) {
      const now = await kept();
      if (now !== null) this.put(bdf, now);
    }
  }

  /** Everything the keeper has; null when it does not say so in time. */
  #entries(): Promise<Map<string, { blob: Uint8Array; fd: number }> | null> {
    const entries = new Map<string, { blob: Uint8Array; fd: number }>();
    const { promise, resolve } = Promise.withResolvers<typeof entries | null>();
    let open = true;
    const end = (found: typeof entries | null) => {
      if (!open) return;
      open = false;
      clearTimeout(timer);
      if (found === null) for (const { fd } of entries.values()) if (fd >= 0) close(fd);
      resolve(found);
    };
    const timer = setTimeout(() => end(null), FOUND_WAIT_MS);
    const forget = (name: string) => {
      const known = entries.get(name);
      if (known !== undefined && known.fd >= 0) close(known.fd);
      entries.delete(name);
    };
    this.#client.subscribe({
      onEntry: (name, blob, fd) => {
        if (!open) {
          if (fd >= 0) close(fd);
          return;
        }
        forget(name);
        entries.set(name, { blob, fd });
      },
      onDelete: (name) => {
        if (open) forget(name);
      },
      onSynced: () => end(entries),
      onLeaseLost: () => {},
    });
    return promise;
  }

  #sorted(entries: ReadonlyMap<string, { blob: Uint8Array; fd: number }>): Found {
    const pfs: string[] = [];
    const fds = new Map<string, Map<string, number>>();
    const records = new Map<string, Uint8Array>();
    for (const [name, { blob, fd }] of entries) {
      const [kind, bdf = '', ...rest] = name.split('/');
      const part = rest.join('/');
      if (kind === 'pf' && fd < 0) pfs.push(bdf);
      else if (kind === 'vf' && part === RECORD && fd < 0) records.set(bdf, blob);
      else if (kind === 'vf' && fd >= 0) fds.set(bdf, (fds.get(bdf) ?? new Map()).set(part, fd));
      else if (fd >= 0) close(fd);
    }
    const functions = new Map<string, FoundFunction>();
    for (const [bdf, record] of records) functions.set(bdf, { record, fds: fds.get(bdf) ?? new Map() });
    for (const [bdf, held] of fds) {
      this.#said.set(bdf, { record: NO_RECORD, fds: new Map(held) });
      if (records.has(bdf)) continue;
      for (const fd of held.values()) close(fd);
      this.drop(bdf);
    }
    for (const bdf of records.keys())
      if (!this.#said.has(bdf)) this.#said.set(bdf, { record: NO_RECORD, fds: new Map() });
    return { pfs, functions };
  }
}

const NO_RECORD = new Uint8Array(0);
const entry = (bdf: string, name: string) => `vf/${bdf}/${name}`;
