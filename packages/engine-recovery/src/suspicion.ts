/**
 * suspicion.ts: whether a device made its emulator die: marks in its state page, and how many deaths it is suspected of.
 *
 * Theory
 *   Whoever works something of a device marks it in the state page before and takes the mark away after: workers and the
 *   control queue in the queue's block, the connection in the header. The marks that a dead process leaves say what it
 *   was at. A mark alone proves nothing: of several threads one has crashed, and an operator's SIGKILL leaves marks as
 *   well. So a death counts only when the controller, who knows its cause, says that a guest may be the reason, and a
 *   device is quarantined for the second one. Where it is known which thread was the reason (an exception, a thread that
 *   stood still), a mark of another counts for nothing: marks say whose they are. Of a signal (SIGSEGV) that is not known:
 *   suspects are worked by one and the same thread from then on, so of them only the one that was being worked has a mark
 *   the next time.
 *   Frames of one device are given to another by the same thread (the eswitch), which marks both while it works the ring of
 *   the one that receives. Both are suspects of the first death. Of the next one in a receiver's ring that was suspected
 *   before, the receiver alone is: the sender's buffers were judged by then, and what is being read is the receiver's.
 *   A client that takes its memory away (SIGBUS) needs no mark to be suspected.
 *
 * Invariants
 *   I1  marks are read and taken away before anything of the device is worked.
 *   I2  a driver's reset ends a quarantine; one more death and it is back.
 *
 * Limits
 *   A fault of the main thread over what a worker reported of a device is blamed on what the main thread was at, if anything.
 *   After signals, what the main thread was at and what a worker was at cannot be told apart: a device that happens to be
 *   worked by the other at the instant of both deaths is quarantined as well.
 *   A sender that makes an emulator die in the ring of a receiver cannot be told from that receiver: the receiver is
 *   quarantined first, and the sender when it does the same to another one.
 */
import {
  MAIN_LANE,
  QUEUE_BLOCK_BYTES,
  QueueWord,
  queueBlockAt,
  STATE_PAGE_HEADER_BYTES,
  StatePageHeader,
  WorkMark,
} from '@virtnet/wire';

/** Deaths after which a device is not worked any more. */
export const QUARANTINE_DEATHS = 2;
/** Stands for a switch domain where suspects are given a worker; no uplink port has this number. */
export const SUSPECTS_DOMAIN = -1;

const QUEUE_COUNT = StatePageHeader.at.queueCount / 4;
const SUSPICIONS = StatePageHeader.at.suspicions / 4;
const UNDER_WAY = StatePageHeader.at.requestUnderWay / 4;
const OWNER = StatePageHeader.at.ownerPid / 4;

/** A queue that was being worked. */
export interface MarkedQueue {
  readonly queue: number;
  /** Progress lane of the thread that worked it; null: it did not say. */
  readonly lane: number | null;
}

/** What was being worked when the owner died. */
export interface Marks {
  readonly queues: readonly MarkedQueue[];
  /** A request of the client, which the main thread works. */
  readonly request: boolean;
}

/** Why an emulator died, as far as it concerns its guests. */
export interface Blame {
  /** A guest may be the reason. */
  readonly guestsFault: boolean;
  /** Progress lane of the thread that it died of; null: nobody knows. */
  readonly lane: number | null;
}

/** Nobody is to blame. */
export const NO_BLAME: Blame = { guestsFault: false, lane: null };

function headerOf(page: ArrayBuffer): Uint32Array {
  return new Uint32Array(page, 0, StatePageHeader.sizeBytes / 4);
}

/** Process that worked the device last; 0 when nobody has. */
export function ownerOf(page: ArrayBuffer): number {
  return headerOf(page)[OWNER]!;
}

/** Process `pid` works the device from now on. */
export function own(page: ArrayBuffer, pid: number): void {
  headerOf(page)[OWNER] = pid;
}

/** Whether anything was ever written to some bytes of a state page: where nothing was a look would make memory. */
export type IsWritten = (at: number, bytes: number) => boolean;

/**
 * Reads the marks of a state page and takes them away; null when there are none. Blocks of queues that the function
 * does not have, or never had anything written, are not looked at: that would give each of them memory.
 */
export function takeMarks(page: ArrayBuffer, isWritten: IsWritten = () => true): Marks | null {
  const header = headerOf(page);
  const request = header[UNDER_WAY] !== 0;
  header[UNDER_WAY] = 0;
  const queues: MarkedQueue[] = [];
  const room = Math.floor((page.byteLength - STATE_PAGE_HEADER_BYTES) / QUEUE_BLOCK_BYTES);
  const blocks = Math.min(room, header[QUEUE_COUNT]!);
  const words = new Uint32Array(page, 0, queueBlockAt(blocks) / 4);
  for (let queue = 0; queue < blocks; queue++) {
    const at = queueBlockAt(queue) + QueueWord.UNDER_WORK * 4;
    if (!isWritten(at, 4)) continue;
    const mark = words[at / 4]!;
    if (mark === 0) continue;
    words[at / 4] = 0;
    queues.push({ queue, lane: mark >= WorkMark.LANE ? mark - WorkMark.LANE : null });
  }
  return request || queues.length > 0 ? { queues, request } : null;
}

export function suspicionsOf(page: ArrayBuffer): number {
  return headerOf(page)[SUSPICIONS]!;
}

function setSuspicions(page: ArrayBuffer, count: number): void {
  headerOf(page)[SUSPICIONS] = Math.max(0, count);
}

/** Counts one more death. */
export function suspect(page: ArrayBuffer): void {
  setSuspicions(page, suspicionsOf(page) + 1);
}

/** Takes one death back: it was none of the device's, or is long ago. */
export function acquit(page: ArrayBuffer): void {
  setSuspicions(page, suspicionsOf(page) - 1);
}

export function isQuarantined(page: ArrayBuffer): boolean {
  return suspicionsOf(page) >= QUARANTINE_DEATHS;
}

/** Ends a quarantine; the next death is the last again. */
export function pardon(page: ArrayBuffer): void {
  setSuspicions(page, QUARANTINE_DEATHS - 1);
}

/** Of a device whose memory was taken away. */
const NO_MARKS: Marks = { queues: [], request: false };

/** A device as its predecessor left it. */
export interface LeftDevice {
  /** Its state page. */
  readonly page: ArrayBuffer;
  readonly isWritten?: IsWritten;
  /** Its client took memory away that it had given. */
  readonly robbed: boolean;
}

/** A device that is suspected of the death of process `pid`. */
export interface Suspicion extends Marks {
  readonly pid: number;
  /** Its client took memory away: whichever thread met that. */
  readonly robbed: boolean;
  /** It was suspected before: nothing of it is worked until it is known why the process died. */
  readonly held: boolean;
}

/**
 * Whether a device is suspected of its owner's death, which is then counted; null: it is not. `robbery`: memory was taken
 * away, of this device or another. Then that is the reason, and nobody else is suspected.
 */
export function findSuspicion({ page, isWritten, robbed }: LeftDevice, robbery: boolean): Suspicion | null {
  let marks = takeMarks(page, isWritten);
  if (robbery) marks = robbed ? (marks ?? NO_MARKS) : null;
  if (marks === null) return null;
  const suspicion = { ...marks, pid: ownerOf(page), robbed, held: suspicionsOf(page) > 0 };
  suspect(page);
  return suspicion;
}

const isReceiver = (queue: number): boolean => queue % 2 === 0;

/**
 * Whether all of `part` is transmit queues whose frames were being given, by the thread that worked them, to another suspect
 * that was one before.
 */
function isGiver({ queues, request }: Marks, pid: number, suspicions: readonly Suspicion[]): boolean {
  const isGiven = (by: number): boolean =>
    suspicions.some(
      (other) =>
        other.pid === pid &&
        other.held &&
        other.queues.some(({ queue, lane }) => lane === by && isReceiver(queue)),
    );
  return (
    !request &&
    queues.length > 0 &&
    queues.every(
      ({ queue, lane }) => !isReceiver(queue) && lane !== null && lane !== MAIN_LANE && isGiven(lane),
    )
  );
}

/**
 * What of a suspect was being worked by the thread that is to blame; null: nothing, it had no part in the death, or another
 * one of `suspicions`, which are all there are, answers for it.
 */
export function partIn(
  { queues, request, robbed, pid }: Suspicion,
  { guestsFault, lane }: Blame,
  suspicions: readonly Suspicion[],
): Marks | null {
  if (!guestsFault) return null;
  if (robbed) return { queues, request };
  const own =
    lane === null ? queues : queues.filter((marked) => marked.lane === null || marked.lane === lane);
  const part = { queues: own, request: request && (lane === null || lane === MAIN_LANE) };
  if (own.length === 0 && !part.request) return null;
  return isGiver(part, pid, suspicions) ? null : part;
}

/**
 * What becomes of a suspect with that part in the death, once it is known who is to blame: nothing, or quarantine; and then
 * whether its client's connection has to end, since what stands in it must not be worked again. A request beside a queue is
 * hardly the reason; if it is, no queue is worked now and it stands alone the next time.
 */
export function sentence(
  page: ArrayBuffer,
  { held }: Pick<Suspicion, 'held'>,
  part: Marks | null,
): 'none' | 'quarantine' | 'quarantine-without-client' {
  if (part === null) acquit(page);
  if (part === null || !isQuarantined(page)) return 'none';
  const { queues, request } = part;
  return held && request && queues.length === 0 ? 'quarantine-without-client' : 'quarantine';
}
