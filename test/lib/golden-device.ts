/** golden-device.ts: everything that the state keeper holds of one device, and its state page. */
import { decodeRecord, encodeRecord } from '@virtnet/engine-recovery';
import { close, eventfd, memfdCreate } from '@virtnet/host-linux';
import {
  CLEARABLE_COUNTERS,
  QUEUE_MARKS_AT,
  QueueCounter,
  QueueWord,
  queueBlock,
  SIZE_CLASSES,
  STATE_PAGE_MAGIC,
  STATE_PAGE_VERSION,
  StatePageHeader,
  statePageSize,
} from '@virtnet/wire';
import { tryRecord } from '../../packages/program-emu/dist/device-engines.js';
import { dmaRangeRecord } from '../../packages/program-emu/dist/device-memory.js';
import { decodeDeviceRecord, RECORD_SCHEMA } from '../../packages/program-emu/dist/device-record.js';
import { Mirror } from '../../packages/program-emu/dist/mirror.js';
import { keepWithoutClientsMs, shelfNames } from '../../packages/program-emu/dist/shelf-names.js';
import { statePageProblem } from '../../packages/program-emu/dist/state-page-check.js';
import {
  pairOfSockets,
  TestWorld,
  testPlan,
} from '../../packages/program-emu/dist/test-support/test-device.js';
import { clientOf, TestDriver } from '../../packages/program-emu/dist/test-support/test-driver.js';
import { TestMemory } from '../../packages/program-emu/dist/test-support/test-ring.js';
import { type GoldenKind, type Json, plain } from './golden.ts';

interface Entry {
  readonly name: string;
  readonly blob: string;
  readonly descriptor: boolean;
  readonly ttlWithoutHolderMs: number;
}

const QUEUES = [0, 1, 2, 3, 4];
const GUEST_BYTES = 4 << 20;
/** What the device of the sample offers; not what devices offer today, so that a new feature is no new schema. */
const OFFERED = '0x9830010330ff3baf';
const RING_PACKED = 1n << 34n;
const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64');
const bytesOf = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text, 'base64'));

/** A device whose driver has set what a driver can set, as it is uploaded to a keeper. */
async function uploaded(): Promise<readonly Entry[]> {
  const world = new TestWorld();
  const device = world.device(testPlan({ features: OFFERED }));
  const { host } = device;
  const memory = new TestMemory(GUEST_BYTES, { arena: world.arena });
  const driver = await TestDriver.start(clientOf(device), {
    memory,
    features: host.net.offeredFeatures & ~RING_PACKED,
    queues: QUEUES,
  });
  try {
    host.net.control = {
      ...host.net.control,
      vlans: new Set([1, 4094]),
      hash: { types: 3, key: [109, 90] },
      rss: { types: 3, key: [109, 90], table: [1, 0], unclassified: 1 },
    };
    host.state.ringEnables.set(0, true);
    host.state.bases.set(3, 7);
    host.state.broken.add(3);
    host.state.kicks.set(1, eventfd());
    host.settings = {
      speedMbps: 25_000,
      countSizes: true,
      dropsFrom: 3,
      moderation: { periodMode: 'event', period: 8, maxCount: 32 },
      dim: true,
      aarfs: true,
      hashTypes: 0x3f,
      mtuPending: false,
      changes: [{ requestId: '7d0a8c5e-3', warning: 'DEV_NOT_FUNCTIONAL' }],
    };
    host.session = () => ({
      negotiated: {
        peerMessageFdsMax: 8,
        peerDataTransferBytesMax: 1 << 20,
        writeMultiple: true,
        privateCommands: false,
      },
    });
    Object.assign(host.health, {
      recoveries: 2,
      lastCause: 'crash',
      lastPauseMs: 1.25,
      maxPauseMs: 7.5,
      error: 'RING_FAULT',
    });
    host.applied = { sequence: 7, digest: 0xffff_ffff, reply: 'AAECAw==' };
    for (const name of ['listener', 'connection'] as const) {
      const [ours, theirs] = pairOfSockets();
      world.shelf.transaction([{ put: shelfNames[name](host.vuid), fd: ours }]);
      close(ours);
      close(theirs);
    }
    host.upload();
    return [...world.shelf.entries]
      .map(([name, { blob, fd }]) => ({
        name,
        blob: base64(blob),
        descriptor: fd >= 0,
        ttlWithoutHolderMs: keepWithoutClientsMs(name),
      }))
      .sort((a, b) => (a.name < b.name ? -1 : 1));
  } finally {
    driver.close();
    await device.end();
    memory.close();
    await world.close();
  }
}

/** A descriptor of the kind that an entry has. */
function descriptorFor(name: string): number {
  if (name.endsWith('/page')) return memfdCreate('golden-page', statePageSize(QUEUES.length));
  if (name.includes('/dma/')) return memfdCreate('golden-memory', GUEST_BYTES);
  if (name.includes('/irq/') || name.includes('/kick/')) return eventfd();
  const [ours, theirs] = pairOfSockets();
  close(theirs);
  return ours;
}

/** What a standby makes of it that was told by the keeper. */
async function mirrored(entries: readonly Entry[]): Promise<Json> {
  const world = new TestWorld();
  const mirror = new Mirror(world.arena);
  try {
    for (const { name, blob, descriptor } of entries)
      mirror.put(name, bytesOf(blob), descriptor ? descriptorFor(name) : -1);
    const [device] = mirror.all();
    if (mirror.refused > 0 || device?.record == null || device.page === null)
      throw new Error('not understood');
    const record = decodeDeviceRecord(device.record);
    if (typeof record === 'string') throw new Error(record);
    const problem = tryRecord(record, device.page);
    if (problem !== null) throw new Error(problem);
    return plain({
      record,
      listener: device.listenerFd >= 0,
      connection: device.connectionFd >= 0,
      taps: [...device.taps.keys()],
      kicks: [...device.kicks.keys()],
      irqs: [...device.irqs.keys()],
      memory: [...device.memory.all()].map(dmaRangeRecord),
      ttls: Object.fromEntries(entries.map(({ name, ttlWithoutHolderMs }) => [name, ttlWithoutHolderMs])),
    });
  } finally {
    mirror.close();
    await world.close();
  }
}

function recordOf(entries: readonly Entry[]): unknown {
  const decoded = decodeRecord(bytesOf(entries.find(({ name }) => name.endsWith('/record'))!.blob));
  if ('code' in decoded) throw new Error(decoded.code);
  return decoded.payload;
}

/** Device records, and the names and blobs around them. */
export const deviceKind: GoldenKind = {
  name: 'device',
  version: RECORD_SCHEMA,
  versionIn: 'RECORD_SCHEMA (program-emu/src/device-record.ts)',
  write: async () => plain(await uploaded()),
  read: (written) => mirrored(written as unknown as readonly Entry[]),
  newer: (written) => {
    const entries = written as unknown as readonly Entry[];
    const schema = RECORD_SCHEMA + 1;
    const record = encodeRecord({ ...(recordOf(entries) as object), schema }, schema) as Uint8Array;
    return plain(
      entries.map((entry) => (entry.name.endsWith('/record') ? { ...entry, blob: base64(record) } : entry)),
    );
  },
  refusal: `schema ${RECORD_SCHEMA + 1} is not ${RECORD_SCHEMA}`,
  // Before it is checked and completed by today's reader: what is missing in the payload itself.
  problemsOfOlder: (golden, today) => {
    const now = recordOf(today as unknown as readonly Entry[]) as Record<string, unknown>;
    return Object.keys(recordOf(golden as unknown as readonly Entry[]) as object)
      .filter((key) => !(key in now))
      .map((key) => `${key} is not in the record any more`);
  },
};

const BLOCKS = 2;
const JOURNAL_ENTRIES = [0, 511];

/** A page with another number in every place that has a name; where nothing is, it is not written down. */
function statePage(): ArrayBuffer {
  const page = new ArrayBuffer(statePageSize(BLOCKS));
  let next = 0x1_0001;
  const header = Object.fromEntries(Object.keys(StatePageHeader.at).map((field) => [field, next++]));
  StatePageHeader.encode(new DataView(page), 0, {
    ...(header as Parameters<typeof StatePageHeader.encode>[2]),
    magic: STATE_PAGE_MAGIC,
    version: STATE_PAGE_VERSION,
    queueCount: BLOCKS,
  });
  for (let queue = 0; queue < BLOCKS; queue++) {
    const { words, counters, journal } = queueBlock(page, queue);
    for (const at of Object.values(QueueWord)) words[at] = next++;
    for (const at of Object.values(QueueCounter)) counters[at] = next++;
    for (let size = 0; size < SIZE_CLASSES; size++) counters[QueueCounter.SIZE_CLASS_FIRST + size] = next++;
    for (const mark of CLEARABLE_COUNTERS.keys()) counters[QUEUE_MARKS_AT + mark] = next++;
    for (const word of JOURNAL_ENTRIES) journal[word] = next++;
  }
  return page;
}

/** The 32-bit words of a page that are not 0, by their place. */
function written(page: ArrayBuffer): Json {
  const words = [...new Uint32Array(page).entries()].filter(([, value]) => value !== 0);
  return { bytes: page.byteLength, words: Object.fromEntries(words) };
}

function restored(value: Json): ArrayBuffer {
  const { bytes, words } = value as unknown as { bytes: number; words: Record<string, number> };
  const page = new ArrayBuffer(bytes);
  const view = new Uint32Array(page);
  for (const [at, word] of Object.entries(words)) view[Number(at)] = word;
  return page;
}

function readPage(page: ArrayBuffer): Json {
  const problem = statePageProblem(page);
  if (problem !== null) throw new Error(problem);
  const header = StatePageHeader.decode(new DataView(page));
  const queues = Array.from({ length: header.queueCount }, (_, queue) => {
    const { words, counters, journal } = queueBlock(page, queue);
    const named = (names: Record<string, number>, values: ArrayLike<number>) =>
      Object.fromEntries(Object.entries(names).map(([name, at]) => [name, values[at]!]));
    const names = Object.entries(QueueCounter);
    const nameOf = (counter: number) => names.find(([, at]) => at === counter)![0];
    return {
      words: named(QueueWord, words),
      counters: named(QueueCounter, counters),
      sizes: [...counters.subarray(QueueCounter.SIZE_CLASS_FIRST).subarray(0, SIZE_CLASSES)],
      marks: Object.fromEntries(
        CLEARABLE_COUNTERS.map((counter, at) => [nameOf(counter), counters[QUEUE_MARKS_AT + at]!]),
      ),
      journal: JOURNAL_ENTRIES.map((word) => journal[word]!),
    };
  });
  return plain({ header, queues });
}

export const statePageKind: GoldenKind = {
  name: 'state-page',
  version: STATE_PAGE_VERSION,
  versionIn: 'STATE_PAGE_VERSION (wire/src/state-page.ts)',
  write: () => written(statePage()),
  read: (value) => readPage(restored(value)),
  newer: (value) => {
    const page = restored(value);
    new Uint32Array(page)[StatePageHeader.at.version / 4] = STATE_PAGE_VERSION + 1;
    return written(page);
  },
  refusal: `state page of version ${STATE_PAGE_VERSION + 1}, here ${STATE_PAGE_VERSION}`,
};
