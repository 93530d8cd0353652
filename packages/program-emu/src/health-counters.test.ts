/** The counters of `virtnet health`: each grows by its own cause, and by no other. */
import { healthAnswer } from '@virtnet/engine-control';
import { close, dup, eventfd, eventfdSignal } from '@virtnet/host-linux';
import { featureMask, VirtioFeature } from '@virtnet/wire';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { healthFacts } from './device-facts.js';
import { changeDevice } from './modify-device.js';
import { type TestDevice, TestWorld, testPlan } from './test-support/test-device.js';
import { clientOf, TestDriver } from './test-support/test-driver.js';
import { TestMemory } from './test-support/test-ring.js';
import { frame, HEADER_BYTES } from './test-support/worker-fixture.js';

const FEATURES = featureMask([VirtioFeature.VERSION_1]);
const TRANSMIT = 1;
const NO_SUCH_HEAD = 7777;
/** Nothing is wrong with the datapath as such. */
const PROBED = { fault: false, text: 'not asked', stalled: 0 };

type Errors = Readonly<Record<string, number>>;

describe('health', () => {
  let world: TestWorld;
  let device: TestDevice;
  let memory: TestMemory;
  let driver: TestDriver;
  let before: Errors;

  /** Everything that `virtnet health` counts as an error. */
  const errors = (): Errors => {
    const { dev_health_details: details } = healthAnswer(healthFacts(device.host, PROBED)) as {
      dev_health_details: { control_plane_errors: Errors; data_plane_errors: Errors };
    };
    return { ...details.control_plane_errors, ...details.data_plane_errors };
  };
  /**
   * Those that have grown, by how much. What stands for the representor here is a socket: all of its settings are
   * refused, so that counter is looked at by itself.
   */
  const grown = () => {
    const now = errors();
    return Object.fromEntries(
      Object.keys(now)
        .map((name) => [name, now[name]! - before[name]!] as const)
        .filter(([name, by]) => by !== 0 && name !== 'sf_flows_apply_err'),
    );
  };
  const kick = async () => {
    device.host.kick(TRANSMIT);
    await world.datapath.settle();
    await world.datapath.settle();
  };

  beforeEach(async () => {
    world = new TestWorld();
    device = world.device(testPlan({ sfNum: 2998 }));
    memory = new TestMemory(2 << 20, { arena: world.arena });
    driver = await TestDriver.start(clientOf(device), { memory, features: FEATURES, queues: [0, TRANSMIT] });
    await world.datapath.settle();
    before = errors();
  });
  afterEach(async () => {
    driver.close();
    await device.end();
    memory.close();
    await world.close();
  });

  it('work is no error', async () => {
    driver.ring(TRANSMIT).add([new Uint8Array(HEADER_BYTES), frame(1)]);
    driver.ring(TRANSMIT).publish();
    await kick();
    expect([driver.ring(TRANSMIT).collect().length, grown()]).toEqual([1, {}]);
  });

  it('spurious_db_invoke counts kicks that bring nothing', async () => {
    const fd = eventfd();
    expect(await device.access.queueKick(TRANSMIT, dup(fd))).toBe(0);
    await world.datapath.settle();
    const { loop } = world.datapath;
    loop.takeEvents(0); // the representor can be written to, which wakes the queue once
    for (let i = 0; i < 3; i++) {
      while (loop.awake) loop.turn(); // a queue that is being looked at needs no kick
      eventfdSignal(fd);
      loop.takeEvents(0);
    }
    close(fd);
    expect(grown()).toEqual({ spurious_db_invoke: 3 });
  });

  it('sq_stall is the number of queues that were stopped, until the driver resets the function', async () => {
    driver.ring(TRANSMIT).offer(NO_SUCH_HEAD);
    driver.ring(TRANSMIT).publish();
    await kick();
    expect(grown()).toEqual({ sq_stall: 1 });
    expect(healthAnswer(healthFacts(device.host, PROBED))).toMatchObject({
      health_status: 'Fatal',
      recovery: { error: 'RING_FAULT' },
    });
    await driver.register('deviceStatus', 1, 0);
    expect(grown()).toEqual({});
  });

  it('sf_flows_apply_err counts settings of the representor that the kernel refuses', async () => {
    expect(await changeDevice(device.host, { shape: {}, linkUp: false }, 'down')).toBe(null);
    expect(errors().sf_flows_apply_err).toBeGreaterThan(before.sf_flows_apply_err!); // the carrier
    expect(grown()).toEqual({});
  });
});
