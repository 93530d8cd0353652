/**
 * moderation-switch-stage.ts: a driver that is interrupted as often as it is let, with dynamic moderation (DIM) and without.
 *
 * Theory
 *   Two functions that receive, one with DIM, and for each one that sends to it through the eswitch. Each pair has a driver
 *   (moderation-driver.ts), which sends at a given pace, or as fast as it can. A driver that is emulated, or fed by a kernel
 *   on the same processors, is busy all the time, wants no interrupts then, and gets none; this one receives what there is
 *   within microseconds. Driver and device have a processor each, and precedence over everything else on the machine.
 *   Who is not measured sleeps.
 *
 * Limits  Frames of one size.
 */
import { getPriority } from 'node:os';
import { Poller } from '@virtnet/host-linux';
import { Scene } from '../../test/lib/scene.ts';
import { type Hotplugged, Service } from '../../test/lib/service.ts';
import { sleep } from '../../test/lib/waiting.ts';
import { pinDatapath } from './datapath-stage.ts';
import { setPrecedence, threadNamed } from './machine-state.ts';
import { frameBetween, StreamDriver } from './moderation-driver.ts';
import { type ModerationSide, type Received, sides } from './moderation-stage.ts';

const QUEUE_SIZE = 1_024;
const WARM_MS = 300;
/** The last frames have arrived. */
const SETTLE_MS = 20;
const DATAPATH_THREAD = 'datapath-0';

export interface PacedLoad {
  readonly bytes: number;
  readonly framesPerMs: number;
}

type Drivers = Readonly<Record<ModerationSide, StreamDriver>>;

export class SwitchModerationStage {
  readonly #scene: Scene;
  readonly #drivers: Drivers;

  private constructor(scene: Scene, drivers: Drivers) {
    this.#scene = scene;
    this.#drivers = drivers;
  }

  /** `processors`: of the driver, and of the device. */
  static async open(load: PacedLoad, processors: readonly [number, number]): Promise<SwitchModerationStage> {
    const scene = await Scene.open();
    try {
      const service = await Service.start(scene, {
        conf: { eth_vq_workers: 1, software: { representor: 'eswitch' } },
      });
      await pinDatapath(scene, service, processors[1]);
      prefer(service);
      const poller = new Poller();
      poller.start();
      scene.atEnd(() => poller.stop());
      const start = async (side: ModerationSide): Promise<StreamDriver> => {
        const [to, from] = [await makeFunction(service, side, 1), await makeFunction(service, side, 2)];
        const driver = await StreamDriver.start({
          sockets: { receive: service.socket(to.bdf), transmit: service.socket(from.bdf) },
          poller,
          queueSize: QUEUE_SIZE,
          processor: processors[0],
          frame: frameBetween(from.mac, to.mac, load.bytes),
          framesPerMs: load.framesPerMs,
        });
        scene.atEnd(() => driver.end());
        return driver;
      };
      return new SwitchModerationStage(scene, { off: await start('off'), on: await start('on') });
    } catch (error) {
      process.stderr.write(`${scene.lastWords()}\n`);
      await scene.end();
      throw error;
    }
  }

  /** Ends everything; what was left behind, in words. */
  close(): Promise<string[]> {
    return this.#scene.end();
  }

  /** One stream for `seconds`. */
  async stream(side: ModerationSide, seconds: number): Promise<Received> {
    const driver = this.#drivers[side];
    driver.go(true);
    await sleep(WARM_MS);
    const [before, from] = [driver.counts, performance.now()];
    await sleep(seconds * 1_000);
    const [after, to] = [driver.counts, performance.now()];
    driver.go(false);
    await sleep(SETTLE_MS);
    const lasted = (to - from) / 1_000;
    return {
      interrupts: (after.interrupts - before.interrupts) / lasted,
      frames: (after.received - before.received) / lasted,
      bits: ((after.bytes - before.bytes) * 8) / lasted,
    };
  }
}

/** The driver's thread is one of this process. */
function prefer(service: Service): void {
  const own = getPriority();
  const pid = service.runningPid('emu');
  for (const of of [
    { pid: process.pid, thread: process.pid },
    { pid, thread: threadNamed(pid, DATAPATH_THREAD) },
  ])
    setPrecedence(of, own);
}

async function makeFunction(service: Service, side: ModerationSide, part: number): Promise<Hotplugged> {
  const mac = `02:00:00:00:0${sides.indexOf(side)}:0${part}`;
  const device = await service.hotplug({ mac, queues: 3, queueSize: QUEUE_SIZE });
  if (device.errno !== 0) throw new Error(`hotplug: ${device.errstr}`);
  await service.answer('modify', '-u', device.vuid, 'device', '-dim', side === 'on' ? 'enable' : 'disable');
  return device;
}
