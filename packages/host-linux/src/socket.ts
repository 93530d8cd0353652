/**
 * socket.ts: AF_UNIX sockets: making, naming and asking them. Messages are in socket-message.ts.
 *
 * Theory
 *   A listening socket is a file that strangers may look at, so it gets its mode before it gets its name, in a
 *   directory only we can enter. A process that died leaves its socket file behind; whether one is stale is found
 *   out by connecting to it, since only a socket nobody holds refuses. A listener that was handed to another
 *   process (the keeper) is therefore never taken for stale.
 *
 * Invariants
 *   I1  every socket is non-blocking and close-on-exec.
 *   I2  a path that somebody listens on, or that is not a socket, is never removed.
 *
 * Limits  107 bytes of path; BACKLOG connections waiting; two processes that start to listen on one stale path at
 *         the same instant are not told apart here (their supervisor starts one).
 */
import { lstatSync, mkdirSync, unlinkSync } from 'node:fs';
import { dirname } from 'node:path';
import {
  Errno,
  FIONREAD,
  LinuxErrno,
  PeerCredentials,
  PollDescriptor,
  PollEvent,
  SOL_SOCKET,
  SockaddrUnHead,
  SocketFamily,
  SocketOption,
  SocketType,
  SocketTypeFlag,
  UNIX_PATH_BYTES,
} from '@virtnet/wire';
import { close } from './fd.js';
import { nativeIoctl } from './ioctl.js';
import { declare, NativeBuffer, negativeErrno, orErrno } from './libc.js';

/** socket, socketpair, bind, listen, connect, accept4: Node's net module cannot carry descriptors or SEQPACKET. */
const nativeSocket = declare<(family: number, type: number, protocol: number) => number>('socket', 'int', [
  'int',
  'int',
  'int',
]);
const nativeSocketpair = declare<(family: number, type: number, protocol: number, pair: number) => number>(
  'socketpair',
  'int',
  ['int', 'int', 'int', 'uintptr_t'],
);
const nativeBind = declare<(fd: number, address: number, bytes: number) => number>('bind', 'int', [
  'int',
  'uintptr_t',
  'int',
]);
const nativeListen = declare<(fd: number, backlog: number) => number>('listen', 'int', ['int', 'int']);
const nativeConnect = declare<(fd: number, address: number, bytes: number) => number>('connect', 'int', [
  'int',
  'uintptr_t',
  'int',
]);
const nativeAccept = declare<(fd: number, address: number, bytes: number, flags: number) => number>(
  'accept4',
  'int',
  ['int', 'uintptr_t', 'uintptr_t', 'int'],
);
/** fchmod: on a socket not yet bound it decides the mode of the file that bind will make, without a gap. */
const nativeFchmod = declare<(fd: number, mode: number) => number>('fchmod', 'int', ['int', 'uint32_t']);
/** getsockopt, setsockopt: peer credentials, buffer sizes, the peek offset. */
const nativeGetsockopt = declare<
  (fd: number, level: number, name: number, value: number, bytes: number) => number
>('getsockopt', 'int', ['int', 'int', 'int', 'uintptr_t', 'uintptr_t']);
const nativeSetsockopt = declare<
  (fd: number, level: number, name: number, value: number, bytes: number) => number
>('setsockopt', 'int', ['int', 'int', 'int', 'uintptr_t', 'int']);

/** shutdown: ends a connection of which another process has a descriptor too. */
const nativeShutdown = declare<(fd: number, how: number) => number>('shutdown', 'int', ['int', 'int']);
/** SHUT_RDWR */
const BOTH_WAYS = 2;

/** 'stream': bytes without borders. 'seqpacket': whole messages, ordered, end of connection noticed. */
export type SocketKind = 'stream' | 'seqpacket';

/** Connections waiting for accept(); the kernel caps it at net.core.somaxconn. */
const BACKLOG = 128;
const DIRECTORY_MODE = 0o700;
/** Mode of a listening socket's file unless told otherwise. */
export const SOCKET_MODE = 0o600;

/** poll: whether one socket has room, without an epoll set. */
const nativePoll = declare<(list: number, count: number, timeoutMs: number) => number>('poll', 'int', [
  'uintptr_t',
  'uint64_t',
  'int',
]);

const polled = new NativeBuffer(PollDescriptor.sizeBytes);
const address = new NativeBuffer(SockaddrUnHead.sizeBytes + UNIX_PATH_BYTES);
const option = new NativeBuffer(PeerCredentials.sizeBytes);
const optionBytes = new NativeBuffer(4);

/** A datagram socket that sends to `path` (a leading `@` means a name in the abstract namespace), or -errno. */
export function connectDatagram(path: string): number {
  return datagram(path, nativeConnect);
}

/** A datagram socket that receives at `path`, which must not exist; or -errno. */
export function bindDatagram(path: string): number {
  return datagram(path, nativeBind);
}

function datagram(path: string, attach: typeof nativeConnect): number {
  const type = SocketType.DATAGRAM | SocketTypeFlag.NONBLOCK | SocketTypeFlag.CLOEXEC;
  const fd = orErrno(nativeSocket(SocketFamily.UNIX, type, 0));
  if (fd < 0) return fd;
  const named = setAddress(path);
  const abstract = path.startsWith('@');
  if (abstract) address.u8[SockaddrUnHead.sizeBytes] = 0;
  const length = abstract && named > 0 ? named - 1 : named; // an abstract name has no terminator
  if (length >= 0 && attach(fd, address.address, length) === 0) return fd;
  const error = length < 0 ? length : negativeErrno();
  close(fd);
  return error;
}

function open(kind: SocketKind): number {
  const type = kind === 'stream' ? SocketType.STREAM : SocketType.SEQPACKET;
  const fd = nativeSocket(SocketFamily.UNIX, type | SocketTypeFlag.NONBLOCK | SocketTypeFlag.CLOEXEC, 0);
  return orErrno(fd);
}

/** A socket to ask the network configuration through. Any family will do, and UNIX sockets are never forbidden. */
export function controlSocket(): number {
  return orErrno(nativeSocket(SocketFamily.UNIX, SocketType.DATAGRAM | SocketTypeFlag.CLOEXEC, 0));
}

/** Writes the address of `path`; returns its length or -errno. */
function setAddress(path: string): number {
  const at = SockaddrUnHead.sizeBytes;
  if (path.length === 0 || path.includes('\0')) return -Errno.EINVAL;
  const bytes = Buffer.from(path);
  if (bytes.length >= UNIX_PATH_BYTES) return -LinuxErrno.ENAMETOOLONG;
  address.u8.fill(0);
  address.view.setUint16(0, SocketFamily.UNIX, true);
  address.u8.set(bytes, at);
  return at + bytes.length + 1;
}

/**
 * A listening socket at `path`. Its directory is made (0700) when absent, and a socket file nobody listens on is
 * removed. Returns the descriptor, -EADDRINUSE when somebody listens there or the path is not a socket,
 * -ENAMETOOLONG for more than 107 bytes, or another -errno.
 */
export function listen(path: string, kind: SocketKind, mode = SOCKET_MODE): number {
  const length = setAddress(path);
  if (length < 0) return length;
  try {
    mkdirSync(dirname(path), { recursive: true, mode: DIRECTORY_MODE });
  } catch (error) {
    return fsErrno(error);
  }
  const error = removeStale(path, kind);
  if (error < 0) return error;
  const fd = open(kind);
  if (fd < 0) return fd;
  setAddress(path);
  const failed =
    nativeFchmod(fd, mode) < 0 ||
    nativeBind(fd, address.address, length) < 0 ||
    nativeListen(fd, BACKLOG) < 0;
  if (!failed) return fd;
  const reason = negativeErrno();
  close(fd);
  return reason;
}

function removeStale(path: string, kind: SocketKind): number {
  try {
    if (!lstatSync(path).isSocket()) return -LinuxErrno.EADDRINUSE;
  } catch (error) {
    const errno = fsErrno(error);
    return errno === -Errno.ENOENT ? 0 : errno;
  }
  const probe = connect(path, kind);
  if (probe >= 0) close(probe);
  // Only a refused connection proves that nobody listens: a full backlog or another socket type is somebody.
  if (probe !== -Errno.ECONNREFUSED && probe !== -Errno.ENOENT) return -LinuxErrno.EADDRINUSE;
  try {
    unlinkSync(path);
    return 0;
  } catch (error) {
    return fsErrno(error);
  }
}

/** Connects to `path`. Returns the descriptor, -EAGAIN when the listener's backlog is full, or another -errno. */
export function connect(path: string, kind: SocketKind): number {
  const fd = open(kind);
  if (fd < 0) return fd;
  const length = setAddress(path);
  if (length >= 0 && nativeConnect(fd, address.address, length) === 0) return fd;
  const error = length < 0 ? length : negativeErrno();
  close(fd);
  return error;
}

/** Two connected sockets, or -errno. */
export function socketPair(kind: SocketKind): readonly [number, number] | number {
  const type = kind === 'stream' ? SocketType.STREAM : SocketType.SEQPACKET;
  const flags = SocketTypeFlag.NONBLOCK | SocketTypeFlag.CLOEXEC;
  if (nativeSocketpair(SocketFamily.UNIX, type | flags, 0, option.address) < 0) return negativeErrno();
  return [option.i32[0]!, option.i32[1]!];
}

/** The next waiting connection; -EAGAIN when there is none, -EMFILE when descriptors ran out, or another -errno. */
export function accept(listener: number): number {
  for (;;) {
    const fd = nativeAccept(listener, 0, 0, SocketTypeFlag.NONBLOCK | SocketTypeFlag.CLOEXEC);
    if (fd >= 0) return fd;
    const error = negativeErrno();
    if (error !== -Errno.EINTR) return error;
  }
}

/** Ends a connection for everybody who has a descriptor of it. Returns 0, or -errno when it has ended. */
export function shutdown(fd: number): number {
  return orErrno(nativeShutdown(fd, BOTH_WAYS));
}

/** Who was at the other end when it connected (or made the pair). */
export interface Credentials {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
}

/** SO_PEERCRED, or -errno. */
export function peerCredentials(fd: number): Credentials | number {
  optionBytes.u32[0] = PeerCredentials.sizeBytes;
  const name = SocketOption.PEERCRED;
  if (nativeGetsockopt(fd, SOL_SOCKET, name, option.address, optionBytes.address) < 0) return negativeErrno();
  return PeerCredentials.decode(option.view);
}

function setOption(fd: number, name: number, value: number): number {
  option.i32[0] = value;
  return orErrno(nativeSetsockopt(fd, SOL_SOCKET, name, option.address, 4));
}

/** Bytes the peer may leave unread before send() says -EAGAIN; past the system's limit when privileged. */
export function setSendBuffer(fd: number, bytes: number): number {
  const forced = setOption(fd, SocketOption.SNDBUFFORCE, bytes);
  return forced === 0 ? 0 : setOption(fd, SocketOption.SNDBUF, bytes);
}

/**
 * Makes peeks of a UNIX socket start `offset` bytes in and walk forward with each peek; plain reads move the
 * offset back by what they took. -1 turns it off. A peek stops behind a segment that carries descriptors, and
 * every peek that touches such a segment duplicates them. Returns 0 or -errno.
 */
export function setPeekOffset(fd: number, offset: number): number {
  return setOption(fd, SocketOption.PEEK_OFF, offset);
}

/**
 * Whether send() would take something now: a UNIX socket says so while three quarters of its send buffer are free.
 * Also true of a socket whose peer is gone, since send() then answers at once.
 */
export function isWritable(fd: number): boolean {
  polled.view.setInt32(PollDescriptor.at.fd, fd, true);
  polled.view.setUint16(PollDescriptor.at.events, PollEvent.OUT, true);
  return nativePoll(polled.address, 1, 0) === 1;
}

/** Whether the other end of a connected socket is gone. */
export function isPeerGone(fd: number): boolean {
  polled.view.setInt32(PollDescriptor.at.fd, fd, true);
  polled.view.setUint16(PollDescriptor.at.events, PollEvent.RDHUP, true);
  return nativePoll(polled.address, 1, 0) !== 0; // hang-up, error and a bad descriptor are always told
}

/** The error an asynchronous operation left on the socket, negative, and cleared; 0 when there is none. */
export function takeSocketError(fd: number): number {
  optionBytes.u32[0] = 4;
  const name = SocketOption.ERROR;
  if (nativeGetsockopt(fd, SOL_SOCKET, name, option.address, optionBytes.address) < 0) return negativeErrno();
  return -option.i32[0]!;
}

/** Bytes waiting to be read (of a stream: all of them; of a seqpacket: the next message), or -errno. */
export function readableBytes(fd: number): number {
  if (nativeIoctl(fd, FIONREAD, option.address) < 0) return negativeErrno();
  return option.i32[0]!;
}

function fsErrno(error: unknown): number {
  return (error as NodeJS.ErrnoException).errno ?? -Errno.EIO;
}
