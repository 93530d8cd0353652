/**
 * device-endpoint.ts: the vfio-user socket of one function, and the one client that may be connected to it.
 *
 * Theory
 *   A function has one owner. While a client is connected the listening socket is left alone, so a second client
 *   waits in the kernel's backlog and is served when the first has gone: a restarted client never races the end of
 *   its predecessor. Listener and connection live with the state keeper too, which is why no client sees a
 *   connection end when this process does.
 *
 * Invariants
 *   I1  at most one connection.
 *   I2  the end of a connection resets the function before the next client is accepted.
 *
 * Limits  the backlog of the listening socket. While descriptors are scarce clients wait there, ACCEPT_AGAIN_MS each time.
 */
import { accept, close, descriptorsAreScarce, type Poller, type Watch } from '@virtnet/host-linux';
import {
  type AnsweredRequest,
  type ConnectionEnd,
  RequestJournal,
  ServerConnection,
  type ServerConnectionOptions,
  ServerSession,
} from '@virtnet/server-vfio-user';
import { Errno, StatePageHeader } from '@virtnet/wire';
import { DeviceAccess } from './device-access.js';
import type { DeviceHost } from './device-host.js';
import type { HostServices } from './device-parts.js';
import type { AppliedRequest } from './device-record.js';
import { shelfNames } from './shelf-names.js';

const EMPTY = new Uint8Array(0);
/** Until the next look when a client could not be accepted: it stays in the backlog, which would call at once. */
const ACCEPT_AGAIN_MS = 50;
/** Word of the state page. */
const UNDER_WAY = StatePageHeader.at.requestUnderWay / 4;

function answeredOf(applied: AppliedRequest | null): AnsweredRequest | null {
  if (applied === null) return null;
  const reply = applied.reply === null ? null : new Uint8Array(Buffer.from(applied.reply, 'base64'));
  return { sequence: applied.sequence, digest: applied.digest, reply };
}

export class DeviceEndpoint {
  readonly #host: DeviceHost;
  readonly #services: HostServices;
  readonly #poller: Poller;
  readonly #replyRing: ServerConnectionOptions['replyRing'];
  readonly #pageWords: Uint32Array;
  #listenerFd: number;
  #listenerWatch: Watch | null = null;
  #connection: ServerConnection | null = null;
  #connectionFd = -1;
  /** What was agreed in VERSION, as far as the record knows. */
  #recordedAgreement: unknown = null;
  /** The function is being reset after its last client. */
  #resetting: Promise<void> | null = null;
  #ended = false;
  /** The sockets are being handed over. */
  #leaving = false;
  /** A client waits for a descriptor, which was said. */
  #saidWaiting = false;
  /** The reset after the last client. */
  #afterLast: Promise<void> = Promise.resolve();

  constructor(
    host: DeviceHost,
    listenerFd: number,
    services: HostServices,
    replyRing: ServerConnectionOptions['replyRing'],
  ) {
    this.#host = host;
    this.#services = services;
    this.#poller = services.poller;
    this.#replyRing = replyRing;
    this.#listenerFd = listenerFd;
    this.#pageWords = new Uint32Array(host.page.buffer, 0, StatePageHeader.sizeBytes / 4);
  }

  get connected(): boolean {
    return this.#connection !== null;
  }

  /** Begins to accept clients. */
  listen(): void {
    if (
      this.#ended ||
      this.#leaving ||
      this.#resetting !== null ||
      this.#connection !== null ||
      this.#listenerWatch !== null
    )
      return;
    const watch = this.#poller.watch(this.#listenerFd, { readable: true }, () => this.#accept());
    if (typeof watch === 'number') {
      this.#services.log('error', 'cannot watch a listening socket', {
        vuid: this.#host.vuid,
        errno: -watch,
      });
      return;
    }
    this.#listenerWatch = watch;
  }

  /** Goes on with a predecessor's connection, whose session is `saved`. */
  adopt(fd: number, saved: unknown): void {
    if (this.#ended) {
      close(fd); // unplugged meanwhile
      return;
    }
    const session = ServerSession.restore(new DeviceAccess(this.#host), saved, this.#host.memory.all());
    if ('error' in session) {
      this.#services.log('error', 'a saved session is unusable', {
        vuid: this.#host.vuid,
        reason: session.error,
      });
      close(fd);
      this.#afterLast = this.#afterEnd();
      return;
    }
    this.#open(fd, session, true);
  }

  /** Ends a predecessor's connection instead of going on with it: what stands in it must not be worked again. */
  refuse(fd: number): Promise<void> {
    close(fd);
    this.#afterLast = this.#afterEnd();
    return this.#afterLast;
  }

  /** Puts listener and connection on an empty shelf again. */
  upload(): void {
    if (this.#ended) return;
    const { store } = this.#services;
    store.put(this.#host, shelfNames.listener(this.#host.vuid), EMPTY, this.#listenerFd);
    if (this.#connectionFd >= 0) {
      store.put(this.#host, shelfNames.connection(this.#host.vuid), EMPTY, this.#connectionFd);
    }
  }

  /** Ends the connection, as when its client goes; resolves when the function is as after power-on. */
  async disconnect(): Promise<void> {
    this.#connection?.close();
    await this.#afterLast;
  }

  /** Ends the connection and stops listening, for good. */
  end(): void {
    this.#ended = true;
    this.#listenerWatch?.close();
    this.#listenerWatch = null;
    this.#connection?.close();
    close(this.#listenerFd);
  }

  /**
   * Takes no more clients and no more requests; a request under way is answered first. When it resolves the sockets are
   * as a successor needs them, and nothing of ours listens to them.
   */
  async detach(): Promise<void> {
    this.#leaving = true;
    this.#listenerWatch?.close();
    this.#listenerWatch = null;
    await this.#connection?.detach();
    await this.#resetting; // the client's end was noticed just before: that is ours to finish
  }

  /** Closes what this process holds of detached sockets. */
  relinquish(): void {
    this.#ended = true;
    this.#connection = null;
    if (this.#connectionFd >= 0) close(this.#connectionFd);
    this.#connectionFd = -1;
    close(this.#listenerFd);
  }

  #accept(): void {
    const fd = descriptorsAreScarce() ? -Errno.EMFILE : accept(this.#listenerFd);
    if (fd === -Errno.EAGAIN) return; // gone again: the next event tells
    this.#listenerWatch?.close();
    this.#listenerWatch = null;
    if (fd < 0) {
      if (!this.#saidWaiting)
        this.#services.log('error', 'cannot accept a client', { vuid: this.#host.vuid, errno: -fd });
      this.#saidWaiting = true;
      setTimeout(() => this.listen(), ACCEPT_AGAIN_MS).unref();
      return;
    }
    this.#saidWaiting = false;
    const at = StatePageHeader.at.connectionEpoch / 4;
    this.#pageWords[at] = (this.#pageWords[at]! + 1) >>> 0;
    this.#open(fd, new ServerSession(new DeviceAccess(this.#host)), false);
    if (this.#connection === null) return;
    this.#services.store.put(this.#host, shelfNames.connection(this.#host.vuid), EMPTY, fd);
    this.#host.touch();
    this.#host.commit(null);
  }

  #open(fd: number, session: ServerSession, adopted: boolean): void {
    this.#host.session = () => session.save();
    this.#recordedAgreement = session.negotiated;
    const journal = new RequestJournal(
      {
        readFinished: () => this.#pageWords[StatePageHeader.at.requestSequence / 4]!,
        writeFinished: (sequence) => {
          this.#pageWords[StatePageHeader.at.requestSequence / 4] = sequence;
          this.#pageWords[UNDER_WAY] = 0;
        },
        begun: () => {
          this.#pageWords[UNDER_WAY] = 1;
        },
        record: (answered) => this.#record(session, answered),
      },
      adopted ? answeredOf(this.#host.applied) : null,
    );
    const connection = ServerConnection.open({
      fd,
      poller: this.#poller,
      session,
      replyRing: this.#replyRing,
      journal,
      adopted,
      onClose: (end) => this.#onClose(end),
    });
    if (typeof connection === 'number') {
      this.#services.log('error', 'cannot serve a socket', { vuid: this.#host.vuid, errno: -connection });
      close(fd);
      this.#afterLast = this.#afterEnd();
      return;
    }
    this.#connection = connection;
    this.#connectionFd = fd;
  }

  #record(session: ServerSession, answered: AnsweredRequest): Promise<void> | null {
    if (session.negotiated !== this.#recordedAgreement) {
      // VERSION changes nothing of the function, but a successor that does not know of it refuses everything else.
      this.#recordedAgreement = session.negotiated;
      this.#host.touch();
    }
    const { sequence, digest, reply } = answered;
    this.#host.commit({
      sequence,
      digest,
      reply: reply === null ? null : Buffer.from(reply).toString('base64'),
    });
    return this.#services.store.kept();
  }

  #onClose(end: ConnectionEnd): void {
    if (end.reason !== 'peer-closed' && end.reason !== 'closed-here') {
      this.#services.log('warn', 'a client was disconnected', { vuid: this.#host.vuid, ...end });
    }
    this.#connection = null;
    this.#connectionFd = -1;
    this.#pageWords[UNDER_WAY] = 0;
    if (!this.#ended) this.#afterLast = this.#afterEnd();
  }

  async #afterEnd(): Promise<void> {
    this.#resetting = this.#host.disconnected();
    await this.#resetting;
    this.#resetting = null;
    this.listen();
  }
}
