/**
 * @virtnet/host-linux: everything this project asks of the Linux kernel beyond what Node offers. The only importer
 * of koffi. System calls return a non-negative result or a negative errno and do not throw.
 *
 * @example
 *   const arena = Arena.reserve();
 *   const offset = arena.map(memoryFd, 0, 2 ** 30, { writable: true }); // < 0: -errno
 *   const ram = new Uint8Array(arena.buffer, offset, 2 ** 30);
 */
export * from './arena.js';
export * from './burst-reader.js';
export { BurstRing } from './burst-ring.js';
export * from './burst-writer.js';
export * from './epoll.js';
export { blockFaultSignals, endByForeignFaultSignals } from './fault-signals.js';
export {
  close,
  closeAll,
  DESCRIPTORS_RESERVED,
  DESCRIPTORS_RESERVED_FROM_SERVED,
  describeFd,
  descriptorsAreScarce,
  dup,
  dupTo,
  eventfd,
  eventfdDrain,
  eventfdSignal,
  fileIdentity,
  isEventfd,
  lockFile,
  pidfdOpen,
  pidfdSendSignal,
  reopenFile,
  sameOpenFile,
  setCloseOnExec,
  setNonBlocking,
} from './fd.js';
export { GROUP_MAX, removeInterfaces } from './interface-removal.js';
export { isInterfaceName } from './interface-request.js';
export * from './io-vector.js';
export { NativeBuffer } from './libc.js';
export {
  addSeals,
  type FileRange,
  fileSize,
  ftruncate,
  getSeals,
  isMemoryFile,
  mappingGranularity,
  memfdCreate,
  PAGE_BYTES,
  populate,
  type SharedMapping,
  sharedMapping,
  viewAt,
  writtenRanges,
} from './memory.js';
export { monotonicMs } from './monotonic.js';
export * from './netdev.js';
export { packMemory } from './own-memory.js';
export * from './poller.js';
export * from './process.js';
export * from './progress.js';
export * from './progress-beat.js';
export * from './reply-ring.js';
export * from './request-peeker.js';
export * from './scheduling.js';
export * from './service-manager.js';
export {
  accept,
  bindDatagram,
  type Credentials,
  connect,
  connectDatagram,
  isPeerGone,
  isWritable,
  listen,
  peerCredentials,
  readableBytes,
  SOCKET_MODE,
  type SocketKind,
  setPeekOffset,
  setSendBuffer,
  shutdown,
  socketPair,
  takeSocketError,
} from './socket.js';
export { discard, type Received, type ReceiveOptions, Receiver, send } from './socket-message.js';
export * from './tap.js';
export * from './thread-ends.js';
export * from './timer-fd.js';
