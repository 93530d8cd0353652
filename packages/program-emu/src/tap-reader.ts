/**
 * tap-reader.ts: reads a TAP whose frames are for queues that are only known when a frame is there.
 *
 * Theory
 *   A frame is read into private memory of the worker, and given away before the next is read: to a switch, by
 *   whatever address it has (Uplink), or to the queues of one function whose driver steers (SteeredTap, RSS). What
 *   nobody has a buffer for is lost, and counted by whom it was for: a TAP that waits for one queue would keep the
 *   frames of all others. What is for nobody is counted in the reader's block.
 *   To the worker's loop a reader looks like a queue that never interrupts.
 *
 * Invariants
 *   I1  at most one frame is in private memory: a crash loses no more.
 *
 * Limits  one frame a call of the kernel; a full uplink loses the frame, and nobody waits for it. A turn ends with the
 *         credit of the domain (switch-domain.ts), and the next one goes on.
 */
import type { SwitchDomain } from '@virtnet/engine-eswitch';
import type { PrivateMemory } from '@virtnet/engine-virtqueue';
import { IoVector, readv } from '@virtnet/host-linux';
import { Ethernet, NetHeader, type QueueBlock, QueueCounter } from '@virtnet/wire';
import type { Scratch } from './scratch.js';
import { TapPort } from './tap-port.js';

const HEADER_BYTES = NetHeader.sizeBytes;

export abstract class TapReader {
  readonly fd: number;
  /** Where the frames go; shown to the receivers by its flush(). */
  readonly domain: SwitchDomain;
  /** In which it counts frames for nobody. */
  readonly block: Pick<QueueBlock, 'counters'>;
  interrupt = false;
  readonly fault = null;
  readonly #scratch: Scratch;
  readonly #vector = new IoVector(1);

  constructor(fd: number, domain: SwitchDomain, scratch: Scratch, block: Pick<QueueBlock, 'counters'>) {
    this.fd = fd;
    this.domain = domain;
    this.block = block;
    this.#scratch = scratch;
    this.#vector.set(0, scratch.uplinkAddress, scratch.uplink.u8.length);
  }

  /** Gives up to `budget` frames away, fewer when those have used up the domain's credit; how many were read. */
  poll(budget: number): number {
    const memory = this.#scratch.uplink;
    for (let frames = 0; frames < budget; frames++) {
      const bytes = readv(this.fd, this.#vector, 1);
      if (bytes < 0) return frames;
      if (bytes < HEADER_BYTES + Ethernet.HEADER_BYTES)
        this.block.counters[QueueCounter.DROP_NOT_SWITCHED]!++;
      else {
        this.give(memory, bytes - HEADER_BYTES);
        if (this.domain.spent) return frames + 1; // not 0: there may be more, and readiness is edge-triggered
      }
    }
    return budget;
  }

  /** A frame of `bytes` bytes lies in `memory` behind its header. */
  protected abstract give(memory: PrivateMemory, bytes: number): void;

  /** Nothing is missed: readiness is edge-triggered, and poll() has seen the end. */
  arm(): boolean {
    return false;
  }

  disarm(): void {}
  noteKick(): void {}
  countInterrupt(): void {}

  wantsInterrupt(): boolean {
    return false;
  }
}

/**
 * The TAP through which a switch domain reaches the host and what is behind it. Towards the TAP it is a port like a
 * representor's: frames leave in one writev, offloads with them. The TAP takes and gives frames with any offload: what a
 * function does not take is cut or completed on its way to it.
 */
export class Uplink extends TapReader {
  readonly port: TapPort;

  /** `block`: its own, of no virtqueue. */
  constructor(fd: number, domain: SwitchDomain, scratch: Scratch, block: Pick<QueueBlock, 'counters'>) {
    super(fd, domain, scratch, block);
    this.port = new TapPort(fd);
  }

  protected give(memory: PrivateMemory, bytes: number): void {
    this.domain.receive(memory, HEADER_BYTES, bytes, memory.u8, this.block.counters);
  }
}

/** One queue of the representor of a function whose driver steers; the function is at `port` of a domain of its own. */
export class SteeredTap extends TapReader {
  readonly #port: number;

  /** `block`: of the queue under whose number it works, and counts frames for a queue that is not worked now. */
  constructor(fd: number, domain: SwitchDomain, scratch: Scratch, port: number, block: QueueBlock) {
    super(fd, domain, scratch, block);
    this.#port = port;
  }

  protected give(memory: PrivateMemory, bytes: number): void {
    if (this.domain.give(this.#port, memory, HEADER_BYTES, bytes, memory.u8)) return;
    this.block.counters[QueueCounter.DROP_NO_DESTINATION]!++;
  }
}
