/** Functions that are made anew while their former representors are still held by somebody. */
import { DEFAULT_CONF } from '@virtnet/engine-control';
import { beforeEach, expect, it, vi } from 'vitest';
import type * as DeviceFactory from './device-factory.js';
import { nameFree } from './device-maker.js';
import type { Emulator } from './emulator.js';
import {
  FIRMWARE,
  hotplug,
  listed,
  PF0,
  restart,
  SUCCESS,
  sriov,
  started,
} from './test-support/provisioned.js';
import { testPlan } from './test-support/test-device.js';

/** How often an interface of a name is still found. */
const looksLeft = new Map<string, number>();

vi.mock('@virtnet/host-linux', async (original) => ({
  ...(await original<object>()),
  interfaceExists: vi.fn((name: string) => {
    const left = looksLeft.get(name) ?? 0;
    looksLeft.set(name, left - 1);
    return left > 0;
  }),
}));
vi.mock('./device-factory.js', async (original) => {
  const factory = await original<typeof DeviceFactory>();
  type Rest = Parameters<typeof factory.createDevice> extends [unknown, unknown, ...infer R] ? R : never;
  const createDevice = (plan: Parameters<typeof factory.createDevice>[0], _: unknown, ...rest: Rest) =>
    factory.createDevice(plan, 'sink', ...rest); // without a TAP
  return { ...factory, createDevice };
});

const software = { ...DEFAULT_CONF.software, representor: 'tap' as const };

beforeEach(() => looksLeft.clear());

it('a start waits for the names of static PFs, of hotplug PFs and of VFs: all come back', async () => {
  const service = await started({ firmware: FIRMWARE, conf: { software } });
  expect(await hotplug(service)).toMatchObject(SUCCESS);
  expect(await sriov(service, PF0, 2)).toEqual(SUCCESS);
  const before = listed(service);
  expect(before).toHaveLength(5);
  const names = [...service.emulator.devices.values()].map(({ host }) => host.plan.representor);
  await service.stop();
  for (const name of names) looksLeft.set(name, 3);
  await service.start();
  expect(listed(service)).toEqual(before);
  expect(service.said.filter(({ level }) => level === 'error')).toEqual([]);
});

it('a name that is never free is waited for until the end of the time', async () => {
  const service = await started({ firmware: FIRMWARE, conf: { software } });
  const rows = listed(service);
  const { host } = service.device(rows[0]!.vuid);
  looksLeft.set(host.plan.representor, Number.POSITIVE_INFINITY);
  await restart(service);
  expect(listed(service)).toEqual(rows.slice(1));
});

it('a representor of the pool is no hindrance', async () => {
  const plan = testPlan();
  looksLeft.set(plan.representor, Number.POSITIVE_INFINITY);
  const emulator = { conf: { software }, pool: { has: () => true } } as unknown as Emulator;
  expect(await nameFree(emulator, plan)).toBe(false);
});
