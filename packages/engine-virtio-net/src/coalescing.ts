/**
 * coalescing.ts: how many notifications of used buffers the driver wants to be spared (virtio 1.3, 5.1.6.5.7).
 *
 * Theory
 *   A class of queues (receive, transmit) has parameters, and a queue may have others of its own. Setting a class sets
 *   each of its queues, whatever they had; a queue that is reset goes back to those of its class.
 *
 * Invariants
 *   I1  everything is 0 after the features were agreed on, and after a reset.
 *
 * Saved   everything here, as part of the control state.
 * Limits  one entry for each data queue.
 */
import type { PlainReader } from '@virtnet/wire';

/** Parameters of one queue; unless both are above 0 the driver is notified of every frame. */
export interface Coalescing {
  readonly usecs: number;
  readonly packets: number;
}

export interface CoalescingState {
  readonly receive: Coalescing;
  readonly transmit: Coalescing;
  /** Queues with parameters of their own. */
  readonly queues: ReadonlyMap<number, Coalescing>;
}

export type CoalescingClass = 'receive' | 'transmit';

const NONE: Coalescing = { usecs: 0, packets: 0 };
const U32_MAX = 0xffff_ffff;

export const INITIAL_COALESCING: CoalescingState = { receive: NONE, transmit: NONE, queues: new Map() };

export function classOf(queue: number): CoalescingClass {
  return queue % 2 === 0 ? 'receive' : 'transmit';
}

/** Parameters in force for a queue. */
export function coalescingOf(state: CoalescingState, queue: number): Coalescing {
  return state.queues.get(queue) ?? state[classOf(queue)];
}

/** Every queue of a class has these now. */
export function withClass(
  state: CoalescingState,
  which: CoalescingClass,
  coalescing: Coalescing,
): CoalescingState {
  const queues = new Map([...state.queues].filter(([queue]) => classOf(queue) !== which));
  return { ...state, [which]: coalescing, queues };
}

/** One queue has these now. */
export function withQueue(state: CoalescingState, queue: number, coalescing: Coalescing): CoalescingState {
  return { ...state, queues: new Map([...state.queues, [queue, coalescing]]) };
}

/** One queue has what its class has. */
export function withoutQueue(state: CoalescingState, queue: number): CoalescingState {
  if (!state.queues.has(queue)) return state;
  return { ...state, queues: new Map([...state.queues].filter(([other]) => other !== queue)) };
}

/** As JSON can carry it: usecs and packets; of a queue, its number before them. */
export interface SavedCoalescing {
  readonly receive: readonly number[];
  readonly transmit: readonly number[];
  readonly queues: readonly (readonly number[])[];
}

export function saveCoalescing({ receive, transmit, queues }: CoalescingState): SavedCoalescing {
  return {
    receive: [receive.usecs, receive.packets],
    transmit: [transmit.usecs, transmit.packets],
    queues: [...queues].map(([queue, { usecs, packets }]) => [queue, usecs, packets]),
  };
}

function readOne(values: readonly unknown[], path: string, reader: PlainReader): Coalescing {
  return {
    usecs: reader.integer(values[0], `${path}.usecs`, 0, U32_MAX),
    packets: reader.integer(values[1], `${path}.packets`, 0, U32_MAX),
  };
}

/** Reads what was saved; a record of before there was any has none. Problems are noted in `reader`. */
export function parseCoalescing(value: unknown, dataQueues: number, reader: PlainReader): CoalescingState {
  if (value === undefined) return INITIAL_COALESCING;
  const fields = reader.object(value, 'coalescing');
  const one = (name: CoalescingClass): Coalescing =>
    readOne(reader.list(fields[name], `coalescing.${name}`, 2), `coalescing.${name}`, reader);
  const queues = new Map<number, Coalescing>();
  for (const [i, entry] of reader.list(fields.queues, 'coalescing.queues', dataQueues).entries()) {
    const path = `coalescing.queues[${i}]`;
    const values = reader.list(entry, path, 3);
    const queue = reader.integer(values[0], `${path}.queue`, 0, dataQueues - 1);
    queues.set(queue, readOne(values.slice(1), path, reader));
  }
  return { receive: one('receive'), transmit: one('transmit'), queues };
}
