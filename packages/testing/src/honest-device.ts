/** honest-device.ts: a device that answers the chains of race-chains.ts, on every way there is, and checks what it is given. */
import type { DeviceRing } from '@virtnet/engine-virtqueue';
import { ChainKind, chainOf, HEADER_BYTES, numberAt } from './race-chains.js';

const DEMANDS = { header: HEADER_BYTES, unwanted: 0, bytesMax: 1024 };

export class HonestDevice {
  readonly ring: DeviceRing;
  /** Chains that were answered. */
  answered = 0;
  /** The first thing that was not as the driver had posted it, or null. */
  complaint: string | null = null;
  /** Chains by the way they went. */
  readonly ways = { one: 0, burst: 0, table: 0 };
  readonly #number = new Uint8Array(8);
  readonly #view = new DataView(this.#number.buffer);

  constructor(ring: DeviceRing) {
    this.ring = ring;
  }

  /** Answers up to `most` of the chains that wait. */
  answer(most: number): void {
    let left = most;
    while (left > 0 && this.complaint === null) {
      let count = this.#burst(left, false) + this.#burst(left, true);
      count += this.#tables(Math.max(left - count, 0));
      if (count === 0) count = this.#one();
      if (count === 0) break;
      left -= count;
    }
  }

  /** Lays a burst out and gives it back. */
  #burst(most: number, writable: boolean): number {
    const { plain, memory } = this.ring;
    const count = this.ring.scan(most, writable);
    for (let i = 0; i < count; i++) {
      const { kind, readableBytes, writableBytes, answerBytes } = this.#chain(i);
      const bytes = plain.lengths[i]!;
      if (kind !== (writable ? ChainKind.WRITABLE : ChainKind.READABLE))
        this.#complain(i, 'not a plain chain');
      if (bytes !== (writable ? writableBytes : readableBytes)) this.#complain(i, `${bytes} bytes`);
      const { u8, view } = memory.pieces[plain.pieces[i]!]!;
      const at = plain.offsets[i]!;
      if (writable) {
        u8.fill(0, at, at + answerBytes);
        view.setUint32(at, this.answered + i, true);
      } else this.#checkNumber(i, view.getUint32(at, true));
      plain.answer(i, answerBytes);
    }
    return this.#given(count, 'burst');
  }

  /** The same of frames in tables. */
  #tables(most: number): number {
    const { ring } = this;
    const { plain, memory } = ring;
    const count = ring.scanFrames(most, DEMANDS);
    for (let i = 0; i < count; i++) {
      const { kind, readableBytes } = this.#chain(i);
      if (kind !== ChainKind.FRAME_IN_TABLE) this.#complain(i, 'not a frame in a table');
      if (plain.lengths[i] !== readableBytes) this.#complain(i, `${plain.lengths[i]} bytes`);
      const second = plain.firstSegment(i) + 1;
      const { view } = memory.pieces[ring.segmentPiece[second]!]!;
      this.#checkNumber(i, view.getUint32(ring.segmentOffset[second]!, true));
      plain.answer(i, 0);
    }
    return this.#given(count, 'table');
  }

  #one(): number {
    const { ring } = this;
    const segments = ring.take();
    if (segments === 0) return 0;
    if (segments < 0) {
      this.#complain(0, `refused: ${ring.faultCode}`);
      return 0;
    }
    const { kind, readableBytes, writableBytes, answerBytes } = this.#chain(0);
    if (ring.readableBytes !== readableBytes || ring.writableBytes !== writableBytes)
      this.#complain(0, `${ring.readableBytes} and ${ring.writableBytes} bytes`);
    if (readableBytes > 0) {
      ring.gather(numberAt(kind), this.#number, 0, 4);
      this.#checkNumber(0, this.#view.getUint32(0, true));
    }
    this.#view.setUint32(0, this.answered, true);
    ring.scatter(0, this.#number, 0, answerBytes);
    ring.give(answerBytes);
    this.answered++;
    this.ways.one++;
    return 1;
  }

  #chain(i: number): ReturnType<typeof chainOf> {
    return chainOf(this.answered + i);
  }

  #given(count: number, way: 'burst' | 'table'): number {
    if (count > 0) this.ring.advance(count);
    this.answered += count;
    this.ways[way] += count;
    return count;
  }

  #checkNumber(i: number, number: number): void {
    if (number !== this.answered + i) this.#complain(i, `holds ${number}`);
  }

  #complain(i: number, what: string): void {
    this.complaint ??= `chain ${this.answered + i}: ${what}`;
  }
}
