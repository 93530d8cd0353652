/** Several datapath threads at work at once: pairs of several functions, spread over them. */
import { readdirSync, readFileSync } from 'node:fs';
import { DEFAULT_CONF } from '@virtnet/engine-control';
import { ControlRx } from '@virtnet/wire';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { EmulatorService, eventually } from './emulator-service.fixture.js';
import { Guest } from './guest.fixture.js';
import { namespaceObstacle } from './network.fixture.js';
import { type Judgement, PairStreams, type Stream } from './pair-streams.fixture.js';

const obstacle = namespaceObstacle();
const BRIDGE = 'br0';
const FUNCTIONS = 3;
const PAIRS = 2;
const PORTS = 8;
const FRAMES = 50;
const range = (from: number, count: number) => Array.from({ length: count }, (_, i) => from + i);
const macOf = (index: number) => `0C:C4:7A:FF:23:0${index}`;
const addressOf = (index: number) => `10.9.0.1${index}`;

/** Processor time that each datapath thread of a process has used, in nanoseconds, by the thread's name. */
function datapathTimes(pid: number): Record<string, number> {
  const tasks = `/proc/${pid}/task`;
  const threads = readdirSync(tasks).map((task) => {
    const name = readFileSync(`${tasks}/${task}/comm`, 'utf8').trim();
    return [name, Number(readFileSync(`${tasks}/${task}/schedstat`, 'latin1').split(' ')[0])] as const;
  });
  return Object.fromEntries(threads.filter(([name]) => name.startsWith('datapath-')));
}

describe.skipIf(obstacle !== null).each([2, 3])(
  `eth_vq_workers %i${obstacle ? `: ${obstacle}` : ''}`,
  (workers) => {
    let service: EmulatorService;
    const guests: Guest[] = [];

    beforeAll(async () => {
      const conf = { ...DEFAULT_CONF, eth_vq_workers: workers };
      service = await EmulatorService.start({ workers: null, conf });
      const { network } = service;
      const devices = [];
      for (const index of range(0, FUNCTIONS))
        devices.push(await service.hotplug({ mac: macOf(index), queuePairs: PAIRS }));
      network.bridge(
        BRIDGE,
        devices.map(({ representor }) => representor),
        macOf(0),
      );
      await network.listen();
      for (const [index, device] of devices.entries()) {
        network.neighbour(BRIDGE, addressOf(index), device.mac);
        const guest = await Guest.start(service, device, { hostInterface: BRIDGE });
        guests.push(guest);
        await guest.driver.setQueuePairs(PAIRS);
        // What a bridge sends to everybody, since it does not know yet where a station is, is the others' concern.
        await guest.driver.setReceiveMode(ControlRx.PROMISC, false);
      }
    }, 60_000);
    afterAll(async () => {
      for (const guest of guests) guest.close();
      await service.end();
    });

    it('every thread moves frames of every pair’s queues; kill -9 of the emulator loses or repeats at most one frame a queue', async () => {
      const streams = new PairStreams(service.network);
      const pairs = guests.flatMap((guest) => range(0, PAIRS).map((pair) => ({ guest, pair })));
      const transmitters = pairs.map(({ guest, pair }) => streams.transmit(guest, pair));
      const receivers = pairs.map(({ guest, pair }) => streams.receive(guest, pair));
      const fed = guests.map((_, index) => streams.feed(addressOf(index), range(20_000, PORTS)));
      const counts = () => [
        ...transmitters.map(({ stream }) => stream.arrived.length),
        ...receivers.map(({ frames }) => frames),
      ];
      /** Frames of every queue, by every thread of the emulator that is active now. */
      const allMove = async () => {
        const [before, times] = [counts(), datapathTimes(service.active.pid)];
        await eventually('frames of every queue', () =>
          counts().every((frames, i) => frames - before[i]! >= FRAMES),
        );
        const worked = Object.entries(datapathTimes(service.active.pid));
        const busy = worked.filter(([name, time]) => time > times[name]!).map(([name]) => name);
        expect(busy.sort()).toEqual(range(0, workers).map((index) => `datapath-${index}`));
      };

      await allMove();
      await service.killActive();
      await allMove();
      await streams.finish();

      const sum = (judged: readonly Judgement[]) =>
        judged.reduce((total, { lost, repeated }) => total + lost.length + repeated.length, 0);
      const judge = (all: readonly Stream[]) => all.map((stream) => stream.judge());
      const out = judge(transmitters.map(({ stream }) => stream));
      const back = fed.map(judge);
      const text = JSON.stringify({
        workers,
        sent: transmitters.map(({ stream }) => stream.sent),
        out,
        back,
      });
      for (const judged of out) {
        expect(sum([judged]), text).toBeLessThanOrEqual(1);
        // The second of two equal ones is out of place.
        expect(judged.disordered, text).toBeLessThanOrEqual(judged.repeated.length);
      }
      for (const judged of back) expect(sum(judged), text).toBeLessThanOrEqual(PAIRS);
      for (const guest of guests) expect([guest.ends, await guest.needsReset()]).toEqual([[], false]);
    }, 120_000);
  },
);
