/**
 * function-state.ts: the saved state of a function, and how it is read when it comes back.
 *
 * Theory
 *   Plain data (JSON), only what differs from reset. What comes back is not trusted: it is read completely into a
 *   checked form before anything is changed, and must be a state the function can reach by itself.
 *
 * Invariants
 *   I1  parse(save()) has no problems, and loading it and saving again gives the same state.
 *
 * Limits  sizes follow from the function: its queues, its vectors, its configuration space.
 */
import {
  DeviceStatus,
  hasFeature,
  hex64,
  NO_VECTOR,
  PlainReader,
  QUEUE_COUNT_MAX,
  VirtioFeature,
  VirtioPciCommon,
} from '@virtnet/wire';
import type { CommonConfig, HalfWritten } from './common-config.js';
import type { ConfigDifference, ConfigSpace } from './config-space.js';
import { isReachableStatus } from './device-status.js';
import { Msix, type MsixState } from './msix.js';
import { type ParsedQueue, parseQueue, type QueueState } from './queue-registers.js';

/** What `VirtioPciFunction.save` returns. */
export interface FunctionState {
  readonly config: readonly ConfigDifference[];
  readonly status: number;
  readonly deviceFeatureSelect: number;
  readonly driverFeatureSelect: number;
  readonly driverFeatures: string;
  readonly configVector: number;
  readonly queueSelect: number;
  readonly halves: readonly (HalfWritten & { readonly at: number })[];
  /** Queues that differ from reset. */
  readonly queues: readonly QueueState[];
  readonly msix: MsixState;
  /** Only when the program keeps no cells of its own. */
  readonly isr?: number;
  readonly generation?: number;
}

/** A state that has been read and checked. */
export interface ParsedFunction
  extends Omit<FunctionState, 'driverFeatures' | 'queues' | 'isr' | 'generation'> {
  readonly driverFeatures: bigint;
  readonly queues: readonly ParsedQueue[];
  readonly isr: number | null;
  readonly generation: number | null;
}

const U32_MAX = 0xffff_ffff;
const BYTE_MAX = 0xff;
/** Registers that remember halves. */
const CHECKED_REGISTERS: readonly number[] = [
  VirtioPciCommon.at.configVector,
  VirtioPciCommon.at.queueSize,
  VirtioPciCommon.at.queueVector,
];

export function saveCommon(
  common: CommonConfig,
): Omit<FunctionState, 'config' | 'msix' | 'isr' | 'generation'> {
  return {
    status: common.status,
    deviceFeatureSelect: common.deviceFeatureSelect,
    driverFeatureSelect: common.driverFeatureSelect,
    driverFeatures: hex64(common.driverFeatures),
    configVector: common.configVector,
    queueSelect: common.queueSelect,
    halves: [...common.halves].map(([at, half]) => ({ at, ...half })),
    queues: common.queues.filter((queue) => !queue.isDefault).map((queue) => queue.save()),
  };
}

export function loadCommon(common: CommonConfig, state: ParsedFunction): void {
  common.status = state.status;
  common.deviceFeatureSelect = state.deviceFeatureSelect;
  common.driverFeatureSelect = state.driverFeatureSelect;
  common.driverFeatures = state.driverFeatures;
  common.configVector = state.configVector;
  common.queueSelect = state.queueSelect;
  common.halves.clear();
  for (const { at, queue, value } of state.halves) common.halves.set(at, { queue, value });
  for (const queue of common.queues) queue.reset();
  for (const queue of state.queues) common.queues[queue.index]!.load(queue);
}

/** Reads and checks a state for a function with these parts. */
export function parseFunction(
  value: unknown,
  space: ConfigSpace,
  common: CommonConfig,
  vectors: number,
): { readonly state: ParsedFunction; readonly problems: readonly string[] } {
  const reader = new PlainReader();
  const fields = reader.object(value, 'function');
  const cell = (name: 'isr' | 'generation'): number | null =>
    fields[name] === undefined ? null : reader.integer(fields[name], name, 0, BYTE_MAX);
  const halves = reader.list(fields.halves, 'halves', CHECKED_REGISTERS.length).map((entry, i) => {
    const half = reader.object(entry, `halves[${i}]`);
    const at = reader.integer(half.at, `halves[${i}].at`, 0, VirtioPciCommon.sizeBytes);
    if (!CHECKED_REGISTERS.includes(at)) reader.problem(`halves[${i}].at`, 'not such a register');
    return {
      at,
      queue: reader.integer(half.queue, `halves[${i}].queue`, 0, QUEUE_COUNT_MAX),
      value: reader.integer(half.value, `halves[${i}].value`, 0, NO_VECTOR),
    };
  });
  const state: ParsedFunction = {
    config: space.parse(fields.config, reader),
    status: reader.integer(fields.status, 'status', 0, BYTE_MAX),
    deviceFeatureSelect: reader.integer(fields.deviceFeatureSelect, 'deviceFeatureSelect', 0, U32_MAX),
    driverFeatureSelect: reader.integer(fields.driverFeatureSelect, 'driverFeatureSelect', 0, U32_MAX),
    driverFeatures: reader.hex64(fields.driverFeatures, 'driverFeatures'),
    configVector: reader.integer(fields.configVector, 'configVector', 0, NO_VECTOR),
    queueSelect: reader.integer(fields.queueSelect, 'queueSelect', 0, QUEUE_COUNT_MAX),
    halves,
    queues: reader
      .list(fields.queues, 'queues', common.queues.length)
      .map((queue, i) => parseQueue(queue, `queues[${i}]`, common.queues.length, reader)),
    msix: Msix.parse(fields.msix, vectors, reader),
    isr: cell('isr'),
    generation: cell('generation'),
  };
  checkReachable(state, common, vectors, reader);
  return { state, problems: reader.problems };
}

/** Whether the function could have come to this state by itself. */
function checkReachable(
  state: ParsedFunction,
  common: CommonConfig,
  vectors: number,
  reader: PlainReader,
): void {
  if (!isReachableStatus(state.status)) reader.problem('status', 'bits that do not go together');
  const agreed = (state.status & DeviceStatus.FEATURES_OK) !== 0;
  if (agreed)
    for (const problem of common.featureProblems(state.driverFeatures))
      reader.problem('driverFeatures', problem);
  const isVector = (vector: number): boolean => vector < vectors || vector === NO_VECTOR;
  if (!isVector(state.configVector)) reader.problem('configVector', 'no such vector');
  const packed = agreed && hasFeature(state.driverFeatures, VirtioFeature.RING_PACKED);
  const seen = new Set<number>();
  for (const [i, parsed] of state.queues.entries()) {
    const path = `queues[${i}]`;
    if (seen.has(parsed.index)) reader.problem(path, 'twice the same queue');
    seen.add(parsed.index);
    if (!isVector(parsed.vector)) reader.problem(`${path}.vector`, 'no such vector');
    const refusal = common.queues[parsed.index]?.judge(parsed, agreed, packed) ?? null;
    if (refusal !== null) reader.problem(path, refusal);
  }
}
