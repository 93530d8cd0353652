import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { EmulatorService, eventually, type Hotplugged } from './emulator-service.fixture.js';
import { Guest } from './guest.fixture.js';
import { mortal, namespaceObstacle } from './network.fixture.js';

const obstacle = namespaceObstacle();
const clientFile = fileURLToPath(new URL('../../dist/emulator/client-process.fixture.js', import.meta.url));
/** Clients killed; VIRTNET_CLIENT_KILLS=10000 for a run over night. */
const KILLS = Number(process.env.VIRTNET_CLIENT_KILLS ?? 200);
const FUNCTIONS = 12;
/** Processes being started while others are used: starting one takes longer than all the rest. */
const AHEAD = 2;
const RUN_MS = 60_000 + KILLS * 200;

describe.skipIf(obstacle !== null)(`clients killed${obstacle ? `: ${obstacle}` : ''}`, () => {
  let service: EmulatorService;
  const devices: Hotplugged[] = [];
  beforeAll(async () => {
    service = await EmulatorService.start();
    for (let i = 0; i < FUNCTIONS; i++)
      devices.push(await service.hotplug({ mac: `02:00:00:00:01:${10 + i}` }));
  }, 60_000);
  afterAll(() => service.end());

  /** What keeper, active emulator and standby hold when no client is there. */
  async function idle() {
    await eventually('the shelf without clients', async () => {
      const names = await service.shelved('dev/');
      return !names.some((name) => /\/(connection|dma|irq|kick)(\/|$)/.test(name));
    });
    let last = '';
    await eventually('calm', async () => {
      const now = JSON.stringify(service.holdings());
      const calm = now === last;
      last = now;
      await sleep(30);
      return calm;
    });
    return service.holdings();
  }

  /** A process that waits for its word to begin. */
  function start(): ChildProcess {
    const command = [process.execPath, clientFile, ...devices.map(({ socket }) => socket)];
    return spawn('setpriv', mortal(command), { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
  }

  /** Lets the process begin, and kills it so many milliseconds after all its clients were at work once. */
  async function run(client: ChildProcess, afterMs: number): Promise<void> {
    client.send('go');
    await once(client, 'message');
    await sleep(afterMs);
    const exit = once(client, 'exit');
    client.kill('SIGKILL');
    await exit;
  }

  it(
    `${KILLS} clients killed in the middle of everything: descriptors and mappings of all processes stay the same`,
    async () => {
      await run(start(), 10); // whatever is made once is made now
      const before = await idle();
      const waiting: ChildProcess[] = [];
      let killed = 0;
      while (killed < KILLS) {
        while (waiting.length < AHEAD) waiting.push(start());
        await run(waiting.shift()!, killed % 17);
        killed += FUNCTIONS;
      }
      for (const client of waiting) await run(client, 0);
      expect(await idle()).toEqual(before);
      const { pid } = service.active;
      expect([service.active.child.exitCode, pid]).toEqual([null, pid]);
      console.log(`${killed + (AHEAD + 1) * FUNCTIONS} clients killed; held: ${JSON.stringify(before)}`);
    },
    RUN_MS,
  );

  it('every function still serves', async () => {
    for (const device of devices) {
      const guest = await Guest.start(service, device);
      await guest.send([1, 2, 3]);
      await eventually('completions', () => {
        guest.reap();
        return guest.driver.ring(1).outstanding === 0;
      });
      guest.close();
    }
  });

  it('the emulator killed together with its clients: the successor lets go of everything', async () => {
    const before = await idle();
    const client = start();
    client.send('go');
    await once(client, 'message');
    const exit = once(client, 'exit');
    client.kill('SIGKILL');
    await Promise.all([service.killActive(), exit]);
    await service.startStandby();
    const after = await idle();
    expect(after.map(({ shared }) => shared)).toEqual(before.map(({ shared }) => shared));
    // The successor keeps nothing of the standby it was but what every active emulator has.
    for (const [i, { descriptors }] of after.entries())
      expect(Math.abs(descriptors - before[i]!.descriptors)).toBeLessThanOrEqual(3);
  });
});
