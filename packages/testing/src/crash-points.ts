/**
 * crash-points.ts: a process that dies between any two steps, without a process.
 *
 * Theory
 *   What outlives a crash is memory other processes map: guest memory, the state page, the other side of a port.
 *   Objects are what is lost. So a crash is an exception thrown at a chosen step, after which every object is
 *   abandoned and a successor is built from memory alone. A step is a call of the ring or the port, on its way in and
 *   on its way out, and a store into the state page, before and after.
 *
 * Limits  stores within one call of the ring (the two words of a used element) count as one step.
 */

import type { FramePort } from '@virtnet/engine-virtio-net';
import type { DeviceRing } from '@virtnet/engine-virtqueue';
import type { QueueBlock } from '@virtnet/wire';

/** Thrown at the chosen step; nothing but the test catches it. */
export class Crash extends Error {
  override readonly name = 'Crash';
}

export class CrashPoints {
  /** Steps taken so far. */
  steps = 0;
  #crashAt = Number.POSITIVE_INFINITY;

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
    const { step } = this;
    const words = new Proxy(block.words, {
      get: (target, key) => Reflect.get(target, key, target),
      set: (target, key, value) => {
        step();
        Reflect.set(target, key, value, target);
        step();
        return true;
      },
    });
    return { words, counters: block.counters };
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
