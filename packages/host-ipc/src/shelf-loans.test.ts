import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Loans } from '@virtnet/engine-recovery';
import { Poller } from '@virtnet/host-linux';
import { Errno } from '@virtnet/wire';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { ShelfClient } from './shelf-client.js';
import { ShelfServer } from './shelf-server.js';

const bytes = (text: string) => new TextEncoder().encode(text);

describe('loans', () => {
  it('a name belongs to the borrower of the longest directory that was lent, or to nobody', () => {
    const loans = new Loans();
    expect(loans.add('dev/a/', 7, bytes(''))).toBe(true);
    expect(loans.borrowerOf('dev/a/record')).toBe(7);
    expect(loans.borrowerOf('dev/a/irq/2/0')).toBe(7);
    expect(loans.borrowerOf('dev/ab/record')).toBeNull();
    expect(loans.borrowerOf('dev/')).toBeNull();
    expect([loans.has(7), loans.has(8)]).toEqual([true, false]);
  });

  it('what does not end with a slash is not lent: it would take other names along', () => {
    expect(new Loans().add('dev/a', 7, bytes(''))).toBe(false);
  });
});

describe('a keeper whose writer lends', () => {
  let directory: string;
  let poller: Poller;
  let server: ShelfServer;
  let writer: ShelfClient;
  const refusals: number[] = [];

  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), 'virtnet-loans-'));
    poller = new Poller();
    poller.start();
    const path = join(directory, 'ha.sock');
    const opened = ShelfServer.open({ path, poller });
    if (typeof opened === 'number') throw new Error(`errno ${-opened}`);
    server = opened;
    refusals.length = 0;
    writer = new ShelfClient({ path, poller });
    writer.on('refused', (errno) => refusals.push(errno));
    writer.start();
    expect(await writer.lease(() => {})).toBe(0);
    writer.transaction([{ put: 'dev/a/record', blob: bytes('1') }]);
    writer.transaction([{ put: 'dev/b/record', blob: bytes('1') }]);
  });
  afterEach(async () => {
    writer.close();
    server.close();
    await poller.stop();
    rmSync(directory, { recursive: true, force: true });
  });

  const stored = (name: string) => new TextDecoder().decode(server.list(name)[0]?.blob);

  it('a client of this process borrows nothing it was not lent; the writer does not write what it lent to others', async () => {
    writer.lend('dev/a/', 1, bytes('')); // pid 1 is no client: only the loan matters here
    writer.transaction([{ put: 'dev/a/record', blob: bytes('2') }]);
    writer.transaction([{ put: 'dev/b/record', blob: bytes('2') }]);
    await vi.waitFor(() => expect(stored('dev/b/record')).toBe('2'));
    expect(stored('dev/a/record')).toBe('1');
    await vi.waitFor(() => expect(refusals).toEqual([Errno.EPERM]));
  });

  it('subscribers hear of a loan behind the last words about it, and that a borrower who is not there is lost', async () => {
    const heard: string[] = [];
    const subscriber = new ShelfClient({ path: join(directory, 'ha.sock'), poller });
    subscriber.subscribe({
      onEntry: (name, blob) => heard.push(`${name}=${new TextDecoder().decode(blob)}`),
      onDelete: (name) => heard.push(`-${name}`),
      onSynced: () => heard.push('synced'),
      onLeaseLost: (pid) => heard.push(`lost ${pid}`),
      onLent: (prefix, pid, note) => heard.push(`${prefix} to ${pid}: ${new TextDecoder().decode(note)}`),
    });
    subscriber.start();
    await vi.waitFor(() => expect(heard.at(-1)).toBe('synced'));
    writer.transaction([{ put: 'dev/a/record', blob: bytes('last') }]);
    writer.lend('dev/a/', 1, bytes('note'));
    await vi.waitFor(() =>
      expect(heard.slice(-3)).toEqual(['dev/a/record=last', 'dev/a/ to 1: note', 'lost 1']),
    );
    subscriber.close();
  });

  it('the lease is passed on: the former writer may write nothing more, and loans are over', async () => {
    writer.lend('dev/a/', 1, bytes(''));
    expect(writer.pass(1)).toBe(0);
    expect(writer.transaction([{ put: 'dev/b/record', blob: bytes('3') }])).toBe(-Errno.EPERM);
    await vi.waitFor(() => expect(server.status().leaseHolderPid).toBeNull());
    const next = new ShelfClient({ path: join(directory, 'ha.sock'), poller });
    next.start();
    expect(await next.lease(() => void next.transaction([{ put: 'dev/a/record', blob: bytes('4') }]))).toBe(
      0,
    );
    await vi.waitFor(() => expect(stored('dev/a/record')).toBe('4'));
    next.close();
  });
});
