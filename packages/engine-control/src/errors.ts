/**
 * The error rows of the virtnet command line.
 *
 * The guide lists 76 texts in a fixed order and says that their numbers are less than or equal to -1000. It lost the
 * numbers and the symbolic names. This project numbers them `-(1000 + position)`, position counted from 1, so -1001
 * to -1076, and gives them names of its own.
 */

const ROWS = [
  ['DEV_FEATURE_VALIDATE', 'Failed to validate device feature'],
  ['DEV_NOT_EXIST', 'Failed to find device'],
  ['DEV_NOT_HOTPLUG', 'Failed - Device is not hotplugged'],
  ['DEV_NOT_START', 'Failed - Device did not start'],
  ['DRV_SHOULD_NOT_LOAD', 'Failed - Virtio driver should not be loaded'],
  ['EPOLL_ADD', 'Failed to add epoll'],
  ['ID_OUT_OF_RANGE', 'Failed - ID input exceeds the max range'],
  ['VUID_INVALID', 'Failed - VUID is invalid'],
  ['MAC_INVALID', 'Failed - MAC is invalid'],
  ['MSIX_INVALID', 'Failed - MSIX is invalid'],
  ['MTU_INVALID', 'Failed - MTU is invalid'],
  ['PORT_CTX_NOT_FOUND', 'Failed to find port contex'],
  ['REC_CONFIG_LOAD', 'Failed to load config from recovery file'],
  ['REC_CONFIG_SAVE', 'Failed to save config into recovery file'],
  ['REC_FILE_CREATE', 'Failed to create recovery file'],
  ['REC_MAC_DEL', 'Failed to delete MAC in recovery file'],
  ['REC_MAC_LOAD', 'Failed to load MAC from recovery file'],
  ['REC_MAC_SAVE', 'Failed to save MAC into recovery file'],
  ['REC_MQ_SAVE', 'Failed to save MQ into recovery file'],
  ['REC_PFNUM_LOAD', 'Failed to load PF number from recovery file'],
  ['REC_RX_MODE_SAVE', 'Failed to save RX mode into recovery file'],
  ['REC_PF_SF_NUM_SAVE', 'Failed to save PF and SF number into recovery file'],
  ['REC_SFNUM_LOAD', 'Failed to load SF number from recovery file'],
  ['SF_MAC_FLOW_APPLY', 'Failed to apply MAC flow by SF'],
  ['SF_MQ_UPDATE', 'Failed to update MQ by SF'],
  ['SF_RX_MODE_SET', 'Failed to set RX mode by SF'],
  ['SNAP_DEV_CTRL_OPEN', 'Failed to open SNAP device control'],
  ['SNAP_CROSS_MKEY_CREATE', 'Failed to create SNAP cross mkey'],
  ['SNAP_DMA_Q_CREATE', 'Failed to create SNAP DMA Q'],
  ['SNAP_DEV_QUERY', 'Failed to query SNAP device'],
  ['SNAP_DEV_MODIFY', 'Failed to modify SNAP device'],
  ['SNAP_PF_HOTPLUG', 'Failed to hotplug SNAP PF'],
  ['VQ_PERIOD_UPDATE', 'Failed to update VQ period'],
  ['QUEUE_SIZE_INVALID', 'Failed - Queue size is invalid'],
  ['SF_PORT_ADD', 'Failed to add SF port'],
  ['WORKQUEUE_ALLOC', 'Failed to alloc workqueue'],
  ['ETH_VQS_OP_ALLOC', 'Failed to alloc eth VQS operation'],
  ['ETH_VQS_OP_COMPLETE', 'Failed to complete eth VQS operation'],
  ['JSON_OBJ_NOT_EXIST', 'Failed - JSON obj does not exist'],
  ['DEV_LOAD_PREPARE', 'Failed to prepare device load'],
  ['DEV_SW_MIGRATE', 'Failed to sw migrate a device'],
  ['DEV_IS_MIGRATING', 'Failed - Device is migrating'],
  ['QUEUE_SIZE_RULE', 'Error - queue size must be greater than 2 and is power of 2'],
  ['DEV_NOT_FUNCTIONAL', "Warning - this device won't function, don't try to probe with virtio driver"],
  ['SF_POOL_CREATING', 'SF pool is creating try again later'],
  ['DST_PORT_SET', 'Failed to set dst port rule'],
  ['OPT_NOT_SUPPORTED', 'Option is not supported'],
  ['SF_CREATE', 'Failed to create SF'],
  ['SF_NUM_RANGE', 'SF number for hotplug device should be between 2000 and 2999'],
  ['SF_NUM_IN_USE', 'SF number is already used'],
  ['QUEUE_IDX_INVALID', 'Queue index is invalid'],
  ['SPEED_INVALID', 'Invalid speed please check help menu for supported link speeds'],
  ['HASH_TYPES_INVALID', 'Invalid hash types please check help menu for supported hash types'],
  ['RSS_KEY_SIZE_INVALID', 'Invalid rss max key size supported key size is 40'],
  ['REC_OFFLOADS_SAVE', 'Failed to save OFFLOADS into recovery file'],
  ['SF_OFFLOADS_UPDATE', 'Failed to update OFFLOADS by SF'],
  ['READLINK', 'Failed to readlink'],
  ['PATH_INVALID', 'Error - Path format is invalid'],
  ['Q_COUNTER_ALLOC', 'Failed to alloc q counter'],
  ['REC_DIRTY_LOG_SAVE', 'Failed to save dirty log'],
  ['REC_DIRTY_LOG_DEL', 'Failed to delete dirty log'],
  ['REC_LM_STATUS_SAVE', 'Failed to save LM status'],
  ['REC_LM_STATUS_NOT_FOUND', 'Failed to found LM status record'],
  ['REC_DEV_MODE_SAVE', 'Failed to save dev mode'],
  ['REC_DEV_MODE_NOT_FOUND', 'Failed to found dev mode record'],
  ['DEV_UNPLUG_NOT_READY', 'Error - Device is not ready to be unplugged please check host and retry'],
  ['REC_MAC_TABLE_DEL', 'Failed to delete MAC table in recovery file'],
  ['REC_MAC_TABLE_LOAD', 'Failed to load MAC table from recovery file'],
  ['REC_MAC_TABLE_SAVE', 'Failed to save MAC table into recovery file'],
  ['REC_HASH_CFG_DEL', 'Failed to delete hash cfg in recovery file'],
  ['REC_HASH_CFG_LOAD', 'Failed to load hash cfg from recovery file'],
  ['REC_HASH_CFG_SAVE', 'Failed to save hash cfg into recovery file'],
  ['VF_DEV_GET', 'Failed to get VF device'],
  ['QUEUES_INVALID', 'Failed - QUEUES is invalid'],
  ['DEBUGFS_SAVE', 'Failed to save into debugfs file'],
  ['DEBUGFS_DEL', 'Failed to delete from debugfs file'],
] as const;

/** This project's name of an error row. */
export type ControlErrorName = (typeof ROWS)[number][0];

/** How a command reports its outcome: a negative number and a text, or 0 and "Success". */
export interface Outcome {
  readonly errno: number;
  readonly errstr: string;
}
/** An outcome that is not success: `errno` is negative; above -1000 it is a Linux error number. */
export type Failure = Outcome;

/** What every successful command with an outcome says. */
export const SUCCESS: Outcome = { errno: 0, errstr: 'Success' };

/** Rows are numbered downwards from here; the first row is one below. */
export const CONTROL_ERRNO_BASE = -1000;

export interface ControlErrorRow extends Outcome {
  readonly name: ControlErrorName;
}

/** All rows, in the guide's order. */
export const CONTROL_ERRORS: readonly ControlErrorRow[] = ROWS.map(([name, errstr], index) => ({
  name,
  errno: CONTROL_ERRNO_BASE - (index + 1),
  errstr,
}));

const BY_NAME = new Map<ControlErrorName, ControlErrorRow>(CONTROL_ERRORS.map((row) => [row.name, row]));

/** The answer `{errno, errstr}` of a row. */
export function failure(name: ControlErrorName): Failure {
  const { errno, errstr } = BY_NAME.get(name)!;
  return { errno, errstr };
}

/** Linux's numbers and texts for what no row is about. */
const LINUX = {
  EBUSY: { errno: -16, errstr: 'Device or resource busy' },
  ENODEV: { errno: -19, errstr: 'No such device' },
  EINVAL: { errno: -22, errstr: 'Invalid argument' },
  ERANGE: { errno: -34, errstr: 'Numerical result out of range' },
} as const satisfies Record<string, Failure>;

/** A Linux error; `why`, behind its text, says what of the request it is about, or what to do. */
export function refusal(name: keyof typeof LINUX, why: string): Failure {
  const { errno, errstr } = LINUX[name];
  return { errno, errstr: `${errstr}: ${why}` };
}

/** Whether a plan or answer is a failure. */
export function isFailure(value: object): value is Failure {
  return 'errno' in value && typeof value.errno === 'number' && value.errno < 0;
}

/** What a query of a device that does not exist answers; it has no number. */
export const DEVICE_MISSING = { Error: "Device doesn't exist" } as const;

/** Exit code of the command line for an answer: 0 for success, 1 for everything that reports an error. */
export function exitCodeOf(answer: unknown): 0 | 1 {
  if (typeof answer !== 'object' || answer === null || Array.isArray(answer)) return 0;
  if ('Error' in answer) return 1;
  return 'errno' in answer && answer.errno !== 0 ? 1 : 0;
}
