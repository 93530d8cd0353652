import { Errno, MessageFlag, UringOperation } from '@virtnet/wire';
import { describe, expect, it } from 'vitest';
import { closeAll } from './fd.js';
import { NativeBuffer } from './libc.js';
import { openDescriptorCount } from './process.js';
import { socketPair } from './socket.js';
import { Receiver, send } from './socket-message.js';
import { Uring } from './uring.js';

const probe = Uring.create(1);
const obstacle = typeof probe === 'number' ? `io_uring is not available here (errno ${-probe})` : null;
if (typeof probe !== 'number') probe.close();

function newRing(entries: number): Uring {
  const ring = Uring.create(entries);
  if (typeof ring === 'number') throw new Error(`${ring}`);
  return ring;
}

describe.skipIf(obstacle !== null)(`io_uring${obstacle ? `: ${obstacle}` : ''}`, () => {
  it('runs a batch in order, over more batches than the ring has entries', () => {
    const ring = newRing(4);
    const sockets = socketPair('stream');
    if (typeof sockets === 'number') throw new Error(`${sockets}`);
    const [here, there] = sockets;
    const letters = new NativeBuffer(8);
    const receiver = new Receiver(16);
    for (let round = 0; round < 100; round++) {
      letters.u8.set(Buffer.from('abcd'));
      for (let i = 0; i < 4; i++) {
        const address = letters.address + i;
        ring.add({ opcode: UringOperation.SEND, fd: here, address, length: 1, operationFlags: 0 });
      }
      expect(ring.room).toBe(0);
      expect(ring.run()).toBe(4);
      expect([...ring.results.subarray(0, 4)]).toEqual([1, 1, 1, 1]);
      const received = receiver.receive(there);
      expect(typeof received !== 'number' && Buffer.from(received.bytes).toString()).toBe('abcd');
    }
    closeAll(sockets);
    ring.close();
  });

  it('each operation has a result of its own, errors included, and a failed one stops no later one', () => {
    const ring = newRing(4);
    const sockets = socketPair('stream');
    if (typeof sockets === 'number') throw new Error(`${sockets}`);
    const [here, there] = sockets;
    const scratch = new NativeBuffer(16);
    const recv = (fd: number) => ({
      opcode: UringOperation.RECV,
      fd,
      address: scratch.address,
      length: 16,
      operationFlags: MessageFlag.DONTWAIT,
    });
    send(here, Buffer.from('xyz'));
    for (const fd of [1_000_000, there, there]) ring.add(recv(fd));
    expect(ring.run()).toBe(3);
    expect([...ring.results.subarray(0, 3)]).toEqual([-Errno.EBADF, 3, -Errno.EAGAIN]);
    closeAll(sockets);
    ring.close();
  });

  it('opened and closed many times leaves no descriptor', () => {
    const before = openDescriptorCount();
    for (let i = 0; i < 50; i++) newRing(8).close();
    expect(openDescriptorCount()).toBe(before);
  });

  it('that the kernel refuses is an errno', () => {
    expect(Uring.create(0)).toBe(-Errno.EINVAL);
  });
});
