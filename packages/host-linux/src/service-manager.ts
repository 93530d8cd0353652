/**
 * service-manager.ts: what a service says to systemd, and what it is given at its start.
 *
 * Theory
 *   A service manager names a datagram socket in NOTIFY_SOCKET. Each datagram is lines of `NAME=value`; descriptors
 *   that come with `FDSTORE=1` are kept under `FDNAME` for as long as the service is not stopped for good, and handed
 *   to the next start as descriptors 3, 4 … with LISTEN_FDS, LISTEN_FDNAMES and LISTEN_PID. A datagram that was sent is
 *   taken even if its sender is dead by then.
 *   A socket that is full says so at once; what was refused waits in order and is sent when there is room. Where a user has too
 *   many descriptors inside sockets nobody tells when that is over: it is tried again after a while.
 *
 * Invariants
 *   I1  messages leave in the order of their calls.
 *   I2  a descriptor that waits is a duplicate of our own, so that the caller may close its own at once.
 *   I3  nothing here throws or waits: a manager that does not listen costs us what it was to be told.
 *
 * Limits  WAITING_MAX messages wait; what is past that is dropped and counted.
 */
import { Errno, LinuxErrno } from '@virtnet/wire';
import { close, dup, setCloseOnExec } from './fd.js';
import type { Poller, Watch } from './poller.js';
import { connectDatagram, setSendBuffer } from './socket.js';
import { send } from './socket-message.js';

/** First descriptor a service is handed (SD_LISTEN_FDS_START). */
export const LISTEN_FDS_START = 3;
/** 1,070 devices of 100 descriptors each, all at once. */
const WAITING_MAX = 131_072;
const SEND_BUFFER_BYTES = 8 * 1024 * 1024;
const MICROSECONDS_PER_MS = 1000;
const CROWDED_RETRY_MS = 10;

/** A descriptor that a former life of the service left with the manager. */
export interface PassedDescriptor {
  readonly name: string;
  readonly fd: number;
}

type SendResult = 'sent' | 'full' | 'crowded';
type Environment = Record<string, string | undefined>;

/**
 * The descriptors handed to this very process, now close-on-exec, with the names they were stored under. The variables
 * are removed: no child may take them for its own.
 */
export function passedDescriptors(environment: Environment = process.env): PassedDescriptor[] {
  const { LISTEN_PID: pid, LISTEN_FDS: fds, LISTEN_FDNAMES: names } = environment;
  for (const name of ['LISTEN_PID', 'LISTEN_FDS', 'LISTEN_FDNAMES']) delete environment[name];
  const count = Number(fds);
  if (Number(pid) !== process.pid || !Number.isInteger(count) || count < 1) return [];
  const list = (names ?? '').split(':');
  return Array.from({ length: count }, (_, index) => {
    const fd = LISTEN_FDS_START + index;
    setCloseOnExec(fd);
    return { name: decodeName(list[index] ?? ''), fd };
  });
}

/** How often the manager wants to hear `WATCHDOG=1`, in milliseconds; null when it does not. */
export function watchdogIntervalMs(environment: Environment = process.env): number | null {
  const microseconds = Number(environment.WATCHDOG_USEC);
  const ours = environment.WATCHDOG_PID === undefined || Number(environment.WATCHDOG_PID) === process.pid;
  return ours && microseconds > 0 ? microseconds / MICROSECONDS_PER_MS : null;
}

export class ServiceManager {
  readonly #fd: number;
  readonly #poller: Poller;
  #watch: Watch | null = null;
  #retry: NodeJS.Timeout | undefined;
  readonly #whenSent: (() => void)[] = [];
  readonly #waiting: { readonly text: string; readonly fd: number }[] = [];
  readonly counters = { sent: 0, dropped: 0, failed: 0 };

  private constructor(fd: number, poller: Poller) {
    this.#fd = fd;
    this.#poller = poller;
  }

  /** The manager that started us; null when none did. */
  static connect(poller: Poller, environment: Environment = process.env): ServiceManager | null {
    const path = environment.NOTIFY_SOCKET;
    if (path === undefined || path === '') return null;
    const fd = connectDatagram(path);
    if (fd < 0) return null;
    setSendBuffer(fd, SEND_BUFFER_BYTES);
    return new ServiceManager(fd, poller);
  }

  /** Tells the manager `lines`, for example `READY=1`. */
  notify(...lines: string[]): void {
    this.#say(lines.join('\n'), -1);
  }

  /** Has `fd` kept under `name`, beside what is kept under it already. The manager does not watch it for hang-ups. */
  store(name: string, fd: number): void {
    this.#say(`FDSTORE=1\nFDPOLL=0\nFDNAME=${encodeName(name)}`, fd);
  }

  /** Has everything under `name` let go. */
  remove(name: string): void {
    this.#say(`FDSTOREREMOVE=1\nFDNAME=${encodeName(name)}`, -1);
  }

  /** Calls `action` when no message waits any more: at once, or later. */
  whenSent(action: () => void): void {
    if (this.waiting === 0) action();
    else this.#whenSent.push(action);
  }

  /** Messages that wait for room. */
  get waiting(): number {
    return this.#waiting.length;
  }

  close(): void {
    this.#watch?.close();
    this.#watch = null;
    clearTimeout(this.#retry);
    for (const { fd } of this.#waiting.splice(0)) if (fd >= 0) close(fd);
    close(this.#fd);
  }

  #say(text: string, fd: number): void {
    const sent = this.#waiting.length === 0 ? this.#send(text, fd) : 'full';
    if (sent === 'sent') return;
    if (this.#waiting.length >= WAITING_MAX) {
      this.counters.dropped += 1;
      return;
    }
    this.#waiting.push({ text, fd: fd < 0 ? -1 : dup(fd) });
    if (sent === 'crowded') this.#tryLater();
    else if (this.#retry === undefined) this.#awaitRoom();
  }

  /** Full: there is room when the socket is writable; crowded: nobody tells when. */
  #send(text: string, fd: number): SendResult {
    const sent = send(this.#fd, Buffer.from(text), fd < 0 ? [] : [fd]);
    if (sent === -Errno.EAGAIN || sent === -Errno.ENOBUFS) return 'full';
    if (sent === -LinuxErrno.ETOOMANYREFS) return 'crowded';
    if (sent < 0) this.counters.failed += 1;
    else this.counters.sent += 1;
    return 'sent';
  }

  #tryLater(): void {
    this.#watch?.close();
    this.#watch = null;
    this.#retry = setTimeout(() => {
      this.#retry = undefined;
      this.#flush();
    }, CROWDED_RETRY_MS);
  }

  #awaitRoom(): void {
    if (this.#watch !== null) return;
    const watch = this.#poller.watch(this.#fd, { writable: true }, () => this.#flush());
    if (typeof watch !== 'number') this.#watch = watch;
  }

  #flush(): void {
    let next = 0;
    let sent: SendResult = 'sent';
    for (; next < this.#waiting.length; next++) {
      const { text, fd } = this.#waiting[next]!;
      sent = this.#send(text, fd);
      if (sent !== 'sent') break;
      if (fd >= 0) close(fd);
    }
    this.#waiting.splice(0, next);
    if (sent === 'crowded') this.#tryLater();
    else if (sent === 'full') this.#awaitRoom();
    if (this.#waiting.length > 0) return;
    this.#watch?.close();
    this.#watch = null;
    for (const action of this.#whenSent.splice(0)) action();
  }
}

/** A name as systemd takes it: printable ASCII without colon. */
function encodeName(name: string): string {
  return name.replaceAll('%', '%25').replaceAll(':', '%3A');
}

function decodeName(name: string): string {
  return name.replaceAll('%3A', ':').replaceAll('%25', '%');
}
