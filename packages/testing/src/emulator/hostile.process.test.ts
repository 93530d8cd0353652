import { closeSync, openSync } from 'node:fs';
import { close, dup, ftruncate, memfdCreate } from '@virtnet/host-linux';
import { DescriptorFlag, descriptorAreaBytes, driverAreaBytes, VfioPciIrq } from '@virtnet/wire';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { overRegions } from '../function-access.js';
import { VirtioNetDriver } from '../virtio-net-driver.js';
import { EmulatorService, eventually, type Hotplugged } from './emulator-service.fixture.js';
import { Guest } from './guest.fixture.js';
import { namespaceObstacle } from './network.fixture.js';

const obstacle = namespaceObstacle();
const CONFIG_VECTOR = 0;
const TRANSMIT = 1;

describe.skipIf(obstacle !== null)(`one hostile guest of two${obstacle ? `: ${obstacle}` : ''}`, () => {
  let service: EmulatorService;
  const devices: Hotplugged[] = [];
  let hostile: Guest;
  let good: Guest;
  let next = 1;

  beforeAll(async () => {
    service = await EmulatorService.start();
    for (const mac of ['0C:C4:7A:FF:22:93', '0C:C4:7A:FF:22:94'])
      devices.push(await service.hotplug({ mac }));
    service.network.address(devices[1]!.representor, devices[1]!.mac);
    await service.network.listen();
  }, 60_000);
  afterAll(() => service.end());
  beforeEach(async () => {
    hostile = await Guest.start(service, devices[0]!, { events: 4 });
    good = await Guest.start(service, devices[1]!, { events: 4 });
    await good.post();
  });
  afterEach(() => {
    hostile.close();
    good.close();
  });

  /** Moves frames of the good guest both ways. */
  async function goodWorks(): Promise<void> {
    const numbers = Array.from({ length: 20 }, () => next++);
    const from = service.network.seen.length;
    // What was sent before may still be on its way when this begins.
    const seen = () => service.network.seen.slice(from).filter((number) => number >= numbers[0]!);
    await good.send(numbers);
    await service.network.send(numbers);
    const received: number[] = [];
    await eventually('frames of the good guest', async () => {
      received.push(...good.received());
      return received.length >= 20 && seen().length >= 20;
    });
    await good.post();
    expect([seen(), received]).toEqual([numbers, numbers]);
    expect([good.ends, await good.needsReset()]).toEqual([[], false]);
  }

  /** As a driver that was told that the device needs a reset. */
  async function revive(): Promise<void> {
    const driver = await VirtioNetDriver.start(overRegions(hostile.client), {
      memory: hostile.driver.memory,
    });
    expect(await hostile.needsReset()).toBe(false);
    driver.ring(TRANSMIT).add({ readable: [new Uint8Array(12), new Uint8Array(60)] });
    await driver.publish(TRANSMIT);
    await eventually('its frame', () => driver.ring(TRANSMIT).collect().length > 0);
  }

  it.each<[string, (guest: Guest) => Promise<unknown> | undefined]>([
    [
      'names a head that does not exist',
      ({ driver }) => {
        driver.ring(TRANSMIT).offer(0xffff);
        return driver.publish(TRANSMIT);
      },
    ],
    [
      'lets the available index jump',
      ({ driver }) => {
        driver.ring(TRANSMIT).setAvailableIndex(0x4000);
        return driver.pci.notify(TRANSMIT);
      },
    ],
    [
      'chains descriptors in a circle',
      ({ driver }) => {
        const ring = driver.ring(TRANSMIT);
        const entry = { address: ring.descriptorAddress, lengthBytes: 1, flags: DescriptorFlag.NEXT };
        ring.writeDescriptor(0, { ...entry, next: 1 });
        ring.writeDescriptor(1, { ...entry, next: 0 });
        ring.offer(0);
        return driver.publish(TRANSMIT);
      },
    ],
    [
      'does so in the control queue',
      ({ driver }) => {
        driver.ring(2).setAvailableIndex(0x4000);
        return driver.pci.notify(2);
      },
    ],
    [
      'takes the memory of its rings away',
      ({ client, driver }) => {
        const { iova, sizeBytes } = driver.memory;
        return client.dmaUnmap({ iova, sizeBytes });
      },
    ],
  ])('%s: that device alone needs a reset, is told to, and a reset brings it back', async (_, offend) => {
    const { pid } = service.active;
    hostile.interrupts(CONFIG_VECTOR);
    await offend(hostile);
    await eventually('NEEDS_RESET', () => hostile.needsReset());
    await eventually('the interrupt', () => hostile.interrupts(CONFIG_VECTOR) > 0);
    await goodWorks();
    const range = { iova: hostile.driver.memory.iova, sizeBytes: hostile.driver.memory.sizeBytes };
    const map = { ...range, fd: hostile.memoryFd, fdOffset: 0, readable: true, writable: true };
    await hostile.client.dmaMap(map).catch(() => {}); // was taken away in one case
    await revive();
    expect([service.active.pid, service.active.child.exitCode, hostile.ends]).toEqual([pid, null, []]);
  });

  it('writes noise over its rings all the time: nobody else notices', async () => {
    const { pid } = service.active;
    const { driver } = hostile;
    const ring = driver.ring(TRANSMIT);
    const lengths = [descriptorAreaBytes(ring.queueSize), driverAreaBytes(ring.queueSize)];
    let state = 12345;
    for (let round = 0; round < 60; round++) {
      for (const [i, address] of [ring.descriptorAddress, ring.driverAddress].entries()) {
        const bytes = driver.memory.slice(address, lengths[i]!);
        for (let at = 0; at < bytes.length; at++) {
          state = (Math.imul(state, 1103515245) + 12345) >>> 0;
          bytes[at] = state >>> 16;
        }
      }
      await driver.pci.notify(TRANSMIT);
      if (!(await hostile.needsReset())) continue;
      await driver.stop();
      await VirtioNetDriver.start(overRegions(hostile.client), { memory: driver.memory, queueSize: 64 });
    }
    await goodWorks();
    expect([service.active.pid, service.active.child.exitCode]).toEqual([pid, null]);
  });

  it('gives what are no eventfds: refused, and its connection goes on', async () => {
    const file = openSync('/dev/zero', 'r+');
    const memory = memfdCreate('no-eventfd', 4096);
    const vectors = { index: VfioPciIrq.MSIX, start: 0, action: 'trigger', data: 'eventfd' } as const;
    for (const fds of [[file], [memory], [hostile.events[0]!, file]]) {
      await expect(hostile.client.setIrqs({ ...vectors, count: fds.length, fds })).rejects.toThrow();
    }
    await expect(hostile.client.queueKick(TRANSMIT, file)).rejects.toThrow();
    closeSync(file);
    close(memory);
    expect([await hostile.needsReset(), hostile.ends]).toEqual([false, []]);
    await goodWorks();
  });

  it.each([
    ['all of it', 0],
    ['but for a piece of its first ring', 8192],
  ])(
    'B5 cuts its memory off (%s) under traffic: the successor goes on without it, and the other guest with all its frames',
    async (_, left) => {
      const { pid } = service.active;
      const stopped = service.active.exited;
      await hostile.kickByEvents();
      const memoryFd = dup(hostile.memoryFd);
      ftruncate(memoryFd, left);
      const { driver } = hostile;
      const seen = service.network.seen.length;
      // From here on this process must not touch that memory either.
      const numbers = Array.from({ length: 200 }, () => next++);
      const traffic = good.send(numbers);
      await driver.pci.notify(TRANSMIT).catch(() => {});
      expect(await stopped).toBe('SIGBUS');
      await service.takenOver();
      await traffic;
      expect(service.active.pid).not.toBe(pid);
      expect(await hostile.needsReset()).toBe(true);
      expect([hostile.ends, good.ends]).toEqual([[], []]);
      await eventually(
        'the good guest’s frames',
        () => service.network.seen.length - seen >= numbers.length - 1,
      );
      await goodWorks();
      await service.startStandby();
      // Its process ends, another one takes its place.
      hostile.close();
      close(memoryFd);
      hostile = await Guest.start(service, devices[0]!, { events: 4 });
      await revive();
    },
    60_000,
  );
});
