import { readdirSync } from 'node:fs';
import { close, closeAll, dup, eventfd, memfdCreate } from '@virtnet/host-linux';
import { featureMask, VhostUserFlags, VhostUserRequest, VirtioFeature } from '@virtnet/wire';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { frontendPayload as payload } from './frontend.js';
import { isSavedSession, type SavedRing, type SavedSession, type SessionSnapshot } from './saved-session.js';
import { VhostUserSession } from './session.js';
import type { SessionPorts } from './session-rings.js';
import { RecordingDevice } from './test-support/recording-device.js';

const R = VhostUserRequest;
const MIB = 1n << 20n;
const USER = 0x7f00_0000_0000n;
const openFds = () => readdirSync('/proc/self/fd').length;
const ports: SessionPorts = {
  closeFd: close,
  usableEventfd: () => true,
  signal: () => {},
  sameFile: () => false,
  ringLost: () => {},
  declined: () => {},
};

let device: RecordingDevice;
let session: VhostUserSession;
let before: number;

beforeEach(async () => {
  device = new RecordingDevice(featureMask([VirtioFeature.VERSION_1]));
  before = openFds();
  session = new VhostUserSession(device, ports);
  const say = (request: number, bytes: Uint8Array, fds: number[] = []) =>
    session.handle({ request, flags: VhostUserFlags.VERSION, payload: bytes, fds });
  await say(R.SET_FEATURES, payload.u64(featureMask([VirtioFeature.VERSION_1])));
  const region = { guestAddress: 0n, sizeBytes: MIB, userAddress: USER, mmapOffset: 0n };
  await say(R.SET_MEM_TABLE, payload.memoryTable([region]), [memfdCreate('guest', Number(MIB))]);
  for (const index of [0, 1]) {
    const descriptor = USER + BigInt(index) * 0x8000n;
    const addresses = {
      index,
      flags: 0,
      descriptor,
      available: descriptor + 0x2000n,
      used: descriptor + 0x4000n,
    };
    await say(R.SET_VRING_NUM, payload.vringState(index, 256));
    await say(R.SET_VRING_BASE, payload.vringState(index, 40 + index));
    await say(R.SET_VRING_ADDR, payload.vringAddress({ ...addresses, log: 0n }));
    await say(R.SET_VRING_CALL, payload.vringFd(index, true), [eventfd()]);
    await say(R.SET_VRING_KICK, payload.vringFd(index, index === 0), index === 0 ? [eventfd()] : []);
  }
});
afterEach(async () => {
  await session.close();
  expect(openFds()).toBe(before);
});

/** Descriptors as a keeper hands them out, and how to take them. */
function handedOut({ fds }: SessionSnapshot) {
  const left = new Map([...fds].map(([name, fd]) => [name, dup(fd)]));
  const take = (name: string) => {
    const fd = left.get(name);
    left.delete(name);
    return fd;
  };
  return { left, take };
}

describe('a session that is saved', () => {
  test('is restored as it was, with the same rings running, and the device is told nothing', () => {
    const snapshot = session.save();
    const saved = JSON.parse(JSON.stringify(snapshot.session)) as unknown;
    if (!isSavedSession(saved)) throw new Error('not a saved session');
    const { left, take } = handedOut(snapshot);
    const other = new RecordingDevice(featureMask([VirtioFeature.VERSION_1]));
    const successor = new VhostUserSession(other, ports);
    expect(successor.restore(saved, take)).toBe(true);
    expect(left.size).toBe(0);
    expect(other.calls).toEqual([]);
    expect(successor.save().session).toEqual(snapshot.session);
    const bare = ({ kickFd, callFd, ...setup }: (typeof successor.ringSetups)[number]) => ({
      ...setup,
      polled: kickFd === null,
      silent: callFd === null,
    });
    expect(successor.ringSetups.map(bare)).toEqual(session.ringSetups.map(bare));
    expect(successor.ringSetups.map(({ index, base }) => [index, base])).toEqual([
      [0, 40],
      [1, 41],
    ]);
    successor.closeFds();
  });

  test.each<[string, (saved: SavedSession) => SavedSession]>([
    ['a ring that the device does not have', (saved) => withRing(saved, { index: 99 })],
    ['a ring of no size that runs', (saved) => withRing(saved, { size: 0 })],
    [
      'a ring outside of memory',
      (saved) => withRing(saved, { addresses: { descriptor: '0', available: '0', used: '0' } }),
    ],
    ['an eventfd that is not there', (saved) => withRing(saved, { error: true })],
    ['memory twice', (saved) => ({ ...saved, regions: [...saved.regions, ...saved.regions] })],
    ['no memory', (saved) => ({ ...saved, regions: [] })],
    ['no features', (saved) => ({ ...saved, features: null })],
  ])('%s > is refused, and no descriptor stays open', (_, change) => {
    const snapshot = session.save();
    const { left, take } = handedOut(snapshot);
    const successor = new VhostUserSession(device, ports);
    expect(successor.restore(change(snapshot.session), take)).toBe(false);
    successor.closeFds();
    closeAll([...left.values()]);
  });

  test.each<[string, unknown]>([
    ['nothing', null],
    ['a list', []],
    ['an address that is a number', { ...emptySession(), regions: [{ guestAddress: 0 }] }],
    ['a number of 65 bits', { ...emptySession(), protocolFeatures: '10000000000000000' }],
    ['a status of nine bits', { ...emptySession(), status: 256 }],
    ['a ring without anything', { ...emptySession(), rings: [{}] }],
  ])('%s > is not the shape of one', (_, saved) => {
    expect(isSavedSession(saved)).toBe(false);
  });
});

function emptySession(): SavedSession {
  return { protocolFeatures: '0', status: 0, features: null, regions: [], rings: [] };
}

function withRing(saved: SavedSession, change: Partial<SavedRing>): SavedSession {
  const [first, ...others] = saved.rings;
  return { ...saved, rings: [{ ...first!, ...change }, ...others] };
}
