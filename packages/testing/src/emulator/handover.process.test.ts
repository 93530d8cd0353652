import { setTimeout as sleep } from 'node:timers/promises';
import { isAlive } from '@virtnet/host-linux';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import {
  type EmulatorProcess,
  EmulatorService,
  eventually,
  type Hotplugged,
} from './emulator-service.fixture.js';
import { Guest } from './guest.fixture.js';
import { namespaceObstacle } from './network.fixture.js';

const obstacle = namespaceObstacle();
const MOVES = 3;
/** Frames under way at once: fewer than a ring, a socket or the representor's queue hold. */
const WINDOW = 40;

/** Frames each way that prove that a device works. */
const ENOUGH = 20;

const inOrder = (count: number) => Array.from({ length: count }, (_, i) => i);

describe.skipIf(obstacle !== null)(`devices handed over${obstacle ? `: ${obstacle}` : ''}`, () => {
  let service: EmulatorService;
  let device: Hotplugged;
  let other: Hotplugged;
  let guest: Guest;

  beforeAll(async () => {
    service = await EmulatorService.start();
    device = await service.hotplug({ queuePairs: 2 });
    other = await service.hotplug({ mac: '0C:C4:7A:FF:22:94' });
    service.network.address(device.representor, device.mac);
    await service.network.listen();
  }, 60_000);
  afterAll(() => service.end());
  beforeEach(async () => {
    service.network.seen.length = 0;
    guest = await Guest.start(service, device, { events: 6 });
  });
  afterEach(() => guest.close());

  const received: number[] = [];
  let going = false;

  /** Frames of the guest, as fast as the host takes them; how many were sent. */
  async function transmit(): Promise<number> {
    let sent = 0;
    while (going) {
      if (sent - service.network.seen.length < WINDOW) await guest.send([sent++]);
      else await sleep(1);
    }
    await eventually('all frames', () => service.network.seen.length >= sent);
    return sent;
  }

  /** Frames of the host, as fast as the guest takes them; how many were sent. */
  async function receive(): Promise<number> {
    received.length = 0;
    let sent = 0;
    await guest.post();
    while (going) {
      const burst = inOrder(8).map((i) => sent + i);
      sent += burst.length;
      await service.network.send(burst);
      await eventually('frames', async () => {
        received.push(...guest.received());
        await guest.post();
        return sent - received.length <= WINDOW;
      });
    }
    await eventually('all frames', () => {
      received.push(...guest.received());
      return received.length >= sent;
    });
    return sent;
  }

  async function underTraffic(action: () => Promise<void>): Promise<void> {
    going = true;
    const stopped = action().finally(() => {
      going = false;
    });
    const [sent, arrived] = await Promise.all([transmit(), receive(), stopped]);
    expect(Math.min(sent, arrived)).toBeGreaterThanOrEqual(ENOUGH);
    expect(service.network.seen).toEqual(inOrder(sent));
    expect(received).toEqual(inOrder(arrived));
  }

  /** Who took over serves both devices, whose guest has seen nothing of it. */
  async function servesAll(): Promise<void> {
    await service.takenOver();
    await service.startStandby();
    expect((await service.active.status())?.devices).toBe(2);
    await underTraffic(enough);
    expect(guest.ends).toEqual([]);
  }

  const enough = async () => {
    await eventually('traffic', () => Math.min(service.network.seen.length, received.length) >= ENOUGH);
  };

  /** Number of the interface, and how often its carrier changed. */
  const representor = () => {
    const [link] = JSON.parse(service.network.ip(`-j -d link show dev ${device.representor}`));
    return { index: link.ifindex, changes: link.carrier_changes };
  };
  const takesOver = (standby: EmulatorProcess) =>
    eventually('the standby serves', async () => (await standby.status())?.role === 'active');

  it('under traffic both ways, again and again: every frame arrives once and in order, the client notices nothing', async () => {
    const before = representor();
    await underTraffic(async () => {
      for (let move = 0; move < MOVES; move++) {
        const reserve = await service.startReserve();
        await sleep(50);
        const pauses = await service.handOver(reserve);
        console.log(`pauses: ${pauses.map((pause) => pause.toFixed(2))} ms`);
        expect(pauses).toHaveLength(2);
      }
    });
    expect(representor()).toEqual(before);
    expect(guest.ends).toEqual([]);
    expect(await guest.needsReset()).toBe(false);
    expect((await service.standby.status())?.role).toBe('standby');
  }, 120_000);

  it('the keeper dies while the devices are divided: both halves are on the next one, and the rest moves as well', async () => {
    const reserve = await service.startReserve();
    await underTraffic(async () => {
      await service.move(device.vuid, reserve);
      await service.replaceKeeper();
      await eventually('both devices on the shelf', async () => {
        const names = await service.shelved('dev/');
        return [device, other].every(({ vuid }) => names.includes(`dev/${vuid}/record`));
      });
      await service.handOver(reserve);
    });
    await service.killActive();
    await service.startStandby();
    expect((await service.active.status())?.devices).toBe(2);
  }, 120_000);

  it('the keeper hangs, and is killed, with a loan unread: the next one has all of the device that was on its way', async () => {
    const reserve = await service.startReserve();
    const names = async () => (await service.shelved(`dev/${device.vuid}/`)).sort();
    const before = await names();
    service.stopKeeper();
    const borrowed = reserve.rpc.call('emu.borrow', { vuid: device.vuid });
    await service.active.rpc.call('emu.lend', { vuid: device.vuid, pid: reserve.pid });
    await service.replaceKeeper();
    await borrowed;
    await eventually('the whole device on the shelf', async () => `${await names()}` === `${before}`);
    reserve.child.kill('SIGKILL');
    await takesOver(service.standby);
    await servesAll();
  }, 120_000);

  it('the borrower dies while the devices are divided: the standby ends the lender and serves all', async () => {
    const reserve = await service.startReserve();
    const lender = service.active;
    await service.move(device.vuid, reserve);
    reserve.child.kill('SIGKILL');
    await takesOver(service.standby);
    expect(isAlive(lender.pid)).toBe(false);
    await servesAll();
  }, 120_000);

  it('the lender dies while the devices are divided: the standby ends the borrower and serves all', async () => {
    const reserve = await service.startReserve();
    await service.move(other.vuid, reserve);
    service.active.child.kill('SIGKILL');
    await takesOver(service.standby);
    expect(isAlive(reserve.pid)).toBe(false);
    await servesAll();
  }, 120_000);

  it('the lender dies before anything moved: the standby serves, the reserve waits', async () => {
    const reserve = await service.startReserve();
    await service.killActive();
    expect(await reserve.status()).toMatchObject({ role: 'standby', ready: true });
    await service.startStandby();
    await underTraffic(enough);
  }, 120_000);

  it('a reserve checks what it would meet: nothing stands in its way', async () => {
    const reserve = await service.startReserve();
    expect(await reserve.rpc.call('emu.check', {})).toEqual({ devices: 2, problems: [] });
  }, 60_000);
});
