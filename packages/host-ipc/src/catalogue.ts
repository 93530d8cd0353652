/**
 * catalogue.ts: every message that our processes send one another over ZeroMQ.
 *
 * Theory
 *   A message is a request and its reply. The catalogue says who sends it, who answers it, the schema of both halves,
 *   how large they may be, how long the sender waits, and whether sending it twice is the same as sending it once.
 *   Senders and receivers are typed by it; both check what arrives against it.
 *
 * Invariants
 *   I1  a message without schema, direction, sample, deadline or size cap does not compile.
 *   I2  a message is repeated after a lost connection only if it says `idempotent`.
 *
 * Limits  requestBytesMax and replyBytesMax of each message; MESSAGE_BYTES_MAX for all of them.
 */
import { driverEntries, driverSchemas } from './catalogue-driver.js';
import { HOST_DEADLINE_MS } from './deadlines.js';
import {
  anyJson,
  array,
  boolean,
  integer,
  type JsonObject,
  nullable,
  number,
  object,
  objectWith,
  oneOf,
  openObject,
  type Schema,
  type Static,
  text,
  tolerant,
  tolerantWith,
} from './schema.js';

const KIB = 1024;
const MIB = 1024 * KIB;

/** Largest message of all: `query --all` of 1,008 devices with 63 queues each makes about 45 MiB. */
export const MESSAGE_BYTES_MAX = 64 * MIB;
const SMALL_BYTES = 16 * KIB;
/** What a caller of the command line waits for the slowest answer. */
const COMMAND_DEADLINE_MS = 15_000;
/** Devices that exist are served at once; those of a thousand recovery files are made before it answers. */
const PROMOTION_DEADLINE_MS = 120_000;
const STATUS_DEADLINE_MS = 2_000;

/** Who may be at an end of a message. */
export type Role = 'cli' | 'controller' | 'driver' | 'emu' | 'ha' | 'vfe-cli' | 'vhostd';

/** More than any service has: 62 hotplug ports and 1,008 VFs. */
const DEVICES_MAX = 4_096;

const id = integer(0, 0xffff);
const death = { pid: integer(1), guestsFault: boolean() };
const optionalId = nullable(id);
const vuid = nullable(text(64));
/** Levels of `virtnet log -l`. */
export const LogLevelName = oneOf('info', 'err', 'debug');
export type LogLevelName = Static<typeof LogLevelName>;

/** What every answer with an error code has; device answers add fields of their own. */
const Answer = openObject({ errno: integer(), errstr: text(1024) });
const nothing = object({});

const hotplugFields = {
  ibDevice: text(64),
  mac: text(64),
  mtu: integer(),
  queues: nullable(integer()),
  queuePairs: nullable(integer()),
  queueSize: integer(),
  sfNum: nullable(integer()),
  /** Feature bits in hexadecimal, with or without 0x. */
  features: nullable(text(64)),
  legacy: boolean(),
};
const unplugFields = { pf: optionalId, vuid };
const selectFields = { all: boolean(), pf: optionalId, vf: optionalId, vuid };
const queryFields = { ...selectFields, brief: boolean(), queue: optionalId };
/** Chosen by the sender; a repetition under the same id is answered with the first answer. */
const requestId = text(64, '^[0-9a-zA-Z-]{1,64}$');

const hostVerb = oneOf(
  ...(['functions', 'sriov', 'bind', 'unbind', 'flr', 'warm-reboot', 'power-cycle', 'dmesg'] as const),
  ...(['autoprobe', 'modprobe'] as const),
);

/** Processes of two versions speak with one another during an update: what a newer one adds is passed over. */
const EmuStatus = tolerantWith(
  {
    role: oneOf('standby', 'active'),
    ready: boolean(),
    pid: integer(1),
    devices: integer(0),
    /** Time from noticing the predecessor's death to serving every device; null when it took nothing over. */
    takeoverMs: nullable(number(0)),
    uptimeMs: number(0),
    version: text(64),
    /** A destination of a handover: it does not take over by itself. */
    reserve: boolean(),
  },
  {
    /** It was told everything, so that it could take over, ready or not. */
    informed: boolean(),
  },
);
export type EmuStatus = Static<typeof EmuStatus>;

const HaStatus = tolerant({
  ready: boolean(),
  pid: integer(1),
  uptimeMs: number(0),
  entries: integer(0),
  descriptors: integer(0),
  blobBytes: integer(0),
  clients: integer(0),
  subscribers: integer(0),
  /** Process that holds the lease; null when nobody does. */
  leaseHolderPid: nullable(integer(1)),
  /** False while a new keeper still waits for, or is in the middle of, the upload. */
  settled: boolean(),
  transactions: integer(0),
  refused: integer(0),
  droppedSubscribers: integer(0),
  expired: integer(0),
  version: text(64),
});
export type HaStatus = Static<typeof HaStatus>;

const HaList = object({
  total: integer(0),
  entries: array(
    object({ name: text(200), blobBytes: integer(0), descriptor: boolean(), ttlWithoutHolderMs: integer(0) }),
    1_000,
  ),
});

/** What a person may type: whether a number or a text makes sense is judged, and said in words, by the controller. */
const typedId = nullable(integer());
const typedText = text(4096);
const typedSelection = { all: boolean(), pf: typedId, vf: typedId, vuid: nullable(typedText) };

const onOff = oneOf('enable', 'disable');
/** Options of `modify device`; only those that were typed. */
const deviceOptions = objectWith(
  {},
  {
    mac: typedText,
    mtu: integer(),
    speed: integer(),
    link: integer(),
    state: integer(),
    features: typedText,
    supportedHashTypes: integer(),
    rssMaxKeySize: integer(),
    rxMode: integer(),
    msixNum: integer(),
    maxQueueSize: integer(),
    maxQueuePairs: integer(),
    dstPort: integer(),
    rxDmaQNum: integer(),
    dropCounter: onOff,
    packetCounter: onOff,
    aarfs: onOff,
    dim: onOff,
    netDim: onOff,
  },
);
const queueOptions = object({ periodMode: oneOf('event', 'cqe'), period: integer(), maxCount: integer() });
const modifications = { device: deviceOptions, queueOptions };

/** Parameters of each command of the `virtnet` command line, as `cli.request` carries them. */
export const cliCommands = {
  hotplug: object({ ...hotplugFields, ibDevice: typedText, mac: typedText, features: nullable(typedText) }),
  unplug: object({ pf: typedId, vuid: nullable(typedText) }),
  list: nothing,
  query: objectWith(
    { ...typedSelection, brief: boolean(), queue: typedId },
    { dbgStats: boolean(), latencyStats: boolean(), statsClear: boolean() },
  ),
  health: object(typedSelection),
  modify: objectWith(typedSelection, modifications),
  stats: object({ pf: typedId, vf: typedId, vuid: nullable(typedText), queue: typedId }),
  debug: nothing,
  log: object({ level: LogLevelName }),
  version: nothing,
  host: object({
    verb: hostVerb,
    bdf: nullable(typedText),
    value: typedId,
    driver: nullable(typedText),
  }),
  update: object({ start: boolean(), status: boolean() }),
  restart: nothing,
} as const satisfies Record<string, Schema<unknown>>;
export type CliCommand = keyof typeof cliCommands;
export type CliParams<C extends CliCommand> = Static<(typeof cliCommands)[C]>;

const schemas = {
  'cli.request': {
    params: object({ command: text(32, '^[a-z][a-z-]*$'), params: openObject({}) }),
    result: objectWith({ answer: anyJson(), exitCode: integer(0, 255) }, { echo: openObject({}) }),
  },
  'vhost.request': {
    params: object({ command: text(32, '^[a-z][a-z-]*$'), params: openObject({}) }),
    result: object({ answer: anyJson(), exitCode: integer(0, 255) }),
  },
  ...driverSchemas,
  'device.hotplug': { params: object({ requestId, ...hotplugFields }), result: Answer },
  'device.unplug': { params: object({ requestId, ...unplugFields }), result: Answer },
  'device.list': { params: nothing, result: openObject({}) },
  'device.modify': {
    params: objectWith({ requestId, ...selectFields }, modifications),
    result: Answer,
  },
  'device.stats': {
    params: object({ pf: optionalId, vf: optionalId, vuid, queue: optionalId }),
    result: anyJson(),
  },
  'device.query': {
    params: objectWith(queryFields, { dbgStats: boolean(), statsClear: boolean() }),
    result: anyJson(),
  },
  'device.health': { params: object(selectFields), result: anyJson() },
  'device.host': {
    params: object({
      requestId,
      verb: hostVerb,
      bdf: nullable(text(64)),
      value: typedId,
      driver: nullable(text(64)),
    }),
    result: anyJson(),
  },
  'emu.status': { params: nothing, result: EmuStatus },
  'emu.promote': {
    params: object({ reason: oneOf('first', 'crash', 'update') }),
    result: object({ devices: integer(0), takeoverMs: nullable(number(0)) }),
  },
  'emu.verdicts': {
    params: object({ deaths: array(objectWith(death, { cause: text(32), lane: integer(0, 0xffff) }), 64) }),
    result: nothing,
  },
  'emu.devices': {
    params: nothing,
    result: tolerant({ devices: array(tolerant({ vuid: text(64), pf: id, vf: optionalId }), DEVICES_MAX) }),
  },
  'emu.check': {
    params: nothing,
    result: tolerant({ devices: integer(0), problems: array(text(1024), DEVICES_MAX) }),
  },
  'emu.borrow': { params: object({ vuid: text(64) }), result: tolerant({ pauseMs: number(0) }) },
  'emu.lend': { params: object({ vuid: text(64), pid: integer(1) }), result: nothing },
  'emu.pass': { params: object({ pid: integer(1) }), result: nothing },
  'emu.stand': { params: nothing, result: nothing },
  'emu.shutdown': { params: object({ removeDevices: boolean() }), result: nothing },
  'log.level': { params: object({ level: LogLevelName }), result: nothing },
  'ha.status': { params: nothing, result: HaStatus },
  'ha.list': {
    params: object({ prefix: text(200), offset: integer(0), limit: integer(1, 1_000) }),
    result: HaList,
  },
  'ha.shutdown': { params: nothing, result: nothing },
} as const satisfies Record<string, { params: Schema<unknown>; result: Schema<unknown> }>;

export type MessageName = keyof typeof schemas;
export type Params<N extends MessageName> = Static<(typeof schemas)[N]['params']>;
export type Result<N extends MessageName> = Static<(typeof schemas)[N]['result']>;

/** What the catalogue says about one message beside its schemas. */
interface Entry<N extends MessageName> {
  readonly from: Role;
  readonly to: readonly Role[];
  readonly requestBytesMax: number;
  readonly replyBytesMax: number;
  /** How long the sender waits for the reply, in milliseconds, unless it says otherwise. */
  readonly deadlineMs: number;
  /** Sending it twice has the effect of sending it once. */
  readonly idempotent: boolean;
  readonly sample: { readonly params: Params<N>; readonly result: Result<N> };
}

const small = { requestBytesMax: SMALL_BYTES, replyBytesMax: SMALL_BYTES } as const;
const large = { requestBytesMax: SMALL_BYTES, replyBytesMax: MESSAGE_BYTES_MAX } as const;
const success = { errno: 0, errstr: 'Success' } as const;

const entries = {
  'cli.request': {
    from: 'cli',
    to: ['controller'],
    ...large,
    deadlineMs: COMMAND_DEADLINE_MS + 1_000, // the controller's own wait ends first and explains itself
    idempotent: false,
    sample: {
      params: { command: 'unplug', params: { pf: 0, vuid: null } },
      result: { echo: { id: '0x0' }, answer: success, exitCode: 0 },
    },
  },
  'vhost.request': {
    from: 'vfe-cli',
    to: ['vhostd'],
    ...large,
    deadlineMs: COMMAND_DEADLINE_MS,
    idempotent: false,
    sample: {
      params: { command: 'vf', params: { list: true } },
      result: { answer: { devices: [], ...success }, exitCode: 0 },
    },
  },
  ...driverEntries,
  'device.hotplug': {
    from: 'controller',
    to: ['emu'],
    ...small,
    deadlineMs: COMMAND_DEADLINE_MS,
    idempotent: true, // by requestId
    sample: {
      params: {
        requestId: '7d0a8c5e-1',
        ibDevice: 'mlx5_0',
        mac: '0C:C4:7A:FF:22:93',
        mtu: 1500,
        queues: 3,
        queuePairs: null,
        queueSize: 1024,
        sfNum: null,
        features: null,
        legacy: false,
      },
      result: { bdf: '15:00.0', vuid: 'MT2151X03152VNETS1D0F0', id: 0, ...success },
    },
  },
  'device.unplug': {
    from: 'controller',
    to: ['emu'],
    ...small,
    deadlineMs: COMMAND_DEADLINE_MS,
    idempotent: true, // by requestId
    sample: { params: { requestId: '7d0a8c5e-2', pf: 0, vuid: null }, result: success },
  },
  'device.modify': {
    from: 'controller',
    to: ['emu'],
    ...small,
    deadlineMs: COMMAND_DEADLINE_MS,
    idempotent: true, // by requestId
    sample: {
      params: { requestId: '7d0a8c5e-3', all: false, pf: 0, vf: null, vuid: null, device: { link: 0 } },
      result: success,
    },
  },
  'device.stats': {
    from: 'controller',
    to: ['emu'],
    ...large,
    deadlineMs: COMMAND_DEADLINE_MS,
    idempotent: true,
    sample: {
      params: { pf: 0, vf: null, vuid: null, queue: 0 },
      result: { device: { pf_id: 0, packet_counters: 'Disabled', 'queues-stats': [] } },
    },
  },
  'device.list': {
    from: 'controller',
    to: ['emu'],
    ...large,
    deadlineMs: COMMAND_DEADLINE_MS,
    idempotent: true,
    sample: { params: {}, result: { controller: { emulation_manager: 'mlx5_0' }, devices: [] } },
  },
  'device.query': {
    from: 'controller',
    to: ['emu'],
    ...large,
    deadlineMs: COMMAND_DEADLINE_MS,
    idempotent: true,
    sample: {
      params: { all: false, pf: 0, vf: null, vuid: null, brief: true, queue: null },
      result: { devices: [] },
    },
  },
  'device.health': {
    from: 'controller',
    to: ['emu'],
    ...large,
    deadlineMs: COMMAND_DEADLINE_MS,
    idempotent: true,
    sample: {
      params: { all: false, pf: 0, vf: null, vuid: null },
      result: { pf_id: 0, health_recover_counter: 1 },
    },
  },
  'device.host': {
    from: 'controller',
    to: ['emu'],
    ...large,
    deadlineMs: HOST_DEADLINE_MS,
    idempotent: true, // by requestId; a function is reset twice at worst
    sample: {
      params: { requestId: '7d0a8c5e-3', verb: 'sriov', bdf: '14:00.2', value: 4, driver: null },
      result: { errno: 0, errstr: 'Success' },
    },
  },
  'emu.status': {
    from: 'controller',
    to: ['emu'],
    ...small,
    deadlineMs: STATUS_DEADLINE_MS,
    idempotent: true,
    sample: {
      params: {},
      result: {
        role: 'active',
        ready: true,
        pid: 4711,
        devices: 2,
        takeoverMs: 7.25,
        uptimeMs: 1_000.5,
        version: '0.1.0',
        reserve: false,
      },
    },
  },
  'emu.promote': {
    from: 'controller',
    to: ['emu'],
    ...small,
    deadlineMs: PROMOTION_DEADLINE_MS,
    idempotent: true,
    sample: { params: { reason: 'crash' }, result: { devices: 2, takeoverMs: 7.25 } },
  },
  'emu.verdicts': {
    from: 'controller',
    to: ['emu'],
    ...small,
    deadlineMs: STATUS_DEADLINE_MS,
    idempotent: true,
    sample: { params: { deaths: [{ pid: 4711, guestsFault: true }] }, result: {} },
  },
  'emu.devices': {
    from: 'controller',
    to: ['emu'],
    requestBytesMax: SMALL_BYTES,
    replyBytesMax: MIB,
    deadlineMs: STATUS_DEADLINE_MS,
    idempotent: true,
    sample: { params: {}, result: { devices: [{ vuid: 'MT2151X03152VNETS1D0F0', pf: 0, vf: null }] } },
  },
  'emu.check': {
    from: 'controller',
    to: ['emu'],
    requestBytesMax: SMALL_BYTES,
    replyBytesMax: 8 * MIB,
    deadlineMs: 10_000,
    idempotent: true,
    sample: { params: {}, result: { devices: 1, problems: [] } },
  },
  'emu.borrow': {
    from: 'controller',
    to: ['emu'],
    ...small,
    deadlineMs: 8_000,
    idempotent: false,
    sample: { params: { vuid: 'MT2151X03152VNETS1D0F0' }, result: { pauseMs: 2.5 } },
  },
  'emu.lend': {
    from: 'controller',
    to: ['emu'],
    ...small,
    deadlineMs: 8_000,
    idempotent: false,
    sample: { params: { vuid: 'MT2151X03152VNETS1D0F0', pid: 4711 }, result: {} },
  },
  'emu.pass': {
    from: 'controller',
    to: ['emu'],
    ...small,
    deadlineMs: STATUS_DEADLINE_MS,
    idempotent: false,
    sample: { params: { pid: 4711 }, result: {} },
  },
  'emu.stand': {
    from: 'controller',
    to: ['emu'],
    ...small,
    deadlineMs: STATUS_DEADLINE_MS,
    idempotent: true,
    sample: { params: {}, result: {} },
  },
  'emu.shutdown': {
    from: 'controller',
    to: ['emu'],
    ...small,
    deadlineMs: 5_000,
    idempotent: true,
    sample: { params: { removeDevices: true }, result: {} },
  },
  'log.level': {
    from: 'controller',
    to: ['emu', 'ha'],
    ...small,
    deadlineMs: STATUS_DEADLINE_MS,
    idempotent: true,
    sample: { params: { level: 'debug' }, result: {} },
  },
  'ha.status': {
    from: 'controller',
    to: ['ha'],
    ...small,
    deadlineMs: STATUS_DEADLINE_MS,
    idempotent: true,
    sample: {
      params: {},
      result: {
        ready: true,
        pid: 4712,
        uptimeMs: 12.5,
        entries: 3,
        descriptors: 2,
        blobBytes: 900,
        clients: 2,
        subscribers: 1,
        leaseHolderPid: 4711,
        settled: true,
        transactions: 17,
        refused: 0,
        droppedSubscribers: 0,
        expired: 0,
        version: '0.1.0',
      },
    },
  },
  'ha.list': {
    from: 'controller',
    to: ['ha'],
    requestBytesMax: SMALL_BYTES,
    replyBytesMax: MIB,
    deadlineMs: STATUS_DEADLINE_MS,
    idempotent: true,
    sample: {
      params: { prefix: 'dev/', offset: 0, limit: 100 },
      result: {
        total: 1,
        entries: [
          {
            name: 'dev/MT2151X03152VNETS1D0F0/record',
            blobBytes: 900,
            descriptor: false,
            ttlWithoutHolderMs: 0,
          },
        ],
      },
    },
  },
  'ha.shutdown': {
    from: 'controller',
    to: ['ha'],
    ...small,
    deadlineMs: STATUS_DEADLINE_MS,
    idempotent: true,
    sample: { params: {}, result: {} },
  },
} as const satisfies { readonly [N in MessageName]: Entry<N> };

/** Messages that `R` answers. */
export type AnsweredBy<R extends Role> = {
  [N in MessageName]: R extends (typeof entries)[N]['to'][number] ? N : never;
}[MessageName];

/** One message of the catalogue: its entry and its schemas. */
export type CatalogueEntry = Entry<MessageName> & {
  readonly paramsSchema: JsonObject;
  readonly resultSchema: JsonObject;
};

export const messageNames = Object.keys(schemas) as MessageName[];

/** The catalogue, by name. */
export const catalogue: Readonly<Record<MessageName, CatalogueEntry>> = byName();

function byName(): Record<MessageName, CatalogueEntry> {
  const all: Partial<Record<MessageName, CatalogueEntry>> = {};
  for (const name of messageNames) {
    const { params, result } = schemas[name];
    all[name] = { ...entries[name], paramsSchema: params.json, resultSchema: result.json };
  }
  return all as Record<MessageName, CatalogueEntry>; // messageNames are all the names there are
}

/** True when `name` is a message of the catalogue. */
export function isMessageName(name: unknown): name is MessageName {
  return typeof name === 'string' && Object.hasOwn(schemas, name);
}
