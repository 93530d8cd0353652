import { once } from 'node:events';
import { Errno } from '@virtnet/wire';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { startChild } from './child.fixture.js';
import { close, closeAll, eventfd, eventfdDrain } from './fd.js';
import { openDescriptorCount } from './process.js';
import { plainReplies, ReplyRing, type ReplySender } from './reply-ring.js';
import { isWritable, readableBytes, setSendBuffer, socketPair } from './socket.js';
import { type Received, Receiver, send } from './socket-message.js';

const KILLS = 12;
const ring = ReplyRing.create();
const senders: Record<string, ReplySender> = { 'two system calls': plainReplies };
if (ring !== null) senders['one io_uring call'] = ring;

let client: number;
let server: number;
let bell: number;
let descriptors: number;
const receiver = new Receiver(65536);

beforeEach(() => {
  descriptors = openDescriptorCount();
  bell = eventfd(1);
  const sockets = socketPair('stream');
  if (typeof sockets === 'number') throw new Error(`${sockets}`);
  [client, server] = sockets;
  setSendBuffer(client, 4 * 2 ** 20);
});
afterEach(() => {
  closeAll([client, server, bell]);
  expect(openDescriptorCount()).toBe(descriptors);
});

function receive(fd: number): Received {
  const received = receiver.receive(fd);
  if (typeof received === 'number') throw new Error(`receive: ${received}`);
  return received;
}
const text = (received: Received) => Buffer.from(received.bytes).toString();

for (const [way, sender] of Object.entries(senders)) {
  describe(`reply by ${way}`, () => {
    it('is sent, and exactly its request is dropped', () => {
      send(client, Buffer.from('request1request2'));
      expect(sender.sendThenDiscard(server, Buffer.from('reply1'), 8)).toBe(0);
      expect(text(receive(client))).toBe('reply1');
      expect(text(receive(server))).toBe('request2');
    });

    it('carries descriptors', () => {
      send(client, Buffer.from('request'));
      expect(sender.sendThenDiscard(server, Buffer.from('reply'), 7, [bell, bell])).toBe(0);
      const reply = receive(client);
      expect(text(reply)).toBe('reply');
      expect(reply.fds.map(eventfdDrain)).toEqual([1, 0]);
      expect(readableBytes(server)).toBe(0);
      closeAll(reply.fds);
    });

    it('to requests with descriptors leaks none of them', () => {
      const before = openDescriptorCount();
      for (let i = 0; i < 100; i++) {
        send(client, Buffer.from('request'), [bell, bell, bell]);
        expect(sender.sendThenDiscard(server, Buffer.from('reply'), 7)).toBe(0);
        expect(text(receive(client))).toBe('reply');
      }
      expect(openDescriptorCount()).toBe(before);
      expect(readableBytes(server)).toBe(0);
    });

    for (const [how, requestBytes] of Object.entries({ 'named parts': [4, 4, 3], 'one size': 11 })) {
      it(`to a request that came in parts with descriptors, given by ${how}, drops all of it and no more`, () => {
        send(client, Buffer.from('head'), [bell]);
        send(client, Buffer.from('more'), [bell]);
        send(client, Buffer.from('end'));
        send(client, Buffer.from('next'));
        expect(sender.sendThenDiscard(server, Buffer.from('reply'), requestBytes)).toBe(0);
        expect(text(receive(server))).toBe('next');
        expect(text(receive(client))).toBe('reply');
      });
    }

    it('to a large request drops all of it', () => {
      const request = new Uint8Array(1_500_000);
      expect(send(client, request)).toBe(request.length);
      send(client, Buffer.from('next'));
      expect(sender.sendThenDiscard(server, Buffer.from('reply'), request.length)).toBe(0);
      expect(text(receive(server))).toBe('next');
    });

    it('without room in the socket does nothing and says -EAGAIN', () => {
      while (send(server, new Uint8Array(65536)) > 0);
      expect(isWritable(server)).toBe(false);
      send(client, Buffer.from('request'));
      expect(sender.sendThenDiscard(server, Buffer.from('reply'), 7)).toBe(-Errno.EAGAIN);
      expect(text(receive(server))).toBe('request');
    });

    it('with room for a part of it tells how many bytes are left to send', () => {
      send(client, Buffer.from('request'));
      const reply = new Uint8Array(2 ** 20).fill(7);
      const unsent = sender.sendThenDiscard(server, reply, 7);
      expect(unsent).toBeGreaterThan(0);
      expect(readableBytes(client)).toBe(reply.length - unsent);
      expect(readableBytes(server)).toBe(0);
    });

    it('to a client that is gone is -EPIPE or -ECONNRESET', () => {
      send(client, Buffer.from('request'));
      close(client);
      const result = sender.sendThenDiscard(server, Buffer.from('reply'), 7);
      expect([-Errno.EPIPE, -Errno.ECONNRESET]).toContain(result);
      client = eventfd();
    });

    it('of no bytes or with too many descriptors is refused, and the request stays', () => {
      send(client, Buffer.from('request'));
      expect(sender.sendThenDiscard(server, new Uint8Array(0), 7)).toBe(-Errno.EINVAL);
      expect(sender.sendThenDiscard(server, Buffer.from('r'), 7, Array(254).fill(bell))).toBe(-Errno.EINVAL);
      expect(text(receive(server))).toBe('request');
    });
  });
}

describe.skipIf(ring === null)('reply ring and SIGKILL', () => {
  it(`a server killed at any moment has dropped exactly the requests it answered (${KILLS} kills)`, async () => {
    const REQUEST = 24;
    const REPLY = 8;
    const script = `
      import { ReplyRing, readableBytes } from '@virtnet/host-linux';
      const ring = ReplyRing.create();
      const reply = new Uint8Array(${REPLY});
      console.log('ready');
      for (;;) if (readableBytes(3) >= ${REQUEST}) ring.sendThenDiscard(3, reply, ${REQUEST});`;
    const request = new Uint8Array(REQUEST);
    let sent = 0;
    let answered = 0;
    for (let kill = 0; kill < KILLS; kill++) {
      const child = startChild(script, [server]);
      await once(child.stdout!, 'data');
      const exit = once(child, 'exit');
      const dieAt = performance.now() + 5 + kill * 1.7;
      const turn = () => {
        while (sent - answered < 64 && send(client, request) === REQUEST) sent++;
        while (readableBytes(client) >= REPLY) answered += receive(client).bytes.length / REPLY;
      };
      while (performance.now() < dieAt) turn();
      child.kill('SIGKILL');
      await exit;
      if (readableBytes(client) > 0) answered += receive(client).bytes.length / REPLY;
      expect(readableBytes(server)).toBe((sent - answered) * REQUEST);
    }
    expect(answered).toBeGreaterThan(KILLS);
  });
});
