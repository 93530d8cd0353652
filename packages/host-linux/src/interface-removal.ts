/**
 * interface-removal.ts: removes many network interfaces at once.
 *
 * Theory
 *   The kernel waits for every reader of an interface before it lets it go: 10 to 20 ms each, in the call that closes
 *   a TAP's last descriptor, and a thousand of them would hold a thread for as many times that. It removes a *group*
 *   of interfaces with one wait for all. So the interfaces are put into a group that nobody else uses, and the group
 *   is removed. Descriptors of the TAPs stay valid and dead; closing them costs nothing then.
 *
 * Invariants
 *   I1  only interfaces that the caller named are in the group: its number is drawn anew for each call.
 *
 * Limits  the kernel works during the call: GROUP_MAX interfaces take it about 50 ms, so more are not taken at once.
 */
import {
  Errno,
  NETLINK_FAMILY,
  NETLINK_GROUP,
  NETLINK_ROUTE,
  NetlinkFlag,
  NetlinkHeader,
  NetlinkInterface,
  NetlinkType,
  NetlinkWord,
  SocketType,
  SocketTypeFlag,
} from '@virtnet/wire';
import { close } from './fd.js';
import { declare, NativeBuffer, negativeErrno, orErrno } from './libc.js';
import { ifIndex } from './netdev.js';

/** Interfaces of one call. */
export const GROUP_MAX = 128;
const MESSAGE_BYTES = NetlinkHeader.sizeBytes + NetlinkInterface.sizeBytes + NetlinkWord.sizeBytes;
/** Groups are 32 bits; ours have this bit, which no person chooses. */
const GROUP_BASE = 0x5600_0000;
const ANSWER_BYTES = 4096;

/** socket, send, recv: rtnetlink is the only way to remove interfaces by group. */
const nativeSocket = declare<(family: number, type: number, protocol: number) => number>('socket', 'int', [
  'int',
  'int',
  'int',
]);
const nativeSend = declare<(fd: number, bytes: number, count: number, flags: number) => number>(
  'send',
  'int64_t',
  ['int', 'uintptr_t', 'size_t', 'int'],
);
const nativeRecv = declare<(fd: number, bytes: number, count: number, flags: number) => number>(
  'recv',
  'int64_t',
  ['int', 'uintptr_t', 'size_t', 'int'],
);

const request = new NativeBuffer(GROUP_MAX * MESSAGE_BYTES);
const answer = new NativeBuffer(ANSWER_BYTES);

function put(at: number, type: number, flags: number, index: number, group: number): void {
  NetlinkHeader.encode(request.view, at, {
    sizeBytes: MESSAGE_BYTES,
    type,
    flags: NetlinkFlag.REQUEST | flags,
    sequence: 1,
    portId: 0,
  });
  const interfaceAt = at + NetlinkHeader.sizeBytes;
  NetlinkInterface.encode(request.view, interfaceAt, {
    family: 0,
    padding: 0,
    kind: 0,
    index,
    flags: 0,
    change: 0,
  });
  NetlinkWord.encode(request.view, interfaceAt + NetlinkInterface.sizeBytes, {
    sizeBytes: NetlinkWord.sizeBytes,
    type: NETLINK_GROUP,
    value: group,
  });
}

/** Sends `count` messages; the kernel has worked them when this returns. 0 or -errno; errors of a single one come by `recv`. */
function sendAll(fd: number, count: number): number {
  const sent = orErrno(nativeSend(fd, request.address, count * MESSAGE_BYTES, 0));
  return sent < 0 ? sent : 0;
}

/**
 * Removes the interfaces named, at most GROUP_MAX; names that do not exist are passed over. Returns 0 or -errno
 * (-EPERM without CAP_NET_ADMIN): then some or all of them still exist.
 */
export function removeInterfaces(names: readonly string[]): number {
  if (names.length > GROUP_MAX) return -Errno.EINVAL;
  const indexes = names.map(ifIndex).filter((index) => index > 0);
  if (indexes.length === 0) return 0;
  const fd = nativeSocket(NETLINK_FAMILY, SocketType.DATAGRAM | SocketTypeFlag.CLOEXEC, NETLINK_ROUTE);
  if (fd < 0) return negativeErrno();
  const group = GROUP_BASE + Math.floor(Math.random() * 0x100_0000);
  for (const [i, index] of indexes.entries()) put(i * MESSAGE_BYTES, NetlinkType.SET_LINK, 0, index, group);
  let result = sendAll(fd, indexes.length);
  if (result === 0) {
    put(0, NetlinkType.DEL_LINK, NetlinkFlag.ACK, 0, group);
    result = sendAll(fd, 1);
  }
  if (result === 0) result = answerOf(fd);
  close(fd);
  return result;
}

/** The first error the kernel reported, or the acknowledgement. */
function answerOf(fd: number): number {
  const bytes = orErrno(nativeRecv(fd, answer.address, ANSWER_BYTES, 0));
  if (bytes < 0) return bytes;
  if (bytes < NetlinkHeader.sizeBytes + 4) return -Errno.EINVAL;
  const { type } = NetlinkHeader.decode(answer.view);
  return type === NetlinkType.ERROR ? answer.view.getInt32(NetlinkHeader.sizeBytes, true) : -Errno.EINVAL;
}
