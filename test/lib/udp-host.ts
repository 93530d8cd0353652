/**
 * udp-host.ts: UDP sockets of the host for tests of the datapath; a program of its own, run inside a network namespace.
 *
 *   udp-host.ts echo <address> <port> <count> [<largest> [<flows>]]    sends `count` datagrams of random content and of
 *       random length up to `largest` bytes of payload, the first two of the smallest and the largest, from `flows`
 *       source ports in turn, at most WINDOW unanswered, and compares what comes back; the peer has to return them, to
 *       where they came from or with their addresses as they are (the host then has `address` itself)
 *   udp-host.ts flows <address> <port> <flows> <each>    sends `each` datagrams from each of `flows` source ports
 *   udp-host.ts    carries out such words line by line as they come on stdin
 *
 * Prints one JSON object when done, in one line.
 */
import { randomBytes, randomInt } from 'node:crypto';
import { createSocket, type Socket } from 'node:dgram';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';

const WINDOW = 64;
/** A busy machine may let somebody on the way wait for a processor for seconds. */
const ANSWER_TIMEOUT_MS = 20_000;
const PAYLOAD_BYTES_MAX = 1_472;
const NUMBER_BYTES = 4;
/** Pause after so many datagrams, for a receiver without flow control. */
const BURST = 100;

const words = process.argv.slice(2);
if (words.length > 0) await run(words);
else for await (const line of createInterface(process.stdin)) await run(line.split(' '));

async function run([mode, address = '', ...rest]: readonly string[]): Promise<void> {
  const [port = 0, count = 0, ...more] = rest.map(Number);
  const target = { address, port };
  const result =
    mode === 'echo'
      ? await echo(target, count, more[0] || PAYLOAD_BYTES_MAX, more[1] || 1)
      : await flows(target, count, more[0] || PAYLOAD_BYTES_MAX);
  process.stdout.write(`${JSON.stringify(result)}\n`);
}

interface Target {
  readonly address: string;
  readonly port: number;
}

export interface EchoResult {
  readonly sent: number;
  readonly intact: number;
  readonly damaged: number;
  readonly repeated: number;
}

async function echo(target: Target, count: number, largest: number, flowCount: number): Promise<EchoResult> {
  const sources = await Promise.all(Array.from({ length: flowCount }, () => open()));
  const sockets = [...sources, await open(target.port)];
  const waiting = new Map<number, Buffer>();
  let intact = 0;
  let damaged = 0;
  let repeated = 0;
  let wake = (): void => {};
  const receive = (message: Buffer): void => {
    const number = message.length >= NUMBER_BYTES ? message.readUInt32BE(0) : -1;
    const expected = waiting.get(number);
    if (expected === undefined) repeated += 1;
    else if (!expected.equals(message)) damaged += 1;
    else intact += 1;
    waiting.delete(number);
    wake();
  };
  for (const socket of sockets) {
    socket.setRecvBufferSize(4 * 1024 * 1024);
    socket.on('message', receive);
  }
  for (let number = 0; number < count; number++) {
    const ends = [NUMBER_BYTES, largest];
    const payload = randomBytes(ends[number] ?? randomInt(NUMBER_BYTES, largest + 1));
    payload.writeUInt32BE(number, 0);
    waiting.set(number, payload);
    await send(sources[number % flowCount]!, payload, target);
    const full = (): boolean => waiting.size >= WINDOW;
    if (full() && !(await answered(() => !full()))) break;
  }
  await answered(() => waiting.size === 0);
  for (const socket of sockets) socket.close();
  return { sent: count, intact, damaged, repeated };

  /** Waits for `done`; false when nothing came back for too long. */
  async function answered(done: () => boolean): Promise<boolean> {
    while (!done()) {
      const came = new Promise<true>((resolve) => {
        wake = () => resolve(true);
      });
      if (!(await Promise.race([came, sleep(ANSWER_TIMEOUT_MS, false, { ref: false })]))) return false;
    }
    return true;
  }
}

async function flows(target: Target, flowCount: number, each: number): Promise<{ sent: number }> {
  let sent = 0;
  for (let flow = 0; flow < flowCount; flow++) {
    const socket = await open();
    for (let index = 0; index < each; index++) {
      await send(socket, Buffer.alloc(200, flow), target);
      sent += 1;
      if (sent % BURST === 0) await sleep(5);
    }
    socket.close();
  }
  return { sent };
}

/** A socket bound to `port`; 0: one that is free. */
function open(port = 0): Promise<Socket> {
  const socket = createSocket({
    type: 'udp4',
    lookup: (name, _options, callback) => callback(null, name, 4),
  });
  return new Promise((resolve) => socket.bind(port, () => resolve(socket)));
}

function send(socket: Socket, payload: Buffer, { address, port }: Target): Promise<void> {
  return new Promise((resolve, reject) =>
    socket.send(payload, port, address, (error) => (error === null ? resolve() : reject(error))),
  );
}
