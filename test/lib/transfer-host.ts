/**
 * transfer-host.ts: the host's end of bulk transfers; a program of its own, run inside a network namespace.
 *
 *   transfer-host.ts <bytes> <send port> <receive port>
 *
 * Who connects to the send port gets that many pseudo-random bytes. What arrives on the receive port is hashed. The
 * lines `sent <bytes> <sha256>` and `received <bytes> <sha256>` tell of each finished transfer; `ready` comes first.
 * Ends with its stdin.
 */
import { createCipheriv, createHash, randomBytes } from 'node:crypto';
import { createServer, type Socket } from 'node:net';
import { Readable } from 'node:stream';

const CHUNK_BYTES = 256 * 1024;
const [bytes = 0, sendPort = 0, receivePort = 0] = process.argv.slice(2).map(Number);

/** Random bytes from a stream cipher: fast, and different in every run. */
function* randomChunks(): Generator<Buffer> {
  const cipher = createCipheriv('aes-128-ctr', randomBytes(16), randomBytes(16));
  const zeros = Buffer.alloc(CHUNK_BYTES);
  for (let left = bytes; left > 0; left -= CHUNK_BYTES)
    yield cipher.update(left < CHUNK_BYTES ? zeros.subarray(0, left) : zeros);
}

function send(socket: Socket): void {
  const hash = createHash('sha256');
  socket.on('error', (error) => process.stdout.write(`failed ${error.message}\n`));
  socket.on('close', () => {
    if (socket.bytesWritten >= bytes) process.stdout.write(`sent ${bytes} ${hash.digest('hex')}\n`);
  });
  const source = Readable.from(randomChunks()).on('data', (chunk: Buffer) => hash.update(chunk));
  source.pipe(socket);
}

function receive(socket: Socket): void {
  const hash = createHash('sha256');
  socket.on('error', (error) => process.stdout.write(`failed ${error.message}\n`));
  socket.on('data', (chunk) => hash.update(chunk));
  socket.on('end', () => {
    process.stdout.write(`received ${socket.bytesRead} ${hash.digest('hex')}\n`);
    socket.end();
  });
}

// Half open: nc says that it has nothing to send before it has read everything.
const options = { allowHalfOpen: true };
const servers = [
  createServer(options, send).listen(sendPort),
  createServer(options, receive).listen(receivePort),
];
await Promise.all(servers.map((server) => new Promise((resolve) => server.once('listening', resolve))));
process.stdout.write('ready\n');
process.stdin
  .resume()
  .once('end', () => process.exit(0))
  .once('error', () => process.exit(0));
