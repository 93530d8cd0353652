/**
 * stream-host.ts: the host's end of a numbered UDP stream; a program of its own, run inside a network namespace.
 *
 *   stream-host.ts send <address> <port> <spacing in us> <payload bytes>   until its stdin ends; prints the number sent
 *   stream-host.ts receive <port>                     until its stdin ends; prints "<sequence> <sent us> <arrived us>" lines
 *
 * Both print `ready` first. The sender keeps to its timetable: after a stall it sends what is overdue at once.
 */
import { createSocket } from 'node:dgram';
import { setPriority } from 'node:os';
import { readStreamPacket, STREAM_PACKET_BYTES, wallClockUs, writeStreamPacket } from './stream-packet.ts';

const [mode, ...words] = process.argv.slice(2);
try {
  setPriority(-15); // a socket holds some 250 packets: on a busy machine an instrument that waits would lose some itself
} catch {
  // only root may
}
// Not connected: the guest's "port unreachable" would come back as an error. Addresses are literal, so nothing is looked up.
const socket = createSocket({
  type: 'udp4',
  lookup: (address, _options, callback) => callback(null, address, 4),
});
const ended = new Promise((resolve) => process.stdin.resume().once('end', resolve).once('error', resolve));

if (mode === 'send') await send(words[0] ?? '', Number(words[1]), Number(words[2]), Number(words[3]));
else if (mode === 'receive') await receive(Number(words[0]));
else throw new Error(`unknown mode ${mode}`);

async function send(address: string, port: number, spacingUs: number, payloadBytes: number): Promise<void> {
  const offered = (packet: Buffer): Promise<boolean> =>
    new Promise((resolve) => socket.send(packet, port, address, (error) => resolve(error === null)));
  const sleeper = new Int32Array(new SharedArrayBuffer(4));
  let going = true;
  void ended.then(() => {
    going = false;
  });
  process.stdout.write('ready\n');
  let sent = 0;
  let refused = 0;
  for (let due = wallClockUs(); going; due += spacingUs) {
    await new Promise((resolve) => setImmediate(resolve)); // a send that succeeds at once never reaches the event loop
    const waitUs = due - wallClockUs();
    if (waitUs > 0) Atomics.wait(sleeper, 0, 0, waitUs / 1000);
    const packet = Buffer.alloc(Math.max(payloadBytes, STREAM_PACKET_BYTES));
    writeStreamPacket(packet, sent, wallClockUs());
    // A refused packet was not sent; its number is used again.
    if (await offered(packet)) sent += 1;
    else refused += 1;
  }
  socket.close();
  process.stdout.write(`${sent} ${refused}\n`);
}

async function receive(port: number): Promise<void> {
  const arrivals: string[] = [];
  socket.on('message', (message) => {
    const arrivedUs = wallClockUs();
    const packet = readStreamPacket(message);
    if (packet !== null) arrivals.push(`${packet.sequence} ${packet.sentUs} ${arrivedUs.toFixed(0)}`);
  });
  await new Promise<void>((resolve) => socket.bind(port, resolve));
  socket.setRecvBufferSize(4 * 1024 * 1024);
  process.stdout.write('ready\n');
  await ended;
  socket.close();
  process.stdout.write(`${arrivals.join('\n')}\n`);
}
