import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { type KeptEntry, ShelfServer, virtnetPaths } from '@virtnet/host-ipc';
import { close, dup, isPeerGone, Poller, plainReplies, socketPair } from '@virtnet/host-linux';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { FunctionPage } from './function-page.js';
import { encodeFunctionRecord } from './function-record.js';
import { Keeper } from './keeper.js';
import { Registry } from './registry.js';
import { openFds } from './test-support/served-function-fixture.js';
import { TestFunction } from './test-support/test-function.js';
import { TestFunctionServer } from './test-support/test-function-server.js';

const BDF = '0000:15:00.0';
const OTHER = '0000:15:00.1';
const log = pino({ level: 'silent' });

let root: string;
let paths: ReturnType<typeof virtnetPaths>;
let poller: Poller;
let atEnd: (() => unknown)[];

beforeEach(() => {
  root = mkdtempSync('/tmp/vfe-');
  paths = virtnetPaths(root);
  mkdirSync(dirname(paths.vfeHaSocket), { recursive: true });
  poller = new Poller();
  poller.start();
  atEnd = [];
});
afterEach(async () => {
  for (const end of atEnd.reverse()) await end();
  await poller.stop();
  rmSync(root, { recursive: true });
});

/** A keeper that begins with what a service manager kept for it. */
function startKeeper(kept: readonly KeptEntry[] = []): ShelfServer {
  const server = ShelfServer.open({ path: paths.vfeHaSocket, poller, kept });
  if (typeof server === 'number') throw new Error(`no keeper: ${server}`);
  atEnd.push(() => server.close());
  return server;
}

/** vfe-vhostd without its command line. */
async function startVhostd() {
  const keeper = new Keeper({ path: paths.vfeHaSocket, poller, log });
  const registry = new Registry({ paths, poller, log, client: false, keeper, replies: plainReplies });
  const found = await keeper.take(false);
  if (found !== null) await registry.restore(found);
  keeper.serve(registry);
  atEnd.push(async () => {
    await registry.close();
    keeper.close();
  });
  return { keeper, registry };
}

interface Left {
  readonly page: FunctionPage;
  readonly entries: readonly KeptEntry[];
  /** The machine's end of its connection was closed, or not. */
  disconnected(): boolean;
}

/** What is left of a function with a machine, of which the keeper knows as much as change `number` says. */
function left(bdf: string, number: number, socket = join(root, bdf)): Left {
  const page = FunctionPage.create();
  const pair = socketPair('stream');
  if (typeof page === 'number' || typeof pair === 'number') throw new Error('no descriptors');
  const [machine, connection] = pair;
  atEnd.push(() => {
    page.close();
    close(machine);
  });
  const record = encodeFunctionRecord({
    vhostSocket: socket,
    uuid: '',
    client: false,
    profile: {
      features: 0x1_3000_0020n,
      mac: Uint8Array.of(2, 0, 0, 0, 0, 1),
      mtuBytes: 1500,
      dataQueues: 2,
      queueCount: 3,
      queueSizeMax: 256,
      vectors: 4,
    },
    function: null,
    adrift: [],
    session: { protocolFeatures: '0', status: 0, features: '0', regions: [], rings: [] },
    answered: null,
  });
  const numberBlob = Buffer.alloc(4);
  numberBlob.writeUInt32LE(number);
  const entry = (name: string, blob: Uint8Array, fd: number | null): KeptEntry => ({
    name: `vf/${bdf}/${name}`,
    blob,
    fd,
    ttlWithoutHolderMs: fd === null || name === 'page' ? 0 : 50,
  });
  const nothing = new Uint8Array(0);
  return {
    page,
    disconnected: () => isPeerGone(machine),
    entries: [
      entry('page', nothing, dup(page.fd)),
      entry('connection', nothing, connection),
      entry('number', numberBlob, null),
      entry('record', record!, null),
    ],
  };
}

const names = (server: ShelfServer) => server.list('').map(({ name }) => name);
const numberOf = (server: ShelfServer, bdf: string) =>
  Buffer.from(server.list(`vf/${bdf}/number`)[0]!.blob).readUInt32LE();
const pf: KeptEntry = { name: 'pf/0000:15:00.0', blob: new Uint8Array(0), fd: null, ttlWithoutHolderMs: 0 };

describe('what the keeper of a killed vfe-vhostd has', () => {
  test('it is there > everything goes on, with the next number', async () => {
    const { entries, page, disconnected } = left(BDF, 7);
    page.promised = 7;
    const server = startKeeper([pf, ...entries]);
    const { registry } = await startVhostd();
    expect([registry.pfs(), registry.find(BDF)?.options.bdf]).toEqual([[BDF], BDF]);
    await expect.poll(() => numberOf(server, BDF)).toBe(8);
    expect(disconnected()).toBe(false);
  });

  test('the last that a machine was answered on is lost > it is let go, the function is served', async () => {
    const { entries, page, disconnected } = left(BDF, 7);
    page.promised = 8;
    const server = startKeeper(entries);
    const { registry } = await startVhostd();
    expect(disconnected()).toBe(true);
    expect(registry.find(BDF)).toBeDefined();
    await expect.poll(() => names(server)).not.toContain(`vf/${BDF}/connection`);
    expect(page.promised).toBe(0);
  });

  test('removed while no keeper heard it > it does not come back', async () => {
    const { entries, page, disconnected } = left(BDF, 7);
    page.setLetGo();
    const server = startKeeper(entries);
    const { registry } = await startVhostd();
    expect([registry.find(BDF), disconnected()]).toEqual([undefined, true]);
    await expect.poll(() => names(server)).toEqual([]);
  });

  test('stopped before the keeper was met > what it has is let go by whoever meets it', async () => {
    const kept = left(BDF, 7);
    writeFileSync(paths.vfeEnded, '');
    const { registry } = await startVhostd();
    const server = startKeeper([pf, ...kept.entries]);
    await expect.poll(() => names(server), { timeout: 5_000 }).toEqual([]);
    expect([kept.disconnected(), registry.pfs(), existsSync(paths.vfeEnded)]).toEqual([true, [], false]);
  });

  test('closed while the keeper is met > nothing is served any more, and the keeper has what it had', async () => {
    const kept = left(BDF, 7);
    const { registry } = await startVhostd();
    await registry.close();
    const server = startKeeper(kept.entries);
    await expect.poll(() => server.status().clients, { timeout: 5_000 }).toBe(1);
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(registry.find(BDF)).toBeUndefined();
    expect(names(server)).toContain(`vf/${BDF}/record`);
    expect(kept.disconnected()).toBe(false);
  });

  test('a page that was promised more than is known > the next number is higher', async () => {
    const { entries, page } = left(BDF, 9);
    const server = startKeeper(entries.filter(({ name }) => !name.endsWith('/number')));
    page.promised = 9;
    await startVhostd();
    await expect.poll(() => numberOf(server, BDF)).toBe(10);
  });

  test('it comes late > what it has is served then, and is not taken from it before', async () => {
    const { registry } = await startVhostd();
    const provided = new TestFunctionServer(paths.pciSocket(OTHER), poller, new TestFunction());
    atEnd.push(() => provided.end());
    expect(await registry.addFunction(OTHER, undefined, '')).toBe(0);
    const kept = left(BDF, 7);
    const same = left(OTHER, 9);
    const taken = left('0000:15:00.2', 1, registry.find(OTHER)!.options.vhostSocket);
    const server = startKeeper([pf, ...kept.entries, ...same.entries, ...taken.entries]);
    await expect.poll(() => registry.find(BDF), { timeout: 5_000 }).toBeDefined();
    await expect
      .poll(() => names(server).filter((name) => name.endsWith('record')))
      .toEqual([`vf/${BDF}/record`, `vf/${OTHER}/record`]);
    expect([kept, same, taken].map(({ disconnected }) => disconnected())).toEqual([false, true, true]);
    expect(names(server)).toContain(`vf/${BDF}/connection`);
    expect(names(server)).not.toContain(`vf/${OTHER}/connection`);
    expect(names(server)).toContain(pf.name);
    expect(registry.find(OTHER)?.configured).toBe(false); // added meanwhile: as it was
    // The page is what says that a function was let go: it stays as long as the record does.
    const ttl = (name: string) => server.list(`vf/${OTHER}/${name}`)[0]?.ttlWithoutHolderMs;
    expect([ttl('page'), ttl('record'), ttl('listener')]).toEqual([0, 0, 2000]);
  });

  test('it comes late, and what it has is of no use > nothing of it stays open', async () => {
    const before = openFds();
    const { registry } = await startVhostd();
    const { entries } = left(BDF, 7);
    const [page, connection] = left(OTHER, 7).entries;
    startKeeper([...entries, page!, connection!]); // the latter without a record
    await expect.poll(() => registry.find(BDF), { timeout: 5_000 }).toBeDefined();
    for (const end of atEnd.splice(0).reverse()) await end();
    expect(openFds()).toBe(before);
  });

  test('removed > the page says so, whoever holds it', async () => {
    const { entries, page } = left(BDF, 7);
    const server = startKeeper(entries);
    const { registry } = await startVhostd();
    expect(await registry.removeFunction(BDF)).toBe(0);
    expect(page.letGo).toBe(true);
    await expect.poll(() => names(server)).toEqual([]);
  });
});
