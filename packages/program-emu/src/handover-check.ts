/**
 * handover-check.ts: whether this build could serve the devices that another serves now.
 *
 * Theory
 *   Asked before anything moves. Each record is read and its device built from it, without descriptors and without the
 *   world: what would stop the real thing stops this. The features a device offers, and so those its driver has
 *   negotiated, must be among those this build has.
 */
import { tryRecord } from './device-engines.js';
import { decodeDeviceRecord } from './device-record.js';
import type { DeviceMirror } from './mirror.js';
import { statePageProblem } from './state-page-check.js';

/**
 * What stands in the way of serving `mirrors`, in words; empty when nothing does. `beat` is called before each: a
 * thousand devices take longer than a thread may stand still.
 */
export function checkMirror(
  mirrors: Iterable<DeviceMirror>,
  supportedFeatures: bigint,
  beat: () => void,
): string[] {
  const problems: string[] = [];
  for (const mirror of mirrors) {
    beat();
    const problem = checkDevice(mirror, supportedFeatures);
    if (problem !== null) problems.push(`${mirror.vuid}: ${problem}`);
  }
  return problems;
}

function checkDevice({ record: bytes, page }: DeviceMirror, supportedFeatures: bigint): string | null {
  if (bytes === null) return 'no record';
  const record = decodeDeviceRecord(bytes);
  if (typeof record === 'string') return `its record cannot be read: ${record}`;
  if (page === null) return 'no state page';
  const problem = statePageProblem(page.buffer);
  if (problem !== null) return problem;
  const missing = BigInt(record.plan.features) & ~supportedFeatures;
  if (missing !== 0n) return `features 0x${missing.toString(16)} are offered and not known here`;
  return tryRecord(record, page);
}
