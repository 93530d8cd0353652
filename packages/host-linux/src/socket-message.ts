/**
 * socket-message.ts: bytes and descriptors over AF_UNIX sockets.
 *
 * Theory
 *   One prepared msghdr for sending (per thread, since every thread loads this module for itself) and one per
 *   Receiver. Nothing blocks. Descriptors received belong to the caller, who closes what it does not keep; they are
 *   close-on-exec from the start. A peek makes new duplicates of a message's descriptors every time, so a caller
 *   that peeks a message in pieces says `keepFds: false` after the first.
 *
 * Invariants
 *   I1  after receive() every descriptor the kernel installed is in `fds`, also when the control data was cut off.
 *   I2  discard() installs no descriptor: without room for control data the kernel drops them with the bytes.
 *
 * Limits  SCM_RIGHTS_MAX descriptors in one message; the kernel cuts a stream read behind a segment with descriptors.
 */
import {
  ControlHeader,
  Errno,
  Iovec,
  MessageFlag,
  MsgHeader,
  SCM_RIGHTS,
  SCM_RIGHTS_MAX,
  SOL_SOCKET,
} from '@virtnet/wire';
import { addressOf, declare, NativeBuffer, negativeErrno, setPointer } from './libc.js';

/** sendmsg, recvmsg: the only way to pass descriptors between processes. */
const nativeSendmsg = declare<(fd: number, header: number, flags: number) => number>('sendmsg', 'int', [
  'int',
  'uintptr_t',
  'int',
]);
const nativeRecvmsg = declare<(fd: number, header: number, flags: number) => number>('recvmsg', 'int', [
  'int',
  'uintptr_t',
  'int',
]);
/** send, recv: the same without descriptors, cheaper. */
const nativeSend = declare<(fd: number, address: number, bytes: number, flags: number) => number>(
  'send',
  'int',
  ['int', 'uintptr_t', 'size_t', 'int'],
);
const nativeRecv = declare<(fd: number, address: number, bytes: number, flags: number) => number>(
  'recv',
  'int',
  ['int', 'uintptr_t', 'size_t', 'int'],
);

const FD_BYTES = 4;
const CONTROL_ALIGNMENT = 8;
/** Send flags: a dead peer is an error and not a signal; a full socket is an answer and not a wait. */
const SEND_FLAGS = MessageFlag.NOSIGNAL | MessageFlag.DONTWAIT;

const controlBytes = (fds: number): number =>
  ControlHeader.sizeBytes + Math.ceil((fds * FD_BYTES) / CONTROL_ALIGNMENT) * CONTROL_ALIGNMENT;

/** A msghdr with one iovec and room for the control data of `fdsMax` descriptors, at a fixed address. */
export class MessageBlock {
  readonly #header = new NativeBuffer(MsgHeader.sizeBytes);
  readonly #iovec = new NativeBuffer(Iovec.sizeBytes);
  readonly #control: NativeBuffer;
  readonly #controlRoom: number;

  constructor(fdsMax: number) {
    this.#controlRoom = fdsMax > 0 ? controlBytes(fdsMax) : 0;
    this.#control = new NativeBuffer(this.#controlRoom);
    setPointer(this.#header.view, MsgHeader.at.iov, this.#iovec.address);
    setPointer(this.#header.view, MsgHeader.at.iovCount, 1);
  }

  /** Address of the msghdr. Valid while this object is reachable. */
  get address(): number {
    return this.#header.address;
  }

  setData(address: number, lengthBytes: number): void {
    setPointer(this.#iovec.view, Iovec.at.base, address);
    setPointer(this.#iovec.view, Iovec.at.length, lengthBytes);
  }

  /** Puts `fds` into the control data, for sending. There must be room. */
  setFds(fds: readonly number[]): void {
    const { view, i32 } = this.#control;
    const lengthBytes = ControlHeader.sizeBytes + fds.length * FD_BYTES;
    this.#setControl(fds.length === 0 ? 0 : lengthBytes);
    if (fds.length === 0) return;
    setPointer(view, ControlHeader.at.length, lengthBytes);
    view.setInt32(ControlHeader.at.level, SOL_SOCKET, true);
    view.setInt32(ControlHeader.at.type, SCM_RIGHTS, true);
    for (let i = 0; i < fds.length; i++) i32[ControlHeader.sizeBytes / FD_BYTES + i] = fds[i]!;
  }

  /** Offers the whole control buffer (or none of it), for receiving. */
  offerControl(offer: boolean): void {
    this.#setControl(offer ? this.#controlRoom : 0);
  }

  /** MessageFlag bits the kernel left. */
  get flags(): number {
    return this.#header.view.getInt32(MsgHeader.at.flags, true);
  }

  /** The descriptors the kernel left. */
  takeFds(): number[] {
    const { view, i32 } = this.#control;
    const end = this.#header.view.getUint32(MsgHeader.at.controlLength, true);
    const fds: number[] = [];
    for (let at = 0; at + ControlHeader.sizeBytes <= end; ) {
      const lengthBytes = view.getUint32(at + ControlHeader.at.length, true);
      if (lengthBytes < ControlHeader.sizeBytes) break;
      const level = view.getInt32(at + ControlHeader.at.level, true);
      const type = view.getInt32(at + ControlHeader.at.type, true);
      const stop = Math.min(at + lengthBytes, end);
      if (level === SOL_SOCKET && type === SCM_RIGHTS) {
        for (let p = at + ControlHeader.sizeBytes; p + FD_BYTES <= stop; p += FD_BYTES) {
          fds.push(i32[p / FD_BYTES]!);
        }
      }
      at += Math.ceil(lengthBytes / CONTROL_ALIGNMENT) * CONTROL_ALIGNMENT;
    }
    return fds;
  }

  #setControl(lengthBytes: number): void {
    setPointer(this.#header.view, MsgHeader.at.control, lengthBytes === 0 ? 0 : this.#control.address);
    setPointer(this.#header.view, MsgHeader.at.controlLength, lengthBytes);
  }
}

const sender = new MessageBlock(SCM_RIGHTS_MAX);

/**
 * Sends `bytes`, with `fds` attached to the first of them (they stay open here). Returns the bytes taken, which on
 * a stream may be fewer (the descriptors went with them), -EAGAIN when the socket is full, -EPIPE or -ECONNRESET
 * when the peer is gone, -EINVAL for more than 253 descriptors or descriptors without bytes, or another -errno.
 */
export function send(fd: number, bytes: Uint8Array, fds: readonly number[] = []): number {
  const address = addressOf(bytes);
  if (fds.length === 0) {
    for (;;) {
      const sent = nativeSend(fd, address, bytes.byteLength, SEND_FLAGS);
      if (sent >= 0) return sent;
      const error = negativeErrno();
      if (error !== -Errno.EINTR) return error;
    }
  }
  if (fds.length > SCM_RIGHTS_MAX || bytes.byteLength === 0) return -Errno.EINVAL;
  sender.setFds(fds);
  // Last: from here to the call nothing may allocate, for `bytes` is no longer named (libc.ts, I2).
  sender.setData(address, bytes.byteLength);
  for (;;) {
    const sent = nativeSendmsg(fd, sender.address, SEND_FLAGS);
    if (sent >= 0) return sent;
    const error = negativeErrno();
    if (error !== -Errno.EINTR) return error;
  }
}

/** What one receive() brought. */
export interface Received {
  /** Empty at the end of the connection. A view into the Receiver, valid until its next receive(). */
  readonly bytes: Uint8Array;
  /** Descriptors, now owned by the caller. */
  readonly fds: number[];
  /** Something was cut off: the rest of a packet, or descriptors. */
  readonly truncated: boolean;
  /** Descriptors were cut off: more than fit, or the process has no room for more. */
  readonly fdsTruncated: boolean;
}

/** How to receive. */
export interface ReceiveOptions {
  /** Leave the bytes in the socket. */
  readonly peek?: boolean;
  /** At most that many bytes. */
  readonly maxBytes?: number;
  /** false: take no descriptors; those that came are dropped (or, when peeking, left). */
  readonly keepFds?: boolean;
}

const NO_OPTIONS: ReceiveOptions = {};

/** A buffer to receive into. One per connection or one per thread; results last until the next call. */
export class Receiver {
  readonly #data: NativeBuffer;
  readonly #message: MessageBlock;
  readonly #maxBytes: number;

  /** `maxBytes` of data and `maxFds` descriptors (at most 253) per call. */
  constructor(maxBytes: number, maxFds = SCM_RIGHTS_MAX) {
    this.#maxBytes = maxBytes;
    this.#data = new NativeBuffer(maxBytes);
    this.#message = new MessageBlock(Math.min(maxFds, SCM_RIGHTS_MAX));
  }

  /** Reads or peeks what is there; -EAGAIN when nothing is, -ECONNRESET or another -errno. */
  receive(fd: number, options: ReceiveOptions = NO_OPTIONS): Received | number {
    const keepFds = options.keepFds ?? true;
    const message = this.#message;
    message.setData(this.#data.address, Math.min(options.maxBytes ?? this.#maxBytes, this.#maxBytes));
    message.offerControl(keepFds);
    const peek = options.peek === true ? MessageFlag.PEEK : 0;
    const flags = MessageFlag.DONTWAIT | MessageFlag.CMSG_CLOEXEC | peek;
    let count = nativeRecvmsg(fd, message.address, flags);
    while (count < 0) {
      const error = negativeErrno();
      if (error !== -Errno.EINTR) return error;
      count = nativeRecvmsg(fd, message.address, flags);
    }
    const fdsTruncated = keepFds && (message.flags & MessageFlag.CTRUNC) !== 0;
    return {
      bytes: this.#data.u8.subarray(0, count),
      fds: keepFds ? message.takeFds() : [],
      truncated: fdsTruncated || (message.flags & MessageFlag.TRUNC) !== 0,
      fdsTruncated,
    };
  }
}

/** Bytes thrown away per call. */
const SCRATCH_BYTES = 65536;
const scratch = new NativeBuffer(SCRATCH_BYTES);

/**
 * Throws away up to `count` bytes of a stream, and the descriptors that came with them. Returns the bytes dropped,
 * fewer than `count` when no more are there, or -errno when none could be dropped.
 */
export function discard(fd: number, count: number): number {
  if (!Number.isSafeInteger(count) || count < 0) return -Errno.EINVAL;
  let dropped = 0;
  while (dropped < count) {
    const length = Math.min(count - dropped, SCRATCH_BYTES);
    const received = nativeRecv(fd, scratch.address, length, MessageFlag.DONTWAIT);
    if (received > 0) {
      dropped += received;
      continue;
    }
    if (received === 0) break;
    const error = negativeErrno();
    if (error === -Errno.EINTR) continue;
    if (dropped > 0 || error === -Errno.EAGAIN) break;
    return error;
  }
  return dropped;
}
