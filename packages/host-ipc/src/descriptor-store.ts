/**
 * descriptor-store.ts: what the service manager kept of a service of which everything was killed.
 *
 * Theory
 *   While the service lives the keeper mirrors its shelf there (shelf-store.ts); the main process of the service has the
 *   two files of the log, which it makes once and has the manager keep as well. When everything was killed, the next
 *   main process is handed all descriptors at its start. It reads the log, and gives each entry its descriptor back.
 *   The controller puts them on the shelf of a new keeper, as a writer like any other, and lets go. A keeper that dies
 *   before it took everything is followed by another, which is told all of it. An emulator that starts meanwhile mirrors
 *   the shelf and is promoted once it is whole; until then the manager's copy is the one that can be had again.
 *   vfe-vhostd-ha is the main process of its service: its own shelf begins with them.
 *   A controller that becomes another by exec hands it the two files itself: the manager hands nothing over then.
 *
 * Invariants
 *   I1  a descriptor handed to us is on the shelf, or closed, when `restore` resolves, or the receiver's when `take`
 *       returns; nothing of the log's is closed.
 *   I2  an entry whose descriptor is missing is left out and told, and with it all of the device that it is of: half a
 *       device would look well and stand still. The others are restored. What the manager has of such a device it is told
 *       to let go before anything is restored: a TAP that it kept would stand in the way of the same device made anew.
 *
 * Limits  RESTORE_MS for a keeper to be there.
 */
import {
  closeAll,
  memfdCreate,
  type PassedDescriptor,
  type Poller,
  type ServiceManager,
  setCloseOnExec,
} from '@virtnet/host-linux';
import { LeaseMode } from '@virtnet/wire';
import type { Logger } from './logging.js';
import { ShelfClient, type ShelfOperation } from './shelf-client.js';
import { type LoggedEntry, readShelfLog } from './shelf-log.js';
import { storedName } from './shelf-store.js';

const LOG_VARIABLE = 'VIRTNET_LOG_FDS';
type Environment = Record<string, string | undefined>;

/** The files of the log that a former program of this process left open, now close-on-exec; none otherwise. */
function handedOver(environment: Environment): PassedDescriptor[] {
  const match = /^(\d{1,7}):(\d{1,7}),(\d{1,7})$/.exec(environment[LOG_VARIABLE] ?? '');
  delete environment[LOG_VARIABLE];
  if (match === null || Number(match[1]) !== process.pid) return [];
  return LOG_NAMES.map((name, index) => {
    const fd = Number(match[index + 2]);
    setCloseOnExec(fd);
    return { name, fd };
  });
}

const LOG_NAMES = ['virtnet-log-0', 'virtnet-log-1'] as const;
const MESSAGE_OPERATIONS_MAX = 200;
/** Blobs of one message; records are a few kilobytes. */
const MESSAGE_BLOB_BYTES_MAX = 96 * 1024;
/** How long a new keeper may take to come up: one that hangs is replaced after 15 s (limits.ts of the controller). */
const RESTORE_MS = 40_000;

/** An entry of the shelf that was kept, with its descriptor if it has one. */
export interface KeptEntry {
  readonly name: string;
  readonly blob: Uint8Array;
  readonly fd: number | null;
  readonly ttlWithoutHolderMs: number;
}

export class DescriptorStore {
  /** The two files of the log. */
  readonly logFds: readonly [number, number];
  readonly #entries: readonly LoggedEntry[];
  readonly #passed: Map<string, number>;
  readonly #log: Logger;
  readonly #manager: Pick<ServiceManager, 'remove'>;
  /** Nothing but the log is here, although the manager may keep more. */
  readonly partial: boolean;

  private constructor(
    logFds: readonly [number, number],
    passed: Map<string, number>,
    partial: boolean,
    log: Logger,
    manager: Pick<ServiceManager, 'remove'>,
  ) {
    this.partial = partial;
    this.#manager = manager;
    this.logFds = logFds;
    this.#passed = passed;
    this.#entries = readShelfLog(logFds) ?? [];
    this.#log = log;
  }

  /**
   * What the manager keeps for us; null when it cannot be used or is not there, and then
   * `passed`, what it handed to this process, is closed.
   */
  static open(
    manager: Pick<ServiceManager, 'store' | 'remove'> | null,
    passed: readonly PassedDescriptor[],
    log: Logger,
    environment: Environment = process.env,
  ): DescriptorStore | null {
    if (manager === null) {
      closeAll(passed.map(({ fd }) => fd));
      return null;
    }
    const byName = new Map<string, number>();
    const handed = handedOver(environment);
    for (const { name, fd } of [...passed, ...handed]) {
      const former = byName.get(name);
      if (former !== undefined) closeAll([former]); // a replaced one whose removal did not arrive
      byName.set(name, fd);
    }
    const fds: number[] = [];
    for (const name of LOG_NAMES) {
      const kept = byName.get(name);
      byName.delete(name);
      const fd = kept ?? memfdCreate(name, 0);
      if (fd < 0) {
        log.error({ errno: -fd }, 'no memory for the log: devices do not survive the end of all processes');
        closeAll([...fds, ...byName.values()]);
        return null;
      }
      if (kept === undefined) manager.store(name, fd);
      fds.push(fd);
    }
    const store = new DescriptorStore([fds[0]!, fds[1]!], byName, handed.length > 0, log, manager);
    store.#forgetUnknown(manager);
    return store;
  }

  /** What was stored and is not written down belongs to nobody; whoever is at its other end must see its end. */
  #forgetUnknown(manager: Pick<ServiceManager, 'remove'>): void {
    const known = new Set(this.#entries.flatMap(storedNames));
    for (const [name, fd] of [...this.#passed]) {
      if (known.has(name)) continue;
      closeAll([fd]);
      this.#passed.delete(name);
      manager.remove(name);
    }
  }

  /** Before this process becomes another program: that one is handed the log. */
  handOver(environment: Environment): void {
    for (const fd of this.logFds) setCloseOnExec(fd, false);
    environment[LOG_VARIABLE] = `${process.pid}:${this.logFds.join(',')}`;
  }

  /** It does not. */
  keep(environment: Environment): void {
    delete environment[LOG_VARIABLE];
    for (const fd of this.logFds) setCloseOnExec(fd);
  }

  /** Whether there is anything to restore. */
  get holds(): boolean {
    return this.#entries.length > 0;
  }

  /** Everything lives already: what was handed over is only a duplicate of what others hold. */
  discard(): void {
    closeAll([...this.#passed.values()]);
    this.#passed.clear();
  }

  /** Everything that was kept, whose descriptors are the receiver's now. */
  take(): KeptEntry[] {
    const entries: KeptEntry[] = [];
    const missing: string[] = [];
    const gone = new Set<string>();
    const storedOf = new Map<string, string>();
    for (const entry of this.#entries) {
      const { name, blob, ttlWithoutHolderMs } = entry;
      const stored = storedNames(entry).find((one) => this.#passed.has(one)) ?? '';
      const fd = entry.handle === null ? null : this.#passed.get(stored);
      if (this.#passed.delete(stored)) storedOf.set(name, stored); // one descriptor is never two entries'
      if (fd !== undefined) entries.push({ name, blob, fd, ttlWithoutHolderMs });
      else {
        missing.push(name);
        gone.add(deviceOf(name) ?? '');
      }
    }
    if (missing.length > 0)
      this.#log.error(
        { missing: missing.slice(0, 20), count: missing.length, devices: [...gone].filter(Boolean) },
        'descriptors did not come back',
      );
    this.discard();
    const whole = ({ name }: KeptEntry) => !gone.has(deviceOf(name) ?? name);
    const left = entries.filter((entry) => !whole(entry) && entry.fd !== null);
    closeAll(left.map(({ fd }) => fd!));
    for (const { name } of left) this.#manager.remove(storedOf.get(name)!);
    return entries.filter(whole);
  }

  /** Puts everything on the shelf at `path` and lets go. Resolves to the number of entries there; null: no keeper took them. */
  async restore(path: string, poller: Poller): Promise<number | null> {
    const kept = this.take();
    const whole = kept.map(({ name, blob, fd, ttlWithoutHolderMs }) =>
      fd === null ? { put: name, blob, ttlWithoutHolderMs } : { put: name, blob, fd, ttlWithoutHolderMs },
    );
    const client = new ShelfClient({ path, poller });
    const restored = await new Promise<number | null>((resolve) => {
      const patience = setTimeout(() => resolve(null), RESTORE_MS);
      const upload = () => {
        for (const operations of messages(whole)) {
          const result = client.transaction(operations);
          if (result < 0) this.#log.error({ errno: -result }, 'the keeper did not take what was kept');
        }
      };
      const lease = () =>
        void client.lease(upload, LeaseMode.RESTORE).then((result) => {
          if (result < 0) return; // away: asked again on the next connection
          clearTimeout(patience);
          resolve(whole.length);
        });
      client.on('connected', () => setImmediate(lease)); // not inside: it asks again by itself what was asked before
      client.start();
    });
    // The completion was sent behind the entries; the keeper reads it before it sees our end.
    client.close();
    closeAll(kept.flatMap(({ fd }) => (fd === null ? [] : [fd])));
    return restored;
  }
}

/** The device that an entry is of; null where it is of none. */
function deviceOf(name: string): string | null {
  return /^dev\/[^/]+\//.exec(name)?.[0] ?? null;
}

/** Under which names the descriptor of an entry may be: that which a keeper gives, and that of a build before storedName. */
function storedNames({ name, handle }: LoggedEntry): readonly string[] {
  return handle === null ? [] : [storedName(name, handle), name];
}

function* messages(operations: readonly ShelfOperation[]): Generator<ShelfOperation[]> {
  let message: ShelfOperation[] = [];
  let bytes = 0;
  for (const operation of operations) {
    const size = 'put' in operation ? (operation.blob?.byteLength ?? 0) : 0;
    const full = message.length >= MESSAGE_OPERATIONS_MAX || bytes + size > MESSAGE_BLOB_BYTES_MAX;
    if (message.length > 0 && full) {
      yield message;
      message = [];
      bytes = 0;
    }
    message.push(operation);
    bytes += size;
  }
  if (message.length > 0) yield message;
}
