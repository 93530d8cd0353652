/**
 * transfer-client.ts: the other end of transfer-host.ts, where there is no guest: a program run inside a network namespace.
 *
 *   transfer-client.ts <address> <bytes> <port to receive from> <port to send to>
 *
 * Receives and sends at the same time, and prints `received <bytes> <sha256>` and `sent <bytes> <sha256>`.
 */
import { createHash, randomBytes } from 'node:crypto';
import { connect } from 'node:net';

const CHUNK_BYTES = 256 * 1024;
const [address = '', bytes = '0', receivePort = '0', sendPort = '0'] = process.argv.slice(2);

async function receive(): Promise<void> {
  const hash = createHash('sha256');
  const socket = connect(Number(receivePort), address);
  for await (const chunk of socket) hash.update(chunk as Buffer);
  process.stdout.write(`received ${socket.bytesRead} ${hash.digest('hex')}\n`);
}

async function send(): Promise<void> {
  const hash = createHash('sha256');
  const socket = connect({ port: Number(sendPort), host: address, allowHalfOpen: true });
  const chunk = randomBytes(CHUNK_BYTES);
  for (let left = Number(bytes); left > 0; left -= CHUNK_BYTES) {
    chunk.writeUInt32LE(left >>> 0);
    const part = Buffer.from(chunk.subarray(0, Math.min(left, CHUNK_BYTES)));
    hash.update(part);
    if (!socket.write(part)) await new Promise((resolve) => socket.once('drain', resolve));
  }
  socket.end();
  for await (const _ of socket); // until the other end has everything
  process.stdout.write(`sent ${bytes} ${hash.digest('hex')}\n`);
}

await Promise.all([receive(), send()]);
