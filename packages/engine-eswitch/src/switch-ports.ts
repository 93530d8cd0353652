/** What the transmit queue of a pair sends its frames to: the switch, or, for measuring, straight back. */
import type { FramePort } from '@virtnet/engine-virtio-net';
import type { DeviceRing, QueueLedger } from '@virtnet/engine-virtqueue';
import { Errno, type QueueBlock } from '@virtnet/wire';
import type { SwitchDomain } from './switch-domain.js';

/** Frames are delivered to a SwitchedReceiveQueue, never asked for. */
const EMPTY = -Errno.EAGAIN;
const NO_OVERFLOW = new Uint8Array(0);

export class SwitchPort implements FramePort {
  readonly overflow = NO_OVERFLOW;
  readonly #domain: SwitchDomain;
  readonly #port: number;
  readonly #pair: number;
  readonly #counters: Float64Array;

  /** `block`: of the transmit queue, in which is counted what the switch has to say of a frame beside its end. */
  constructor(domain: SwitchDomain, port: number, pair: number, block: Pick<QueueBlock, 'counters'>) {
    this.#domain = domain;
    this.#port = port;
    this.#pair = pair;
    this.#counters = block.counters;
    domain.open(port);
  }

  send(ring: DeviceRing, header: Uint8Array, frameOffset: number): number {
    return this.#domain.send(this.#port, this.#pair, ring, header, frameOffset, this.#counters);
  }

  sendPlain(ring: DeviceRing, count: number, frameOffset: number, ledger: QueueLedger): number {
    return this.#domain.sendPlain(this.#port, this.#pair, ring, count, frameOffset, ledger);
  }

  sendFrames(ring: DeviceRing, count: number, frameOffset: number, ledger: QueueLedger): number {
    return this.#domain.sendFrames(this.#port, this.#pair, ring, count, frameOffset, ledger);
  }

  receive(): number {
    return EMPTY;
  }
}

export class LoopPort implements FramePort {
  readonly overflow = NO_OVERFLOW;
  readonly judges = true;
  readonly #domain: SwitchDomain;
  readonly #port: number;
  readonly #pair: number;

  constructor(domain: SwitchDomain, port: number, pair: number) {
    this.#domain = domain;
    this.#port = port;
    this.#pair = pair;
    domain.open(port);
  }

  send(ring: DeviceRing, header: Uint8Array, frameOffset: number): number {
    return this.#domain.loop(this.#port, this.#pair, ring, header, frameOffset);
  }

  sendPlain(
    ring: DeviceRing,
    count: number,
    frameOffset: number,
    ledger: QueueLedger,
    bytesMax: number,
  ): number {
    const queue = this.#domain.loopedTo(this.#port, this.#pair);
    return queue === null ? 0 : queue.deliverBurst(ring, 0, count, frameOffset, bytesMax, ledger);
  }

  sendFrames(ring: DeviceRing, count: number, frameOffset: number, ledger: QueueLedger): number {
    const queue = this.#domain.loopedTo(this.#port, this.#pair);
    return queue === null ? 0 : queue.deliverFrames(ring, 0, count, frameOffset, ledger);
  }

  receive(): number {
    return EMPTY;
  }
}
