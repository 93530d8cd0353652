/** A device whose guest makes each emulator crash is quarantined; everybody else goes on. */
import { readFileSync } from 'node:fs';
import type { VirtioNetDriver } from '@virtnet/testing';
import { describe, expect, test } from 'vitest';
import { BoundFunction } from './lib/bound-function.ts';
import { udpFrame } from './lib/frames.ts';
import type { Scene } from './lib/scene.ts';
import { type Hotplugged, Service } from './lib/service.ts';
import { endsCleanly, useScene } from './lib/use-scene.ts';
import { sleep, until } from './lib/waiting.ts';

/** A head that no descriptor table has. */
const NO_SUCH_HEAD = 0xffff;
const PATIENCE_MS = 60_000;
const QUEUE_SIZE = 64;

interface Health {
  readonly health_status: string;
  readonly dev_status: Readonly<Record<string, string>>;
  readonly recovery: { readonly error: string };
}

interface Guest {
  readonly device: Hotplugged;
  readonly fn: BoundFunction;
  driver: VirtioNetDriver;
}

const frameOf = (device: Hotplugged): Buffer =>
  udpFrame({
    source: '10.81.0.2',
    destination: '10.81.0.1',
    sourceMac: device.mac,
    destinationMac: 'ff:ff:ff:ff:ff:ff',
    port: 7701,
    payload: Buffer.alloc(64),
  });

const preload = new URL('./lib/poison.mjs', import.meta.url).href;
const env = { NODE_OPTIONS: `--import=${preload}` };

/** Emulators that crashed so far. */
const crashed = (scene: Scene): number =>
  readFileSync(scene.path('controller.log'), 'utf8').split('"cause":"crash"').length - 1;

describe('a guest that makes each emulator crash', () => {
  const used = useScene(async (scene) => {
    const service = await Service.start(scene, { env });
    const open = async (last: string) => {
      const device = await service.hotplug({ mac: `0C:C4:7A:FF:22:${last}`, queueSize: QUEUE_SIZE });
      await scene.net.ip(`link set ${device.sf_rep_net_device} up`);
      const fn = await BoundFunction.open(service.socket(device.bdf), PATIENCE_MS, undefined, false);
      return { device, fn, driver: await fn.start({ queueSize: QUEUE_SIZE }) };
    };
    return { service, guest: await open('95'), neighbour: await open('96'), robber: await open('97') };
  });
  const health = (pf: number) => used.value.service.answer<Health>('health', '-p', `${pf}`, 'show');

  const error = async (pf: number) => (await health(pf)).recovery.error;

  const deaths = () => crashed(used.scene);

  /** The log tells of that many deaths, and no more. */
  const died = async (count: number): Promise<void> => {
    await until(`the log tells of ${count} deaths`, PATIENCE_MS, () => deaths() >= count);
    expect(deaths()).toBe(count);
  };

  /** Frames that the device takes, one after the other. */
  const passes = async ({ device, fn }: Guest, frames = 4): Promise<void> => {
    for (let frame = 0; frame < frames; frame++) {
      expect(await fn.driver.transmit(0, frameOf(device))).toBe(true);
      await until('the frame was taken', PATIENCE_MS, () => {
        fn.driver.ring(1).collect();
        return fn.driver.ring(1).outstanding === 0;
      });
    }
  };

  /** Makes a ring that nobody can believe available. */
  const poison = async ({ driver }: Guest): Promise<void> => {
    driver.ring(1).offer(NO_SUCH_HEAD);
    driver.ring(1).publish();
    await driver.pci.notify(1);
  };

  const restart = async (guest: Guest): Promise<void> => {
    await guest.driver.stop();
    guest.driver = await guest.fn.start({ queueSize: QUEUE_SIZE });
  };

  test('a malformed ring, two crashes > its device waits for a reset; its neighbour is served by everyone', async () => {
    const { service, guest, neighbour } = used.value;
    await passes(guest);
    await service.recovered(-1);
    let going = true;
    const traffic = (async () => {
      while (going) {
        await passes(neighbour, 1);
        await sleep(5);
      }
    })();
    await poison(guest);
    await until('quarantine', PATIENCE_MS, async () => (await error(0)) === 'QUARANTINED');
    going = false;
    await traffic;
    const sick = await health(0);
    expect(sick).toMatchObject({ health_status: 'Fatal' });
    expect(JSON.stringify(sick.dev_status)).toContain('DEVICE_NEEDS_RESET');
    expect(await health(1)).toMatchObject({ health_status: 'Good', recovery: { error: 'none' } });
    await died(2);
    const { pid } = (await service.emulators()).find(({ role }) => role === 'active')!;
    await passes(neighbour);
    await guest.driver.pci.notify(1);
    await passes(neighbour);
    expect([service.pid('emu'), deaths()]).toEqual([pid, 2]); // nobody looks at the ring any more
  }, 120_000);

  test('its driver resets it > served again; a malformed ring again costs one emulator', async () => {
    const { service, guest, neighbour } = used.value;
    await service.recovered(-1);
    await restart(guest);
    expect(await health(0)).toMatchObject({ health_status: 'Good', recovery: { error: 'none' } });
    await passes(guest);
    await poison(guest);
    await until('quarantine', PATIENCE_MS, async () => (await error(0)) === 'QUARANTINED');
    await passes(neighbour);
    await died(3);
  }, 120_000);

  test('memory cut off under the rings (SIGBUS) > the same: a reset after the first time, quarantine after the second', async () => {
    const { service, robber, neighbour } = used.value;
    for (const [index, name] of ['MEMORY_TRUNCATED', 'QUARANTINED'].entries()) {
      await passes(robber);
      await service.recovered(-1);
      robber.fn.takeAway();
      await robber.driver.pci.notify(1);
      await until(name, PATIENCE_MS, async () => (await error(2)) === name);
      expect(await health(2)).toMatchObject({ health_status: 'Fatal' });
      await passes(neighbour);
      await died(4 + index);
      robber.fn.giveBack();
      await robber.fn.map();
      await restart(robber);
      expect(await health(2)).toMatchObject({ health_status: 'Good', recovery: { error: 'none' } });
    }
    await passes(robber);
    expect(await health(1)).toMatchObject({ health_status: 'Good', recovery: { error: 'none' } });
    for (const { driver, fn } of [used.value.guest, neighbour, robber]) {
      await driver.stop();
      await fn.close();
    }
  }, 120_000);

  endsCleanly(used);
});

describe('a guest on the eswitch that makes each emulator crash when it is given a frame', () => {
  const used = useScene(async (scene) => {
    const service = await Service.start(scene, { env, conf: { software: { representor: 'eswitch' } } });
    const open = async (last: string): Promise<Guest> => {
      const device = await service.hotplug({ mac: `0C:C4:7A:FF:22:${last}`, queueSize: QUEUE_SIZE });
      const fn = await BoundFunction.open(service.socket(device.bdf), PATIENCE_MS);
      return { device, fn, driver: await fn.start({ queueSize: QUEUE_SIZE }) };
    };
    return { service, sender: await open('98'), receiver: await open('99'), neighbour: await open('9A') };
  });
  const error = async ({ device }: Guest) =>
    (await used.value.service.answer<Health>('health', '-p', `${device.id}`, 'show')).recovery.error;

  test('a malformed receive ring, two crashes > it waits for a reset; who sends to it, and who else is there, goes on', async () => {
    const { service, sender, receiver, neighbour } = used.value;
    const ring = sender.driver.ring(1);
    let sent = 0;
    const sends = async () => {
      expect(await sender.driver.transmit(0, frameOf(sender.device))).toBe(true);
      sent += 1;
    };
    let arrived = 0;
    const arrives = (what: string) =>
      until(what, PATIENCE_MS, () => {
        arrived += neighbour.driver.received(0).length;
        ring.collect();
        return ring.outstanding === 0 && arrived >= sent;
      });
    await neighbour.driver.postReceive(0, QUEUE_SIZE / 2);
    await sends();
    await arrives('a frame before');
    const { pid } = await service.recovered(-1);
    receiver.driver.ring(0).offer(NO_SUCH_HEAD);
    receiver.driver.ring(0).publish();
    await sends();
    await until('quarantine', PATIENCE_MS, async () => (await error(receiver)) === 'QUARANTINED');
    await arrives('the frame that two emulators died of');
    for (let i = 0; i < 4; i++) await sends();
    await arrives('frames after');
    expect([await error(sender), await error(neighbour)]).toEqual(['none', 'none']);
    expect(crashed(used.scene)).toBe(2);
    expect((await service.recovered(pid)).pid).not.toBe(pid);
    for (const { driver, fn } of [sender, receiver, neighbour]) {
      await driver.stop();
      await fn.close();
    }
  }, 120_000);

  endsCleanly(used);
});
