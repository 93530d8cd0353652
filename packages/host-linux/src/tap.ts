/**
 * tap.ts: TAP devices, which stand for representors.
 *
 * Theory
 *   A TAP exists while a descriptor of it is open anywhere (unless made persistent), so its descriptors in the
 *   keeper let an interface outlive the process that made it, with name, index and carrier. Each descriptor is one
 *   queue. Frames carry a virtio-net header in front; TUNSETOFFLOAD says which offloads the *reader* of the
 *   descriptor takes, and belongs to the device, not to the queue.
 *   The kernel adds a queue by name, in the namespace of who asks, and makes an interface where there is none of that name.
 *   A TAP may be renamed and moved meanwhile. So addTapQueue() asks a queue that there is for the name, and looks before and
 *   after whether that is the same interface here.
 *
 * Invariants
 *   I1  all descriptors are non-blocking and close-on-exec, with little-endian headers.
 *   I2  openTap() makes all queues or none.
 *   I3  addTapQueue() leaves no interface behind that was not there.
 *
 * Limits  TAP_QUEUES_MAX queues (the kernel's MAX_TAP_QUEUES); needs CAP_NET_ADMIN and /dev/net/tun.
 */
import { readlinkSync } from 'node:fs';
import { release } from 'node:os';
import {
  ARPHRD_ETHER,
  Errno,
  HardwareAddress,
  IFREQ_UNION_AT,
  NetdevIoctl,
  OpenFlag,
  TunFlag,
  TunIoctl,
  TunOffload,
} from '@virtnet/wire';
import { close, closeAll } from './fd.js';
import { interfaceRequest, nameRequest, requestedName } from './interface-request.js';
import { nativeIoctl } from './ioctl.js';
import { declare, NativeBuffer, negativeErrno, orErrno } from './libc.js';
import { ifIndex } from './netdev.js';

/** open: /dev/net/tun must be opened non-blocking, and errors are wanted as numbers. */
const nativeOpen = declare<(path: string, flags: number, mode: number) => number>('open', 'int', [
  'str',
  'int',
  'int',
]);

const TUN_DEVICE = '/dev/net/tun';
/** Most queues of one TAP. */
export const TAP_QUEUES_MAX = 256;
/** Size in bytes of the virtio-net header with num_buffers, which virtio 1.0 devices always use. */
const HEADER_BYTES = 12;
const MAC_BYTES = 6;
const FLAGS = TunFlag.TAP | TunFlag.NO_PI | TunFlag.VNET_HDR | TunFlag.MULTI_QUEUE;
/** First kernel whose TAPs take UDP segmentation offload. */
const USO_KERNEL = [6, 2] as const;

const word = new NativeBuffer(4);

function setWord(fd: number, request: number, value: number): number {
  word.i32[0] = value;
  return orErrno(nativeIoctl(fd, request, word.address));
}

/**
 * Makes the TAP `name` (1 to 15 bytes), or adds queues to one that exists, and returns one descriptor per queue.
 * Offloads are off then. Errors: -EINVAL (name, queue count, or the name belongs to another kind of interface),
 * -EPERM, -ENOENT without /dev/net/tun, -EBUSY, -E2BIG (too many queues), -EMFILE, or another -errno.
 */
export function openTap(name: string, { queues, headerBytes = HEADER_BYTES }: TapOptions): number[] | number {
  if (!Number.isInteger(queues) || queues < 1 || queues > TAP_QUEUES_MAX) return -Errno.EINVAL;
  const fds: number[] = [];
  for (let i = 0; i < queues; i++) {
    const fd = openQueue(name, headerBytes);
    if (fd >= 0) fds.push(fd);
    else {
      closeAll(fds);
      return fd;
    }
  }
  setOffload(fds[0]!, 0);
  return fds;
}

/**
 * Adds a queue to the TAP that `fd` is a queue of, whatever its name is now, and returns the descriptor. Offloads, which
 * belong to the TAP, stay as they are. Errors: -ENODEV when the TAP is in another network namespace, -EBADFD when it was
 * deleted, -E2BIG (too many queues), -EMFILE, or another -errno.
 */
export function addTapQueue(fd: number): number {
  const name = tapName(fd);
  if (typeof name === 'number') return name;
  const error = notHere(fd, name);
  if (error < 0) return error;
  const added = openQueue(name, HEADER_BYTES);
  if (added < 0) return added;
  const moved = tapName(fd) === name ? notHere(fd, name) : -Errno.ENODEV;
  if (moved === 0) return added;
  close(added); // it went in between, and what was made instead goes with its only queue
  return moved;
}

/** 0 when interface `name` of this network namespace is the TAP that `fd` is a queue of and has that name; else -errno. */
function notHere(fd: number, name: string): number {
  const index = ifIndex(name);
  if (index < 0) return index; // -ENODEV, or nobody can tell
  const namespace = nativeIoctl(fd, TunIoctl.GETDEVNETNS, 0);
  if (namespace < 0) {
    const errno = negativeErrno();
    return errno === -Errno.EINVAL ? 0 : errno; // before Linux 5.8 the name is all there is to go by
  }
  try {
    const here = readlinkSync('/proc/thread-self/ns/net');
    return readlinkSync(`/proc/self/fd/${namespace}`) === here ? 0 : -Errno.ENODEV;
  } catch {
    return -Errno.EIO; // no /proc
  } finally {
    close(namespace);
  }
}

export interface TapOptions {
  readonly queues: number;
  /** Bytes of virtio-net header before each frame: 12, or 10 for a legacy device. */
  readonly headerBytes?: number;
}

function openQueue(name: string, headerBytes: number): number {
  const named = nameRequest(name);
  if (named < 0) return named;
  interfaceRequest.view.setUint16(IFREQ_UNION_AT, FLAGS, true);
  const fd = nativeOpen(TUN_DEVICE, OpenFlag.RDWR | OpenFlag.NONBLOCK | OpenFlag.CLOEXEC, 0);
  if (fd < 0) return negativeErrno();
  let error = orErrno(nativeIoctl(fd, TunIoctl.SETIFF, interfaceRequest.address));
  if (error === 0) error = setWord(fd, TunIoctl.SETVNETHDRSZ, headerBytes);
  if (error === 0) error = setWord(fd, TunIoctl.SETVNETLE, 1);
  if (error === 0) return fd;
  close(fd);
  return error;
}

/** Name of the interface a TAP descriptor belongs to, or -errno (-ENOTTY and the like when it is no TAP). */
export function tapName(fd: number): string | number {
  if (nativeIoctl(fd, TunIoctl.GETIFF, interfaceRequest.address) < 0) return negativeErrno();
  return requestedName();
}

/** Changes the size of the header before each frame, for all queues of the TAP. Returns 0 or -errno. */
export function setHeaderSize(fd: number, headerBytes: number): number {
  return setWord(fd, TunIoctl.SETVNETHDRSZ, headerBytes);
}

/** Says which offloads (TunOffload bits) the reader takes, for all queues of the TAP. Returns 0 or -errno. */
export function setOffload(fd: number, flags: number): number {
  return orErrno(nativeIoctl(fd, TunIoctl.SETOFFLOAD, flags));
}

/**
 * Whether TAPs take UDP segmentation offload. Given a TAP descriptor the kernel is asked, which leaves that TAP's
 * offloads off; without one the kernel's version decides.
 */
export function supportsUso(tapFd?: number): boolean {
  if (tapFd === undefined) {
    const [major = 0, minor = 0] = release().split('.').map(Number);
    return major > USO_KERNEL[0] || (major === USO_KERNEL[0] && minor >= USO_KERNEL[1]);
  }
  const { CSUM, TSO4, TSO6, USO4, USO6 } = TunOffload;
  const supported = setOffload(tapFd, CSUM | TSO4 | TSO6 | USO4 | USO6) === 0;
  setOffload(tapFd, 0);
  return supported;
}

/** Attaches or detaches the queue: a detached one is not given frames. Returns 0 or -errno (-EINVAL: already so). */
export function setQueueAttached(fd: number, on: boolean): number {
  interfaceRequest.u8.fill(0);
  const flag = on ? TunFlag.ATTACH_QUEUE : TunFlag.DETACH_QUEUE;
  interfaceRequest.view.setUint16(IFREQ_UNION_AT, flag, true);
  return orErrno(nativeIoctl(fd, TunIoctl.SETQUEUE, interfaceRequest.address));
}

/** Turns the interface's carrier on or off. Returns 0 or -errno. */
export function setCarrier(fd: number, on: boolean): number {
  return setWord(fd, TunIoctl.SETCARRIER, on ? 1 : 0);
}

/** Sets the MAC address (6 bytes) of the interface, in whatever network namespace it is now. Returns 0 or -errno. */
export function setTapMac(fd: number, mac: Uint8Array): number {
  if (mac.length !== MAC_BYTES) return -Errno.EINVAL;
  interfaceRequest.u8.fill(0);
  interfaceRequest.view.setUint16(IFREQ_UNION_AT, ARPHRD_ETHER, true);
  interfaceRequest.u8.set(mac, IFREQ_UNION_AT + HardwareAddress.at.byte0);
  return orErrno(nativeIoctl(fd, NetdevIoctl.SIFHWADDR, interfaceRequest.address));
}

/** Lets the interface stay when its last descriptor closes, or not. Returns 0 or -errno. */
export function setPersist(fd: number, on: boolean): number {
  return orErrno(nativeIoctl(fd, TunIoctl.SETPERSIST, on ? 1 : 0));
}
