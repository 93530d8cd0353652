import { readdirSync } from 'node:fs';
import { close, eventfd, memfdCreate, Poller, readableBytes, send, socketPair } from '@virtnet/host-linux';
import {
  Errno,
  featureMask,
  NetFeature,
  VhostUserFlags,
  VhostUserHeader,
  VhostUserProtocolFeature,
  VhostUserRequest,
  VirtioFeature,
  viewOf,
} from '@virtnet/wire';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type CloseReason, type FrontendJournal, VhostUserBackend } from './backend.js';
import { frontendPayload as payload, VhostUserFrontend } from './frontend.js';
import { encodeMessage } from './requests.js';
import { RecordingDevice } from './test-support/recording-device.js';

const R = VhostUserRequest;
const P = VhostUserProtocolFeature;
const OFFER = featureMask([NetFeature.MQ, NetFeature.CTRL_VQ, VirtioFeature.VERSION_1]);
const openFds = () => readdirSync('/proc/self/fd').length;

let poller: Poller;
let device: RecordingDevice;
let frontend: VhostUserFrontend;
let backend: VhostUserBackend;
let reasons: CloseReason[];

function connect(journal?: FrontendJournal): void {
  const pair = socketPair('stream');
  if (typeof pair === 'number') throw new Error(`socketpair: ${pair}`);
  reasons = [];
  frontend = new VhostUserFrontend(pair[0], poller);
  const onClose = (reason: CloseReason) => reasons.push(reason);
  backend = VhostUserBackend.open({
    fd: pair[1],
    poller,
    device,
    onClose,
    ...(journal === undefined ? {} : { journal }),
  });
}

beforeEach(() => {
  poller = new Poller();
  poller.start();
  device = new RecordingDevice(OFFER);
});
afterEach(async () => {
  frontend.close();
  await backend.close();
  await poller.stop();
});

async function agree(): Promise<void> {
  frontend.post(
    R.SET_PROTOCOL_FEATURES,
    payload.u64(featureMask([P.MQ, P.REPLY_ACK, P.CONFIGURE_MEM_SLOTS, P.STATUS])),
  );
  expect(await frontend.acknowledged(R.SET_OWNER)).toBe(0);
}

const faultCode = () => (reasons[0]?.kind === 'fault' ? reasons[0].fault.code : reasons[0]?.kind);

describe('vhost-user backend', () => {
  test('the messages QEMU 7.2 sends when it connects > each is answered as it expects', async () => {
    connect();
    const features = await frontend.getU64(R.GET_FEATURES);
    expect(features).toBe(device.profile.features);
    const protocol = await frontend.getU64(R.GET_PROTOCOL_FEATURES);
    frontend.post(R.SET_PROTOCOL_FEATURES, payload.u64(protocol));
    expect(await frontend.getU64(R.GET_QUEUE_NUM)).toBe(4n);
    expect(await frontend.getU64(R.GET_MAX_MEM_SLOTS)).toBe(509n);
    frontend.post(R.SET_OWNER);
    expect(await frontend.getU64(R.GET_FEATURES)).toBe(features);
    for (const index of [0, 1]) {
      const call = eventfd();
      expect(await frontend.acknowledged(R.SET_VRING_CALL, payload.vringFd(index, true), [call])).toBe(0);
      close(call);
    }
    expect(await frontend.acknowledged(R.SET_VRING_ENABLE, payload.vringState(0, 1))).toBe(0);
    expect(frontend.unexpected).toBe(0);
  });

  test('many messages sent in one go > answered one by one, in order', async () => {
    connect();
    await agree();
    const sizes = [256, 3, 512, 0, 128];
    const answers = sizes.map((size) => frontend.acknowledged(R.SET_VRING_NUM, payload.vringState(0, size)));
    expect(await Promise.all(answers)).toEqual([0, Errno.EINVAL, 0, Errno.EINVAL, 0]);
  });

  test('a message in single bytes > is understood, and its descriptor arrives with it', async () => {
    connect();
    await agree();
    const kick = eventfd();
    const message = encodeMessage(
      R.SET_VRING_KICK,
      VhostUserFlags.VERSION | VhostUserFlags.NEED_REPLY,
      payload.vringFd(0, true),
    );
    const before = openFds();
    const answer = frontend.getU64(R.GET_STATUS); // goes out first, keeps the order visible
    for (const [i, byte] of message.entries()) {
      frontend.raw(Uint8Array.of(byte), i === 0 ? [kick] : []);
      await new Promise(setImmediate);
    }
    expect(await answer).toBe(0n);
    await expect.poll(openFds).toBe(before + 1);
    close(kick);
  });

  test('header of 4 GiB with a descriptor > the connection ends, nothing is allocated, the descriptor closed (A3)', async () => {
    connect();
    const before = openFds();
    const kick = eventfd();
    const header = VhostUserHeader.bytes({
      request: R.SET_MEM_TABLE,
      flags: VhostUserFlags.VERSION,
      sizeBytes: 0xffff_ffff,
    });
    const memoryBefore = process.memoryUsage.rss();
    frontend.raw(header, [kick]);
    await frontend.ended;
    await backend.close();
    close(kick);
    expect(reasons).toEqual([
      { kind: 'fault', fault: { code: 'PAYLOAD_SIZE', request: R.SET_MEM_TABLE, sizeBytes: 0xffff_ffff } },
    ]);
    expect(openFds()).toBe(before - 2); // both ends of the socket
    expect(process.memoryUsage.rss() - memoryBefore).toBeLessThan(64 * 1024 * 1024);
  });

  test.each([
    ['nine descriptors with the header', 9, 0],
    ['253 descriptors with the header', 253, 0],
    ['eight with the header and one with the payload', 8, 1],
  ])('%s > the connection ends and every descriptor is closed (A1)', async (_, withHeader, withPayload) => {
    const kick = eventfd();
    const before = openFds();
    connect();
    const message = encodeMessage(R.SET_VRING_NUM, VhostUserFlags.VERSION, payload.vringState(0, 256));
    frontend.raw(message.subarray(0, 12), new Array(withHeader).fill(kick));
    frontend.raw(message.subarray(12), new Array(withPayload).fill(kick));
    await frontend.ended;
    await backend.close();
    expect(faultCode()).toBe('DESCRIPTOR_COUNT');
    expect(openFds()).toBe(before);
    close(kick);
  });

  test('300 connections that each end with a malformed message and descriptors > none left open (A1, A3)', async () => {
    const kick = eventfd();
    const before = openFds();
    for (let i = 0; i < 300; i++) {
      connect();
      const fds = new Array(i % 9).fill(kick);
      const junk = encodeMessage(i % 50, i % 7, new Uint8Array(i % 270));
      viewOf(junk).setUint32(8, (i * 7919) % 400, true);
      frontend.raw(junk, fds);
      if (i % 3 === 0) frontend.close();
      else await new Promise(setImmediate);
      await backend.close();
      frontend.close();
    }
    expect(openFds()).toBe(before);
    close(kick);
  });

  test('a frontend that vanishes while the device works > the device finishes, releases, and all is closed', async () => {
    connect();
    await agree();
    const before = openFds();
    const gate = Promise.withResolvers<void>();
    device.gate = gate.promise;
    const memory = memfdCreate('guest', 1 << 20);
    frontend.post(
      R.SET_MEM_TABLE,
      payload.memoryTable([{ guestAddress: 0n, sizeBytes: 1n << 20n, userAddress: 0n, mmapOffset: 0n }]),
      [memory],
    );
    close(memory);
    await expect.poll(() => device.calls).toContain('mapRegion 0x0');
    frontend.close();
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(reasons).toEqual([]);
    gate.resolve();
    await expect.poll(() => reasons).toEqual([{ kind: 'end' }]);
    expect(device.calls.at(-1)).toBe('release');
    expect(openFds()).toBe(before - 2);
  });

  /** Holds every answer back until `release`. */
  function holding() {
    let held = Promise.withResolvers<void>();
    let commits = 0;
    const journal: FrontendJournal = {
      begin: () => 'fresh',
      commit: () => {
        commits++;
        return held.promise;
      },
      finish() {},
      forget() {},
    };
    const release = () => {
      held.resolve();
      held = Promise.withResolvers();
    };
    return { journal, release, commits: () => commits };
  }
  const pause = () => new Promise((resolve) => setTimeout(resolve, 20));

  test('a journal that takes its time > the answer waits for it, the next message for the answer, others do not', async () => {
    const { journal, release, commits } = holding();
    connect(journal);
    const answers: string[] = [];
    void frontend.getU64(R.GET_FEATURES).then(() => answers.push('first'));
    void frontend.getU64(R.GET_PROTOCOL_FEATURES).then(() => answers.push('second'));
    await expect.poll(commits).toBe(1);
    // The message is over: what was said can be saved, and nobody has to wait for that.
    await backend.idle;
    expect(backend.busy).toBe(false);
    await pause();
    expect([answers, commits()]).toEqual([[], 1]);
    release();
    await expect.poll(commits).toBe(2);
    await pause();
    expect(answers).toEqual(['first']);
    release();
    await expect.poll(() => answers).toEqual(['first', 'second']);
  });

  test.each(['closed', 'left by its frontend'])(
    'a connection that is %s while an answer waits > is let go of without the answer',
    async (how) => {
      const { journal, release, commits } = holding();
      connect(journal);
      let answered = false;
      void frontend.getU64(R.GET_FEATURES).then(
        () => {
          answered = true;
        },
        () => {},
      );
      await expect.poll(commits).toBe(1);
      if (how === 'closed') await backend.close();
      else {
        frontend.close();
        await pause();
        release();
      }
      await expect.poll(() => reasons.length).toBe(1);
      await pause();
      expect(answered).toBe(false);
      expect(device.calls.at(-1)).toBe('release');
    },
  );

  test('suspended > the message under way is answered, the next one and a hang-up are left in the socket', async () => {
    connect();
    await agree();
    const gate = Promise.withResolvers<void>();
    device.gate = gate.promise;
    const memory = memfdCreate('guest', 1 << 20);
    const region = { guestAddress: 0n, sizeBytes: 1n << 20n, userAddress: 0n, mmapOffset: 0n };
    const underWay = frontend.acknowledged(R.ADD_MEM_REG, payload.singleRegion(region), [memory]);
    const next = encodeMessage(R.GET_FEATURES, VhostUserFlags.VERSION, new Uint8Array());
    await expect.poll(() => device.calls).toContain('mapRegion 0x0');
    const suspended = backend.suspend();
    frontend.raw(next);
    gate.resolve();
    await suspended;
    expect(await underWay).toBe(0);
    close(memory);
    const { messages } = backend.counters;
    await pause();
    expect(backend.counters.messages).toBe(messages);
    expect(readableBytes(backend.fd)).toBe(next.length);
    const released = device.calls.length;
    frontend.close();
    await pause();
    expect(device.calls).toHaveLength(released);
    expect(reasons).toEqual([]);
  });

  test('a frontend that never reads replies > is not read any more, and others are not held up', async () => {
    connect();
    const request = encodeMessage(R.GET_FEATURES, VhostUserFlags.VERSION, new Uint8Array());
    const pair = socketPair('stream') as readonly [number, number];
    const deaf = VhostUserBackend.open({
      fd: pair[1],
      poller,
      device: new RecordingDevice(OFFER),
      onClose: () => {},
    });
    const flood = new Uint8Array(request.length * 1000);
    for (let i = 0; i < 1000; i++) flood.set(request, i * request.length);
    // Full for ten turns in a row: the backend has stopped reading.
    for (let full = 0; full < 10; ) {
      full = send(pair[0], flood) < 0 ? full + 1 : 0;
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    const started = performance.now();
    await frontend.getU64(R.GET_FEATURES);
    expect(performance.now() - started).toBeLessThan(100);
    const { messages } = deaf.counters;
    await new Promise((resolve) => setTimeout(resolve, 30));
    expect(deaf.counters.messages).toBe(messages);
    await deaf.close();
    close(pair[0]);
  });

  test('a flood of messages without answers > timers still run', async () => {
    connect();
    const request = encodeMessage(R.SET_VRING_NUM, VhostUserFlags.VERSION, payload.vringState(0, 256));
    const flood = new Uint8Array(request.length * 500);
    for (let i = 0; i < 500; i++) flood.set(request, i * request.length);
    let sentBytes = 0;
    let between = 0;
    for (let turn = 0; turn < 40; turn++) {
      const before = backend.counters.messages;
      sentBytes += Math.max(frontend.raw(flood), 0);
      await new Promise((resolve) => setTimeout(resolve, 1));
      const { messages } = backend.counters;
      // The timer ran in the middle of them.
      if (messages > before && messages < Math.floor(sentBytes / request.length)) between++;
    }
    expect(backend.counters.messages).toBeGreaterThan(1000);
    expect(between).toBeGreaterThan(0);
  });

  test('descriptor numbers reused by a new connection at once > the new one is not disturbed by the old (A17)', async () => {
    const before = openFds();
    for (let i = 0; i < 50; i++) {
      connect();
      await agree();
      const kick = eventfd();
      await frontend.acknowledged(R.SET_VRING_KICK, payload.vringFd(0, true), [kick]);
      close(kick);
      const old = { frontend, backend };
      old.frontend.close(); // frees numbers that the next connection takes while the old backend still ends
      connect();
      await agree();
      expect(await frontend.getU64(R.GET_QUEUE_NUM)).toBe(4n);
      await old.backend.close();
      expect(await frontend.getU64(R.GET_QUEUE_NUM)).toBe(4n);
      frontend.close();
      await backend.close();
    }
    expect(openFds()).toBe(before);
    expect(poller.rebuilds).toBe(0);
  });
});
