import { closeAll, send, socketPair } from '@virtnet/host-linux';
import { afterEach, describe, expect, it } from 'vitest';
import { askedFirst } from './asked-first.js';

const open: number[] = [];
afterEach(() => closeAll(open.splice(0)));

/** A function whose client has sent so many bytes that nobody has read. */
function asking(name: string, bytes: number) {
  const pair = socketPair('stream');
  if (typeof pair === 'number') throw new Error(`socketpair: ${pair}`);
  open.push(...pair);
  if (bytes > 0) expect(send(pair[1], new Uint8Array(bytes))).toBe(bytes);
  return { name, mirror: { connectionFd: pair[0] } };
}

describe('whose socket is opened first', () => {
  it('those with a request in it, in their order, then the others', () => {
    const functions = [asking('a', 0), asking('b', 16), asking('c', 0), asking('d', 1)];
    expect(askedFirst(functions).map(({ name }) => name)).toEqual(['b', 'd', 'a', 'c']);
  });

  it('nobody asks, or has no connection > the order given', () => {
    const functions = [asking('a', 0), { name: 'b', mirror: { connectionFd: -1 } }, asking('c', 0)];
    expect(askedFirst(functions).map(({ name }) => name)).toEqual(['a', 'b', 'c']);
  });
});
