/** Linux error numbers this project raises or meets (uapi/asm-generic/errno*.h). Positive; callers negate. */
export const Errno = {
  /** Operation not permitted. */
  EPERM: 1,
  /** No such file, device or entry. */
  ENOENT: 2,
  /** Interrupted by a signal. */
  EINTR: 4,
  /** Input/output error. */
  EIO: 5,
  /** No such device or address. */
  ENXIO: 6,
  /** Argument list too long. */
  E2BIG: 7,
  /** Bad file descriptor. */
  EBADF: 9,
  /** Try again; the call would have blocked. */
  EAGAIN: 11,
  /** Out of memory. */
  ENOMEM: 12,
  /** Permission denied. */
  EACCES: 13,
  /** Bad address. */
  EFAULT: 14,
  /** Busy. */
  EBUSY: 16,
  /** Exists already. */
  EEXIST: 17,
  /** No such device. */
  ENODEV: 19,
  /** Invalid argument. */
  EINVAL: 22,
  /** Too many open files. */
  EMFILE: 24,
  /** No space left. */
  ENOSPC: 28,
  /** Broken pipe. */
  EPIPE: 32,
  /** Out of range. */
  ERANGE: 34,
  /** Function not implemented. */
  ENOSYS: 38,
  /** Protocol error. */
  EPROTO: 71,
  /** Message too long. */
  EMSGSIZE: 90,
  /** Not supported. */
  EOPNOTSUPP: 95,
  /** No buffer space. */
  ENOBUFS: 105,
  /** Connection reset. */
  ECONNRESET: 104,
  /** Not connected. */
  ENOTCONN: 107,
  /** Timed out. */
  ETIMEDOUT: 110,
  /** Connection refused. */
  ECONNREFUSED: 111,
} as const;
export type Errno = (typeof Errno)[keyof typeof Errno];
