/** The state keeper is killed with messages that it has not read, alone and together with who sent them. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { EmulatorService, eventually } from './emulator-service.fixture.js';
import { Guest } from './guest.fixture.js';
import { namespaceObstacle } from './network.fixture.js';

const obstacle = namespaceObstacle();
const FRAMES = [0, 1, 2, 3, 4, 5, 6, 7];

describe.skipIf(obstacle !== null)(`state keeper killed${obstacle ? `: ${obstacle}` : ''}`, () => {
  let service: EmulatorService;

  beforeEach(async () => {
    service = await EmulatorService.start();
  }, 60_000);
  afterEach(() => service.end());

  it('in the same instant as the active emulator, having read nothing of what that did last > the standby knows it', async () => {
    const removed = await service.hotplug({ mac: '0C:C4:7A:FF:22:01' });
    service.stopKeeper();
    // All of this is answered: the kernel has what the keeper was told.
    expect(await service.unplug(removed.id)).toMatchObject({ errno: 0 });
    const device = await service.hotplug({ mac: '0C:C4:7A:FF:22:02' });
    service.network.address(device.representor, device.mac);
    await service.network.listen();
    const guest = await Guest.start(service, device, { events: 4 });
    await Promise.all([service.killKeeper(), service.killAndForget()]);
    await service.promote();
    expect((await service.list()).devices).toMatchObject([{ mac: device.mac }]);
    await guest.send(FRAMES);
    await eventually('its frames', () => service.network.seen.length >= FRAMES.length);
    await guest.post();
    await service.network.send(FRAMES);
    const received: number[] = [];
    await eventually('frames for it', () => received.push(...guest.received()) >= FRAMES.length);
    expect(received).toEqual(FRAMES);
    guest.close();
    await service.replaceKeeper();
    const records = (await service.shelved('dev/')).filter((name) => name.endsWith('/record'));
    expect(records).toEqual([`dev/${device.vuid}/record`]);
  }, 60_000);

  it('alone > the active emulator notices although others hold the end of its connection, and answers when the next one knows', async () => {
    service.stopKeeper();
    const first = await service.hotplug({ mac: '0C:C4:7A:FF:22:01' });
    await service.killKeeper();
    let answered = false;
    const second = service.hotplug({ mac: '0C:C4:7A:FF:22:02' }).then((device) => {
      answered = true;
      return device;
    });
    await sleep(500);
    expect(answered).toBe(false);
    await service.replaceKeeper();
    const { vuid } = await second;
    for (const each of [first.vuid, vuid])
      expect(await service.shelved(`dev/${each}/record`)).toHaveLength(1);
    await service.killActive();
    expect((await service.list()).devices).toHaveLength(2);
  }, 60_000);
});
