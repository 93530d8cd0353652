/**
 * control-channel.ts: commands to the function over its control queue, one at a time.
 *
 * Theory
 *   A command is a chain of two descriptors: what the device reads, and the byte it answers. There is always the same
 *   chain, at the same place. Answers are looked for on a clock: commands are few, and a control queue has no vector.
 *
 * Invariants
 *   I1  the chain is not touched while the device may have it: after a command without an answer none is sent any more.
 *
 * Limits  COMMAND_BYTES_MAX; COMMAND_TIMEOUT_MS.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { eventfdSignal } from '@virtnet/host-linux';
import { ControlAck, DescriptorFlag, Errno, RingWord, VirtqDescriptor, viewOf } from '@virtnet/wire';
import type { RingPlan } from './driver-ring.js';
import { COMMAND_POLL_MS, COMMAND_TIMEOUT_MS } from './limits.js';

/** Entries of the ring: the smallest that holds a command. */
export const CONTROL_ENTRIES = 2;
/** Class, command and data. */
export const COMMAND_BYTES_MAX = 64;
const NO_ANSWER = 0xff;

export class ControlChannel {
  readonly #bytes: Uint8Array;
  readonly #available: Uint16Array;
  readonly #used: Uint16Array;
  readonly #kickFd: number;
  readonly #setLength: (bytes: number) => void;
  readonly #slotBytes: number;
  #sent = 0;
  #stuck = false;

  /** `plan` has slots of at least COMMAND_BYTES_MAX. */
  constructor(buffer: ArrayBuffer, iova: bigint, plan: RingPlan, kickFd: number) {
    this.#kickFd = kickFd;
    this.#bytes = new Uint8Array(buffer, plan.slotsAt, plan.slotBytes * CONTROL_ENTRIES);
    this.#available = new Uint16Array(buffer, plan.driverAt, RingWord.FIRST_ENTRY + CONTROL_ENTRIES);
    this.#used = new Uint16Array(buffer, plan.deviceAt, RingWord.FIRST_ENTRY);
    const table = new DataView(buffer, plan.descriptorAt, CONTROL_ENTRIES * VirtqDescriptor.sizeBytes);
    const request = iova + BigInt(plan.slotsAt);
    VirtqDescriptor.encode(table, 0, {
      address: request,
      lengthBytes: 0,
      flags: DescriptorFlag.NEXT,
      next: 1,
    });
    VirtqDescriptor.encode(table, VirtqDescriptor.sizeBytes, {
      address: request + BigInt(plan.slotBytes),
      lengthBytes: 1,
      flags: DescriptorFlag.WRITE,
      next: 0,
    });
    this.#setLength = (bytes) => table.setUint32(VirtqDescriptor.at.lengthBytes, bytes, true);
    this.#slotBytes = plan.slotBytes;
  }

  /** Sends a command and waits. 0, -EIO (the device refuses), or -ETIMEDOUT. */
  async command(controlClass: number, command: number, data: Uint8Array): Promise<number> {
    if (this.#stuck) return -Errno.ETIMEDOUT;
    this.#bytes[0] = controlClass;
    this.#bytes[1] = command;
    this.#bytes.set(data, 2);
    this.#bytes[this.#slotBytes] = NO_ANSWER;
    this.#setLength(2 + data.length);
    this.#available[RingWord.FIRST_ENTRY + (this.#sent % CONTROL_ENTRIES)] = 0;
    this.#sent = (this.#sent + 1) & 0xffff;
    Atomics.store(this.#available, RingWord.INDEX, this.#sent);
    const deadline = performance.now() + COMMAND_TIMEOUT_MS;
    eventfdSignal(this.#kickFd);
    while (Atomics.load(this.#used, RingWord.INDEX) !== this.#sent) {
      if (performance.now() > deadline) {
        this.#stuck = true;
        return -Errno.ETIMEDOUT;
      }
      await sleep(COMMAND_POLL_MS);
    }
    return this.#bytes[this.#slotBytes] === ControlAck.OK ? 0 : -Errno.EIO;
  }
}

/** A little-endian u16, the data of VQ_PAIRS_SET. */
export function word(value: number): Uint8Array {
  const bytes = new Uint8Array(2);
  viewOf(bytes).setUint16(0, value, true);
  return bytes;
}
