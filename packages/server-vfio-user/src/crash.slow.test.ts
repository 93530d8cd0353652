import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { setImmediate as turn } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { close, memfdCreate, Receiver, ReplyRing, socketPair } from '@virtnet/host-linux';
import { viewOf } from '@virtnet/wire';
import { afterAll, describe, expect, it } from 'vitest';
import type { Recorded } from './crash-server.fixture.js';
import { PAGE_BYTES } from './crash-server.fixture.js';
import { RawClient } from './harness.fixture.js';
import { parseReply, regionRead, regionWrite, version } from './messages.fixture.js';

/** Built by tsc --build: a process of its own cannot run the sources that vitest transforms. */
const SERVER = fileURLToPath(new URL('../dist/crash-server.fixture.js', import.meta.url));
const KILLS = 25;
/** Requests under way at once. */
const WINDOW = 6;

/** The end of the keeper's channel that the test holds; what a server sent survives it. */
class Keeper {
  readonly #receiver = new Receiver(65536, 1);
  readonly fd: number;
  last: Recorded | null = null;

  constructor(fd: number) {
    this.fd = fd;
  }

  /** Takes in what comes until the sender is gone, and then what it had sent. */
  async drainUntil(exit: Promise<unknown>): Promise<void> {
    while (!this.#drain()) await turn();
    await exit;
  }

  /** True when the sender is gone and everything is read. */
  #drain(): boolean {
    for (;;) {
      const received = this.#receiver.receive(this.fd);
      if (typeof received === 'number') return false;
      if (received.bytes.length === 0) return true;
      this.last = JSON.parse(new TextDecoder().decode(received.bytes));
    }
  }
}

interface Server {
  readonly process: ChildProcess;
  readonly keeper: Keeper;
}

const started: ChildProcess[] = [];
afterAll(() => {
  for (const child of started) child.kill('SIGKILL');
});

/** A server that is loaded and waits to be told to go on, as a warm standby does. */
async function startStandby(socket: number, page: number): Promise<Server> {
  const pair = socketPair('seqpacket');
  if (typeof pair === 'number') throw new Error(`socketpair: errno ${-pair}`);
  const child = spawn(process.execPath, [SERVER, 'serve'], {
    stdio: ['pipe', 'pipe', 'inherit', socket, page, pair[1]],
  });
  started.push(child);
  close(pair[1]);
  const { stdout } = child;
  if (stdout === null) throw new Error('no pipe');
  await Promise.race([
    once(stdout, 'data'),
    once(child, 'exit').then(() => {
      throw new Error(`${SERVER} did not start: run the build first`);
    }),
  ]);
  return { process: child, keeper: new Keeper(pair[0]) };
}

const SEED = Number(process.env.VIRTNET_SEED) || Date.now() % 2 ** 32;
let seed = SEED;
function random(): number {
  seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
  return seed / 2 ** 32;
}

/** Writes and reads without end, each answer checked: a request lost or worked twice shows in the next read. */
class Traffic {
  readonly #client: RawClient;
  readonly #expected: { id: number; counter: number | null }[] = [];
  #id = 0;
  #running = true;
  writes = 0;
  replies = 0;

  constructor(client: RawClient) {
    this.#client = client;
  }

  stop(): void {
    this.#running = false;
  }

  async run(): Promise<void> {
    while (this.#running || this.#expected.length > 0) {
      while (this.#running && this.#expected.length < WINDOW) await this.#sendOne();
      await this.#receiveOne();
    }
  }

  async #sendOne(): Promise<void> {
    this.#id = (this.#id + 1) & 0xffff;
    const dice = random();
    if (dice < 0.4) {
      this.#expected.push({ id: this.#id, counter: this.writes });
      return this.#client.send(regionRead(this.#id, 0, 0n, 4));
    }
    this.writes++;
    const posted = dice < 0.7;
    if (!posted) this.#expected.push({ id: this.#id, counter: null });
    return this.#client.send(regionWrite(this.#id, 0, 0n, new Uint8Array(4), { posted }));
  }

  async #receiveOne(): Promise<void> {
    const reply = await this.#client.receive();
    if (reply === null) throw new Error('the client saw the end of its connection');
    const { messageId, errno, body } = parseReply(reply.bytes);
    const expected = this.#expected.shift();
    const counter = expected?.counter === null ? null : viewOf(body).getUint32(16, true);
    expect({ id: messageId, counter, errno }, `seed ${SEED}`).toEqual({ ...expected, errno: 0 });
    this.replies++;
  }
}

/** Some kills come while the server takes over, most in the middle of its work. */
async function instant(traffic: Traffic): Promise<void> {
  const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
  const { replies } = traffic;
  if (random() < 0.25) return void (await pause(random() * 30));
  while (traffic.replies === replies) await pause(0);
  await pause(random() * 20);
}

const ring = ReplyRing.create();
ring?.close();

describe('a server process under SIGKILL', () => {
  it.skipIf(ring === null)(
    `${KILLS} kills at random instants under traffic › every request is worked once and answered once, in order`,
    async () => {
      const pair = socketPair('stream');
      if (typeof pair === 'number') throw new Error(`socketpair: errno ${-pair}`);
      const [socket, clientFd] = pair;
      const page = memfdCreate('crash-page', PAGE_BYTES);
      const client = new RawClient(clientFd);
      const traffic = new Traffic(client);
      let recorded: Recorded | null = null;
      let standby = startStandby(socket, page);
      await client.send(version(0));
      let running: Promise<void> | null = null;
      for (let kill = 0; kill <= KILLS; kill++) {
        const active = await standby;
        if (kill < KILLS) standby = startStandby(socket, page);
        standby.catch(() => {}); // looked at in the next round
        active.process.stdin?.write(`${JSON.stringify(recorded ?? {})}\n`);
        const reading = active.keeper.drainUntil(once(active.process, 'exit'));
        if (running === null) {
          expect((await client.receive())?.bytes[12]).toBe(0);
          running = traffic.run();
          running.catch(() => {}); // looked at below
        }
        if (kill === KILLS) traffic.stop();
        if (kill === KILLS) await running;
        else await Promise.race([running, instant(traffic)]);
        active.process.kill('SIGKILL');
        await reading;
        close(active.keeper.fd);
        recorded = active.keeper.last ?? recorded;
      }
      expect(recorded?.counter, `seed ${SEED}`).toBe(traffic.writes);
      expect(traffic.replies).toBeGreaterThan(KILLS / 2);
      client.close();
      close(socket);
      close(page);
    },
    120_000,
  );
});
