/** golden-kinds.ts: every kind of thing that one version of the software leaves to, or says to, another. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { DEVICES_VERSION, type HostState, restoreHost, serialiseHost } from '@virtnet/engine-control';
import {
  catalogue,
  cliCommands,
  type MessageName,
  messageNames,
  readShelfLog,
  ShelfLog,
  type VirtnetPaths,
  vfeCommands,
  virtnetPaths,
} from '@virtnet/host-ipc';
import { close, memfdCreate } from '@virtnet/host-linux';
import { LeaseMode, SHELF_VERSION, ShelfMessageHeader, ShelfMessageKind } from '@virtnet/wire';
import { Ajv } from 'ajv';
import { decodeRequest, mismatch } from '../../packages/host-ipc/dist/rpc-checks.js';
import {
  decodeReply,
  ENVELOPE_VERSION,
  encodeError,
  encodeRequest,
  encodeResult,
} from '../../packages/host-ipc/dist/rpc-envelope.js';
import { decodeShelfMessage, encodeShelfMessage } from '../../packages/host-ipc/dist/shelf-codec.js';
import {
  readRecord,
  UPDATE_RECORD_SCHEMA,
  type UpdateRecord,
  writeRecord,
} from '../../packages/program-controller/dist/update-record.js';
import { encodeNote, pausedAt } from '../../packages/program-emu/dist/handover-note.js';
import { RecoveryStore } from '../../packages/program-emu/dist/recovery-store.js';
import { testPlan } from '../../packages/program-emu/dist/test-support/test-device.js';
import { type GoldenKind, type Json, plain } from './golden.ts';
import { deviceKind, statePageKind } from './golden-device.ts';
import { functionRecordKind } from './golden-function.ts';

const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64');
const bytesOf = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text, 'base64'));

// ---- the keeper's channel ------------------------------------------------------------------------------------

const VUID = 'MT2151X03152VNETS1D0F0';
const put = {
  kind: 'put',
  name: `dev/${VUID}/record`,
  blob: Uint8Array.of(1, 2, 3),
  ttlWithoutHolderMs: 0,
} as const;
const samples = {
  TRANSACTION: [
    0,
    [
      { ...put, handle: null },
      { ...put, name: `dev/${VUID}/dma/100000`, handle: 0, ttlWithoutHolderMs: 3000 },
      { kind: 'delete', name: `dev/${VUID}/connection` },
      { kind: 'delete-prefix', prefix: `dev/${VUID}/irq/` },
    ],
  ],
  SUBSCRIBE: [0, []],
  LEASE: [LeaseMode.UPLOAD, []],
  COMPLETE: [0, []],
  SYNCED: [4711, []],
  LEASE_HELD: [4711, []],
  LEASE_LOST: [4711, []],
  REFUSED: [-16, []],
  LEND: [4712, [{ ...put, name: `dev/${VUID}/`, blob: encodeNote(1234.5), handle: null }]],
  PASS: [4712, []],
  BURY: [4711, []],
  WRITER_END: [4711, [{ ...put, name: 'writer', blob: new Uint8Array(0), handle: 0 }]],
} as const satisfies Record<
  keyof typeof ShelfMessageKind,
  readonly [number, Parameters<typeof encodeShelfMessage<number>>[0]['operations']]
>;

interface ShelfBytes {
  readonly bytes: string;
  readonly descriptors: number;
}

const shelfKind: GoldenKind = {
  name: 'shelf-message',
  version: SHELF_VERSION,
  versionIn: 'SHELF_VERSION (wire/src/shelf-channel.ts)',
  write: () =>
    plain(
      Object.fromEntries(
        Object.entries(samples).map(([name, [argument, operations]]) => {
          const kind = ShelfMessageKind[name as keyof typeof ShelfMessageKind];
          const encoded = encodeShelfMessage<number>({ kind, argument, operations });
          if (typeof encoded === 'number') throw new Error(`${name}: ${encoded}`);
          return [name, { bytes: base64(encoded.bytes), descriptors: encoded.handles.length }];
        }),
      ),
    ),
  read: (written) =>
    plain(
      Object.fromEntries(
        Object.entries(written as unknown as Record<string, ShelfBytes>).map(
          ([name, { bytes, descriptors }]) => {
            const fds = Array.from({ length: descriptors }, (_, index) => 100 + index);
            const message = decodeShelfMessage(bytesOf(bytes), fds);
            if (typeof message === 'string') throw new Error(message);
            const operations = message.operations.map((operation) =>
              operation.kind === 'put' ? { ...operation, blob: base64(operation.blob) } : operation,
            );
            const [first] = message.operations;
            const note = name === 'LEND' && first?.kind === 'put' ? { pausedMs: pausedAt(first.blob) } : {};
            return [name, { ...message, operations, ...note }];
          },
        ),
      ),
    ),
  newer: (written) =>
    plain(
      Object.fromEntries(
        Object.entries(written as unknown as Record<string, ShelfBytes>).map(([name, message]) => {
          const bytes = bytesOf(message.bytes);
          new DataView(bytes.buffer).setUint16(ShelfMessageHeader.at.version, SHELF_VERSION + 1, true);
          return [name, { ...message, bytes: base64(bytes) }];
        }),
      ),
    ),
  refusal: `version ${SHELF_VERSION + 1}`,
};

const LOG_VERSION = 2;
const LOG_VERSION_AT = 4;

/** What the service manager keeps for the next start. */
const shelfLogKind: GoldenKind = {
  name: 'shelf-log',
  version: LOG_VERSION,
  versionIn: 'LOG_VERSION (host-ipc/src/shelf-log.ts)',
  write: () =>
    withLogFiles((fds) => {
      const log = new ShelfLog(fds);
      const entry = { ...put, handle: null };
      const fileOf = () => 0xf11e;
      log.rewrite([entry, { ...entry, name: `dev/${VUID}/page`, handle: 1 }], fileOf);
      log.append(
        [
          { kind: 'delete', name: entry.name },
          { ...entry, name: 'unplugged/7d0a8c5e-2' },
        ],
        fileOf,
      );
      return fds.map((fd) => base64(readFileSync(`/proc/self/fd/${fd}`)));
    }),
  read: (written) =>
    withLogFiles((fds) => {
      for (const [index, text] of (written as readonly string[]).entries())
        writeFileSync(`/proc/self/fd/${fds[index]!}`, bytesOf(text));
      const entries = readShelfLog(fds);
      if (entries === null) throw new Error('no log');
      // Version 1 said only that there is one.
      const handleOf = (file: number | null) => (file === 0 ? true : file);
      return plain(
        entries.map(({ blob, handle, ...entry }) => ({
          ...entry,
          handle: handleOf(handle),
          blob: base64(blob),
        })),
      );
    }),
  newer: (written) =>
    (written as readonly string[]).map((text) => {
      const bytes = bytesOf(text);
      if (bytes.length > 0) new DataView(bytes.buffer).setUint32(LOG_VERSION_AT, LOG_VERSION + 1, true);
      return base64(bytes);
    }),
  refusal: 'no log',
};

function withLogFiles<T>(use: (fds: readonly [number, number]) => T): T {
  const fds = [memfdCreate('golden-log', 0), memfdCreate('golden-log', 0)] as const;
  try {
    return use(fds);
  } finally {
    for (const fd of fds) close(fd);
  }
}

// ---- messages ------------------------------------------------------------------------------------------------

interface Messages {
  readonly requests: Readonly<Record<string, string>>;
  readonly replies: Readonly<Record<string, string>>;
  readonly error: string;
  /** Schemas of both halves of each message. */
  readonly schemas: Readonly<Record<string, { readonly params: Json; readonly result: Json }>>;
  /** Schemas of the parameters that the command lines send. */
  readonly commands: Readonly<Record<string, Json>>;
}

const ajv = new Ajv({ strict: true, allowUnionTypes: true });
const REQUEST_ID = 7;

const messagesKind: GoldenKind = {
  name: 'messages',
  version: ENVELOPE_VERSION,
  versionIn: 'ENVELOPE_VERSION (host-ipc/src/rpc-envelope.ts)',
  write: () => {
    const each = <T>(make: (name: MessageName) => T) =>
      Object.fromEntries(messageNames.map((name) => [name, make(name)]));
    const commands = [...Object.entries(cliCommands), ...Object.entries(vfeCommands)];
    return plain({
      requests: each((name) => encodeRequest(REQUEST_ID, name, catalogue[name].sample.params).toString()),
      replies: each((name) => encodeResult(REQUEST_ID, catalogue[name].sample.result).toString()),
      error: encodeError(REQUEST_ID, -22, 'Invalid argument').toString(),
      schemas: each((name) => ({
        params: catalogue[name].paramsSchema,
        result: catalogue[name].resultSchema,
      })),
      commands: Object.fromEntries(commands.map(([name, { json }]) => [name, json])),
    });
  },
  read: (written) => {
    const { requests, replies, error } = written as unknown as Messages;
    const request = (text: string) => {
      const read = decodeRequest(Buffer.from(text));
      if ('problem' in read) throw new Error(read.message);
      return read.params;
    };
    const reply = (name: string, text: string) => {
      const read = decodeReply(Buffer.from(text));
      if (read === null) throw new Error('not an envelope');
      if ('error' in read) return read.error;
      const wrong = mismatch(name as MessageName, 'result', read.result);
      if (wrong !== null) throw new Error(`${name}: ${wrong}`);
      return read.result;
    };
    const map = (texts: Readonly<Record<string, string>>, read: (name: string, text: string) => unknown) =>
      Object.fromEntries(Object.entries(texts).map(([name, text]) => [name, read(name, text)]));
    return plain({
      requests: map(requests, (_, text) => request(text)),
      replies: map(replies, reply),
      error: reply('', error),
    });
  },
  newer: (written) =>
    JSON.parse(
      JSON.stringify(written).replaceAll(
        `{\\"v\\":${ENVELOPE_VERSION},`,
        `{\\"v\\":${ENVELOPE_VERSION + 1},`,
      ),
    ) as Json,
  refusal: `not an envelope of version ${ENVELOPE_VERSION}`,
  /** What is said today, by the schemas that counted then. */
  problemsOfOlder: (golden, today) => {
    const then = golden as unknown as Messages;
    const now = today as unknown as Messages;
    const halves = Object.entries(then.schemas).flatMap(([name, schemas]) => {
      const request = JSON.parse(now.requests[name] ?? '{}') as { params?: unknown };
      const reply = JSON.parse(now.replies[name] ?? '{}') as { result?: unknown };
      const fits = (schema: Json, value: unknown) =>
        value !== undefined && ajv.validate(schema as object, value);
      return [
        ...(fits(schemas.params, request.params) ? [] : [`${name}: what is asked today was no request then`]),
        ...(fits(schemas.result, reply.result) ? [] : [`${name}: what is answered today was no answer then`]),
      ];
    });
    const gone = Object.keys(then.commands).filter((name) => !(name in now.commands));
    return [...halves, ...gone.map((name) => `command ${name} is gone`)];
  },
};

// ---- files ---------------------------------------------------------------------------------------------------

function inRoot<T>(use: (paths: VirtnetPaths, root: string) => T): T {
  const root = mkdtempSync(join(tmpdir(), 'virtnet-golden-'));
  const clean = () => rmSync(root, { recursive: true, force: true });
  try {
    const result = use(virtnetPaths(root), root);
    if (!(result instanceof Promise)) clean();
    else return result.finally(clean) as T;
    return result;
  } catch (error) {
    clean();
    throw error;
  }
}

const updated: UpdateRecord = {
  schema: UPDATE_RECORD_SCHEMA,
  kind: 'update',
  original: '0.1.0',
  destination: '0.2.0',
  destinationRoot: '/opt/mellanox/mlnx_virtnet/versions/0.2.0',
  startedAt: 1_700_000_000_000,
  phase: 'controller',
  phaseAt: 1_700_000_000_900,
  phaseAtMonotonic: 5_000_900.5,
  result: 'failed',
  reason: 'it did not become ready',
  timeUsedMs: 900,
  phasesMs: { start: 100, check: 200, switch: 300, confirm: 50, keeper: 50, standby: 100, controller: 100 },
  pausesMs: [1.5, 2.25],
};

const updateKind: GoldenKind = {
  name: 'update-record',
  version: UPDATE_RECORD_SCHEMA,
  versionIn: 'UPDATE_RECORD_SCHEMA (program-controller/src/update-record.ts)',
  write: () =>
    inRoot((paths) => {
      mkdirSync(paths.run, { recursive: true });
      writeRecord(paths, updated);
      return readFileSync(join(paths.run, 'update.json'), 'utf8');
    }),
  read: (written) =>
    inRoot((paths) => {
      mkdirSync(paths.run, { recursive: true });
      writeFileSync(join(paths.run, 'update.json'), written as string);
      const record = readRecord(paths);
      if (record === null) throw new Error('counts as none');
      return plain(record);
    }),
  newer: (written) => (written as string).replace(/"schema":\d+/, `"schema":${UPDATE_RECORD_SCHEMA + 1}`),
  refusal: 'counts as none',
};

const HOST_STATE_VERSION = 1;
const host: HostState = {
  bootedAt: 1_700_000_000_000,
  drivers: { '14:00.2': 'vfio-pci' },
  numVfs: { '14:00.2': 4 },
  virtioNet: true,
  noAutoprobe: { '14:00.2': true },
  appearing: { '14:00.2': true },
  answers: [{ requestId: '7d0a8c5e-3', errno: -1048, errstr: 'Failed to create SF' }],
  log: [{ at: 1.5, text: 'virtio-pci 0000:14:00.2: 4 VFs enabled' }],
};

const hostKind: GoldenKind = {
  name: 'host-state',
  version: HOST_STATE_VERSION,
  versionIn: 'HOST_STATE_VERSION (engine-control/src/host-model.ts)',
  write: () => serialiseHost(host),
  read: (written) => {
    const state = restoreHost(written as string);
    if (typeof state === 'string') throw new Error(state);
    return plain(state);
  },
  newer: (written) => (written as string).replace(/"version":\d+/, `"version":${HOST_STATE_VERSION + 1}`),
  refusal: `version is not ${HOST_STATE_VERSION}`,
};

const FIRMWARE = { SRIOV_EN: 1 } as unknown as Parameters<RecoveryStore['load']>[0];

/** Recovery files and the file beside them, by their names. */
const recoveryKind: GoldenKind = {
  name: 'recovery',
  version: DEVICES_VERSION,
  versionIn: 'DEVICES_VERSION (engine-control/src/recovery-document.ts)',
  write: () =>
    inRoot(async (paths, root) => {
      const plan = testPlan({ features: '0x8830010330ff3baf' });
      for (const directory of [paths.recovery, dirname(paths.devices)])
        mkdirSync(directory, { recursive: true });
      const requests = new Map([[plan.vuid, 'request-1']]);
      const store = new RecoveryStore(paths, true, () => {});
      const saved = await store.save([plan], [plan], FIRMWARE, requests);
      if (!saved) throw new Error('not saved');
      const files = [join(paths.recovery, plan.vuid), paths.devices];
      return plain(
        Object.fromEntries(files.map((file) => [relative(root, file), readFileSync(file, 'utf8')])),
      );
    }),
  read: (written) =>
    inRoot(async (paths, root) => {
      for (const [name, text] of Object.entries(written as Record<string, string>)) {
        mkdirSync(dirname(join(root, name)), { recursive: true });
        writeFileSync(join(root, name), text);
      }
      const problems: string[] = [];
      const log = (_: string, __: string, facts?: Record<string, unknown>) =>
        void problems.push(String(facts?.problem ?? facts?.reason));
      const { recoveries, plans, requests } = await new RecoveryStore(paths, true, log).load(FIRMWARE);
      if (problems.length > 0) throw new Error(problems.join('; '));
      const asked = requests.size === 0 ? {} : { requests: Object.fromEntries(requests) };
      return plain({
        recoveries: Object.fromEntries(recoveries),
        plans: Object.fromEntries(plans),
        ...asked,
      });
    }),
  newer: (written) =>
    Object.fromEntries(
      Object.entries(written as Record<string, string>).map(([name, text]) => [
        name,
        text.replace(/"version":\d+/, `"version":${DEVICES_VERSION + 1}`),
      ]),
    ),
  refusal: `not a document of version ${DEVICES_VERSION}`,
};

export const goldenKindList: readonly GoldenKind[] = [
  deviceKind,
  statePageKind,
  shelfKind,
  shelfLogKind,
  messagesKind,
  updateKind,
  hostKind,
  recoveryKind,
  functionRecordKind,
];
