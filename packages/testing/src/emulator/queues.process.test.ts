/** Queues that are reset, and pairs that come and go, while frames are under way. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  ControlAck,
  ControlClass,
  ControlMq,
  descriptorAreaBytes,
  deviceAreaBytes,
  driverAreaBytes,
  featureMask,
  NetControlHeader,
  PackedEvent,
  packedDescriptorAreaBytes,
  VirtioFeature,
} from '@virtnet/wire';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { PackedDriver } from '../packed-driver.js';
import { POISON } from '../ring-driver.js';
import type { NetRing } from '../virtio-net-driver.js';
import { EmulatorService, eventually, type Hotplugged } from './emulator-service.fixture.js';
import { Guest } from './guest.fixture.js';
import { GUEST_ADDRESS, namespaceObstacle } from './network.fixture.js';
import { PairStreams, type Transmitter } from './pair-streams.fixture.js';

const obstacle = namespaceObstacle();
const PACKED = `0x${featureMask([VirtioFeature.RING_PACKED]).toString(16)}`;
/** Vectors for 31 pairs, the control queue, and changes of the configuration. */
const VECTORS = 64;
const PAIRS_MOST = 31;
const range = (from: number, count: number) => Array.from({ length: count }, (_, i) => from + i);
const FINE = { lost: [], repeated: [], disordered: 0 };

/** Fills everything of a ring that the device could write with what no device writes; returns the bytes, live. */
function poison(ring: NetRing): Uint8Array[] {
  const { queueSize, memory } = ring;
  const sizes =
    ring instanceof PackedDriver
      ? [packedDescriptorAreaBytes(queueSize), PackedEvent.sizeBytes, PackedEvent.sizeBytes]
      : [descriptorAreaBytes(queueSize), driverAreaBytes(queueSize), deviceAreaBytes(queueSize)];
  const addresses = [ring.descriptorAddress, ring.driverAddress, ring.deviceAddress];
  return addresses.map((address, i) => memory.slice(address, sizes[i]!).fill(POISON));
}

describe.skipIf(obstacle !== null)(`queues under traffic${obstacle ? `: ${obstacle}` : ''}`, () => {
  let service: EmulatorService;
  const guests: Guest<NetRing>[] = [];

  beforeAll(async () => {
    service = await EmulatorService.start({
      standby: false,
      firmware: { VIRTIO_NET_EMULATION_NUM_MSIX: VECTORS },
    });
    await service.network.listen();
  }, 60_000);
  afterAll(() => service.end());
  afterEach(async () => {
    for (const guest of guests.splice(0)) {
      guest.close();
      await service.unplug(guest.device.id);
    }
    service.network.seen.length = 0;
  });

  const plug = async (queuePairs: number, features: string | null = null): Promise<Hotplugged> => {
    const device = await service.hotplug({ queuePairs, features });
    service.network.address(device.representor, device.mac);
    return device;
  };

  describe.each(['split', 'packed'])('RING_RESET (2.6.1), %s rings', (format) => {
    const ROUNDS = 6;
    const FIRST_SIZE = 256;
    const SIZES = format === 'packed' ? [100, 64, 256, 37] : [128, 64, 256, 32];
    /** Frames a queue that is not reset has to move while another one is. */
    const FRAMES_MEANWHILE = 20;

    const start = async () => {
      const device = await plug(2, format === 'packed' ? PACKED : null);
      const options = { queueSize: FIRST_SIZE };
      const guest: Guest<NetRing> =
        format === 'packed'
          ? await Guest.startPacked(service, device, options)
          : await Guest.start(service, device, options);
      guests.push(guest);
      await guest.driver.setQueuePairs(2);
      await guest.kickByEvents();
      const streams = new PairStreams(service.network);
      const transmitters = [0, 1].map((pair) => streams.transmit(guest, pair));
      const receivers = [0, 1].map((pair) => streams.receive(guest, pair));
      const fed = streams.feed(GUEST_ADDRESS, range(20_000, 8));
      await eventually('frames of every queue', () =>
        [...transmitters.map(({ stream }) => stream.arrived.length), ...receivers.map((r) => r.frames)].every(
          (frames) => frames >= FRAMES_MEANWHILE,
        ),
      );
      return { guest, streams, transmitters, receivers, fed };
    };

    /** Sets the queue up anew once each of the others has moved frames without it, unless somebody touched it. */
    async function reopen(guest: Guest<NetRing>, queue: number, size: number, others: () => number[]) {
      const old = poison(guest.driver.ring(queue));
      const before = others();
      await eventually('the other queues go on', () =>
        others().every((frames, i) => frames - before[i]! >= FRAMES_MEANWHILE),
      );
      await guest.driver.reopenQueue(queue, size);
      return old;
    }
    const untouched = (areas: readonly Uint8Array[]) =>
      areas.every((area) => area.every((byte) => byte === POISON));

    it('a transmit queue > what it gave back has left once, the rest never; other queues go on, and so does it', async () => {
      const { guest, streams, transmitters, receivers, fed } = await start();
      const [steady, reset] = transmitters as [Transmitter, Transmitter];
      const QUEUE = 3;
      const olds: Uint8Array[][] = [];
      for (let round = 0; round < ROUNDS; round++) {
        await reset.gate.close();
        await reset.finish();
        const room = Math.floor(guest.driver.ring(QUEUE).queueSize / 2);
        for (let i = 0; i < room; i++) reset.add(reset.stream.next());
        // Every other time nobody kicks: then the frames are still in the ring, unless it was being polled.
        if (round % 2 === 0) await reset.publish();
        else guest.driver.ring(QUEUE).publish();
        await guest.driver.pci.resetQueue(QUEUE);
        const again = reset.takeBack();
        const others = () => [steady.stream.arrived.length, ...receivers.map(({ frames }) => frames)];
        olds.push(await reopen(guest, QUEUE, SIZES[round % SIZES.length]!, others));
        for (const number of again) {
          await eventually('room', () => {
            reset.reap();
            return guest.driver.ring(QUEUE).outstanding < 8;
          });
          reset.add(number);
          await reset.publish();
        }
        const before = reset.stream.arrived.length;
        reset.gate.open();
        await eventually('it goes on', () => reset.stream.arrived.length - before >= FRAMES_MEANWHILE);
      }
      await streams.finish();
      expect(olds.map(untouched)).toEqual(olds.map(() => true));
      for (const { stream } of transmitters) expect(stream.judge()).toEqual(FINE);
      for (const stream of fed) expect(stream.judge()).toEqual(FINE);
      expect(await guest.needsReset()).toBe(false);
    });

    it('a receive queue > every frame of the network comes once, through the old ring or the new one; other queues go on', async () => {
      const { guest, streams, transmitters, receivers, fed } = await start();
      const QUEUE = 2;
      const [steady, reset] = [receivers[0]!, receivers[1]!];
      const olds: Uint8Array[][] = [];
      for (let round = 0; round < ROUNDS; round++) {
        await reset.gate.close();
        await guest.driver.pci.resetQueue(QUEUE);
        reset.take();
        const others = () => [steady.frames, ...transmitters.map(({ stream }) => stream.arrived.length)];
        olds.push(await reopen(guest, QUEUE, SIZES[round % SIZES.length]!, others));
        await guest.post(1);
        const before = reset.frames;
        reset.gate.open();
        await eventually('it goes on', () => reset.frames - before >= FRAMES_MEANWHILE);
      }
      await streams.finish();
      expect(olds.map(untouched)).toEqual(olds.map(() => true));
      for (const { stream } of transmitters) expect(stream.judge()).toEqual(FINE);
      for (const stream of fed) expect(stream.judge()).toEqual(FINE);
      expect(await guest.needsReset()).toBe(false);
    });
  });

  describe('a representor whose later queues are made', () => {
    it('after it was renamed > they are its own', async () => {
      const device = await service.hotplug({ queuePairs: 2 });
      const representor = 'renamed0';
      service.network.ip(`link set ${device.representor} down name ${representor}`);
      service.network.address(representor, device.mac);
      const guest = await Guest.start(service, { ...device, representor }, { queueSize: 64 });
      guests.push(guest);
      await guest.driver.setQueuePairs(2);
      guest.add(77, 1);
      await guest.publish(3);
      await eventually('a frame of pair 1', () => service.network.seen.includes(77));
      expect(service.network.exists(device.representor)).toBe(false);
    });

    it('after it was moved to another network namespace > there are none, and no other interface; the first pair goes on', async () => {
      const device = await service.hotplug({ queuePairs: 2 });
      const { network } = service;
      const script = 'echo held && exec sleep infinity';
      const inside = network.inside(['unshare', '--net', 'sh', '-c', script]);
      const holder = spawn('setpriv', inside, { stdio: ['ignore', 'pipe', 'inherit'] });
      try {
        await once(holder.stdout, 'data');
        network.ip(`link set ${device.representor} netns ${holder.pid}`);
        const guest = await Guest.start(service, { ...device, representor: 'lo' }, { queueSize: 64 });
        guests.push(guest);
        await guest.driver.setQueuePairs(2);
        await eventually('what is said of it', () =>
          service.log.includes('its representor is in another network namespace'),
        );
        expect(network.exists(device.representor)).toBe(false);
        for (const pair of [0, 1]) {
          guest.add(78, pair);
          await guest.publish(2 * pair + 1);
        }
        await eventually('the first pair', () => guest.reap(0));
        expect(guest.reap(1)).toBe(false);
      } finally {
        holder.kill();
      }
    });
  });

  describe(`${PAIRS_MOST} queue pairs`, () => {
    const PORTS = 30_000;
    const FRAMES = 8;
    const SIZE = 64;
    let next = 1;

    /** Sends frames by the transmit queue of each pair; resolves when all have arrived. */
    async function transmit(guest: Guest<NetRing>): Promise<void> {
      const from = service.network.seen.length;
      const numbers: number[] = [];
      for (let pair = 0; pair < PAIRS_MOST; pair++) {
        const own = range(next, FRAMES);
        next += FRAMES;
        numbers.push(...own);
        guest.reap(pair);
        // To a port of the pair's own: the kernel then knows by which queue that flow is to be answered.
        for (const number of own) guest.add(number, pair, PORTS + pair);
        await guest.publish(2 * pair + 1);
      }
      await eventually('the frames of all pairs', () => service.network.seen.length - from >= numbers.length);
      expect(service.network.seen.slice(from).toSorted((a, b) => a - b)).toEqual(numbers);
    }

    /** Answers every flow; by which receive queue each answer came. */
    async function answer(guest: Guest<NetRing>): Promise<number[][]> {
      const sent: number[][] = [];
      for (let pair = 0; pair < PAIRS_MOST; pair++) {
        sent.push(range(next, FRAMES));
        next += FRAMES;
        await service.network.send(sent[pair]!, { to: GUEST_ADDRESS, port: PORTS + pair });
      }
      const got = sent.map((): number[] => []);
      await eventually('the frames of all flows', async () => {
        for (const [pair, numbers] of got.entries()) {
          const came = guest.received(pair);
          numbers.push(...came);
          if (came.length > 0) await guest.post(pair);
        }
        return got.flat().length >= PAIRS_MOST * FRAMES;
      });
      expect(got.flat().toSorted((a, b) => a - b)).toEqual(sent.flat());
      return got.map((numbers) =>
        numbers.map((number) => sent.findIndex((flow) => flow.includes(number))).toSorted((a, b) => a - b),
      );
    }

    it('each moves frames both ways and interrupts by its own vector; VQ_PAIRS_SET from 1 to 31 and back', async () => {
      const device = await plug(PAIRS_MOST);
      const guest = await Guest.start(service, device, { events: VECTORS, queueSize: SIZE });
      guests.push(guest);
      const { driver } = guest;
      expect([driver.maxPairs, driver.controlIndex]).toEqual([PAIRS_MOST, 2 * PAIRS_MOST]);
      const all = range(0, PAIRS_MOST);
      // Ports of the host's that the pairs' frames go to.
      for (const pair of all) await service.network.send([], { port: PORTS + pair });
      for (const pair of all) await guest.post(pair);
      const ownFlow = all.map((pair) => Array<number>(FRAMES).fill(pair));
      const throughFirst = all.map((pair) => (pair === 0 ? ownFlow.flat() : []));

      expect(await answer(guest)).toEqual(throughFirst); // before any command one pair is in use
      await driver.setQueuePairs(PAIRS_MOST);
      const queues = range(0, 2 * PAIRS_MOST);
      for (const queue of queues) {
        guest.interrupts(1 + queue);
        driver.ring(queue).wantInterrupts(true);
      }
      await transmit(guest);
      expect(await answer(guest)).toEqual(ownFlow);
      await eventually('completions', () => {
        for (const pair of all) guest.reap(pair);
        return all.every((pair) => driver.ring(2 * pair + 1).outstanding === 0);
      });
      const silent = queues.filter((queue) => guest.interrupts(1 + queue) === 0);
      expect(silent, 'queues that did not interrupt').toEqual([]);
      await driver.setQueuePairs(1);
      expect(await answer(guest)).toEqual(throughFirst);
      await driver.setQueuePairs(PAIRS_MOST);
      await transmit(guest);
      expect(await answer(guest)).toEqual(ownFlow);
      expect(await guest.needsReset()).toBe(false);
    });
  });

  describe.each(['split', 'packed'])('E6 pairs given up while the network sends, %s rings', (format) => {
    const PAIRS = 4;
    const FLOWS = 16;
    const BURST = 64;
    const PATIENCE_MS = 10_000;

    /** Sends VQ_PAIRS_SET and does nothing else until it is acknowledged. */
    function setPairs(guest: Guest<NetRing>, pairs: number): Promise<void> {
      const queue = guest.driver.controlIndex!;
      const ring = guest.driver.ring(queue);
      const header = NetControlHeader.bytes({ class: ControlClass.MQ, command: ControlMq.VQ_PAIRS_SET });
      ring.add({ readable: [header, Uint8Array.of(pairs, 0)], writable: [1] });
      const published = guest.publish(queue); // by an event: nothing is waited for
      const deadline = performance.now() + PATIENCE_MS;
      for (;;) {
        const [used] = ring.collect();
        if (used !== undefined) {
          expect([...used.written]).toEqual([ControlAck.OK]);
          return published;
        }
        if (performance.now() > deadline) throw new Error('VQ_PAIRS_SET is not acknowledged');
      }
    }

    it('once VQ_PAIRS_SET is acknowledged no frame is put into the receive queues of pairs beyond', async () => {
      const device = await plug(PAIRS, format === 'packed' ? PACKED : null);
      const guest: Guest<NetRing> =
        format === 'packed' ? await Guest.startPacked(service, device) : await Guest.start(service, device);
      guests.push(guest);
      await guest.kickByEvents();
      const all = range(0, PAIRS);
      let feeding = true;
      const feeds = range(25_000, FLOWS).map(async (port) => {
        while (feeding) await service.network.send(range(0, BURST), { to: GUEST_ADDRESS, port });
      });
      const frames = all.map(() => 0);
      const take = async (): Promise<void> => {
        for (const pair of all) {
          frames[pair]! += guest.received(pair).length;
          await guest.post(pair);
        }
      };
      const moved = (pairs: readonly number[], least: number) => {
        const before = [...frames];
        return eventually(`frames of pairs ${pairs}`, async () => {
          await take();
          return pairs.every((pair) => frames[pair]! - before[pair]! >= least);
        });
      };
      try {
        for (const pairs of [3, 2, 1, 3, 1, 2]) {
          await setPairs(guest, PAIRS);
          await moved(all, BURST); // all of them are being filled
          const done = setPairs(guest, pairs);
          const given = all.slice(pairs).map((pair) => guest.driver.ring(2 * pair));
          for (const ring of given) ring.collect();
          await done;
          await moved(all.slice(0, pairs), 2 * BURST);
          await sleep(5);
          const late = given.map((ring) => ring.collect().length);
          expect(late, `frames beyond ${pairs} pairs`).toEqual(given.map(() => 0));
        }
      } finally {
        feeding = false;
        await Promise.all(feeds);
      }
    });
  });
});
