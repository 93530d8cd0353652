/** test-function-server.ts: a TestFunction behind a real vfio-user socket, which can vanish as an emulator does. */
import { rmSync } from 'node:fs';
import { accept, close, listen, type Poller, type Watch } from '@virtnet/host-linux';
import { RequestJournal, ServerConnection, ServerSession } from '@virtnet/server-vfio-user';
import type { TestFunction } from './test-function.js';

/** Serves a TestFunction at a path, one client at a time. */
export class TestFunctionServer {
  readonly #path: string;
  readonly #poller: Poller;
  readonly #fn: TestFunction;
  readonly #listener: number;
  readonly #watch: Watch;
  #connection: ServerConnection | null = null;
  #finished = 0;
  /** Connections accepted. */
  connections = 0;

  constructor(path: string, poller: Poller, fn: TestFunction) {
    this.#path = path;
    this.#poller = poller;
    this.#fn = fn;
    this.#listener = listen(path, 'stream');
    const watch = poller.watch(this.#listener, { readable: true }, () => this.#accept());
    if (this.#listener < 0 || typeof watch === 'number') throw new Error('cannot serve the function');
    this.#watch = watch;
  }

  get connected(): boolean {
    return this.#connection !== null;
  }

  /** Ends as a killed process does: the socket file stays, descriptors and connections do not. */
  vanish(): void {
    this.#watch.close();
    this.#connection?.close();
    close(this.#listener);
    this.#fn.destroy();
  }

  /** Ends, and leaves nothing. */
  end(): void {
    this.vanish();
    rmSync(this.#path, { force: true });
  }

  #accept(): void {
    if (this.#connection !== null) {
      this.#watch.setReadable(false);
      return;
    }
    const fd = accept(this.#listener);
    if (fd < 0) return;
    this.connections++;
    const journal = new RequestJournal({
      readFinished: () => this.#finished,
      writeFinished: (sequence) => {
        this.#finished = sequence;
      },
      record: () => {},
    });
    const connection = ServerConnection.open({
      fd,
      poller: this.#poller,
      session: new ServerSession(this.#fn),
      replyRing: null,
      journal,
      onClose: () => {
        this.#connection = null;
        this.#fn.destroy();
        this.#watch.setReadable(true);
      },
    });
    if (typeof connection === 'number') throw new Error(`cannot open a connection: ${connection}`);
    this.#connection = connection;
  }
}
