/**
 * timer-fd.ts: a one-shot timer that ends a sleep in epoll, to the microsecond.
 *
 * Limits  Times of less than a nanosecond ahead fire at once.
 */
import { close } from './fd.js';
import { declare, NativeBuffer, negativeErrno, orErrno } from './libc.js';

/** timerfd_create, timerfd_settime: epoll_wait alone counts in milliseconds, a thousand times an interrupt's delay. */
const nativeCreate = declare<(clock: number, flags: number) => number>('timerfd_create', 'int', [
  'int',
  'int',
]);
const nativeSet = declare<(fd: number, flags: number, value: number, old: number) => number>(
  'timerfd_settime',
  'int',
  ['int', 'int', 'uintptr_t', 'uintptr_t'],
);

const CLOCK_MONOTONIC = 1;
/** TFD_CLOEXEC and TFD_NONBLOCK. */
const FLAGS = 0o2004000;
const NS_PER_MS = 1_000_000;
const MS_PER_SECOND = 1000;
/** struct itimerspec: interval, then value; seconds and nanoseconds of 8 bytes each. */
const VALUE_SECONDS_WORD = 4;
const VALUE_NANOSECONDS_WORD = 6;
const argument = new NativeBuffer(32);

export class TimerFd {
  readonly fd: number;

  private constructor(fd: number) {
    this.fd = fd;
  }

  /** A timer that does not run, or -errno. */
  static create(): TimerFd | number {
    const fd = nativeCreate(CLOCK_MONOTONIC, FLAGS);
    return fd < 0 ? negativeErrno() : new TimerFd(fd);
  }

  /** Fires once, `ms` milliseconds from now (fractions count), instead of whenever it would have. 0 or -errno. */
  set(ms: number): number {
    const seconds = Math.floor(ms / MS_PER_SECOND);
    argument.u32[VALUE_SECONDS_WORD] = seconds;
    // All zero would stop the timer.
    argument.u32[VALUE_NANOSECONDS_WORD] = Math.max(
      1,
      Math.floor((ms - seconds * MS_PER_SECOND) * NS_PER_MS),
    );
    return orErrno(nativeSet(this.fd, 0, argument.address, 0));
  }

  close(): number {
    return close(this.fd);
  }
}
