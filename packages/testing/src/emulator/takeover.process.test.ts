import { setTimeout as sleep } from 'node:timers/promises';
import { close, memfdCreate } from '@virtnet/host-linux';
import { ControlRx, featureMask, NetFeature } from '@virtnet/wire';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { EmulatorService, eventually, type Hotplugged } from './emulator-service.fixture.js';
import { Guest } from './guest.fixture.js';
import { namespaceObstacle } from './network.fixture.js';

const obstacle = namespaceObstacle();
const KILLS = 3;
/** Frames under way at once: far below what sockets and the representor hold, so that only a crash loses any. */
const WINDOW = 40;
const VLAN_FILTER = `0x${featureMask([NetFeature.CTRL_VLAN]).toString(16)}`;

/** What is wrong with numbers that should be 0, 1, 2, ... */
function judge(
  numbers: readonly number[],
  sent: number,
): { lost: number; repeated: number; disordered: number } {
  const distinct = new Set(numbers);
  let disordered = 0;
  for (let i = 1; i < numbers.length; i++) if (numbers[i]! < numbers[i - 1]!) disordered++;
  return { lost: sent - distinct.size, repeated: numbers.length - distinct.size, disordered };
}

describe.skipIf(obstacle !== null)(`active emulator killed${obstacle ? `: ${obstacle}` : ''}`, () => {
  let service: EmulatorService;
  let device: Hotplugged;
  let guest: Guest;
  const stop = { now: false };

  beforeAll(async () => {
    service = await EmulatorService.start();
    device = await service.hotplug({ queuePairs: 2, features: VLAN_FILTER });
    service.network.address(device.representor, device.mac);
    await service.network.listen();
  }, 60_000);
  afterAll(() => service.end());
  beforeEach(async () => {
    stop.now = false;
    service.network.seen.length = 0;
    guest = await Guest.start(service, device, { events: 6 });
  });
  afterEach(() => guest.close());

  /** Kills the active emulator at odd moments, each time when a new standby is ready. */
  async function kill(times: number): Promise<void> {
    for (let i = 0; i < times; i++) {
      await sleep(20 + 37 * i);
      await service.killActive();
      await service.startStandby();
    }
    stop.now = true;
  }

  /** Frames of the guest, as fast as the host takes them; how many were sent. */
  async function transmit(): Promise<number> {
    let sent = 0;
    let lost = 0;
    while (!stop.now) {
      if (sent - lost - service.network.seen.length < WINDOW) await guest.send([sent++]);
      else {
        const waiting = service.network.seen.length;
        // A frame that a crash took never comes: go on without it.
        await eventually('more', () => service.network.seen.length > waiting, 300).catch(() => lost++);
      }
    }
    await eventually('completions', () => {
      guest.reap();
      return guest.driver.ring(1).outstanding === 0;
    });
    return sent;
  }

  const received: number[] = [];
  /** Frames of the host, as fast as the guest takes them; how many were sent. */
  async function receive(): Promise<number> {
    received.length = 0;
    let sent = 0;
    await guest.post();
    while (!stop.now) {
      const burst = Array.from({ length: 8 }, (_, i) => sent + i);
      sent += burst.length;
      await service.network.send(burst);
      await eventually('frames', async () => {
        received.push(...guest.received());
        await guest.post();
        return sent - received.length <= WINDOW - KILLS;
      });
    }
    const idle = () => received.length;
    for (let last = -1; last !== idle(); ) {
      last = idle();
      await sleep(50);
      received.push(...guest.received());
    }
    return sent;
  }

  it('under traffic both ways: at most one frame a queue and kill is lost or repeated, none out of order, no end of the connection', async () => {
    const [sent, arrivedFrom] = await Promise.all([transmit(), receive(), kill(KILLS)]);
    const out = judge(service.network.seen, sent);
    const back = judge(received, arrivedFrom);
    const text = `${KILLS} kills: sent ${sent}: ${JSON.stringify(out)}; received ${arrivedFrom}: ${JSON.stringify(back)}`;
    console.log(text);
    expect(sent, text).toBeGreaterThan(100);
    expect(arrivedFrom, text).toBeGreaterThan(100);
    expect(out.lost + out.repeated, text).toBeLessThanOrEqual(KILLS);
    expect(back.lost + back.repeated, text).toBeLessThanOrEqual(KILLS);
    expect(out.disordered, text).toBeLessThanOrEqual(out.repeated); // the second of two equal ones is out of place
    expect(back.disordered, text).toBe(0);
    expect(guest.ends).toEqual([]);
    expect(await guest.needsReset()).toBe(false);
  }, 120_000);

  it('during control commands and register accesses: each is answered once, and its effect is there', async () => {
    const { driver } = guest;
    let commands = 0;
    let accesses = 0;
    const commanding = async () => {
      for (let vlan = 1; !stop.now; vlan = (vlan % 4000) + 1) {
        await driver.addVlan(vlan);
        await driver.setMac(Uint8Array.of(2, 0, 0, 0, 0, vlan & 0xff));
        expect((await driver.config()).mac5).toBe(vlan & 0xff);
        await driver.setQueuePairs(1 + (vlan % 2));
        await driver.removeVlan(vlan);
        commands += 4;
      }
    };
    const accessing = async () => {
      for (; !stop.now; accesses++) {
        await guest.client.write(7, 0x3c, Uint8Array.of(accesses & 0xff));
        expect((await guest.client.read(7, 0x3c, 1))[0]).toBe(accesses & 0xff);
      }
    };
    await Promise.all([commanding(), accessing(), kill(KILLS)]);
    console.log(
      `${KILLS} kills: ${commands} commands, ${accesses} accesses, stray replies ${guest.client.strayReplies}`,
    );
    expect([guest.ends, guest.client.strayReplies]).toEqual([[], 0]);
    expect(Math.min(commands, accesses)).toBeGreaterThan(KILLS);
  }, 120_000);

  it('while memory comes and goes: every answer is a success, and in the end nothing is held that was taken back', async () => {
    const fd = memfdCreate('test-come-and-go', 4 << 20);
    let maps = 0;
    const mapping = async () => {
      const iova = 0x8000_0000n;
      for (; !stop.now; maps++) {
        const parts = [0, 1, 2].map((i) => ({ iova: iova + BigInt(i << 20), sizeBytes: 1 << 20 }));
        for (const [i, part] of parts.entries())
          await guest.client.dmaMap({ ...part, fd, fdOffset: i << 20, readable: true, writable: true });
        for (const part of parts) await guest.client.dmaUnmap(part);
      }
    };
    await Promise.all([mapping(), kill(KILLS)]);
    close(fd);
    expect(maps).toBeGreaterThan(KILLS);
    expect((await service.shelved('dev/')).filter((name) => name.includes('/dma/'))).toHaveLength(1);
    const shared = () => service.holdings().map((holdings) => holdings.shared);
    const steady = shared();
    await sleep(100);
    expect(shared()).toEqual(steady);
    expect(guest.ends).toEqual([]);
  }, 120_000);

  it('E14 what the driver and the operator set is shown alike before and behind each successor', async () => {
    const { driver } = guest;
    await driver.setReceiveMode(ControlRx.PROMISC, false);
    await driver.setReceiveMode(ControlRx.ALLMULTI, true);
    await driver.setMacTable([Uint8Array.of(2, 0, 0, 0, 0, 9)], [Uint8Array.of(1, 0, 0x5e, 0, 0, 9)]);
    await driver.setMac(Uint8Array.of(2, 0, 0, 0, 0, 77));
    await driver.setOffloads(featureMask([NetFeature.GUEST_CSUM]));
    await driver.setQueuePairs(2);
    await driver.addVlan(9);
    const read = async () => {
      const devices = await service.queryAll();
      return { devices, config: await driver.config() };
    };
    const before = await read();
    expect(before.devices[0]).toMatchObject({ ctrl_mac: '02:00:00:00:00:4D', ctrl_mq: '2' });
    await service.killActive();
    expect(await read()).toEqual(before);
    await service.handOver(await service.startReserve());
    expect(await read()).toEqual(before);
    await service.startStandby();
  }, 60_000);

  it('with the pairs’ steering given up: the second pair of the successor receives as soon as it is asked to', async () => {
    await guest.driver.setQueuePairs(1);
    await service.killActive();
    await service.startStandby();
    await guest.post(0);
    await guest.post(1);
    await guest.driver.setQueuePairs(2);
    const got = [0, 0];
    for (let port = 20_000; got[1] === 0 && port < 20_300; port++) {
      await service.network.send([port], { port });
      for (const pair of [0, 1]) got[pair]! += guest.received(pair).length;
    }
    expect(got[1]).toBeGreaterThan(0);
  }, 60_000);
});
