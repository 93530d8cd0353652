/**
 * recovery-file.ts: the recovery file of one function: what of it outlives the service.
 *
 * Theory
 *   The keys are the guide's, all of them and no other. What a function has besides (MTU, queue size, features) is
 *   the service's own and stands in another file. A file is named after the VUID and is not trusted: somebody may have
 *   edited it, copied it from another board, or lost power over it.
 *
 * Invariants
 *   I1  `readRecovery(writeRecovery(plan), plan.vuid)` agrees with the plan.
 *   I2  what does not belong to the VUID it is named after is refused: kind, PF and VF number are compared with it.
 *
 * Limits  RECOVERY_BYTES_MAX.
 */
import {
  type DevicePlan,
  isQueuePairCount,
  isStationAddress,
  isWithin,
  virtQueueCount,
} from './device-plan.js';
import type { ControlErrorName } from './errors.js';
import { FunctionKind } from './facts.js';
import { parseMac } from './format.js';
import {
  addressOf,
  formatBdf,
  hotplugVuid,
  parseBdf,
  rawBdf,
  staticVuid,
  uplinkPort,
  vfVuid,
} from './identity.js';
import {
  HOTPLUG_PFS_MAX,
  HOTPLUG_SF_FIRST,
  HOTPLUG_SF_LAST,
  PF_IDS,
  STATIC_PFS_MAX,
  STATIC_SF_FIRST,
  VF_SF_FIRST,
  VF_SF_LAST,
  VFS_MAX,
  VIRT_QUEUES_MAX,
} from './limits.js';

/** A file has a dozen short keys. */
export const RECOVERY_BYTES_MAX = 4096;

/** What a recovery file says, checked. */
export interface Recovery {
  readonly kind: FunctionKind;
  readonly ibDevice: string;
  readonly pfId: number;
  readonly vfId: number | null;
  /** Routing id. */
  readonly address: number;
  /** Upper-case colon notation. */
  readonly mac: string;
  readonly sfNum: number;
  readonly queuePairs: number;
}

/** Why a file cannot be used, and the guide's row about it. */
export interface RecoveryProblem {
  readonly row: ControlErrorName;
  /** A sentence. */
  readonly problem: string;
}

/**
 * The text of a function's recovery file. `mq` counts as the guide's example does: virtqueues, 3 for one pair. It is 0
 * without any pair, which only a VF can be.
 */
export function writeRecovery(plan: DevicePlan): string {
  const { ibDevice, pfId, vfId, kind, bdf, mac, sfNum } = plan;
  const address = parseBdf(bdf)!;
  const file = {
    port_ib_dev: ibDevice,
    pf_id: pfId,
    ...(vfId === null ? {} : { vf_id: vfId }),
    function_type: vfId === null ? 'pf' : 'vf',
    bdf_raw: rawBdf(address),
    ...(vfId === null ? { device_type: kind === FunctionKind.STATIC_PF ? 'static' : 'hotplug' } : {}),
    mac: mac.toLowerCase(),
    pf_num: numberOf(plan),
    sf_num: sfNum,
    mq: plan.queuePairs === 0 ? 0 : virtQueueCount(plan.queuePairs),
  };
  return `${JSON.stringify(file, null, 2)}\n`;
}

/**
 * PCIe function number of the PF: the function of its address for a static PF and its VFs. The guide's example of a
 * hotplug PF says 0, which is the function of its address as well.
 */
function numberOf({ kind, address, pfId }: Pick<DevicePlan, 'kind' | 'address' | 'pfId'>): number {
  return kind === FunctionKind.VF ? staticFunction(pfId) : addressOf(address).fn;
}

function staticFunction(pfId: number): number {
  return Number(/F(\d+)$/.exec(staticVuid(pfId))![1]);
}

/** Whether the file that says this is the one the function should have now. */
export function isRecoveryOf(recovery: Recovery, plan: DevicePlan): boolean {
  const own = readRecovery(writeRecovery(plan), plan.vuid);
  return !('problem' in own) && JSON.stringify(own) === JSON.stringify(recovery);
}

/** What the file of `vuid` says, or why it cannot be used. Never throws. */
export function readRecovery(text: string, vuid: string): Recovery | RecoveryProblem {
  if (text.length === 0) return unusable('empty');
  if (text.length > RECOVERY_BYTES_MAX) return unusable(`larger than ${RECOVERY_BYTES_MAX} bytes`);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return unusable('not JSON: torn, or edited');
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    return unusable('not a JSON object');
  const file = value as Readonly<Record<string, unknown>>;
  const kind = kindOf(file);
  if (kind === null) return unusable('function_type and device_type name no kind of function');
  const wrong = wrongKey(file, kind);
  if (wrong !== null) return wrong;
  const recovery: Recovery = {
    kind,
    ibDevice: file.port_ib_dev as string,
    pfId: file.pf_id as number,
    vfId: kind === FunctionKind.VF ? (file.vf_id as number) : null,
    address: file.bdf_raw as number,
    mac: (file.mac as string).toUpperCase(),
    sfNum: file.sf_num as number,
    queuePairs: (file.mq as number) >> 1,
  };
  return isNameOf(recovery, vuid) ? recovery : unusable(`of another function than ${vuid}`);
}

/** A file that cannot be used; `row` where the guide has one for what is wrong with it. */
export function unusable(problem: string, row: ControlErrorName = 'REC_CONFIG_LOAD'): RecoveryProblem {
  return { row, problem };
}

/** Rows of keys that have one of their own. */
const KEY_ROWS: Readonly<Record<string, ControlErrorName>> = {
  mac: 'REC_MAC_LOAD',
  pf_id: 'REC_PFNUM_LOAD',
  pf_num: 'REC_PFNUM_LOAD',
  sf_num: 'REC_SFNUM_LOAD',
};

function kindOf({
  function_type: type,
  device_type: device,
}: Readonly<Record<string, unknown>>): FunctionKind | null {
  if (type === 'vf') return device === undefined ? FunctionKind.VF : null;
  if (type !== 'pf') return null;
  return device === 'static' ? FunctionKind.STATIC_PF : device === 'hotplug' ? FunctionKind.HOTPLUG_PF : null;
}

const SF_RANGES: Readonly<Record<FunctionKind, readonly [number, number]>> = {
  [FunctionKind.STATIC_PF]: [STATIC_SF_FIRST, HOTPLUG_SF_FIRST - 1],
  [FunctionKind.HOTPLUG_PF]: [HOTPLUG_SF_FIRST, HOTPLUG_SF_LAST],
  [FunctionKind.VF]: [VF_SF_FIRST, VF_SF_LAST],
};

function wrongKey(file: Readonly<Record<string, unknown>>, kind: FunctionKind): RecoveryProblem | null {
  const isVf = kind === FunctionKind.VF;
  const pfs = kind === FunctionKind.HOTPLUG_PF ? PF_IDS : STATIC_PFS_MAX;
  const [sfFirst, sfLast] = SF_RANGES[kind];
  const mac = typeof file.mac === 'string' ? parseMac(file.mac) : null;
  const checks: readonly (readonly [string, boolean])[] = [
    ['port_ib_dev', typeof file.port_ib_dev === 'string' && uplinkPort(file.port_ib_dev) !== null],
    ['pf_id', isWithin(file.pf_id, 0, pfs - 1)],
    ['vf_id', isVf ? isWithin(file.vf_id, 0, VFS_MAX - 1) : file.vf_id === undefined],
    ['bdf_raw', isWithin(file.bdf_raw, 0, 0xffff)],
    ['mac', mac !== null && isStationAddress(mac)],
    ['pf_num', isWithin(file.pf_num, 0, 0xff)],
    ['sf_num', isWithin(file.sf_num, sfFirst, sfLast)],
    [
      'mq',
      (isVf && file.mq === 0) ||
        (isWithin(file.mq, 3, VIRT_QUEUES_MAX) &&
          (file.mq & 1) === 1 &&
          isQueuePairCount(file.mq >> 1, VIRT_QUEUES_MAX)),
    ],
  ];
  const known = new Set([...checks.map(([name]) => name), 'function_type', 'device_type']);
  const foreign = Object.keys(file).find((name) => !known.has(name));
  if (foreign !== undefined) return unusable(`a key that does not belong there: ${foreign.slice(0, 64)}`);
  const [broken] = checks.find(([, isRight]) => !isRight) ?? [];
  return broken === undefined ? null : unusable(`${broken} is out of range`, KEY_ROWS[broken]);
}

/** Whether the numbers are those the VUID is made of. A hotplug PF's has its switch port in it, which is no key. */
function isNameOf({ kind, pfId, vfId }: Recovery, vuid: string): boolean {
  switch (kind) {
    case FunctionKind.STATIC_PF:
      return vuid === staticVuid(pfId);
    case FunctionKind.VF:
      return vuid === vfVuid(pfId, vfId!);
    case FunctionKind.HOTPLUG_PF:
      return hotplugPortOfVuid(vuid) !== null;
  }
}

/** Switch port in the VUID of a hotplug PF; null for any other text. */
export function hotplugPortOfVuid(vuid: string): number | null {
  for (let port = 0; port < HOTPLUG_PFS_MAX; port++) if (hotplugVuid(port) === vuid) return port;
  return null;
}

/** The address a recovery names, as text. */
export function recoveryBdf({ address }: Recovery): string {
  return formatBdf(addressOf(address));
}
