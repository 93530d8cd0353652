/**
 * recovery-document.ts: what the service saves of all functions beside their recovery files.
 *
 * Theory
 *   The guide's keys have no room for MTU, queue size, features and vectors, for the firmware's values under which the
 *   functions were made, and for the command that asked for one. The last is what a command is known by that is sent
 *   again because its answer was lost: a function that is made anew from its files is the answer to it, and not in the
 *   way of a second one. The document says what functions are, not which there are: that is what the recovery files do.
 *
 * Invariants
 *   I1  `readDocument(writeDocument(document))` is the document.
 *   I2  what was saved is not trusted: a plan that no function can have, and a request that nobody can have sent, are
 *       left out.
 */
import { type DevicePlan, restorePlan } from './device-plan.js';
import { restoreFirmwareValues } from './firmware-config.js';
import { isRecoveryOf, type Recovery } from './recovery-file.js';

/** Version of the document; another one is refused. */
export const DEVICES_VERSION = 1;
/** Ids that a controller gives to requests. */
const REQUEST_ID = /^[0-9a-zA-Z-]{1,64}$/;

export interface RecoveryDocument {
  /** The firmware's values under which the functions were made, as JSON; empty: not known. */
  readonly firmware: string;
  /** By VUID. */
  readonly plans: ReadonlyMap<string, DevicePlan>;
  /** Ids of the commands that asked for functions, by the functions' VUIDs. */
  readonly requests: ReadonlyMap<string, string>;
}

/**
 * What is known of functions that existed before; plans and requests are of the same functions, as far as they could be
 * read.
 */
export interface Remembered extends Pick<RecoveryDocument, 'plans' | 'requests'> {
  readonly recoveries: ReadonlyMap<string, Recovery>;
}

/** The text of a document, one line. */
export function writeDocument({ firmware, plans, requests }: RecoveryDocument): string {
  const document = {
    version: DEVICES_VERSION,
    firmware,
    plans: [...plans.values()],
    requests: Object.fromEntries(requests),
  };
  return `${JSON.stringify(document)}\n`;
}

/** What a document says, or a sentence about what is wrong with it. Never throws. */
export function readDocument(text: string): RecoveryDocument | string {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    return String((error as Error).message);
  }
  const document = value as Readonly<Record<string, unknown>> | null;
  const isRight =
    document?.version === DEVICES_VERSION &&
    typeof document.firmware === 'string' &&
    (document.firmware === '' || restoreFirmwareValues(document.firmware) !== null) &&
    Array.isArray(document.plans);
  if (!isRight) return `not a document of version ${DEVICES_VERSION}`;
  const plans = (document.plans as unknown[]).map(restorePlan).filter((plan) => typeof plan !== 'string');
  return {
    firmware: document.firmware as string,
    plans: new Map(plans.map((plan) => [plan.vuid, plan])),
    requests: restoreRequests(document.requests),
  };
}

/** Absent in what versions wrote that did not save them. */
function restoreRequests(saved: unknown): Map<string, string> {
  if (typeof saved !== 'object' || saved === null || Array.isArray(saved)) return new Map();
  const isId = (entry: readonly [string, unknown]): entry is [string, string] =>
    typeof entry[1] === 'string' && REQUEST_ID.test(entry[1]);
  return new Map(Object.entries(saved).filter(isId));
}

/** Whether nothing is saved of a function that `requestId` asked for, if a command did, or not what it is now. */
export function isUnsaved(
  plan: DevicePlan,
  requestId: string | undefined,
  { recoveries, plans, requests }: Remembered,
): boolean {
  const { vuid } = plan;
  const recovery = recoveries.get(vuid);
  if (recovery === undefined || !isRecoveryOf(recovery, plan)) return true;
  if (requests.get(vuid) !== requestId) return true;
  return JSON.stringify(plans.get(vuid)) !== JSON.stringify(plan);
}
