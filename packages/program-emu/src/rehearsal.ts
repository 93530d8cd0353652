/**
 * rehearsal.ts: a standby practises a takeover before it calls itself ready.
 *
 * Theory
 *   Code that never ran is parsed and compiled when it is needed most: the first takeover of a cold process took
 *   several times as long as the second. So a standby makes a device of its own, records it as the active emulator
 *   would, feeds the records to a mirror, and takes that device over with its sockets and rings, as if it were lent,
 *   several times, through the very code that a real takeover or update runs. Nothing of it is visible outside: socket
 *   pairs stand for the client and for the TAP, and a list for the state keeper.
 *
 * Invariants
 *   I1  every descriptor and mapping made here is gone at the end.
 *   I2  a failed rehearsal costs warmth, never the process: it is reported and the standby goes on.
 *
 * Limits  ROUNDS_MAX rounds or ROUNDS_MS, whatever comes first.
 */
import { type DevicePlan, FunctionKind, restorePlan } from '@virtnet/engine-control';
import { hotplugFeatures } from '@virtnet/engine-virtio-net';
import { messageOf } from '@virtnet/host-ipc';
import {
  type Arena,
  close,
  closeAll,
  eventfd,
  memfdCreate,
  monotonicMs,
  socketPair,
} from '@virtnet/host-linux';
import type { ServerConnectionOptions } from '@virtnet/server-vfio-user';
import { DeviceStatus, Errno, VirtioPciCommon } from '@virtnet/wire';
import { DeviceAccess } from './device-access.js';
import { DeviceEndpoint } from './device-endpoint.js';
import { buildDevice } from './device-factory.js';
import type { DeviceHost } from './device-host.js';
import { IrqIndex } from './device-interrupts.js';
import type { HostServices } from './device-parts.js';
import { prepareDevice, restoreDevice } from './device-restore.js';
import { DeviceStore } from './device-store.js';
import { DeviceTaps } from './device-taps.js';
import { Handover, type LendingShelf, type Serve } from './handover.js';
import { encodeNote } from './handover-note.js';
import { LocalShelf } from './local-shelf.js';
import { Mirror } from './mirror.js';
import { Precedence } from './precedence.js';
import { shelfNames } from './shelf-names.js';

const ROUNDS_MAX = 24;
const ROUNDS_MS = 400;
const MEMORY_AT = 0x10_0000;
const MEMORY_BYTES = 1024 * 1024;
const QUEUE_BYTES = 64 * 1024;
const QUEUES = 2;
const BAR = 0;

/** A plan no real device has: the last port of all. */
function plan(): DevicePlan {
  const made = restorePlan({
    kind: FunctionKind.HOTPLUG_PF,
    pfId: 0,
    vfId: null,
    switchPort: 0,
    address: 0x1500,
    sfNum: 2999,
    ibDevice: 'mlx5_0',
    mac: '02:00:00:00:00:01',
    mtu: 1500,
    queuePairs: 1,
    queueSize: 256,
    msixVectors: 4,
    features: `0x${hotplugFeatures({ uso: false }).toString(16)}`,
  });
  if (typeof made === 'string') throw new Error(made);
  return made;
}

function opened(what: string, fd: number): number {
  if (fd < 0) throw new Error(`${what}: errno ${-fd}`);
  return fd;
}

function pair(): readonly [number, number] {
  const sockets = socketPair('stream');
  if (typeof sockets === 'number') throw new Error(`socketpair: errno ${-sockets}`);
  return sockets;
}

/** Brings the function up as a driver does: two queues, vectors, DRIVER_OK. */
async function drive(access: DeviceAccess): Promise<void> {
  const { at } = VirtioPciCommon;
  const write = async (offset: number, bytes: number, value: number) => {
    const data = new Uint8Array(8);
    new DataView(data.buffer).setUint32(0, value >>> 0, true);
    await access.write(BAR, offset, data.subarray(0, bytes));
  };
  const fd = opened('memfd', memfdCreate('virtnet-rehearsal', MEMORY_BYTES));
  const range = { iova: BigInt(MEMORY_AT), sizeBytes: MEMORY_BYTES, fdOffset: 0 };
  const mapped = await access.dmaMap({ ...range, readable: true, writable: true, fd });
  if (mapped < 0) {
    close(fd);
    throw new Error(`map: errno ${-mapped}`);
  }
  for (let vector = 0; vector <= QUEUES; vector++) {
    const fds = [opened('eventfd', eventfd())];
    const assigned = await access.setIrqs({
      index: IrqIndex.MSIX,
      start: vector,
      count: 1,
      action: 'trigger',
      data: 'eventfd',
      fds,
    });
    if (assigned < 0) {
      closeAll(fds);
      throw new Error(`interrupts: errno ${-assigned}`);
    }
  }
  await write(at.deviceStatus, 1, DeviceStatus.ACKNOWLEDGE | DeviceStatus.DRIVER);
  await write(at.driverFeatureSelect, 4, 1);
  await write(at.driverFeature, 4, 1); // VERSION_1
  await write(at.deviceStatus, 1, DeviceStatus.ACKNOWLEDGE | DeviceStatus.DRIVER | DeviceStatus.FEATURES_OK);
  for (let queue = 0; queue < QUEUES; queue++) {
    const base = MEMORY_AT + queue * 3 * QUEUE_BYTES;
    await write(at.queueSelect, 2, queue);
    await write(at.queueVector, 2, queue + 1);
    await write(at.queueDescriptor, 4, base);
    await write(at.queueDriver, 4, base + QUEUE_BYTES);
    await write(at.queueDevice, 4, base + 2 * QUEUE_BYTES);
    await write(at.queueEnable, 2, 1);
  }
  await write(at.deviceStatus, 1, 0xf);
}

/** What has to be done at the end of a round, however it ends. */
type Ends = (() => unknown)[];

/** A function that is served, and whose end is planned. */
function served(
  host: DeviceHost,
  listenerFd: number,
  services: HostServices,
  replyRing: ServerConnectionOptions['replyRing'],
  ends: Ends,
): { readonly endpoint: DeviceEndpoint; readonly end: () => Promise<void> } {
  const endpoint = new DeviceEndpoint(host, listenerFd, services, replyRing);
  let ended = false;
  const end = async () => {
    if (ended) return;
    ended = true;
    endpoint.end();
    await host.destroy();
  };
  ends.push(end);
  return { endpoint, end };
}

/** It only borrows. */
const NO_LENDER: LendingShelf = { connected: false, keeperPid: null, lend: () => -Errno.ENOTCONN };

/** The same, of which no step throws where nobody waits for it. */
function guarded(serve: Serve, problems: string[]): Serve {
  const failed = (error: unknown): null => {
    problems.push(messageOf(error));
    return null;
  };
  return async (held) => {
    const open = await serve(held).catch(failed);
    if (open === null) return null;
    return async () => {
      await open().catch(failed);
    };
  };
}

async function practise(
  arena: Arena,
  real: HostServices,
  replyRing: ServerConnectionOptions['replyRing'],
  ends: Ends,
): Promise<void> {
  const shelf = new LocalShelf();
  ends.push(() => shelf.clear());
  const store = new DeviceStore(shelf, () => {});
  const problems: string[] = [];
  const services: HostServices = { ...real, store, log: (_, message) => problems.push(message) };
  const tap = pair();
  const client = pair();
  const listener = pair();
  ends.push(() => closeAll([tap[1], client[0], client[1], listener[1]]));
  const taps = new DeviceTaps('', [tap[0]]);
  const host = buildDevice(plan(), 'tap', 'rehearsal', taps, arena, services);
  if (typeof host === 'number') {
    closeAll([tap[0], listener[0]]);
    throw new Error(`device: errno ${-host}`);
  }
  const first = served(host, listener[0], services, replyRing, ends);
  first.endpoint.upload();
  store.put(host, shelfNames.connection(host.vuid), new Uint8Array(0), client[0]);
  host.session = () => ({ negotiated: null });
  host.upload();
  await drive(new DeviceAccess(host));
  host.touch();
  host.commit(null);
  const mirror = new Mirror(arena);
  ends.push(() => mirror.close());
  shelf.tell(mirror);
  while (mirror.prepareNext((held) => prepareDevice(held, services))) {
    // until everything is made ahead
  }
  await first.endpoint.detach();
  await host.pause();
  shelf.tell(mirror); // what the owner said last
  await first.end();
  const serve: Serve = async (held) => {
    const restored = restoreDevice(held, services);
    if (typeof restored === 'string') {
      held.close();
      problems.push(restored);
      return null;
    }
    const { host, record } = restored;
    const successor = served(host, held.listenerFd, services, replyRing, ends);
    let { connectionFd } = held;
    ends.push(() => close(connectionFd));
    await host.adopt(record);
    return async () => {
      await host.settle();
      if (connectionFd >= 0) successor.endpoint.adopt(connectionFd, record.session);
      connectionFd = -1;
      host.touch();
      host.commit(null);
      await successor.end();
    };
  };
  const borrower = new Handover(NO_LENDER, guarded(serve, problems), new Map(), new Precedence());
  borrower.lent(shelfNames.device(host.vuid), encodeNote(monotonicMs()), mirror);
  await borrower.borrow(host.vuid).catch((error: Error) => problems.push(error.message));
  if (problems.length > 0) throw new Error(problems.join('; '));
}

async function round(
  arena: Arena,
  services: HostServices,
  replyRing: ServerConnectionOptions['replyRing'],
): Promise<void> {
  const ends: Ends = [];
  try {
    await practise(arena, services, replyRing, ends);
  } finally {
    for (const end of ends.reverse()) await end();
  }
}

/** Practises; resolves to the rounds done, or to what went wrong. */
export async function rehearse(
  arena: Arena,
  services: HostServices,
  replyRing: ServerConnectionOptions['replyRing'],
): Promise<number | Error> {
  const endMs = performance.now() + ROUNDS_MS;
  let rounds = 0;
  try {
    while (rounds < ROUNDS_MAX && performance.now() < endMs) {
      await round(arena, services, replyRing);
      rounds++;
    }
  } catch (error) {
    return error as Error;
  }
  return rounds;
}
