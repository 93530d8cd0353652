/** keeper.ts: a state keeper: engine-recovery's ShelfDesk behind connections. */
import { type DeskClient, type DeskStatus, ShelfDesk } from '@virtnet/engine-recovery';
import { ShelfLink } from './shelf-link.js';
import { SimHandle, type SimProcess, type SimWorld } from './world.js';

interface Client extends DeskClient {
  readonly link: ShelfLink;
}

const KEEPER = 1;

export class SimKeeper {
  readonly process: SimProcess;
  /** It listens. */
  ready = false;
  /** In the middle of a message. */
  #passingOn = false;
  readonly #world: SimWorld;
  readonly #desk: ShelfDesk<SimHandle, Client>;
  readonly #clients = new Set<Client>();

  constructor(world: SimWorld, process: SimProcess, expectUpload: boolean) {
    this.#world = world;
    this.process = process;
    this.#desk = new ShelfDesk<SimHandle, Client>(
      {
        send: (clients, message) => {
          for (const { link } of clients) {
            world.point();
            link.send(KEEPER, message);
          }
        },
        sendShelf: ({ link }, entries) => {
          for (const entry of entries) {
            world.point();
            link.send(KEEPER, { kind: 1, argument: 0, operations: [{ kind: 'put', ...entry }] });
          }
        },
        readAll: ({ link }) => link.readAll(KEEPER),
        bury: ({ link }) => link.readAll(KEEPER), // of a dead process that is all there is
        endOf: ({ link }) => new SimHandle(link.keeperEnd, null),
        hasPeer: ({ handle }) => handle !== null && handle.object.holders > 1,
        nowMs: () => world.now,
        after: (ms, action) => world.after(process, ms, 'keeper timer', action),
        log: () => {},
      },
      { expectUpload },
    );
    world.after(process, world.between(1, 15), 'keeper listens', () => {
      this.ready = true;
    });
  }

  get status(): DeskStatus {
    return this.#desk.status();
  }

  /** Names on the shelf. */
  names(): string[] {
    return [...this.#desk.entries()].map(({ name }) => name);
  }

  /** Messages that it has not read or not passed on, or that its subscribers have not read. */
  get inFlight(): boolean {
    if (this.#passingOn) return true;
    return [...this.#clients].some(
      ({ link, subscribed }) => link.unread[KEEPER] > 0 || (subscribed && link.unread[0] > 0),
    );
  }

  connect(process: SimProcess): ShelfLink | null {
    if (!this.ready || !this.process.alive) return null;
    const link = new ShelfLink(this.#world, process, this.process);
    const client: Client = { pid: process.pid, subscribed: false, isClient: false, link };
    this.#clients.add(client);
    this.#desk.joined(client);
    link.on(
      KEEPER,
      (message) => {
        this.#passingOn = true;
        const wrong = this.#desk.take(client, message);
        this.#passingOn = false;
        if (wrong !== null) this.#world.fail(`the keeper did not understand a client: ${wrong}`);
      },
      () => {
        this.#clients.delete(client);
        this.#desk.left(client, 'end of connection');
      },
    );
    return link;
  }

  /** Ends a connection although both ends live. */
  breakOne(): void {
    const [...clients] = this.#clients;
    if (clients.length > 0) this.#world.pick(clients).link.break();
  }
}
