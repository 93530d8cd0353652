import { existsSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { keeperPath, keeperPoller, serve, useShelfChannel } from './shelf-channel.fixture.js';
import { rehearseShelf } from './shelf-rehearsal.js';

useShelfChannel();

describe('rehearsal of a state keeper', () => {
  it('practises beside a keeper that serves, which hears nothing of it, and leaves nothing', async () => {
    const server = serve();
    const path = `${keeperPath()}.rehearsal`;
    const before = server.status();
    expect(await rehearseShelf(path, keeperPoller(), new AbortController().signal)).toBe(24);
    expect(server.status()).toEqual(before);
    expect(existsSync(path)).toBe(false); // descriptors are counted after each test
  });

  it('ends early when the keeper does', async () => {
    const path = `${keeperPath()}.rehearsal`;
    const over = new AbortController();
    const rehearsed = rehearseShelf(path, keeperPoller(), over.signal);
    over.abort();
    expect(await rehearsed).toBeLessThan(24);
    expect(existsSync(path)).toBe(false);
  });

  it('where it cannot listen it says so', async () => {
    serve();
    const rehearsed = await rehearseShelf(keeperPath(), keeperPoller(), new AbortController().signal);
    expect(rehearsed).toBeInstanceOf(Error);
    expect(existsSync(keeperPath())).toBe(true);
  });
});
