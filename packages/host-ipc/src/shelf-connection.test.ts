import { close, Poller, send, socketPair } from '@virtnet/host-linux';
import { describe, expect, it } from 'vitest';
import { ShelfConnection } from './shelf-connection.js';
import { eventually } from './temporary-root.fixture.js';

describe('a keeper’s end of a connection', () => {
  it('hands every message over once, though the peer dies with ours unread while one is handed over', async () => {
    const pair = socketPair('seqpacket');
    if (typeof pair === 'number') throw new Error(`errno ${-pair}`);
    const [ours, peer] = pair;
    const poller = new Poller();
    poller.start();
    const heard: (number | string)[] = [];
    const connection = ShelfConnection.open(ours, process.pid, poller, {
      message(bytes) {
        heard.push(bytes[0]!);
        if (heard.length === 2) close(peer); // from now on the next call is told of a reset, whatever it does
        return null;
      },
      ended: (reason) => void heard.push(reason),
    });
    expect(connection).toBeInstanceOf(ShelfConnection);
    expect(send(ours, Uint8Array.of(0))).toBe(1); // is never read
    for (let i = 1; i <= 4; i++) expect(send(peer, Uint8Array.of(i))).toBe(1);
    await eventually('the end is heard', () => typeof heard.at(-1) === 'string');
    expect(heard).toEqual([1, 2, 3, 4, 'end of connection']);
    await poller.stop();
  });
});
