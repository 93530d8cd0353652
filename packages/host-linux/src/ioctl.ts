/** ioctl.ts: the one ioctl declaration; its users say what they ask of it. */
import { declare } from './libc.js';

/** ioctl: TAP devices, network interfaces and the fill level of sockets are configured by nothing else. */
export const nativeIoctl = declare<(fd: number, request: number, argument: number) => number>(
  'ioctl',
  'int',
  ['int', 'uint64_t', 'uintptr_t'],
);
