/**
 * network-agent.fixture.ts: a process inside a network namespace that sends and receives numbered datagrams for a test
 * outside. Started by network.fixture.ts; speaks over Node's IPC.
 */
import { createSocket, type Socket } from 'node:dgram';
import { writeSync } from 'node:fs';
import { openTap } from '@virtnet/host-linux';
import { NetHeader } from '@virtnet/wire';
import { NUMBER_BYTES, type Order, type RawOrder, type Report } from './network.fixture.js';

const say = (report: Report): void => {
  process.send?.(report);
};
const sockets = new Map<string, Socket>();
const taps = new Map<string, number>();
let seen: number[] = [];

function took(payload: Buffer): void {
  if (payload.length < NUMBER_BYTES) return;
  if (seen.push(payload.readUInt32BE(0)) > 1) return;
  setImmediate(() => {
    say({ kind: 'seen', numbers: seen });
    seen = [];
  });
}

function socketAt(address: string, port: number): Promise<Socket> {
  const key = `${address}:${port}`;
  const known = sockets.get(key);
  if (known !== undefined) return Promise.resolve(known);
  const socket = createSocket({ type: 'udp4', reuseAddr: true });
  sockets.set(key, socket);
  socket.on('message', took);
  socket.on('error', (error) => say({ kind: 'failed', reason: error.message }));
  return new Promise((resolve) => {
    socket.bind(port, address, () => {
      socket.setBroadcast(true);
      socket.setMulticastTTL(1);
      resolve(socket);
    });
  });
}

function sendRaw({ tap, frame }: RawOrder): void {
  let fd = taps.get(tap);
  if (fd === undefined) {
    const fds = openTap(tap, { queues: 1 });
    if (typeof fds === 'number') throw new Error(`tap ${tap}: errno ${-fds}`);
    fd = fds[0]!;
    taps.set(tap, fd);
  }
  if (frame.length > 0) writeSync(fd, Uint8Array.from([...new Uint8Array(NetHeader.sizeBytes), ...frame]));
}

async function carryOut(order: Order): Promise<void> {
  if (order.kind === 'raw') {
    sendRaw(order);
    return say({ kind: 'done', id: order.id });
  }
  const socket = await socketAt(order.address, order.port);
  if (order.kind === 'send') {
    if (order.multicast) socket.setMulticastInterface(order.address);
    for (const number of order.numbers) {
      const payload = Buffer.alloc(Math.max(NUMBER_BYTES, order.bytes));
      payload.writeUInt32BE(number, 0);
      await new Promise((resolve) => socket.send(payload, order.toPort, order.to, resolve));
    }
  }
  say({ kind: 'done', id: order.id });
}

process.on('message', (order) => void carryOut(order as Order));
process.on('disconnect', () => process.exit(0));
say({ kind: 'ready' });
