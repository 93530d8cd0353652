/**
 * robust-futex.ts: how a thread lets others see its end the moment it has left user space for good.
 *
 * Theory
 *   The kernel walks a thread's robust list when the thread exits, whatever the reason, before it lets go of memory and
 *   descriptors, and marks each futex that holds the thread's number with OWNER_DIED. Here the list has one entry, and
 *   both stand in the thread's lane of the progress page, which outlives the thread. glibc's own list, which serves
 *   robust mutexes, is replaced for the calling thread: nothing in Node uses those.
 */
import { FutexWord, LaneWord, RobustListHead, SET_ROBUST_LIST } from '@virtnet/wire';
import { declare } from './libc.js';

/** syscall: glibc has no set_robust_list. */
const nativeSyscall = declare<(n: number, head: number, bytes: number) => number>('syscall', 'int', [
  'int64_t',
  'uintptr_t',
  'size_t',
]);

/** Ties the THREAD word of a lane at `address` to the calling thread. Without it nobody sees the end early. */
export function ownRobustly(lane: Uint32Array, address: bigint): void {
  const number = process.arch === 'x64' || process.arch === 'arm64' ? SET_ROBUST_LIST[process.arch] : null;
  if (number === null) return;
  const at = (word: number): bigint => address + BigInt(4 * word);
  const view = new DataView(lane.buffer, lane.byteOffset, lane.byteLength);
  const head = at(LaneWord.ROBUST_HEAD);
  const entry = at(LaneWord.ROBUST_ENTRY);
  view.setBigUint64(4 * LaneWord.ROBUST_ENTRY, head, true);
  view.setBigUint64(4 * LaneWord.ROBUST_HEAD + RobustListHead.at.pending, 0n, true);
  const offset = BigInt.asUintN(64, at(LaneWord.THREAD) - entry);
  view.setBigUint64(4 * LaneWord.ROBUST_HEAD + RobustListHead.at.futexOffset, offset, true);
  view.setBigUint64(4 * LaneWord.ROBUST_HEAD + RobustListHead.at.next, entry, true);
  nativeSyscall(number, Number(head), RobustListHead.sizeBytes);
}

/** Whether the thread of `lane` has ended. */
export function hasEnded(lane: Uint32Array): boolean {
  return (lane[LaneWord.THREAD]! & FutexWord.OWNER_DIED) !== 0;
}

/** Asks to be woken at the thread's end. Returns the word to wait on, or null when it has ended already. */
export function announceWaiter(lane: Uint32Array): number | null {
  const word = Atomics.or(lane, LaneWord.THREAD, FutexWord.WAITERS);
  return (word & FutexWord.OWNER_DIED) !== 0 ? null : (word | FutexWord.WAITERS) >>> 0;
}
