/**
 * udp-host.ts: UDP sockets of the host for tests of the datapath; a program of its own, run inside a network namespace.
 *
 *   udp-host.ts echo <address> <port> <count> [<largest>]    sends `count` datagrams of random content and of random
 *       length up to `largest` bytes of payload, the first two of the smallest and the largest, at most WINDOW
 *       unanswered, and compares what comes back; the peer has to return them
 *   udp-host.ts flows <address> <port> <flows> <each>    sends `each` datagrams from each of `flows` source ports
 *
 * Prints one JSON object when done.
 */
import { randomBytes, randomInt } from 'node:crypto';
import { createSocket, type Socket } from 'node:dgram';
import { setTimeout as sleep } from 'node:timers/promises';

const WINDOW = 64;
const ANSWER_TIMEOUT_MS = 3_000;
const PAYLOAD_BYTES_MAX = 1_472;
const NUMBER_BYTES = 4;
/** Pause after so many datagrams, for a receiver without flow control. */
const BURST = 100;

const [mode, address = '', ...words] = process.argv.slice(2);
const [port = 0, count = 0, each = 0] = words.map(Number);
const largest = each === 0 ? PAYLOAD_BYTES_MAX : each;
const result = mode === 'echo' ? await echo() : await flows();
process.stdout.write(`${JSON.stringify(result)}\n`);

export interface EchoResult {
  readonly sent: number;
  readonly intact: number;
  readonly damaged: number;
  readonly repeated: number;
}

async function echo(): Promise<EchoResult> {
  const socket = await open();
  socket.setRecvBufferSize(4 * 1024 * 1024);
  const waiting = new Map<number, Buffer>();
  let intact = 0;
  let damaged = 0;
  let repeated = 0;
  let wake = (): void => {};
  socket.on('message', (message) => {
    const number = message.length >= NUMBER_BYTES ? message.readUInt32BE(0) : -1;
    const expected = waiting.get(number);
    if (expected === undefined) repeated += 1;
    else if (!expected.equals(message)) damaged += 1;
    else intact += 1;
    waiting.delete(number);
    wake();
  });
  for (let number = 0; number < count; number++) {
    const ends = [NUMBER_BYTES, largest];
    const payload = randomBytes(ends[number] ?? randomInt(NUMBER_BYTES, largest + 1));
    payload.writeUInt32BE(number, 0);
    waiting.set(number, payload);
    await send(socket, payload);
    const full = (): boolean => waiting.size >= WINDOW;
    if (full() && !(await answered(() => !full()))) break;
  }
  await answered(() => waiting.size === 0);
  socket.close();
  return { sent: count, intact, damaged, repeated };

  /** Waits for `done`; false when nothing came back for too long. */
  async function answered(done: () => boolean): Promise<boolean> {
    while (!done()) {
      const came = new Promise<true>((resolve) => {
        wake = () => resolve(true);
      });
      if (!(await Promise.race([came, sleep(ANSWER_TIMEOUT_MS, false)]))) return false;
    }
    return true;
  }
}

async function flows(): Promise<{ sent: number }> {
  let sent = 0;
  for (let flow = 0; flow < count; flow++) {
    const socket = await open();
    for (let index = 0; index < each; index++) {
      await send(socket, Buffer.alloc(200, flow));
      sent += 1;
      if (sent % BURST === 0) await sleep(5);
    }
    socket.close();
  }
  return { sent };
}

function open(): Promise<Socket> {
  const socket = createSocket({
    type: 'udp4',
    lookup: (name, _options, callback) => callback(null, name, 4),
  });
  return new Promise((resolve) => socket.bind(0, () => resolve(socket)));
}

function send(socket: Socket, payload: Buffer): Promise<void> {
  return new Promise((resolve, reject) =>
    socket.send(payload, port, address, (error) => (error === null ? resolve() : reject(error))),
  );
}
