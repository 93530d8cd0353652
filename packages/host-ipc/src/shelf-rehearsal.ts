/**
 * shelf-rehearsal.ts: a state keeper practises what somebody will wait for one day.
 *
 * Theory
 *   A keeper mostly passes records on. What it does when a function is lent, or when a writer dies and another one takes the
 *   lease, it does once in its life, while guests wait; code that never ran is compiled then, and takes ten times as long.
 *   So a keeper has a second shelf beside its own for a moment, with a writer, its successor and somebody who only listens,
 *   through the code of the real thing and real sockets. It does so when it serves, in small steps: nobody waits for it.
 *
 * Invariants
 *   I1  every socket, file and descriptor made here is gone at the end, and nothing of the real shelf is touched.
 *   I2  a failed rehearsal costs warmth only.
 *
 * Limits  ROUNDS rounds with BETWEEN_MS between them; STEP_MS for what a step waits for.
 */
import { setTimeout as wait } from 'node:timers/promises';
import { close, eventfd, type Poller } from '@virtnet/host-linux';
import { ShelfClient } from './shelf-client.js';
import { ShelfServer } from './shelf-server.js';

const ROUNDS = 24;
/** Others have the processor between two rounds. */
const BETWEEN_MS = 4;
const STEP_MS = 1_000;
const PREFIX = 'dev/rehearsal/';
/** As long as a usual record. */
const RECORD_BYTES = 3 * 1024;
const ENTRIES = 8;

/** Practises at `path`, where nobody listens, until `ended`; resolves to the rounds done, or to what went wrong. */
export async function rehearseShelf(
  path: string,
  poller: Poller,
  ended: AbortSignal,
): Promise<number | Error> {
  const server = ShelfServer.open({ path, poller });
  if (typeof server === 'number') return new Error(`cannot listen at ${path}: errno ${-server}`);
  try {
    let rounds = 0;
    for (; rounds < ROUNDS && !ended.aborted; rounds++) {
      await practise(path, poller);
      await wait(BETWEEN_MS);
    }
    return rounds;
  } catch (error) {
    return error as Error;
  } finally {
    server.close();
  }
}

/** A writer says something, lends it, and dies; its successor goes on. */
async function practise(path: string, poller: Poller): Promise<void> {
  const clients = Array.from({ length: 3 }, () => new ShelfClient({ path, poller }));
  const [writer, successor, other] = clients as [ShelfClient, ShelfClient, ShelfClient];
  const fd = eventfd();
  const record = new Uint8Array(RECORD_BYTES);
  const say = (client: ShelfClient): number => {
    record[0]! += 1;
    return client.transaction([{ put: `${PREFIX}record`, blob: record }]);
  };
  try {
    for (const client of clients) client.start();
    const everything = () => {
      for (let i = 0; i < ENTRIES; i++) writer.transaction([{ put: `${PREFIX}irq/0/${i}`, fd }]);
      say(writer);
    };
    done(await writer.lease(everything));
    const listeners = [heard(successor), heard(other)];
    await Promise.all(listeners.map(({ synced }) => synced));
    for (let i = 0; i < ENTRIES; i++) done(say(writer));
    done(writer.lend(PREFIX, process.pid, new Uint8Array(ENTRIES)));
    await Promise.all(listeners.map(({ lent }) => lent));
    done(say(successor));
    writer.close();
    done(successor.bury(0)); // somebody whom nobody knows: both have the same process here
    done(await successor.lease(() => {}));
    done(say(successor));
    done(successor.pass(process.pid));
  } finally {
    for (const client of clients) client.close();
    if (fd >= 0) close(fd);
  }
}

/** Subscribes; what it waits for. */
function heard(client: ShelfClient): { readonly synced: Promise<void>; readonly lent: Promise<void> } {
  const synced = Promise.withResolvers<void>();
  const lent = Promise.withResolvers<void>();
  const overdue = setTimeout(() => {
    const error = new Error('the keeper does not tell');
    synced.reject(error);
    lent.reject(error);
  }, STEP_MS);
  void lent.promise.catch(() => {}).finally(() => clearTimeout(overdue));
  client.subscribe({
    onEntry: (_name, _blob, fd) => {
      if (fd >= 0) close(fd);
    },
    onDelete: () => {},
    onSynced: () => synced.resolve(),
    onLeaseLost: () => {},
    onLent: () => lent.resolve(),
  });
  return { synced: synced.promise, lent: lent.promise };
}

function done(result: number): void {
  if (result < 0) throw new Error(`errno ${-result}`);
}
