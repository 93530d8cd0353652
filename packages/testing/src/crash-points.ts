/**
 * crash-points.ts: a process that dies between any two steps, without a process.
 *
 * Theory
 *   What outlives a crash is memory other processes map: guest memory, the state page, the other side of a port.
 *   Objects are what is lost. So a crash is an exception thrown at a chosen step, after which every object is
 *   abandoned and a successor is built from memory alone. A step is a call of the ring or the port, on its way in and
 *   on its way out, and a store into the state page or a ring part, before and after.
 *
 * Limits  Atomics do not take what stands for memory here; `watched` replaces them while a test runs.
 */

import type { FramePort } from '@virtnet/engine-virtio-net';
import { type DeviceRing, GuestMemory, type MemoryRegion, type MemorySlice } from '@virtnet/engine-virtqueue';
import type { QueueBlock } from '@virtnet/wire';

/** Thrown at the chosen step; nothing but the test catches it. */
export class Crash extends Error {
  override readonly name = 'Crash';
}

type Words = Uint16Array | Uint32Array | Int32Array;

export class CrashPoints {
  /** Steps taken so far. */
  steps = 0;
  #crashAt = Number.POSITIVE_INFINITY;
  /** The memory behind what stands for it. */
  readonly #behind = new WeakMap<Words, Words>();

  /** Dies `steps` steps from now. */
  arm(steps: number): void {
    this.#crashAt = this.steps + steps;
  }

  disarm(): void {
    this.#crashAt = Number.POSITIVE_INFINITY;
  }

  readonly step = (): void => {
    if (this.steps++ >= this.#crashAt) throw new Crash(`step ${this.steps}`);
  };

  ring(ring: DeviceRing): DeviceRing {
    return this.#watchCalls(ring);
  }

  port(port: FramePort): FramePort {
    return this.#watchCalls(port);
  }

  block(block: QueueBlock): QueueBlock {
    const { counters } = block;
    const [words, burst, journal] = [block.words, block.burst, block.journal].map((part) =>
      this.#watchStores(part),
    );
    return { words: words!, counters, burst: burst!, journal: journal! };
  }

  /** Guest memory whose ring parts count every store. */
  memory(regions: readonly MemoryRegion[]): GuestMemory {
    const watch = <T extends Words>(words: T): T => this.#watchStores(words);
    return new (class extends GuestMemory {
      override slice(iova: bigint, lengthBytes: number, alignBytes?: number): MemorySlice | null {
        const slice = super.slice(iova, lengthBytes, alignBytes);
        if (slice === null) return null;
        for (const view of ['u16', 'u32', 'i32'] as const)
          Object.defineProperty(slice, view, { value: watch<Words>(slice[view]) });
        return slice;
      }
    })(regions);
  }

  /** Runs `body` with Atomics that reach through to the memory that is watched. */
  watched<T>(body: () => T): T {
    const { load, store } = Atomics;
    const { step } = this;
    const behind = this.#behind;
    Atomics.load = ((words: Int32Array, index: number) =>
      load((behind.get(words) ?? words) as Int32Array, index)) as typeof load;
    Atomics.store = ((words: Int32Array, index: number, value: number) => {
      const plain = behind.get(words);
      if (plain === undefined) return store(words, index, value);
      step();
      store(plain as Int32Array, index, value);
      step();
      return value;
    }) as typeof store;
    try {
      return body();
    } finally {
      Object.assign(Atomics, { load, store });
    }
  }

  #watchStores<T extends Words>(memory: T): T {
    const { step } = this;
    const watched = new Proxy(memory, {
      get: (target, key) => Reflect.get(target, key, target),
      set: (target, key, value) => {
        step();
        Reflect.set(target, key, value, target);
        step();
        return true;
      },
    });
    this.#behind.set(watched, memory);
    return watched;
  }

  #watchCalls<T extends object>(object: T): T {
    const { step } = this;
    return new Proxy(object, {
      get: (target, key) => {
        const member: unknown = Reflect.get(target, key, target);
        if (typeof member !== 'function') return member;
        return (...values: unknown[]): unknown => {
          step();
          const result: unknown = Reflect.apply(member, target, values);
          step();
          return result;
        };
      },
    });
  }
}
