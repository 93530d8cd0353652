/** served-function-fixture.ts: a function behind its socket, served to machines, in a directory of its own. */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { Poller, plainReplies } from '@virtnet/host-linux';
import { pino } from 'pino';
import { FunctionPage } from '../function-page.js';
import { ServedFunction } from '../served-function.js';
import { TestFunction } from './test-function.js';
import { TestFunctionServer } from './test-function-server.js';
import { TestMachine } from './test-machine.js';

export const openFds = () => readdirSync('/proc/self/fd').length;

export class ServedFunctionFixture {
  readonly directory = mkdtempSync('/tmp/vhostd-');
  readonly poller = new Poller();
  readonly machines: TestMachine[] = [];
  fn = new TestFunction();
  server: TestFunctionServer;
  /** As ShelfClient.kept: null, or resolves when a keeper that is away is there again. */
  kept: Promise<void> | null = null;
  /** Changes that the keeper was told. */
  changes = 0;
  #current: ServedFunction | null = null;

  constructor() {
    this.poller.start();
    this.server = new TestFunctionServer(this.functionSocket, this.poller, this.fn);
  }

  get functionSocket(): string {
    return join(this.directory, 'function.sock');
  }

  get vhostSocket(): string {
    return join(this.directory, 'vhost.sock');
  }

  /** What `serve` made last. */
  get served(): ServedFunction {
    if (this.#current === null) throw new Error('nothing is served yet');
    return this.#current;
  }

  /** Begins to serve; what start() answers. */
  serve(client = false): Promise<number> {
    this.#current = this.#served(client);
    return this.#current.start();
  }

  machine(): TestMachine {
    const machine = TestMachine.connect(this.vhostSocket, this.poller);
    this.machines.push(machine);
    return machine;
  }

  killMachines(): void {
    for (const machine of this.machines.splice(0)) machine.kill();
  }

  /** The emulator's service is started anew: another function at the same address. */
  replaceFunction(next = new TestFunction()): void {
    this.fn = next;
    this.server = new TestFunctionServer(this.functionSocket, this.poller, next);
  }

  async end(): Promise<void> {
    this.killMachines();
    await this.#current?.stop();
    this.server.end();
    await this.poller.stop();
    rmSync(this.directory, { recursive: true });
  }

  #served(client: boolean): ServedFunction {
    const page = FunctionPage.create();
    if (typeof page === 'number') throw new Error(`no page: ${page}`);
    return new ServedFunction({
      page,
      keeper: { put: () => ++this.changes, drop: () => {}, kept: () => this.kept },
      replies: plainReplies,
      bdf: '0000:15:00.0',
      functionSocket: this.functionSocket,
      vhostSocket: this.vhostSocket,
      uuid: '',
      client,
      poller: this.poller,
      log: pino({ level: 'silent' }),
    });
  }
}
