/**
 * linux.ts: the parts of the Linux kernel's interface that this project calls by number.
 *
 * Theory
 *   libc gives the functions, not their constants, and a foreign-function call sees no headers. What is needed is
 *   declared here once, from include/uapi of the kernel. Values are those of 64-bit little-endian machines; where
 *   x86-64 and arm64 differ, both are given and the caller picks.
 *
 * Invariants
 *   I1  only values that are equal on x86-64 and arm64 stand without an architecture in their name.
 *
 * Limits  64-bit only.
 */
import { i32, layout, u8, u16, u32, u64 } from './layout.js';

/** System calls without a libc function on every distribution; the numbers are the same on all architectures. */
export const SyscallNumber = {
  PIDFD_SEND_SIGNAL: 424,
  IO_URING_SETUP: 425,
  IO_URING_ENTER: 426,
  IO_URING_REGISTER: 427,
  PIDFD_OPEN: 434,
} as const;

/** kcmp, whose number depends on the architecture, and what it compares opened files by. */
export const KCMP = { x64: 312, arm64: 272 } as const;
export const KCMP_FILE = 0;

/** set_robust_list, whose number depends on the architecture. */
export const SET_ROBUST_LIST = { x64: 273, arm64: 99 } as const;
/** struct robust_list_head; the entry's `next` points back to it. The offset is signed. */
export const RobustListHead = layout('RobustListHead', 24, { next: u64, futexOffset: u64, pending: u64 });

/** getrlimit: descriptors a process may have. */
export const RLIMIT_NOFILE = 7;

/** Errors only the host side meets. */
export const LinuxErrno = {
  /** No such process. */
  ESRCH: 3,
  /** Path longer than a socket address holds. */
  ENAMETOOLONG: 36,
  /** Descriptor in a bad state: of a TAP that is gone, or a queue that is detached. */
  EBADFD: 77,
  /** Socket operation on something else. */
  ENOTSOCK: 88,
  /** Address in use. */
  EADDRINUSE: 98,
  /** Protocol wrong type for socket. */
  EPROTOTYPE: 91,
  /** An unprivileged user may have only RLIMIT_NOFILE descriptors inside sockets. */
  ETOOMANYREFS: 109,
} as const;

/** mmap protection bits (asm-generic/mman-common.h). */
export const MmapProtection = { NONE: 0, READ: 1, WRITE: 2 } as const;

/** mmap flags (asm-generic/mman*.h; equal on x86-64 and arm64). */
export const MmapFlag = {
  SHARED: 0x01,
  PRIVATE: 0x02,
  FIXED: 0x10,
  ANONYMOUS: 0x20,
  NORESERVE: 0x4000,
  POPULATE: 0x8000,
  /** At the address that is asked for, and not at all where something is already. */
  FIXED_NOREPLACE: 0x100000,
} as const;

/** madvise: gives the memory of a shared mapping back; whoever touches it next finds zeros. */
export const MADV_REMOVE = 9;
/** madvise (since Linux 5.14): have the pages mapped as if each was read, or written, now. */
export const MADV_POPULATE_READ = 22;
export const MADV_POPULATE_WRITE = 23;

/** lseek: the next byte of a file that it has memory for, and the next one that it has none for. */
export const SEEK_DATA = 3;
export const SEEK_HOLE = 4;

/** memfd_create flags (linux/memfd.h). */
export const MemfdFlag = { CLOEXEC: 1, ALLOW_SEALING: 2, HUGETLB: 4, NOEXEC_SEAL: 8 } as const;

/** fcntl seals (linux/fcntl.h). */
export const Seal = {
  /** No further seals. */
  SEAL: 1,
  /** The file cannot get smaller: a mapping inside its size can never raise SIGBUS for that. */
  SHRINK: 2,
  GROW: 4,
  WRITE: 8,
  FUTURE_WRITE: 16,
} as const;

/** fcntl commands (linux/fcntl.h). */
export const FcntlCommand = {
  GETFD: 1,
  SETFD: 2,
  GETFL: 3,
  SETFL: 4,
  DUPFD_CLOEXEC: 1030,
  ADD_SEALS: 1033,
  GET_SEALS: 1034,
} as const;

/** flock operations (asm-generic/fcntl.h). */
export const FlockOperation = { EXCLUSIVE: 2, NONBLOCK: 4 } as const;

/** Descriptor flag of F_SETFD. */
export const FD_CLOEXEC = 1;
/** Open flags (asm-generic/fcntl.h; equal on x86-64 and arm64). */
export const OpenFlag = { RDONLY: 0, RDWR: 2, NONBLOCK: 0o4000, CLOEXEC: 0o2000000 } as const;

/** f_type of tmpfs, which memfds are of, and of hugetlbfs (linux/magic.h). */
export const TMPFS_MAGIC = 0x01021994;
export const HUGETLBFS_MAGIC = 0x958458f6;
/** First fields of struct statfs, same on x86-64 and arm64; the structure is STATFS_BYTES long. */
export const StatfsHead = layout('StatfsHead', 16, { type: u64, blockBytes: u64 });
export const STATFS_BYTES = 120;

/** eventfd flags. */
export const EventfdFlag = { NONBLOCK: 0o4000, CLOEXEC: 0o2000000 } as const;

/** epoll_ctl operations. */
export const EpollOperation = { ADD: 1, DELETE: 2, MODIFY: 3 } as const;
/** epoll_create1 flag. */
export const EPOLL_CLOEXEC = 0o2000000;
/** epoll event bits (linux/eventpoll.h). */
export const EpollEvent = {
  IN: 0x001,
  PRI: 0x002,
  OUT: 0x004,
  ERR: 0x008,
  HUP: 0x010,
  RDHUP: 0x2000,
  EXCLUSIVE: 1 << 28,
  ONESHOT: 1 << 30,
  /** Edge-triggered. */
  EDGE: 1 << 31,
} as const;
/** struct epoll_event is packed on x86-64 only; 32-bit word counts. */
export const EpollEventWords = {
  x64: { stride: 3, data: 1 },
  arm64: { stride: 4, data: 2 },
} as const;

/** socket families, types and type flags. */
export const SocketFamily = { UNIX: 1, INET: 2 } as const;
export const SocketType = { STREAM: 1, DATAGRAM: 2, SEQPACKET: 5 } as const;
export const SocketTypeFlag = { NONBLOCK: 0o4000, CLOEXEC: 0o2000000 } as const;
/** getsockopt/setsockopt (asm-generic/socket.h; equal on x86-64 and arm64). */
export const SOL_SOCKET = 1;
export const SocketOption = {
  ERROR: 4,
  SNDBUF: 7,
  RCVBUF: 8,
  PEERCRED: 17,
  SNDBUFFORCE: 32,
  RCVBUFFORCE: 33,
  /** Where the next MSG_PEEK reads from. */
  PEEK_OFF: 42,
} as const;
/** send/recv flags (linux/socket.h). */
export const MessageFlag = {
  PEEK: 0x2,
  /** Control data did not fit and was dropped. */
  CTRUNC: 0x8,
  /** The packet was longer than the buffer. */
  TRUNC: 0x20,
  DONTWAIT: 0x40,
  WAITALL: 0x100,
  NOSIGNAL: 0x4000,
  CMSG_CLOEXEC: 0x40000000,
} as const;
/** Ancillary message type that carries descriptors. */
export const SCM_RIGHTS = 1;
/** Most descriptors in one message (SCM_MAX_FD of net/scm.h). */
export const SCM_RIGHTS_MAX = 253;
/** struct sockaddr_un without its path, and the longest path with its final zero. */
export const SockaddrUnHead = layout('SockaddrUnHead', 2, { family: u16 });
export const UNIX_PATH_BYTES = 108;
/** struct iovec. */
export const Iovec = layout('Iovec', 16, { base: u64, length: u64 });
/** Most elements of one readv or writev. */
export const IOV_MAX = 1024;
/** struct msghdr. */
export const MsgHeader = layout('MsgHeader', 56, {
  name: u64,
  nameLength: u32,
  padding0: u32,
  iov: u64,
  iovCount: u64,
  control: u64,
  controlLength: u64,
  flags: i32,
  padding1: u32,
});
/** struct cmsghdr; data follows, and the next header is 8-byte aligned. */
export const ControlHeader = layout('ControlHeader', 16, { length: u64, level: i32, type: i32 });
/** struct ucred, of SO_PEERCRED. */
export const PeerCredentials = layout('PeerCredentials', 12, { pid: i32, uid: u32, gid: u32 });

/** Longest interface name with its final zero. */
export const INTERFACE_NAME_BYTES = 16;
/** struct ifreq: the interface's name, then at IFREQ_UNION_AT a union of integers, addresses and a pointer. */
export const IFREQ_BYTES = 40;
export const IFREQ_UNION_AT = INTERFACE_NAME_BYTES;
/** struct sockaddr as it stands in an ifreq that holds a hardware address. */
export const HardwareAddress = layout('HardwareAddress', 8, {
  family: u16,
  byte0: u8,
  byte1: u8,
  byte2: u8,
  byte3: u8,
  byte4: u8,
  byte5: u8,
});
export const ARPHRD_ETHER = 1;
/** Socket ioctls on network interfaces (linux/sockios.h). */
export const NetdevIoctl = {
  GIFFLAGS: 0x8913,
  SIFFLAGS: 0x8914,
  GIFMTU: 0x8921,
  SIFMTU: 0x8922,
  SIFHWADDR: 0x8924,
  GIFHWADDR: 0x8927,
  GIFINDEX: 0x8933,
  ETHTOOL: 0x8946,
} as const;
/** Interface flags (linux/if.h). */
export const InterfaceFlag = { UP: 0x1, RUNNING: 0x40, PROMISC: 0x100, LOWER_UP: 0x10000 } as const;
/** ioctl: bytes waiting to be read. */
export const FIONREAD = 0x541b;

/** ETHTOOL_GLINK, and its struct ethtool_value: whether there is a carrier now. */
export const ETHTOOL_GLINK = 0x0a;
export const EthtoolValue = layout('EthtoolValue', 8, { command: u32, value: u32 });
/** ETHTOOL_GLINKSETTINGS: asked once with no mask words, answered with how many there are, then asked again. */
export const ETHTOOL_GLINKSETTINGS = 0x4c;
/** struct ethtool_link_settings up to the fields used; three link mode masks follow. */
export const EthtoolLinkSettings = layout('EthtoolLinkSettings', 48, {
  command: u32,
  /** Mb/s; 0xffffffff when unknown. */
  speed: u32,
  duplex: u8,
  port: u8,
  phyAddress: u8,
  autoneg: u8,
  mdioSupport: u8,
  mdix: u8,
  mdixControl: u8,
  /** Words of each mask; a signed byte, negative in the first answer. */
  maskWords: u8,
  rest0: u64,
  rest1: u64,
  rest2: u64,
  rest3: u64,
});
export const ETHTOOL_SPEED_UNKNOWN = 0xffff_ffff;
/** Most 32-bit words in one link mode mask that we make room for (the kernel has 4). */
export const ETHTOOL_MASK_WORDS_MAX = 32;

/** Interface flags of TUNSETIFF (linux/if_tun.h). */
export const TunFlag = {
  TAP: 0x0002,
  NO_PI: 0x1000,
  VNET_HDR: 0x4000,
  MULTI_QUEUE: 0x0100,
  ATTACH_QUEUE: 0x0200,
  DETACH_QUEUE: 0x0400,
} as const;
/** ioctls of /dev/net/tun. */
export const TunIoctl = {
  SETIFF: 0x400454ca,
  SETPERSIST: 0x400454cb,
  GETFEATURES: 0x800454cf,
  SETOFFLOAD: 0x400454d0,
  GETIFF: 0x800454d2,
  GETVNETHDRSZ: 0x800454d7,
  SETVNETHDRSZ: 0x400454d8,
  SETQUEUE: 0x400454d9,
  SETVNETLE: 0x400454dc,
  SETCARRIER: 0x400454e2,
  GETDEVNETNS: 0x54e3,
} as const;
/** What the reader of a TAP accepts (TUNSETOFFLOAD). */
export const TunOffload = {
  CSUM: 0x01,
  TSO4: 0x02,
  TSO6: 0x04,
  TSO_ECN: 0x08,
  UFO: 0x10,
  USO4: 0x20,
  USO6: 0x40,
} as const;

/** prctl: name of the calling thread; the kernel keeps 15 bytes of it. */
export const PR_SET_NAME = 15;
/** struct pollfd, and the events of poll used here. */
export const PollDescriptor = layout('PollDescriptor', 8, { fd: i32, events: u16, returned: u16 });
export const PollEvent = { IN: 0x1, OUT: 0x4, ERR: 0x8, HUP: 0x10, RDHUP: 0x2000 } as const;
/** Processors a default cpu_set_t has room for. */
export const CPU_SET_PROCESSORS = 1024;
/** Scheduling policies (linux/sched.h), and the flag that keeps children and threads from inheriting one. */
export const SchedulingPolicy = { OTHER: 0, FIFO: 1, RESET_ON_FORK: 0x4000_0000 } as const;
/** struct sched_param: the priority. */
export const SCHED_PARAM_BYTES = 4;
/** sysconf names of glibc. */
export const SC_PAGESIZE = 30;
