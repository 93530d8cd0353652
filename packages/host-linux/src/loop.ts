/** loop.ts: one descriptor in the event loop of this thread, through koffi's access to libuv. */
import koffi from 'koffi';

export interface LoopHandle {
  close(): void;
}

/**
 * Calls `callback` in the loop's poll phase while `fd` is readable, and keeps the loop alive until closed. The
 * callback runs outside Node's callback scope: it must do no more than setImmediate, and must not throw.
 * The caller keeps the handle: an unreachable one is closed by the garbage collector.
 */
export function watchReadable(fd: number, callback: () => void): LoopHandle {
  return koffi.node.poll(fd, { readable: true }, callback);
}
