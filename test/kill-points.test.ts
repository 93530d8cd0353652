/**
 * The active emulator dies before and after each step of what it is asked: the caller is answered, the effect is there once.
 * VIRTNET_TEST_ALL_KILL_POINTS=1 walks every point, and every byte of a message, which takes five times as long.
 */
import { readdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { close, memfdCreate } from '@virtnet/host-linux';
import { VfioUserCommand, VfioUserDmaFlags, VfioUserDmaMap, VfioUserDmaUnmap } from '@virtnet/wire';
import { describe, expect, test } from 'vitest';
import { BoundFunction } from './lib/bound-function.ts';
import { macBytes } from './lib/frames.ts';
import { ALL_KILL_POINTS, killAtEveryPoint, killPointsEnv, WALK_TIMEOUT_MS } from './lib/kill-points.ts';
import { ONE_STATIC_PF, STATIC_PF } from './lib/one-static-pf.ts';
import { RawVfioUser, rawRequest } from './lib/raw-vfio-user.ts';
import { parseAnswer, Service } from './lib/service.ts';
import { endsCleanly, useScene } from './lib/use-scene.ts';
import { sleep, until } from './lib/waiting.ts';

const MAC = '0C:C4:7A:FF:22:A1';
const OTHER_MAC = '0C:C4:7A:FF:22:A2';
const IDLE_MAC = '0C:C4:7A:FF:22:A3';
const GUEST_MAC = '0C:C4:7A:FF:22:A4';
const QUEUE_SIZE = 64;
const PATIENCE_MS = 60_000;
/** In this time what was sent is read, if it is. */
const READ_MS = 5;
const SUCCESS = { errno: 0, errstr: 'Success' };

const VFS = 2;

interface Listed {
  readonly devices: readonly { readonly mac: string; readonly function_type: string }[];
}

describe('kill -9 at each step', () => {
  const used = useScene(async (scene) => {
    const service = await Service.start(scene, { env: killPointsEnv(scene) });
    await service.bootWith(ONE_STATIC_PF);
    const device = await service.hotplug({ mac: MAC, queueSize: QUEUE_SIZE });
    const idle = await service.hotplug({ mac: IDLE_MAC, queueSize: QUEUE_SIZE });
    const fn = await BoundFunction.open(service.socket(device.bdf), PATIENCE_MS);
    const driver = await fn.start({ queueSize: QUEUE_SIZE });
    await service.recovered(-1);
    return { service, fn, driver, device, idle };
  });
  const walk = (action: () => Promise<void>, check: (where: string) => Promise<void>) =>
    killAtEveryPoint(used.scene, used.value.service, action, check);

  test(
    'of a vfio-user request: memory is mapped once and unmapped once',
    async () => {
      const { client } = used.value.fn;
      const range = { iova: 0x20_0000_0000n, sizeBytes: 65_536 };
      const fd = memfdCreate('more', range.sizeBytes);
      const died = await walk(
        async () => {
          // Done twice, each of them would be refused.
          await client.dmaMap({ ...range, fd, fdOffset: 0, readable: true, writable: true });
          await client.dmaUnmap(range);
        },
        async () => {
          await expect(client.dmaUnmap(range)).rejects.toThrow();
        },
      );
      close(fd);
      expect(died.length, died.join(', ')).toBeGreaterThanOrEqual(4);
    },
    WALK_TIMEOUT_MS,
  );

  test(
    'after k bytes of a vfio-user request: its successor takes the rest, once',
    async () => {
      const { service, idle } = used.value;
      const client = await RawVfioUser.open(service.socket(idle.bdf), PATIENCE_MS);
      const [iova, sizeBytes] = [0x20_0000_0000n, 65_536];
      const range = { iova, sizeBytes: BigInt(sizeBytes) };
      const fd = memfdCreate('more', sizeBytes);
      let messageId = 0;
      const mapping = (): Uint8Array => {
        const flags = VfioUserDmaFlags.READ | VfioUserDmaFlags.WRITE;
        const body = { ...range, argsz: VfioUserDmaMap.sizeBytes, flags, fdOffset: 0n };
        return rawRequest(++messageId, VfioUserCommand.DMA_MAP, VfioUserDmaMap.bytes(body));
      };
      const unmapping = (): Uint8Array => {
        const body = { ...range, argsz: VfioUserDmaUnmap.sizeBytes, flags: 0 };
        return rawRequest(++messageId, VfioUserCommand.DMA_UNMAP, VfioUserDmaUnmap.bytes(body));
      };
      const { length } = mapping();
      const every = Array.from({ length: length - 1 }, (_, index) => index + 1);
      const some = [1, 15, 16, 17, length - 1];
      for (const bytes of ALL_KILL_POINTS ? every : some) {
        const message = mapping();
        client.send(message.subarray(0, bytes), [fd]);
        await sleep(READ_MS);
        const { pid } = service.killEmu();
        client.send(message.subarray(bytes));
        expect(await client.reply(PATIENCE_MS), `${bytes} bytes`).toEqual({ messageId, errno: 0 });
        await service.recovered(pid);
        // Done twice, the second one would be refused.
        client.send(unmapping());
        expect(await client.reply(PATIENCE_MS), `${bytes} bytes`).toEqual({ messageId, errno: 0 });
        expect(client.pending).toBe(0);
      }
      client.close();
      close(fd);
    },
    WALK_TIMEOUT_MS,
  );

  test(
    'of a control-queue command: acknowledged once, in force, and recorded',
    async () => {
      const { driver, service, device } = used.value;
      let mac = MAC;
      const died = await walk(
        async () => {
          mac = mac === MAC ? OTHER_MAC : MAC;
          await driver.setMac(macBytes(mac));
        },
        async (where) => {
          expect(driver.ring(driver.controlIndex!).collect(), where).toEqual([]);
          expect((await service.query(device.id)).ctrl_mac, where).toBe(mac);
          const { mac0, mac1, mac2, mac3, mac4, mac5 } = await driver.config();
          expect(Buffer.from([mac0, mac1, mac2, mac3, mac4, mac5]), where).toEqual(macBytes(mac));
        },
      );
      expect(died.length, died.join(', ')).toBeGreaterThanOrEqual(4);
    },
    WALK_TIMEOUT_MS,
  );

  test(
    'of hotplug and unplug: one device more, then one less, and nothing is left of it',
    async () => {
      const { service } = used.value;
      const macs = async () => (await service.answer<Listed>('list')).devices.map((device) => device.mac);
      const before = await macs();
      const links = (await used.scene.net.links()).length;
      const died = await walk(
        async () => {
          const device = await service.hotplug({ mac: GUEST_MAC, queueSize: QUEUE_SIZE });
          expect(device).toMatchObject({ ...SUCCESS, mac: GUEST_MAC });
          expect(await macs()).toEqual([...before, GUEST_MAC]);
          const { stdout } = await service.virtnet('unplug', '-p', `${device.id}`);
          expect(parseAnswer(stdout)).toEqual(SUCCESS);
        },
        async (where) => {
          expect(await macs(), where).toEqual(before);
          await until(`its representor is gone (${where})`, PATIENCE_MS, async () => {
            return (await used.scene.net.links()).length === links;
          });
        },
      );
      expect(died.length, died.join(', ')).toBeGreaterThanOrEqual(6);
    },
    WALK_TIMEOUT_MS,
  );

  test(
    'of VFs that are made and destroyed: all or none, each with a socket, answered with success',
    async () => {
      const { service } = used.value;
      const vfs = async () =>
        (await service.answer<Listed>('list')).devices.filter(({ function_type }) => function_type === 'VF');
      const ask = async (count: number) => {
        const { stdout } = await service.host('sriov', STATIC_PF, `${count}`);
        expect(parseAnswer(stdout)).toMatchObject(SUCCESS);
        expect(await vfs()).toHaveLength(count);
        expect(readdirSync(dirname(service.socket(STATIC_PF)))).toHaveLength(3 + count);
      };
      const died = await walk(
        async () => {
          await ask(VFS);
          await ask(0);
        },
        async (where) => {
          expect(await vfs(), where).toEqual([]);
        },
      );
      expect(died.length, died.join(', ')).toBeGreaterThanOrEqual(4);
    },
    WALK_TIMEOUT_MS,
  );

  test(
    'of modify: answered with success, and the device is what was asked for',
    async () => {
      const { service, idle } = used.value;
      let pairs = 1;
      const died = await walk(
        async () => {
          pairs = 3 - pairs;
          const { stdout } = await service.virtnet(
            ...['modify', '-u', idle.vuid, 'device', '-qp', `${pairs}`, '-t', `${1000 + pairs}`],
          );
          expect(parseAnswer(stdout)).toEqual(SUCCESS);
        },
        async (where) => {
          expect(await service.query(idle.id), where).toMatchObject({
            mtu: `${1000 + pairs}`,
            max_queue_pairs: `${pairs}`,
          });
          expect((await used.scene.net.link(idle.sf_rep_net_device))?.mtu, where).toBe(1000 + pairs);
        },
      );
      expect(died.length, died.join(', ')).toBeGreaterThanOrEqual(4);
      const { driver, fn } = used.value;
      await driver.stop();
      await fn.close();
    },
    WALK_TIMEOUT_MS,
  );

  describe('with virtio_net loaded', () => {
    const host = async (...words: string[]) => {
      const { stdout, stderr } = await used.value.service.host(...words);
      expect(parseAnswer(stdout), stderr).toMatchObject(SUCCESS);
    };
    const bound = async () => {
      const { stdout } = await used.value.service.host('lspci', '-k');
      return stdout.split('virtio-pci').length - 1;
    };
    const cards = async () => {
      const links = await used.scene.net.links();
      return links.filter(({ ifname }) => ifname.startsWith('vnet')).length;
    };
    const loaded = async () => {
      await host('modprobe', 'virtio_net');
      const before = await bound();
      expect(before).toBeGreaterThanOrEqual(2); // and what the tests before do not have in use
      expect(await cards()).toBe(before);
      return before;
    };
    const unloaded = async () => {
      await host('modprobe', '-r', 'virtio_net');
      expect([await bound(), await cards()]).toEqual([0, 0]);
    };

    test(
      'of VFs that are made and destroyed: each is an interface of the host',
      async () => {
        const before = await loaded();
        const died = await walk(
          async () => {
            await host('sriov', STATIC_PF, `${VFS}`);
            expect([await bound(), await cards()]).toEqual([before + VFS, before + VFS]);
            await host('sriov', STATIC_PF, '0');
          },
          async (where) => {
            expect([await bound(), await cards()], where).toEqual([before, before]);
          },
        );
        expect(died.length, died.join(', ')).toBeGreaterThanOrEqual(4);
        await unloaded();
      },
      WALK_TIMEOUT_MS,
    );

    test(
      'of hotplug, unbind and bind: answered with success, and there is an interface or none',
      async () => {
        const { service } = used.value;
        const before = await loaded();
        const died = await walk(
          async () => {
            const { bdf, id } = await service.hotplug({ mac: GUEST_MAC, queueSize: QUEUE_SIZE });
            await until('its interface', PATIENCE_MS, async () => (await cards()) === before + 1);
            await host('unbind', bdf, 'virtio-pci');
            expect([await bound(), await cards()]).toEqual([before, before]);
            await host('bind', bdf, 'virtio-pci');
            expect([await bound(), await cards()]).toEqual([before + 1, before + 1]);
            const { stdout } = await service.virtnet('unplug', '-p', `${id}`);
            expect(parseAnswer(stdout)).toEqual(SUCCESS);
          },
          async (where) => {
            await until(
              `its interface is gone (${where})`,
              PATIENCE_MS,
              async () => (await cards()) === before,
            );
            expect(await bound(), where).toBe(before);
          },
        );
        expect(died.length, died.join(', ')).toBeGreaterThanOrEqual(4);
        await unloaded();
      },
      2 * WALK_TIMEOUT_MS, // twice as many commands as another walk
    );
  });

  endsCleanly(used);
});
