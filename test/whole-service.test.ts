/** Everything of the service is killed at once, and a service manager starts it again with the descriptors it kept. */
import { describe, expect, test } from 'vitest';
import { BoundFunction } from './lib/bound-function.ts';
import { udpFrame } from './lib/frames.ts';
import { managedService } from './lib/managed.ts';
import { isRunning, signalPid } from './lib/processes.ts';
import { type Arrival, analyseStream } from './lib/stream-analysis.ts';
import {
  readStreamPacket,
  STREAM_PACKET_BYTES,
  wallClockUs,
  writeStreamPacket,
} from './lib/stream-packet.ts';
import { HostStream, parseArrivals, SPACING_US } from './lib/streams.ts';
import { endsCleanly, useScene } from './lib/use-scene.ts';
import { sleep, until } from './lib/waiting.ts';

const MAC = '0C:C4:7A:FF:22:93';
const ADDRESS = '10.79.0.1';
const PEER_ADDRESS = '10.79.0.2';
const SEND_PORT = 7501;
const RECEIVE_PORT = 7502;
const QUEUE_SIZE = 256;
const UDP_PAYLOAD_AT = 42;
const KILLS = 3;
/** A restart takes a second; on a machine at ten times its load, twenty. */
const PATIENCE_MS = 60_000;

describe('kill -9 of the whole service, under a service manager', () => {
  const used = useScene(async (scene) => {
    const { manager, service } = await managedService(scene);
    const device = await service.hotplug({ mac: MAC, queueSize: QUEUE_SIZE });
    const representor = device.sf_rep_net_device;
    await scene.net.ip(`addr add ${ADDRESS}/24 dev ${representor}`);
    await scene.net.ip(`link set ${representor} up`);
    await scene.net.ip(`neigh add ${PEER_ADDRESS} lladdr ${MAC} dev ${representor} nud permanent`);
    const { address } = await scene.net.waitForLink(representor);
    return { scene, manager, service, device, representorMac: address };
  });

  /** The controller asks for a new start, after which the device is there. */
  async function comesBackWhole(): Promise<void> {
    const { manager, service } = used.value;
    expect(await manager.exited).toBe(75);
    manager.start();
    await manager.ready();
    expect((await service.query()).mac).toBe(MAC);
  }

  test('under streams both ways > the client keeps its socket, the device goes on; one frame per queue and kill', async () => {
    const { scene, manager, service, device, representorMac } = used.value;
    const { processes, net } = scene;
    const before = (await net.links()).find(({ ifname }) => ifname === device.sf_rep_net_device);
    const unused = manager.names().length;
    const fn = await BoundFunction.open(service.socket(device.bdf), PATIENCE_MS);
    const driver = await fn.start({ queueSize: QUEUE_SIZE });
    await driver.postReceive(0, QUEUE_SIZE);
    const receiver = await HostStream.start(processes, net, ['receive', `${RECEIVE_PORT}`]);
    const sender = await HostStream.start(processes, net, [
      ...['send', PEER_ADDRESS, `${SEND_PORT}`, `${SPACING_US}`, '64'],
    ]);
    const arrived: Arrival[] = [];
    let transmitted = 0;
    const take = async (): Promise<void> => {
      const received = driver.received(0);
      for (const { frame } of received) {
        const packet = readStreamPacket(Buffer.from(frame.subarray(UDP_PAYLOAD_AT)));
        if (packet !== null) arrived.push({ ...packet, arrivedUs: wallClockUs() });
      }
      if (received.length > 0) await driver.postReceive(0, received.length);
      driver.ring(1).collect();
    };
    let going = true;
    const traffic = (async () => {
      while (going) {
        if (await driver.transmit(0, numberedFrame(representorMac, transmitted))) transmitted += 1;
        await take();
        await sleep(1);
      }
    })();
    let killedAt = 0;
    for (let kill = 0; kill < KILLS; kill++) {
      await sleep(150);
      await manager.killGroup();
      killedAt = performance.now();
      manager.start();
      await manager.ready();
    }
    const startedAt = performance.now() - (await service.active()).uptimeMs;
    await sleep(100);
    going = false;
    await traffic;
    const sent = Number((await sender.finish()).split(' ')[0]);
    await until('all transmitted frames were taken', 5_000, async () => {
      await take();
      return driver.ring(1).outstanding === 0;
    });
    // While nobody reads the representor it keeps a queue of packets; what is past that is lost by the network.
    const toDriver = analyseStream(arrived, 0, sent);
    const fromDriver = analyseStream(parseArrivals(await receiver.finish()), 0, transmitted);
    expect(
      fromDriver.lost.length + fromDriver.duplicated.length,
      JSON.stringify(fromDriver),
    ).toBeLessThanOrEqual(KILLS);
    expect(fromDriver.reordered).toBe(0);
    expect(toDriver.duplicated.length).toBeLessThanOrEqual(KILLS);
    expect(toDriver.reordered).toBe(0);
    const health = await service.health();
    expect(health).toMatchObject({ health_status: 'Good', health_recover_counter: KILLS });
    // Nobody lived who could have seen why they died, or when: the pause goes from the last sign of life past the new start.
    expect(health.recovery.last_cause).toBe('crash');
    expect(health.recovery.last_pause_ms).toBeGreaterThanOrEqual(startedAt - killedAt);
    const after = (await net.links()).find(({ ifname }) => ifname === device.sf_rep_net_device);
    expect(after?.ifindex).toBe(before?.ifindex);
    // The connection of before still answers, and the driver can end by it.
    await driver.stop();
    await fn.close();
    await until('nothing of the client is kept any more', 5_000, () => manager.names().length === unused);
  }, 240_000);

  test('emulators and keeper killed at once, controller alive > it asks for a new start; no device is lost', async () => {
    const { service } = used.value;
    await until('a standby', PATIENCE_MS, () => service.pid('emu-standby'));
    const pids = (['emu-standby', 'ha', 'emu'] as const).map((role) => service.runningPid(role));
    // It must not start a successor of the first before the last is dead.
    const controller = service.runningPid('controller');
    signalPid(controller, 'SIGSTOP');
    for (const pid of pids) signalPid(pid, 'SIGKILL');
    await until('all of them are dead', PATIENCE_MS, () => !pids.some(isRunning));
    signalPid(controller, 'SIGCONT');
    await comesBackWhole();
  }, 180_000);

  test('the same, and a new keeper is there already that nobody has told anything > the same', async () => {
    const { service } = used.value;
    await until('a standby', PATIENCE_MS, () => service.pid('emu-standby'));
    const keeper = service.runningPid('ha');
    const emulators = (['emu-standby', 'emu'] as const).map((role) => service.runningPid(role));
    for (const pid of emulators) signalPid(pid, 'SIGSTOP');
    signalPid(keeper, 'SIGKILL');
    await until('a new keeper', PATIENCE_MS, () => (service.pid('ha') ?? keeper) !== keeper);
    for (const pid of emulators) signalPid(pid, 'SIGKILL');
    await comesBackWhole();
  }, 180_000);

  test('the same, and the new keeper has just been told everything > the controller goes on with it', async () => {
    const { manager, service } = used.value;
    const controller = service.runningPid('controller');
    // The controller looks at a keeper from time to time: mostly what it last saw is one that had nothing yet.
    for (let round = 0; round < 5; round++) {
      await until('a standby', PATIENCE_MS, () => service.pid('emu-standby'));
      const keeper = service.runningPid('ha');
      const emulators = (['emu-standby', 'emu'] as const).map((role) => service.runningPid(role));
      signalPid(keeper, 'SIGKILL');
      const isOther = () => (service.pid('ha') ?? keeper) !== keeper;
      await until('a keeper that knows all', PATIENCE_MS, async () => isOther() && service.keeperKnowsAll());
      for (const pid of emulators) signalPid(pid, 'SIGKILL');
      await until('a successor', PATIENCE_MS, () => {
        const pid = service.pid('emu');
        return pid !== null && !emulators.includes(pid);
      });
      expect((await service.query()).mac).toBe(MAC);
      expect([service.runningPid('controller'), manager.pid]).toEqual([controller, controller]);
    }
  }, 180_000);

  test('the same, and a standby has taken over of which the controller has not heard that it is ready > it goes on with that one', async () => {
    const { manager, service } = used.value;
    const controller = service.runningPid('controller');
    await until('a standby', PATIENCE_MS, () => service.pid('emu-standby'));
    const [former, keeper, emulator] = (['emu-standby', 'ha', 'emu'] as const).map((role) =>
      service.runningPid(role),
    ) as [number, number, number];
    signalPid(former, 'SIGKILL');
    const heir = await until('another standby that starts', PATIENCE_MS, () => {
      const pid = service.pid('emu-standby');
      return pid !== null && ![former, emulator].includes(pid) ? pid : null;
    });
    signalPid(controller, 'SIGSTOP');
    const isHeir = (role: 'standby' | 'active') => async () =>
      (await service.emulators()).some(({ pid, ...is }) => pid === heir && is.role === role && is.ready);
    await until('a warm standby', PATIENCE_MS, isHeir('standby'));
    signalPid(emulator, 'SIGKILL');
    await until('a successor', PATIENCE_MS, isHeir('active'));
    signalPid(keeper, 'SIGKILL');
    await until('both are dead', PATIENCE_MS, () => ![emulator, keeper].some(isRunning));
    signalPid(controller, 'SIGCONT');
    await until('a keeper that knows all', PATIENCE_MS, () => service.keeperKnowsAll());
    expect([service.runningPid('emu'), service.runningPid('controller')]).toEqual([heir, manager.pid]);
    expect(manager.pid).toBe(controller);
    expect((await service.query()).mac).toBe(MAC);
  }, 180_000);

  test('everything killed while a new keeper is being told > no device is lost, at whatever instant', async () => {
    const { manager, service } = used.value;
    for (let delayMs = 110; delayMs <= 250; delayMs += 20) {
      await until('a standby', PATIENCE_MS, () => service.pid('emu-standby'));
      signalPid(service.runningPid('ha'), 'SIGKILL');
      await sleep(delayMs);
      await manager.killGroup();
      manager.start();
      await manager.ready();
      expect((await service.query()).mac, `after ${delayMs} ms`).toBe(MAC);
    }
  }, 180_000);

  test('everything killed, and the keeper again before an emulator was told what was restored > another new start', async () => {
    const { manager, service } = used.value;
    await until('a standby', PATIENCE_MS, () => service.pid('emu-standby'));
    await manager.killGroup();
    manager.start();
    const emulator = await until('a new emulator', PATIENCE_MS, () => service.pid('emu'), 1);
    signalPid(emulator, 'SIGSTOP');
    await until('everything on the new keeper', PATIENCE_MS, async () => {
      const keeper = await service.keeper();
      return keeper?.settled && keeper.entries > 0 && keeper.leaseHolderPid === null;
    });
    signalPid(service.runningPid('ha'), 'SIGKILL');
    signalPid(emulator, 'SIGCONT');
    await comesBackWhole();
  }, 180_000);

  test('stopped and started again, as by systemctl restart > the devices are still there', async () => {
    const { manager, service } = used.value;
    expect(await manager.stop()).toBe(0);
    await until('STOPPING=1', PATIENCE_MS, () => manager.hasSaid('STOPPING=1'));
    manager.start();
    await manager.ready();
    expect((await service.query()).mac).toBe(MAC);
    expect((await service.health()).recovery).toMatchObject({ last_cause: 'exit', datapath: 'idle' });
  }, 180_000);

  test('unplugged > nothing of the device is kept any more', async () => {
    const { manager, service } = used.value;
    expect((await service.virtnet('unplug', '-p', '0')).code).toBe(0);
    await until('nothing but the log', 5_000, () => manager.names().length === 2);
    expect(manager.names()).toEqual(['virtnet-log-0', 'virtnet-log-1']);
  });

  endsCleanly(used);
});

function numberedFrame(destinationMac: string, sequence: number): Buffer {
  const payload = Buffer.alloc(STREAM_PACKET_BYTES + 20);
  writeStreamPacket(payload, sequence, wallClockUs());
  const addresses = { source: PEER_ADDRESS, destination: ADDRESS };
  return udpFrame({ ...addresses, sourceMac: MAC, destinationMac, port: RECEIVE_PORT, payload });
}
