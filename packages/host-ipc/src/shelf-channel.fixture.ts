/** shelf-channel.fixture.ts: keepers and clients in this process, all of which are gone after each test, with every descriptor. */
import { fstatSync } from 'node:fs';
import { close, memfdCreate, openDescriptorCount, Poller } from '@virtnet/host-linux';
import { afterEach, beforeEach, expect } from 'vitest';
import { ShelfClient, type ShelfSubscriber } from './shelf-client.js';
import { ShelfServer, type ShelfServerOptions } from './shelf-server.js';
import { eventually, type TemporaryRoot, temporaryRoot } from './temporary-root.fixture.js';

let root: TemporaryRoot;
let poller: Poller;
let before: number;
/** What ends things of a test, in the order in which they came. */
export const ends: (() => void)[] = [];

/** Has each test of the file begin with nothing. */
export function useShelfChannel(): void {
  beforeEach(() => {
    root = temporaryRoot();
    poller = new Poller();
    poller.start();
    before = openDescriptorCount();
  });
  afterEach(async () => {
    for (const end of ends.splice(0).reverse()) end();
    expect(openDescriptorCount()).toBe(before); // every descriptor of every test
    await poller.stop();
    root.remove();
  });
}

/** Where the keeper listens. */
export const keeperPath = () => root.file('ha.sock');

/** What hears of the sockets of the test. */
export const keeperPoller = () => poller;

export function serve(options: Partial<ShelfServerOptions> = {}): ShelfServer {
  const server = ShelfServer.open({ path: keeperPath(), poller, ...options });
  if (typeof server === 'number') throw new Error(`errno ${-server}`);
  ends.push(() => server.close());
  return server;
}
export function connected(): ShelfClient {
  const client = new ShelfClient({ path: keeperPath(), poller });
  ends.push(() => client.close());
  client.start();
  return client;
}
export async function writer(
  upload: (client: ShelfClient) => void | Promise<void> = () => {},
): Promise<ShelfClient> {
  const client = connected();
  expect(await client.lease(() => upload(client))).toBe(0);
  return client;
}
export function memory(): number {
  const fd = memfdCreate('test', 4096);
  ends.push(() => close(fd));
  return fd;
}

/** Remembers what it heard, in order, and what it would hold. */
export class Listener implements ShelfSubscriber {
  readonly heard: string[] = [];
  readonly held = new Map<string, { blob: Uint8Array; ino: number | null }>();
  onEntry(name: string, blob: Uint8Array, fd: number): void {
    this.heard.push(`+${name}`);
    this.held.set(name, { blob, ino: fd < 0 ? null : fstatSync(fd).ino });
    if (fd >= 0) close(fd);
  }
  onDelete(name: string): void {
    this.heard.push(`-${name}`);
    this.held.delete(name);
  }
  onSynced(holderPid: number | null): void {
    this.heard.push(`synced ${holderPid}`);
  }
  onLeaseHeld(pid: number): void {
    this.heard.push(`held ${pid}`);
  }
  onLeaseLost(pid: number): void {
    this.heard.push(`lost ${pid}`);
  }
}
export async function listener(client = connected()): Promise<Listener> {
  const heard = new Listener();
  client.subscribe(heard);
  await eventually('synced', () => heard.heard.some((line) => line.startsWith('synced')));
  return heard;
}
