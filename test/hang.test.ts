/** Who hangs is replaced; who is merely not let run on an overloaded machine is left alone. */
import { readFileSync } from 'node:fs';
import { getPriority } from 'node:os';
import { HANG_MS } from '@virtnet/engine-recovery';
import { describe, expect, test } from 'vitest';
import { BoundFunction } from './lib/bound-function.ts';
import { udpFrame } from './lib/frames.ts';
import { signalPid } from './lib/processes.ts';
import { Service } from './lib/service.ts';
import { endsCleanly, useScene } from './lib/use-scene.ts';
import { sleep, until } from './lib/waiting.ts';

/** How long the machine is overloaded; VIRTNET_TEST_LOAD_S changes it. */
const LOAD_S = Number(process.env.VIRTNET_TEST_LOAD_S ?? 8);
const BUSY_PROCESSES = 8;
/** The nice value of who starts while another serves. */
const BEHIND = 10;
const MAC = '0C:C4:7A:FF:22:93';
const ADDRESS = '10.80.0.1';
const PEER_ADDRESS = '10.80.0.2';
const QUEUE_SIZE = 256;
/** A client that waits, however slow the machine is. */
const PATIENCE_MS = 60_000;

describe('a process that stands still', () => {
  const used = useScene(async (scene) => {
    const service = await Service.start(scene);
    const device = await service.hotplug({ mac: MAC, queueSize: QUEUE_SIZE });
    await scene.net.ip(`link set ${device.sf_rep_net_device} up`);
    const { address } = await scene.net.waitForLink(device.sf_rep_net_device);
    const fn = await BoundFunction.open(service.socket(device.bdf), PATIENCE_MS);
    const driver = await fn.start({ queueSize: QUEUE_SIZE });
    const frame = udpFrame({
      source: PEER_ADDRESS,
      destination: ADDRESS,
      sourceMac: MAC,
      destinationMac: address,
      port: 7601,
      payload: Buffer.alloc(64),
    });
    let frames = 0;
    /** One frame through the device, and one question to its main thread. */
    const use = async (): Promise<void> => {
      expect(await driver.transmit(0, frame)).toBe(true);
      frames += 1;
      await until('the frame was taken', PATIENCE_MS, () => {
        driver.ring(1).collect();
        return driver.ring(1).outstanding === 0;
      });
      await driver.config();
    };
    const told = (word: string) => readFileSync(scene.path('controller.log'), 'utf8').split(word).length - 1;
    return { service, fn, driver, use, told, frames: () => frames };
  });

  test(
    'every processor is busy with others > nobody is taken for one that hangs',
    async () => {
      const { service, use, told, frames } = used.value;
      await until('a standby', PATIENCE_MS, () => service.pid('emu-standby'));
      const roles = ['emu', 'emu-standby', 'ha'] as const;
      const before = roles.map((role) => service.runningPid(role));
      const busy = Array.from({ length: BUSY_PROCESSES }, (_, index) =>
        used.scene.processes.start(['sh', '-c', 'while :; do :; done'], { name: `busy ${index}` }),
      );
      const end = performance.now() + LOAD_S * 1000;
      while (performance.now() < end) {
        await use();
        await sleep(5);
      }
      for (const child of busy) await child.end('SIGKILL');
      expect(frames()).toBeGreaterThan(0);
      expect(roles.map((role) => service.runningPid(role))).toEqual(before);
      expect(told('"hangs"')).toBe(0);
    },
    LOAD_S * 1000 + 120_000,
  );

  test('a standby starts behind everybody, and no longer than some seconds', async () => {
    const { service } = used.value;
    const killed = service.runningPid('emu-standby');
    signalPid(killed, 'SIGKILL');
    const started = await until('the next standby', PATIENCE_MS, () => {
      const pid = service.pid('emu-standby');
      return pid === killed ? null : pid;
    });
    signalPid(started, 'SIGSTOP'); // a start that takes long
    expect(getPriority(started)).toBe(BEHIND);
    await until('it starts among the others', PATIENCE_MS, () => getPriority(started) === 0);
    signalPid(started, 'SIGCONT');
    await until('a standby that goes before others', PATIENCE_MS, () => getPriority(started) < 0);
  });

  test('the active emulator is stopped under traffic > it is killed and succeeded, the driver goes on', async () => {
    const { service, use, told } = used.value;
    for (let kill = 1; kill <= 2; kill++) {
      const pid = service.runningPid('emu');
      signalPid(pid, 'SIGSTOP');
      await use();
      await service.recovered(pid);
      await until('the log tells of the end', PATIENCE_MS, () => told('"cause":"stopped"') >= kill);
      expect([told('"hangs"'), told('"cause":"stopped"')]).toEqual([kill, kill]);
    }
    const health = await service.healthAfter('stopped');
    expect(health).toMatchObject({ health_status: 'Good', health_recover_counter: 2 });
    // Nobody is killed as one that hangs before it stood still for that long, and that is part of the pause.
    expect(health.recovery.last_pause_ms).toBeGreaterThanOrEqual(HANG_MS);
    expect(health.recovery.max_pause_ms).toBeGreaterThanOrEqual(health.recovery.last_pause_ms);
    expect(health.recovery.datapath).toMatch(/^answers in \d+\.\d\d ms$/);
  }, 120_000);

  test('killed from outside > the cause is that, recorded for whoever comes next; the longest pause stays', async () => {
    const { service, use } = used.value;
    const before = await service.health();
    const { pid } = service.killEmu();
    await use();
    const { takeoverMs } = await service.recovered(pid);
    const after = await service.healthAfter('killed');
    expect(after.health_recover_counter).toBe(before.health_recover_counter + 1);
    expect(after.recovery.last_pause_ms).toBeGreaterThanOrEqual(takeoverMs!);
    expect(after.recovery.max_pause_ms).toBe(
      Math.max(before.recovery.max_pause_ms, after.recovery.last_pause_ms),
    );
    // A successor knows it all from the record alone.
    expect((await service.virtnet('restart')).code).toBe(0);
    const { datapath: _, ...moved } = (await service.health()).recovery;
    const { datapath: __, ...known } = after.recovery;
    expect(moved).toEqual(known);
  }, 120_000);

  test('emulator and standby killed at once > the pause includes the start of a successor', async () => {
    const { service, use } = used.value;
    await until('a standby', PATIENCE_MS, () => service.pid('emu-standby'));
    const { health_recover_counter: count } = await service.health();
    const dead = (['emu-standby', 'emu'] as const).map((role) => service.kill(role).pid);
    const killedAt = performance.now();
    await use();
    const successor = await until('a successor', PATIENCE_MS, async () =>
      (await service.emulators()).find(
        ({ role, ready, pid }) => role === 'active' && ready && !dead.includes(pid),
      ),
    );
    const startedAt = performance.now() - successor.uptimeMs;
    const health = await service.healthAfter('killed');
    expect(health.health_recover_counter).toBe(count + 1);
    expect(health.recovery.last_pause_ms).toBeGreaterThanOrEqual(startedAt - killedAt);
  }, 120_000);

  test(
    'the driver ends by the connection of before',
    async () => {
      const { driver, fn } = used.value;
      await driver.stop();
      await fn.close();
    },
    PATIENCE_MS,
  );

  endsCleanly(used);
});
