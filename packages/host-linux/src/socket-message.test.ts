import { Errno, SCM_RIGHTS_MAX } from '@virtnet/wire';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { close, closeAll, eventfd, eventfdDrain, eventfdSignal } from './fd.js';
import { openDescriptorCount } from './process.js';
import { readableBytes, type SocketKind, setPeekOffset, setSendBuffer, socketPair } from './socket.js';
import { discard, type Received, type ReceiveOptions, Receiver, send } from './socket-message.js';

let here: number;
let there: number;
let bell: number;
let descriptors: number;
const receiver = new Receiver(65536);

function open(kind: SocketKind): void {
  const sockets = socketPair(kind);
  if (typeof sockets === 'number') throw new Error(`${sockets}`);
  [here, there] = sockets;
}

beforeEach(() => {
  descriptors = openDescriptorCount();
  bell = eventfd();
  open('stream');
});
afterEach(() => {
  closeAll([here, there, bell]);
  expect(openDescriptorCount()).toBe(descriptors);
});

function receive(options?: ReceiveOptions, from = receiver): Received {
  const received = from.receive(there, options);
  if (typeof received === 'number') throw new Error(`receive: ${received}`);
  return received;
}
const text = (received: Received) => Buffer.from(received.bytes).toString();
const bytes = (value: string) => Buffer.from(value);

describe('descriptors over a socket', () => {
  it('arrive as descriptors of the same open file, close-on-exec', () => {
    send(here, bytes('x'), [bell]);
    const { fds } = receive();
    expect(fds).toHaveLength(1);
    eventfdSignal(bell);
    expect(eventfdDrain(fds[0]!)).toBe(1);
    closeAll(fds);
  });

  it(`${SCM_RIGHTS_MAX} in one message all arrive, in order; one more is refused and nothing is sent`, () => {
    const bells = Array.from({ length: SCM_RIGHTS_MAX }, (_, i) => eventfd(i + 1));
    expect(send(here, bytes('x'), bells)).toBe(1);
    const { fds, truncated } = receive();
    expect(truncated).toBe(false);
    expect(fds.map(eventfdDrain)).toEqual(bells.map((_, i) => i + 1));
    closeAll(fds);
    expect(send(here, bytes('x'), [...bells, bell])).toBe(-Errno.EINVAL);
    expect(receiver.receive(there)).toBe(-Errno.EAGAIN);
    closeAll(bells);
  });

  it('without bytes to carry them are refused', () => {
    expect(send(here, new Uint8Array(0), [bell])).toBe(-Errno.EINVAL);
  });

  it('that are not open are -EBADF and nothing is sent', () => {
    expect(send(here, bytes('x'), [bell, 1_000_000])).toBe(-Errno.EBADF);
    expect(receiver.receive(there)).toBe(-Errno.EAGAIN);
  });

  it('beyond the room of the receiver are cut off, reported, and not leaked', () => {
    send(here, bytes('x'), [bell, bell, bell]);
    const received = receive({}, new Receiver(16, 2));
    expect(received.fds).toHaveLength(2);
    expect(received.fdsTruncated).toBe(true);
    expect(received.truncated).toBe(true);
    closeAll(received.fds);
  });

  it('sent to a receiver of none are dropped with the bytes kept', () => {
    send(here, bytes('x'), [bell]);
    const received = receive({}, new Receiver(16, 0));
    expect(received).toMatchObject({ fds: [], fdsTruncated: true });
    send(here, bytes('y'), [bell]);
    expect(receive({ keepFds: false })).toMatchObject({ fds: [], truncated: false });
  });

  it('are duplicated by every peek, and a peek with keepFds: false duplicates none', () => {
    send(here, bytes('x'), [bell]);
    const first = receive({ peek: true });
    const second = receive({ peek: true });
    expect(second.fds[0]).not.toBe(first.fds[0]);
    expect(receive({ peek: true, keepFds: false }).fds).toEqual([]);
    const last = receive();
    expect(last.fds).toHaveLength(1);
    closeAll([...first.fds, ...second.fds, ...last.fds]);
  });
});

describe('receiver', () => {
  it('nothing there is -EAGAIN, the end of the connection is no bytes', () => {
    expect(receiver.receive(there)).toBe(-Errno.EAGAIN);
    send(here, bytes('last'));
    close(here);
    expect(text(receive())).toBe('last');
    expect(receive().bytes).toHaveLength(0);
    here = eventfd(); // something for afterEach to close
  });

  it('takes no more than asked', () => {
    send(here, bytes('abcdef'));
    expect(text(receive({ maxBytes: 4 }))).toBe('abcd');
    expect(text(receive({ maxBytes: 1_000_000 }))).toBe('ef');
  });

  it('bytes of a view into a larger buffer are sent from where the view starts', () => {
    const whole = bytes('0123456789');
    send(here, whole.subarray(3, 6));
    send(here, whole.subarray(7, 9), [bell]);
    const first = receive();
    expect(text(first)).toBe('34578');
    closeAll(first.fds);
  });

  it('seqpacket: keeps borders, and tells when a packet was longer than the buffer', () => {
    closeAll([here, there]);
    open('seqpacket');
    send(here, bytes('first'), [bell]);
    send(here, bytes('second'));
    send(here, bytes('third'));
    const first = receive();
    expect(text(first)).toBe('first');
    const cut = receive({ maxBytes: 3 });
    expect(text(cut)).toBe('sec');
    expect(cut).toMatchObject({ truncated: true, fdsTruncated: false });
    expect(text(receive())).toBe('third');
    closeAll(first.fds);
  });

  it('seqpacket: a peeked packet that does not fit is told as truncated and stays', () => {
    closeAll([here, there]);
    open('seqpacket');
    send(here, bytes('0123456789'));
    expect(receive({ peek: true, maxBytes: 4 }).truncated).toBe(true);
    expect(receive({ maxBytes: 10 })).toMatchObject({ truncated: false });
  });
});

describe('peek offset', () => {
  it('peeks walk forward, plain reads move the offset back by what they took', () => {
    expect(setPeekOffset(there, 0)).toBe(0);
    send(here, bytes('abcdefgh'));
    expect(text(receive({ peek: true, maxBytes: 3 }))).toBe('abc');
    expect(text(receive({ peek: true, maxBytes: 3 }))).toBe('def');
    expect(text(receive({ maxBytes: 4 }))).toBe('abcd');
    expect(text(receive({ peek: true }))).toBe('gh');
    expect(receiver.receive(there, { peek: true })).toBe(-Errno.EAGAIN);
    expect(readableBytes(there)).toBe(4);
    expect(setPeekOffset(there, 0)).toBe(0);
    expect(text(receive({ peek: true }))).toBe('efgh');
  });

  it('a peek joins segments, and stops behind the one that carries descriptors', () => {
    setPeekOffset(there, 0);
    send(here, bytes('ab'));
    send(here, bytes('cd'), [bell]);
    send(here, bytes('ef'));
    const first = receive({ peek: true });
    expect(text(first)).toBe('abcd');
    expect(first.fds).toHaveLength(1);
    const second = receive({ peek: true });
    expect(text(second)).toBe('ef');
    expect(second.fds).toEqual([]);
    closeAll(first.fds);
  });

  it('a peek that goes on inside a segment with descriptors duplicates them again', () => {
    setPeekOffset(there, 0);
    send(here, bytes('header+payload'), [bell]);
    const header = receive({ peek: true, maxBytes: 6 });
    const payload = receive({ peek: true });
    expect(text(payload)).toBe('+payload');
    expect([header.fds.length, payload.fds.length]).toEqual([1, 1]);
    closeAll([...header.fds, ...payload.fds]);
  });

  it('turned off, every peek starts at the first byte', () => {
    setPeekOffset(there, 0);
    send(here, bytes('abcd'));
    receive({ peek: true, maxBytes: 2 });
    setPeekOffset(there, -1);
    expect(text(receive({ peek: true }))).toBe('abcd');
    expect(text(receive({ peek: true }))).toBe('abcd');
  });
});

describe('discard', () => {
  it('drops exactly the bytes asked for, over segments with descriptors too, and leaks none', () => {
    const before = openDescriptorCount();
    for (let i = 0; i < 50; i++) send(here, bytes(`request ${String(i).padStart(2, '0')}`), [bell, bell]);
    expect(discard(there, 49 * 10 + 8)).toBe(49 * 10 + 8);
    expect(openDescriptorCount()).toBe(before);
    const rest = receive();
    expect(text(rest)).toBe('49');
    closeAll(rest.fds);
  });

  it('drops what is there when more is asked for, and says how much', () => {
    expect(discard(there, 10)).toBe(0);
    send(here, bytes('abc'));
    expect(discard(there, 10)).toBe(3);
    close(here);
    expect(discard(there, 10)).toBe(0);
    here = eventfd();
  });

  it('drops more than its own buffer holds', () => {
    setSendBuffer(here, 4 * 2 ** 20);
    const sent = send(here, new Uint8Array(1_000_000));
    expect(sent).toBe(1_000_000);
    expect(discard(there, 999_999)).toBe(999_999);
    expect(readableBytes(there)).toBe(1);
  });

  it('refuses counts that are none', () => {
    expect(discard(there, -1)).toBe(-Errno.EINVAL);
    expect(discard(there, Number.NaN)).toBe(-Errno.EINVAL);
    expect(discard(1_000_000, 1)).toBe(-Errno.EBADF);
  });
});

describe('many messages', () => {
  it('with descriptors, sent and received or discarded at random, leave no descriptor open', () => {
    const before = openDescriptorCount();
    for (let round = 0; round < 300; round++) {
      send(here, bytes('message!'), [bell, bell, bell]);
      if (round % 3 === 0) discard(there, 8);
      else {
        const peeked = receive({ peek: true });
        const taken = receive({ keepFds: round % 3 === 1 });
        closeAll([...peeked.fds, ...taken.fds]);
      }
    }
    expect(openDescriptorCount()).toBe(before);
  });
});
