/**
 * datapath-probe.ts: whether the datapath works the queues of a function, asked of the datapath itself.
 *
 * Theory
 *   Each worker that has queues of the function is sent a word, which it answers between two turns. Each queue that the
 *   driver has enabled must be with a worker, the control queue with the main thread. A transmit queue whose ring has
 *   entries is kicked, as its driver would, and must have been taken from in the end. All three questions are asked at once;
 *   what is not as it should be is looked at again until PROBE_MS are over, since queues come and go.
 *
 * Parties
 *   driver   may be hostile at any instant: two bytes of its ring are read, from the file (DeviceMemory.peek), and only
 *            compared.
 *   worker   may stand still: it is waited for as long as PROBE_MS and not a moment longer.
 *
 * Invariants
 *   I1  a probe ends in PROBE_MS and LOOK_MS, and ends nothing else.
 *   I2  nothing is expected of queues that a fault has stopped: `error` tells of these.
 */
import { setTimeout as wait } from 'node:timers/promises';
import { PackedFlag, PackedPosition } from '@virtnet/wire';
import type { DatapathPort } from './datapath.js';
import type { DeviceHost } from './device-host.js';
import { PROBE_MS } from './limits.js';

const LOOK_MS = 10;
const MS_DIGITS = 2;
const PACKED_DESCRIPTOR_BYTES = 16;
/** Of the flags in a packed descriptor, and of the index in an available ring. */
const FLAGS_AT = 14n;
const INDEX_AT = 2n;

/** What a probe has found. */
export interface Probed {
  /** What health says of it. */
  readonly text: string;
  /** The datapath does not turn, for this function. */
  readonly fault: boolean;
  /** Transmit queues that are not worked although there is something in them. */
  readonly stalled: number;
}

/** Whether the driver has made something available in a queue that nobody has taken; false also when nobody can know. */
export function hasEntries({ fn, state, memory }: DeviceHost, queue: number): boolean {
  const { size, descriptorAddress, driverAddress } = fn.queues[queue]!;
  const position = state.position(queue);
  if (!state.packed) {
    const available = memory.peek(driverAddress + INDEX_AT);
    return available !== null && available !== position;
  }
  const index = position & PackedPosition.INDEX_MASK;
  if (index >= size) return false;
  const flags = memory.peek(descriptorAddress + BigInt(index * PACKED_DESCRIPTOR_BYTES) + FLAGS_AT);
  if (flags === null) return false;
  const wrap = (position & PackedPosition.WRAP) !== 0;
  return ((flags & PackedFlag.AVAIL) !== 0) === wrap && ((flags & PackedFlag.USED) !== 0) !== wrap;
}

/** Queues of which something is to be expected. */
function expected({ fn, net, state }: DeviceHost): number[] {
  if (!state.driverReady) return [];
  return [...fn.queues.keys()].filter(
    (queue) => fn.queues[queue]!.enabled && !state.broken.has(queue) && net.roleOf(queue) !== 'unused',
  );
}

function isWorked({ net, work }: DeviceHost, queue: number): boolean {
  return net.roleOf(queue) === 'control' ? work.control : work.queues.works(queue);
}

const named = (one: string, several: string, numbers: readonly number[]): string =>
  `${numbers.length === 1 ? one : several} ${numbers.join(', ')}`;

/** Probes the datapath of a function. */
export async function probeDatapath(host: DeviceHost, datapath: Pick<DatapathPort, 'ask'>): Promise<Probed> {
  const end = performance.now() + PROBE_MS;
  /** Where transmit queues with entries stood. */
  const stood = new Map<number, number>();
  for (const queue of expected(host)) {
    if (host.net.roleOf(queue) !== 'transmit' || !hasEntries(host, queue)) continue;
    stood.set(queue, host.state.position(queue));
    host.kick(queue);
  }
  const workers = [...host.work.queues.workers];
  const answers = await Promise.all(workers.map((worker) => datapath.ask(worker, PROBE_MS)));
  const silent = workers.filter((_, asked) => answers[asked] === null);
  const answeredMs = Math.max(0, ...answers.map((ms) => ms ?? 0));
  let found = look(host, stood, silent, answeredMs);
  while (found.fault && performance.now() < end) {
    await wait(LOOK_MS);
    found = look(host, stood, silent, answeredMs);
  }
  return found;
}

function look(
  host: DeviceHost,
  stood: Map<number, number>,
  silent: readonly number[],
  answeredMs: number,
): Probed {
  for (const [queue, position] of stood) {
    // Once it was taken from, it was worked, whatever has come since.
    const moved = host.state.position(queue) !== position;
    if (moved || !hasEntries(host, queue)) stood.delete(queue);
  }
  const fault = (text: string, stalled = 0): Probed => ({ text, fault: true, stalled });
  const well = (text: string): Probed => ({ text, fault: false, stalled: 0 });
  const queues = expected(host);
  if (!host.state.driverReady) return well('idle');
  if (queues.length === 0) return well(host.state.broken.size > 0 ? 'stopped' : 'idle');
  if (host.work.paused) return fault('paused');
  const stalled = queues.filter((queue) => stood.has(queue));
  if (silent.length > 0)
    return fault(`${named('worker', 'workers', silent)}: no answer within ${PROBE_MS} ms`, stalled.length);
  const missing = queues.filter((queue) => !isWorked(host, queue));
  if (missing.length > 0)
    return fault(`${named('queue', 'queues', missing)}: with no worker`, stalled.length);
  if (stalled.length > 0)
    return fault(`${named('queue', 'queues', stalled)}: not worked within ${PROBE_MS} ms`, stalled.length);
  return well(`answers in ${answeredMs.toFixed(MS_DIGITS)} ms`);
}
