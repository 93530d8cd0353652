import { existsSync } from 'node:fs';
import { FUNCTION_TIMEOUT_MS } from '@virtnet/driver-virtio-net';
import { accept, close, eventfdDrain, eventfdSignal, listen } from '@virtnet/host-linux';
import { frontendPayload as payload } from '@virtnet/server-vhost-user';
import {
  DeviceStatus,
  Errno,
  featureMask,
  hasFeature,
  NetFeature,
  VhostUserFlags,
  VhostUserRequest,
} from '@virtnet/wire';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { VfeError } from './errors.js';
import { Phase } from './function-page.js';
import { decodeFunctionRecord } from './function-record.js';
import { openFds, ServedFunctionFixture } from './test-support/served-function-fixture.js';
import { TEST_FEATURES, TestFunction } from './test-support/test-function.js';
import { MIB, TestMachine } from './test-support/test-machine.js';

const R = VhostUserRequest;

let t: ServedFunctionFixture;
beforeEach(() => {
  t = new ServedFunctionFixture();
});
afterEach(() => t.end());

describe('a served function whose emulator is restarted', () => {
  test('comes back > memory, features and rings are set up again, each ring from the used index in guest memory (U2, U3)', async () => {
    await t.serve();
    const m = t.machine();
    await m.boot(4);
    for (let ring = 0; ring < 4; ring++) m.setUsedIndex(ring, 1000 + ring);
    t.server.vanish();
    await expect.poll(() => t.served.profile).toBeNull();
    t.replaceFunction();
    await expect
      .poll(() => t.fn.queues.slice(0, 4).map((queue) => [queue.enabled, queue.base]))
      .toEqual([
        [true, 1000],
        [true, 1001],
        [true, 1002],
        [true, 1003],
      ]);
    expect(t.fn.dma.size).toBe(1);
    expect(t.served.counters.functionLost).toBe(1);
    eventfdSignal(t.fn.irqFds.get(3)!);
    expect(eventfdDrain(m.calls.get(3)!)).toBeGreaterThan(0);
    await m.frontend.getU64(R.GET_FEATURES);
    expect(m.frontend.unexpected).toBe(0);
  });

  test('while it is away > requests are granted, GET_VRING_BASE tells the used index, and all of it holds afterwards', async () => {
    await t.serve();
    const m = t.machine();
    await m.boot(3);
    m.setUsedIndex(1, 77);
    t.server.vanish();
    await expect.poll(() => t.served.profile).toBeNull();
    expect(await m.frontend.getVringBase(1)).toBe(77);
    expect(
      await m.frontend.acknowledged(R.ADD_MEM_REG, payload.singleRegion(m.region(16n * MIB)), [m.memory]),
    ).toBe(0);
    m.setUsedIndex(3, 5);
    expect(await m.startRing(3, { base: 5 })).toBe(0);
    expect(await m.frontend.acknowledged(R.SET_VRING_ENABLE, payload.vringState(0, 0))).toBe(0);
    t.replaceFunction();
    await expect
      .poll(() => t.fn.queues.slice(0, 4).map((queue) => queue.enabled))
      .toEqual([true, false, true, true]);
    expect(t.fn.queues[3]!.base).toBe(5);
    expect(t.fn.queues[0]!.ringEnabled).toBe(false);
    expect(t.fn.dma.size).toBe(2);
  });

  test('a new frontend while it is away > is answered from what was known, and served when the function is back', async () => {
    await t.serve();
    t.server.vanish();
    await expect.poll(() => t.served.profile).toBeNull();
    const m = t.machine();
    await m.boot(2);
    expect(t.served.configured).toBe(true);
    t.replaceFunction();
    await expect.poll(() => t.fn.queues.slice(0, 2).every((queue) => queue.enabled)).toBe(true);
  });

  test('comes back with less to offer > the frontend is disconnected, and its successor is offered the less (U6)', async () => {
    await t.serve();
    const m = t.machine();
    await m.boot(2);
    t.server.vanish();
    await expect.poll(() => t.served.profile).toBeNull();
    t.replaceFunction(
      new TestFunction({ features: TEST_FEATURES & ~featureMask([NetFeature.CSUM, NetFeature.HOST_TSO4]) }),
    );
    await m.frontend.ended;
    const features = await t.machine().greet();
    expect(hasFeature(features, NetFeature.CSUM)).toBe(false);
  });

  test('comes back and refuses the memory > the frontend is disconnected instead of left with a dead ring', async () => {
    await t.serve();
    const m = t.machine();
    await m.boot(1);
    t.server.vanish();
    await expect.poll(() => t.served.profile).toBeNull();
    const next = new TestFunction();
    next.mapErrno = Errno.EINVAL;
    t.replaceFunction(next);
    await m.frontend.ended;
  });

  test('answers nothing for the time-out > is given up for dead and set up again when it answers', async () => {
    await t.serve();
    const m = t.machine();
    await m.boot(1);
    const gate = Promise.withResolvers<void>();
    t.fn.gate = gate.promise;
    m.setUsedIndex(0, 3);
    // Writes its registers, which the function does not answer.
    expect(await m.startRing(1)).toBe(0);
    expect(t.served.profile).toBeNull();
    gate.resolve();
    t.fn.gate = Promise.resolve();
    await expect
      .poll(() => t.fn.queues.slice(0, 2).map((queue) => queue.enabled), { timeout: 5000 })
      .toEqual([true, true]);
    expect(t.fn.queues[0]!.base).toBe(3);
  });

  test('answers nothing for the time-out while no frontend waits > is asked again; nothing is reset', async () => {
    await t.serve();
    const m = t.machine();
    await m.boot(1);
    const answers = Promise.withResolvers<void>();
    t.fn.readGate = answers.promise;
    const { reads, resets } = t.fn;
    eventfdSignal(t.fn.irqFds.get(t.fn.configVector)!);
    await expect.poll(() => t.fn.reads, { timeout: 20_000 }).toBe(reads + 1);
    t.fn.status |= DeviceStatus.NEEDS_RESET;
    // The answer to the first question comes too late, the next one counts.
    await new Promise((resolve) => setTimeout(resolve, FUNCTION_TIMEOUT_MS + 200));
    answers.resolve();
    await expect.poll(() => t.served.counters.needsReset, { timeout: 20_000 }).toBe(1);
    expect(t.served.counters.functionLost).toBe(0);
    expect([t.server.connections, t.fn.resets]).toEqual([1, resets]);
  }, 60_000);

  test('ends in the middle of probing, again and again > is tried until it stays (U4)', async () => {
    await t.serve();
    t.server.vanish();
    for (let i = 0; i < 3; i++) {
      t.replaceFunction();
      await expect.poll(() => t.server.connections).toBeGreaterThan(0);
      t.server.vanish();
    }
    t.replaceFunction();
    await expect.poll(() => t.served.profile?.dataQueues, { timeout: 5000 }).toBe(4);
  });
});

describe('a served function whose keeper is being replaced', () => {
  const away = () => {
    const back = Promise.withResolvers<void>();
    t.kept = back.promise;
    return () => {
      t.kept = null;
      back.resolve();
    };
  };
  const phase = () => t.served.options.page.phase;

  test('a change is made at once, answered when the next keeper knows of it, and unsettled so long', async () => {
    await t.serve();
    const m = t.machine();
    await m.boot(1);
    expect(phase()).toBe(Phase.SETTLED);
    const isBack = away();
    expect(await m.frontend.getU64(R.GET_STATUS)).toBe(0n); // changes nothing
    let result: number | null = null;
    void m.frontend
      .acknowledged(R.ADD_MEM_REG, payload.singleRegion(m.region(16n * MIB)), [m.memory])
      .then((errno) => {
        result = errno;
      });
    await expect.poll(() => t.fn.dma.size).toBe(2);
    const kept = await t.served.kept(); // what the next keeper is told has it already
    expect(decodeFunctionRecord(kept!.record)?.session?.regions).toHaveLength(2);
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect([result, phase()]).toEqual([null, Phase.UNSETTLED]);
    expect(t.served.options.page.promised).toBe(t.changes - 1);
    isBack();
    await expect.poll(() => result).toBe(0);
    expect(phase()).toBe(Phase.SETTLED);
    expect(t.served.options.page.promised).toBe(t.changes);
  });

  test('a machine leaves, a function goes and comes back > unsettled until the next keeper knows', async () => {
    await t.serve();
    await t.machine().boot(1);
    const isBack = away();
    t.killMachines();
    await expect.poll(() => t.fn.heldFds).toBe(0);
    t.server.vanish();
    await expect.poll(() => t.served.profile).toBeNull();
    t.replaceFunction();
    await expect.poll(() => t.served.profile).not.toBeNull();
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(phase()).toBe(Phase.UNSETTLED);
    isBack();
    await expect.poll(phase).toBe(Phase.SETTLED);
  });

  test('stopped while an answer waits > the machine is let go without it', async () => {
    await t.serve();
    const m = t.machine();
    await m.boot(1);
    away();
    let answered = false;
    void m.startRing(1).then(
      () => {
        answered = true;
      },
      () => {},
    );
    await expect.poll(phase).toBe(Phase.UNSETTLED);
    await t.served.stop();
    await m.frontend.ended;
    expect(answered).toBe(false);
    expect(t.fn.heldFds).toBe(0);
  });
});

describe('beginning and end of serving', () => {
  test('no function there > VF device not found, and nothing is left', async () => {
    t.server.end();
    expect(await t.serve()).toBe(VfeError.NO_VF_DEVICE);
    t.replaceFunction();
    expect(existsSync(t.vhostSocket)).toBe(false);
  });

  test.each([
    ['one vector', { vectors: 1 }],
    ['a queue size of 0', { queueSize: 0 }],
  ])('a function with %s > the probe fails', async (_, options) => {
    t.server.end();
    t.replaceFunction(new TestFunction(options));
    expect(await t.serve()).toBe(VfeError.DEVICE_PROBE_FAIL);
  });

  test('fewer vectors than queues > as many pairs as there are vectors for', async () => {
    t.server.end();
    t.replaceFunction(new TestFunction({ pairs: 4, vectors: 5 }));
    await t.serve();
    const m = t.machine();
    await m.greet();
    expect(await m.frontend.getU64(R.GET_QUEUE_NUM)).toBe(4n);
    await m.setFeatures(await m.frontend.getU64(R.GET_FEATURES));
    await m.shareMemory();
    await m.startRing(0);
    expect(t.fn.configVector).toBe(4);
  });

  test('somebody listens at the socket already > Vhost socket file already exists', async () => {
    const other = listen(t.vhostSocket, 'stream');
    expect(await t.serve()).toBe(VfeError.SOCKET_EXISTS);
    close(other);
  });

  test('stop during traffic > the frontend is let go, the function reset, the socket removed, no descriptor left', async () => {
    const before = openFds();
    await t.serve();
    await t.machine().boot(4);
    await t.served.stop();
    expect(existsSync(t.vhostSocket)).toBe(false);
    await t.machines[0]!.frontend.ended;
    t.killMachines();
    await expect.poll(openFds).toBe(before);
    expect(t.fn.heldFds).toBe(0);
  });

  test('stop while the function does not answer > succeeds', async () => {
    await t.serve();
    t.server.vanish();
    await expect.poll(() => t.served.profile).toBeNull();
    await t.served.stop();
    t.replaceFunction();
  });

  test('as a client > the frontend may start late, be killed and started again', async () => {
    expect(await t.serve(true)).toBe(0);
    await new Promise((resolve) => setTimeout(resolve, 120));
    for (let round = 0; round < 2; round++) {
      const listener = listen(t.vhostSocket, 'stream');
      let fd = -Errno.EAGAIN;
      await expect
        .poll(
          () => {
            fd = accept(listener);
            return fd;
          },
          { timeout: 2000, interval: 5 },
        )
        .toBeGreaterThanOrEqual(0);
      const m = new TestMachine(fd, t.poller);
      t.machines.push(m);
      await m.boot(2);
      expect(t.fn.queues[1]!.enabled).toBe(true);
      close(listener);
      t.killMachines();
      await expect.poll(() => t.fn.heldFds).toBe(0);
    }
    expect(t.served.counters.connections).toBe(2);
  });

  test('as a client of a frontend that speaks nonsense > waits a second before the next attempt', async () => {
    await t.serve(true);
    const listener = listen(t.vhostSocket, 'stream');
    const accepted: number[] = [];
    for (const until = performance.now() + 700; performance.now() < until; ) {
      const fd = accept(listener);
      if (fd >= 0) {
        accepted.push(performance.now());
        const m = new TestMachine(fd, t.poller);
        t.machines.push(m);
        m.frontend.post(999, undefined, [], VhostUserFlags.REPLY);
      }
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    expect(accepted.length).toBe(1);
    close(listener);
  });
});
