import { readdirSync } from 'node:fs';
import { failure, isFailure } from '@virtnet/engine-control';
import { expect, it, onTestFinished } from 'vitest';
import { makeDevice } from './device-maker.js';
import { mappingsOf, openFds } from './test-support/holdings.js';
import { testPlan } from './test-support/test-device.js';
import { TestService } from './test-support/test-service.js';

it.each([
  ['without VERSION_1', { features: '0x20' }],
  ['with a bit that lacks what it needs', { features: '0x100000004' }],
  ['with a bit of another version', { features: '0x4000100000000' }],
])('a plan that no device can have, %s > a failure, of which nothing is left', async (_, change) => {
  const service = new TestService({ firmware: [] });
  await service.start();
  onTestFinished(() => service.close());
  const { emulator, paths } = service;
  const left = () => [
    openFds(),
    mappingsOf('virtnet-state-page'),
    readdirSync(paths.pci),
    emulator.devices.size,
  ];
  const before = left();
  expect(makeDevice(emulator, testPlan(change), 'wrong')).toEqual(failure('SNAP_PF_HOTPLUG'));
  expect(left()).toEqual(before);
  expect(service.said).toContainEqual(
    expect.objectContaining({
      level: 'error',
      msg: 'no device can be what was planned',
      vuid: testPlan().vuid,
    }),
  );
  expect(isFailure(makeDevice(emulator, testPlan(), 'right'))).toBe(false);
  expect(emulator.devices.size).toBe(1);
});
