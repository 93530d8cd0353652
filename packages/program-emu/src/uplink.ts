/**
 * uplink.ts: the TAP through which a switch domain reaches the host and what is behind it.
 *
 * Theory
 *   Towards the TAP it is a port like a representor's: frames leave in one writev, offloads with them. From the TAP
 *   frames are read into private memory first, because who receives them is only known then. The TAP takes and gives
 *   frames with any offload: what a function does not take is cut or completed on its way to it.
 *
 * Limits  one frame a call; a full TAP loses the frame, and nobody waits for it.
 */
import type { SwitchDomain } from '@virtnet/engine-eswitch';
import { IoVector, readv } from '@virtnet/host-linux';
import { Ethernet, NetHeader } from '@virtnet/wire';
import type { Scratch } from './scratch.js';
import { TapPort } from './tap-port.js';

const HEADER_BYTES = NetHeader.sizeBytes;

/** To the loop it looks like a queue that never interrupts. */
export class Uplink {
  readonly fd: number;
  readonly port: TapPort;
  interrupt = false;
  readonly fault = null;
  readonly domain: SwitchDomain;
  readonly #scratch: Scratch;
  readonly #vector = new IoVector(1);

  constructor(fd: number, domain: SwitchDomain, scratch: Scratch) {
    this.fd = fd;
    this.port = new TapPort(fd);
    this.domain = domain;
    this.#scratch = scratch;
    this.#vector.set(0, scratch.uplinkAddress, scratch.uplink.u8.length);
  }

  /** Switches up to `budget` frames; how many were read. */
  poll(budget: number): number {
    const memory = this.#scratch.uplink;
    for (let frames = 0; frames < budget; frames++) {
      const bytes = readv(this.fd, this.#vector, 1);
      if (bytes < 0) return frames;
      if (bytes < HEADER_BYTES + Ethernet.HEADER_BYTES) continue;
      this.domain.receive(memory, HEADER_BYTES, bytes - HEADER_BYTES, memory.u8);
    }
    return budget;
  }

  /** Nothing is missed: readiness is edge-triggered, and poll() has seen the end. */
  arm(): boolean {
    return false;
  }

  disarm(): void {}
  noteKick(): void {}
  countInterrupt(): void {}
}
