/**
 * plain-chains.ts: a burst of chains that are one buffer each, as a ring's scan() lays them out.
 *
 * Theory
 *   Most frames lie in one buffer, in one piece of the guest's memory. A ring reads the descriptors of a whole burst of
 *   such chains in one short loop: what the driver wrote comes from another processor's cache, and loads that do not
 *   wait for each other arrive together. Whatever is not that simple ends the burst, and take() says what it is.
 *   To give a chain back is two words, its answer: the used element of a split ring, the entry of a packed ring's
 *   journal. Where each goes, and the ring's position behind it, is known when the burst is laid out. So answer() needs
 *   no ring and is the same for both kinds; the ring moves on behind a burst as a whole (advance()).
 *
 * Invariants
 *   I1  every chain here was judged: it lies inside piece `pieces[i]`, which may be written if that was asked for.
 *   I2  length is at least 1, and offset + length below 2^31.
 *   I3  chains are answered in their order, each once, and the ring has room for all their answers.
 *
 * Limits  PLAIN_CHAINS_MAX chains.
 */
import { PLAIN_CHAINS_MAX } from './limits.js';
import { PlainRoom } from './ring-room.js';

/** Words of an answer. */
export const ANSWER_WORDS = 2;
const ANSWER_WORDS_SHIFT = 1;

export class PlainChains {
  /** Index into memory.pieces, that piece's page of the window (ring-room.ts), and offset in bytes inside the piece. */
  readonly pieces: Int32Array;
  readonly pages: Int32Array;
  readonly offsets: Int32Array;
  readonly lengths: Int32Array;
  /** Held on to: its place is given to others when nobody has it any more. */
  readonly #room: PlainRoom;
  /** First word of each answer. */
  readonly ids: Uint32Array;
  /** Where the answers go. */
  readonly answers: Uint32Array;
  #answerAt = 0;
  #answerWrapsAt = PLAIN_CHAINS_MAX;
  #answerAtWrapped = 0;
  #position = 0;
  #positionWrapsAt = PLAIN_CHAINS_MAX;
  #positionWrapped = 0;

  constructor(answers: Uint32Array, room = new PlainRoom()) {
    this.answers = answers;
    this.pieces = room.pieces;
    this.pages = room.pages;
    this.#room = room;
    this.offsets = room.offsets;
    this.lengths = room.lengths;
    this.ids = room.ids;
  }

  /** Where all this is in the memory of rooms; -1: elsewhere. */
  get place(): number {
    return this.#room.place;
  }

  /** Of chain `i` as a frame in pieces (DeviceRing.scanFrames): the number of its first segment, and how many it has. */
  firstSegment(i: number): number {
    return this.offsets[i]!;
  }
  segmentCount(i: number): number {
    return this.pages[i]!;
  }

  /** The ring's: chain 0 is answered at word `at`, and from chain `wrapsAt` on `less` words before where it would be. */
  layAnswers(at: number, wrapsAt: number, less: number): void {
    this.#answerAt = at;
    this.#answerWrapsAt = wrapsAt;
    this.#answerAtWrapped = at - less;
  }

  /** The ring's: its position behind chain i is `from` + i + 1, and from chain `wrapsAt` on `wrapped` + i + 1. */
  layPositions(from: number, wrapsAt: number, wrapped: number): void {
    this.#position = from;
    this.#positionWrapsAt = wrapsAt;
    this.#positionWrapped = wrapped;
  }

  /** Where chain `i` is answered. */
  answerAt(i: number): number {
    const start = i < this.#answerWrapsAt ? this.#answerAt : this.#answerAtWrapped;
    return (start + (i << ANSWER_WORDS_SHIFT)) | 0;
  }

  /** The ring's position behind chain `i`. */
  positionAt(i: number): number {
    return ((i < this.#positionWrapsAt ? this.#position : this.#positionWrapped) + i + 1) | 0;
  }

  /** From chain `i` on, for so many chains, answers are ANSWER_WORDS apart and positions one. */
  run(i: number): number {
    const answers = i < this.#answerWrapsAt ? this.#answerWrapsAt - i : PLAIN_CHAINS_MAX;
    const positions = i < this.#positionWrapsAt ? this.#positionWrapsAt - i : PLAIN_CHAINS_MAX;
    return Math.min(answers, positions);
  }

  /** Gives chain `i` back with `writtenBytes`; not yet visible to the driver. Returns the ring's position behind it. */
  answer(i: number, writtenBytes: number): number {
    const at = this.answerAt(i);
    this.answers[at] = this.ids[i]!;
    this.answers[at + 1] = writtenBytes;
    return this.positionAt(i);
  }
}
