import { ControlRx, featureMask, NetFeature } from '@virtnet/wire';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { EmulatorService, eventually, type Hotplugged } from './emulator-service.fixture.js';
import { Guest, type GuestOptions } from './guest.fixture.js';
import { namespaceObstacle, numberedFrame, numberOf } from './network.fixture.js';

const obstacle = namespaceObstacle();
const VLAN_FILTER = `0x${featureMask([NetFeature.CTRL_VLAN]).toString(16)}`;
const OTHER_MAC = '02:00:00:00:00:77';
const OTHER_ADDRESS = '10.9.0.77';
const GROUP = '224.1.2.3';
const GROUP_MAC = Uint8Array.of(1, 0, 0x5e, 1, 2, 3);
const VLAN = 7;
/** The host's address is the bridge's; frames with a tag come in at its other port. */
const BRIDGE = 'br0';
const SIDE = 'side0';
const macOf = (text: string) => Uint8Array.from(text.split(':'), (byte) => Number.parseInt(byte, 16));
const range = (from: number, count: number) => Array.from({ length: count }, (_, i) => from + i);

describe.skipIf(obstacle !== null)(`frames and commands${obstacle ? `: ${obstacle}` : ''}`, () => {
  let service: EmulatorService;
  let device: Hotplugged;
  let guest: Guest;
  let next = 1;

  beforeAll(async () => {
    service = await EmulatorService.start({ standby: false });
    device = await service.hotplug({ queuePairs: 2, features: VLAN_FILTER });
    const { network } = service;
    await network.sendRaw(SIDE, new Uint8Array(0));
    network.bridge(BRIDGE, [device.representor, SIDE], device.mac);
    network.neighbour(BRIDGE, OTHER_ADDRESS, OTHER_MAC);
    await network.listen();
  }, 60_000);
  afterAll(() => service.end());

  const start = async (options: GuestOptions = {}) => {
    guest = await Guest.start(service, device, { events: 6, hostInterface: BRIDGE, ...options });
    await guest.post();
  };
  beforeEach(() => start());
  afterEach(() => guest.close());

  /** Sends one numbered datagram, and another that must arrive; whether the first did. */
  async function arrives(to: Parameters<EmulatorService['network']['send']>[1] | 'tagged'): Promise<boolean> {
    const [asked, sure] = [next++, next++];
    if (to === 'tagged') await service.network.sendRaw(SIDE, taggedFrame(asked));
    else await service.network.send([asked], to);
    await service.network.send([sure]);
    const seen: number[] = [];
    await eventually('the frame that must arrive', () => {
      for (const { frame } of guest.driver.received(0)) seen.push(numberOf(frame), numberOf(frame, true));
      return seen.includes(sure);
    });
    await guest.post();
    return seen.includes(asked);
  }
  const taggedFrame = (number: number) =>
    numberedFrame(number, macOf(device.mac), macOf('02:00:00:00:00:99'), { vlan: VLAN });
  const plain = {};
  const otherStation = { to: OTHER_ADDRESS };
  const broadcast = { to: '10.9.0.255' };
  const group = { to: GROUP, multicast: true };

  it('the guest’s frames reach the host’s socket, in order', async () => {
    const numbers = range(next, 500);
    next += 500;
    const from = service.network.seen.length;
    await guest.send(numbers);
    await eventually('all frames', () => service.network.seen.length - from >= 500);
    expect(service.network.seen.slice(from)).toEqual(numbers);
    await eventually('completions', () => {
      guest.reap();
      return guest.driver.ring(1).outstanding === 0;
    });
    expect(guest.interrupts(2)).toBeGreaterThan(0);
  });

  it('the host’s datagrams reach the guest’s buffers, in order, and interrupt it', async () => {
    const numbers = range(next, 200);
    next += 200;
    await service.network.send(numbers);
    const seen: number[] = [];
    await eventually('all frames', () => {
      seen.push(...guest.received());
      return seen.length >= 200;
    });
    expect(seen).toEqual(numbers);
    expect(guest.interrupts(1)).toBeGreaterThan(0);
  });

  it('kicked by events instead of registers: the same', async () => {
    await guest.kickByEvents();
    const numbers = range(next, 100);
    next += 100;
    const from = service.network.seen.length;
    await guest.send(numbers);
    await eventually('all frames', () => service.network.seen.length - from >= 100);
    expect(service.network.seen.slice(from)).toEqual(numbers);
    expect(await arrives(plain)).toBe(true);
    await guest.driver.addVlan(5); // the control queue as well
  });

  it('RX: without promiscuous mode frames for another station stay away', async () => {
    await guest.driver.setReceiveMode(ControlRx.PROMISC, false);
    expect(await arrives(otherStation)).toBe(false);
    await guest.driver.setReceiveMode(ControlRx.PROMISC, true);
    expect(await arrives(otherStation)).toBe(true);
  });

  it('RX: all multicast', async () => {
    await guest.driver.setReceiveMode(ControlRx.PROMISC, false);
    await guest.driver.setReceiveMode(ControlRx.ALLMULTI, false);
    expect(await arrives(group)).toBe(false);
    await guest.driver.setReceiveMode(ControlRx.ALLMULTI, true);
    expect(await arrives(group)).toBe(true);
  });

  it('RX_EXTRA: no broadcast', async () => {
    await guest.driver.setReceiveMode(ControlRx.PROMISC, false);
    expect(await arrives(broadcast)).toBe(true);
    await guest.driver.setReceiveMode(ControlRx.NOBCAST, true);
    expect(await arrives(broadcast)).toBe(false);
    await guest.driver.setReceiveMode(ControlRx.NOBCAST, false);
    expect(await arrives(broadcast)).toBe(true);
  });

  it('MAC table: what is in it arrives, unicast and multicast', async () => {
    await guest.driver.setReceiveMode(ControlRx.PROMISC, false);
    await guest.driver.setMacTable([macOf(OTHER_MAC)], [GROUP_MAC]);
    expect([await arrives(otherStation), await arrives(group)]).toEqual([true, true]);
    await guest.driver.setMacTable([], []);
    expect([await arrives(otherStation), await arrives(group)]).toEqual([false, false]);
  });

  it('MAC address: the new one is in the configuration, and what the device listens to', async () => {
    await guest.driver.setReceiveMode(ControlRx.PROMISC, false);
    await guest.driver.setMacTable([macOf(device.mac)], []); // for the frame that must arrive
    await guest.driver.setMac(macOf(OTHER_MAC));
    expect((await guest.driver.config()).mac5).toBe(0x77);
    expect(await arrives(otherStation)).toBe(true);
    await guest.driver.setMac(macOf(device.mac));
    expect(await arrives(otherStation)).toBe(false);
  });

  it('VLAN: a tagged frame arrives only while its id is in the filter', async () => {
    await guest.driver.setReceiveMode(ControlRx.PROMISC, false);
    expect(await arrives('tagged')).toBe(false);
    await guest.driver.addVlan(VLAN);
    expect(await arrives('tagged')).toBe(true);
    await guest.driver.removeVlan(VLAN);
    expect(await arrives('tagged')).toBe(false);
  });

  it('MQ: the second pair receives only once it is in use, and not after it is given up', async () => {
    await guest.post(1);
    const spread = async () => {
      const [got, total] = [[0, 0], 64];
      for (let i = 0; i < total; i++) await service.network.send([next++], { port: 20_000 + (next % 512) });
      await eventually('all frames', () => {
        for (const pair of [0, 1]) got[pair]! += guest.received(pair).length;
        return got[0]! + got[1]! >= total;
      });
      for (const pair of [0, 1]) await guest.post(pair);
      return got;
    };
    expect((await spread())[1]).toBe(0);
    await guest.driver.setQueuePairs(2);
    const both = await spread();
    expect(both[0]).toBeGreaterThan(0);
    expect(both[1]).toBeGreaterThan(0);
    await guest.driver.setQueuePairs(1);
    expect((await spread())[1]).toBe(0);
    await expect(guest.driver.setQueuePairs(3)).rejects.toThrow();
  });

  it('GUEST_OFFLOADS: checksums are left open only while the driver takes that', async () => {
    const openChecksum = async () => {
      const number = next++;
      await service.network.send([number]);
      return eventually('the frame', () => {
        const [got] = guest.driver.received(0);
        return got === undefined ? null : { open: (got.header.flags & 1) !== 0 };
      });
    };
    expect((await openChecksum()).open).toBe(true);
    await guest.driver.setOffloads(0n);
    expect((await openChecksum()).open).toBe(false);
    await guest.driver.setOffloads(featureMask([NetFeature.GUEST_CSUM]));
    expect((await openChecksum()).open).toBe(true);
  });

  it('ANNOUNCE: acknowledged although nothing was asked', async () => {
    await guest.driver.acknowledgeAnnouncement();
  });

  it('offloads follow what the driver accepted, and not what was offered', async () => {
    guest.close();
    await start({ features: featureMask([NetFeature.CTRL_VQ]) });
    await service.network.send([next++]);
    const { header } = await eventually('the frame', () => guest.driver.received(0)[0] ?? null);
    expect(header.flags & 1).toBe(0);
  });

  it('the carrier follows the driver', async () => {
    const { network } = service;
    expect(network.hasCarrier(device.representor)).toBe(true);
    await guest.driver.stop();
    expect(network.hasCarrier(device.representor)).toBe(false);
  });

  it('a queue that was reset and set up anew goes on with frames', async () => {
    await guest.driver.restartQueue(1, 64);
    const from = service.network.seen.length;
    await guest.send([next++]);
    await eventually('the frame', () => service.network.seen.length > from);
    await guest.driver.restartQueue(0);
    await guest.post();
    expect(await arrives(plain)).toBe(true);
  });
});
