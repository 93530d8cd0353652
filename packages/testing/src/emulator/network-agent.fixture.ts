/**
 * network-agent.fixture.ts: a process inside a network namespace that sends and receives numbered datagrams for a test
 * outside. Started by network.fixture.ts; speaks over Node's IPC.
 */
import { createSocket, type Socket } from 'node:dgram';
import { readSync, writeSync } from 'node:fs';
import { openTap, setOffload } from '@virtnet/host-linux';
import {
  NUMBER_BYTES,
  type OffloadOrder,
  type Order,
  type RawOrder,
  type Report,
  type TakeOrder,
} from './network.fixture.js';

/** More than the largest frame with its header. */
const FRAME_ROOM_BYTES = 70_000;

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

/** The TAP of that name, which is made when it is used first. */
function tapNamed(tap: string): number {
  const known = taps.get(tap);
  if (known !== undefined) return known;
  const fds = openTap(tap, { queues: 1 });
  if (typeof fds === 'number') throw new Error(`tap ${tap}: errno ${-fds}`);
  taps.set(tap, fds[0]!);
  return fds[0]!;
}

function sendRaw({ tap, header, frame }: RawOrder): void {
  const fd = tapNamed(tap);
  if (frame.length > 0) writeSync(fd, Uint8Array.from([...header, ...frame]));
}

function setOffloads({ tap, offloads }: OffloadOrder): void {
  const result = setOffload(tapNamed(tap), offloads);
  if (result < 0) throw new Error(`offloads of ${tap}: errno ${-result}`);
}

function takeRaw({ tap }: TakeOrder): number[][] {
  const fd = tapNamed(tap);
  const room = new Uint8Array(FRAME_ROOM_BYTES);
  const frames: number[][] = [];
  for (;;) {
    try {
      frames.push([...room.subarray(0, readSync(fd, room))]);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return frames;
      throw error;
    }
  }
}

async function carryOut(order: Order): Promise<void> {
  if (order.kind === 'raw' || order.kind === 'offloads') {
    if (order.kind === 'raw') sendRaw(order);
    else setOffloads(order);
    return say({ kind: 'done', id: order.id });
  }
  if (order.kind === 'take') return say({ kind: 'done', id: order.id, frames: takeRaw(order) });
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
