/** catalogue-driver.ts: what `virtnet-host` asks of the host's virtio-net driver; a part of the catalogue. */
import { HOST_DEADLINE_MS } from './deadlines.js';
import { array, boolean, integer, nullable, object, objectWith, type Schema, text } from './schema.js';

/** More than any service has. */
const FUNCTIONS_MAX = 4_096;
const BYTES_MAX = 16 * 1024;
const LIST_BYTES_MAX = 4 * 1024 * 1024;
const CHANNELS_DEADLINE_MS = 15_000;

export const driverSchemas = {
  /** Makes what is driven agree with the state of the host, and tells of it. */
  'driver.sync': {
    params: object({}),
    result: object({
      functions: array(
        object({
          bdf: text(64),
          /** Name of its interface; null while it has none. */
          netdev: nullable(text(64)),
          /** Why it is not driven. */
          failure: nullable(object({ errno: integer(), reason: text(1024) })),
        }),
        FUNCTIONS_MAX,
      ),
      /** It has nothing to do any more, and ends. */
      ending: boolean(),
    }),
  },
  /** Tells, and with a number changes, how many queue pairs an interface uses. */
  'driver.channels': {
    params: object({ device: text(4096), combined: nullable(integer()) }),
    result: objectWith(
      { errno: integer(), errstr: text(1024) },
      { netdev: text(64), bdf: text(64), most: integer(1), used: integer(0) },
    ),
  },
} as const satisfies Record<string, { params: Schema<unknown>; result: Schema<unknown> }>;

const ends = { from: 'cli', to: ['driver'], idempotent: true } as const;

export const driverEntries = {
  'driver.sync': {
    ...ends,
    requestBytesMax: BYTES_MAX,
    replyBytesMax: LIST_BYTES_MAX,
    deadlineMs: HOST_DEADLINE_MS,
    sample: {
      params: {},
      result: { functions: [{ bdf: '14:00.2', netdev: 'vnet14s00f2', failure: null }], ending: false },
    },
  },
  'driver.channels': {
    ...ends,
    requestBytesMax: BYTES_MAX,
    replyBytesMax: BYTES_MAX,
    deadlineMs: CHANNELS_DEADLINE_MS,
    sample: {
      params: { device: 'vnet14s00f2', combined: 2 },
      result: { netdev: 'vnet14s00f2', bdf: '14:00.2', most: 8, used: 2, errno: 0, errstr: 'Success' },
    },
  },
} as const;
