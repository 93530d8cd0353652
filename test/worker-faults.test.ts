/** A datapath thread that fails, or a signal, costs its emulator, and the queues of all functions a pause, nothing more. */
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { HANG_MS, LOOK_MS_MAX } from '@virtnet/engine-recovery';
import type { VirtioNetDriver } from '@virtnet/testing';
import { describe, expect, test } from 'vitest';
import { BoundFunction } from './lib/bound-function.ts';
import { udpFrame } from './lib/frames.ts';
import { isRunning } from './lib/processes.ts';
import { type Hotplugged, Service } from './lib/service.ts';
import { type Arrival, analyseStream } from './lib/stream-analysis.ts';
import {
  readStreamPacket,
  STREAM_PACKET_BYTES,
  wallClockUs,
  writeStreamPacket,
} from './lib/stream-packet.ts';
import { HostStream, parseArrivals } from './lib/streams.ts';
import { endsCleanly, useScene } from './lib/use-scene.ts';
import { sleep, until } from './lib/waiting.ts';

const WORKERS = 2;
/** Of each function's queues: by their size they are told apart. */
const QUEUE_SIZES = [256, 512, 1024];
/** Bugs met at a queue of function `of`, and signals to the process: for those, no function is to blame. */
const FAULTS = [
  { how: 'throw', cause: 'worker', of: 0 },
  { how: 'spin', cause: 'worker-hang', of: 1 },
  { how: 'crash', cause: 'crash', of: 2 },
  { how: 'SIGSEGV', cause: 'killed' },
  { how: 'SIGSEGV', cause: 'killed' },
  { how: 'SIGABRT', cause: 'killed' },
  { how: 'SIGSEGV', cause: 'killed' },
] as const;
const SPACING_US = 8_000;
const SEND_PORT = 7801;
const RECEIVE_PORT = 7802;
const UDP_PAYLOAD_AT = 42;
const PATIENCE_MS = 60_000;
const SETTLE_MS = 500;
/** Frames each way that show that a function goes on. */
const ON_MS = 300;

interface Health {
  readonly health_status: string;
  readonly health_recover_counter: number;
  readonly recovery: { readonly last_cause: string; readonly error: string };
}

/** A function with a stream each way. */
class Streaming {
  readonly fn: BoundFunction;
  readonly #driver: VirtioNetDriver;
  readonly #frame: (sequence: number) => Buffer;
  readonly arrived: Arrival[] = [];
  transmitted = 0;

  constructor(fn: BoundFunction, frame: (sequence: number) => Buffer) {
    this.fn = fn;
    this.#driver = fn.driver;
    this.#frame = frame;
  }

  async move(transmit: boolean): Promise<void> {
    const driver = this.#driver;
    if (transmit && (await driver.transmit(0, this.#frame(this.transmitted)))) this.transmitted += 1;
    const received = driver.received(0);
    for (const { frame } of received) {
      const packet = readStreamPacket(Buffer.from(frame.subarray(UDP_PAYLOAD_AT)));
      if (packet !== null) this.arrived.push({ ...packet, arrivedUs: wallClockUs() });
    }
    if (received.length > 0) await driver.postReceive(0, received.length);
    driver.ring(1).collect();
  }

  get outstanding(): number {
    return this.#driver.ring(1).outstanding;
  }
}

describe('a datapath thread that fails', () => {
  const used = useScene(async (scene) => {
    const file = scene.path('worker-fault');
    const preload = new URL('./lib/worker-faults.mjs', import.meta.url).href;
    const env = { NODE_OPTIONS: `--import=${preload}`, VIRTNET_TEST_WORKER_FAULTS: file };
    const service = await Service.start(scene, { env, conf: { eth_vq_workers: WORKERS } });
    const { net, processes } = scene;
    const functions: { streaming: Streaming; device: Hotplugged; peer: string; receiver: HostStream }[] = [];
    for (const [index, queueSize] of QUEUE_SIZES.entries()) {
      const device = await service.hotplug({ mac: `0C:C4:7A:FF:24:0${index}`, queueSize });
      const [address, peer] = [`10.83.${index}.1`, `10.83.${index}.2`];
      const representor = device.sf_rep_net_device;
      await net.quiet(representor);
      await net.ip(`addr add ${address}/24 dev ${representor}`);
      await net.ip(`link set ${representor} up`);
      await net.ip(`neigh add ${peer} lladdr ${device.mac} dev ${representor} nud permanent`);
      const { address: representorMac } = await net.waitForLink(representor);
      const fn = await BoundFunction.open(service.socket(device.bdf), PATIENCE_MS);
      await (await fn.start({ queueSize })).postReceive(0, queueSize);
      const streaming = new Streaming(fn, (sequence) => {
        const payload = Buffer.alloc(STREAM_PACKET_BYTES + 20);
        writeStreamPacket(payload, sequence, wallClockUs());
        const addresses = { source: peer, destination: address };
        const macs = { sourceMac: device.mac, destinationMac: representorMac };
        return udpFrame({ ...addresses, ...macs, port: RECEIVE_PORT + index, payload });
      });
      const receiver = await HostStream.start(processes, net, ['receive', `${RECEIVE_PORT + index}`]);
      functions.push({ streaming, device, peer, receiver });
    }
    return { service, functions, file };
  });

  test('one throws, one spins, one touches what is not mapped, and people send signals > each time the emulator is replaced, all streams go on, and health names the cause', async () => {
    const { service, functions, file } = used.value;
    const health = (pf: number) => service.answer<Health>('health', '-p', `${pf}`, 'show');
    const log = () => readFileSync(used.scene.path('controller.log'), 'utf8');
    let transmits = true;
    let going = true;
    const traffic = Promise.all(
      functions.map(async ({ streaming }) => {
        for (; going; await sleep(SPACING_US / 1_000)) await streaming.move(transmits);
      }),
    );
    const counts = () =>
      functions.flatMap(({ streaming }) => [streaming.transmitted, streaming.arrived.length]);
    const goOn = async () => {
      const before = counts();
      const least = (ON_MS * 1_000) / SPACING_US / 4;
      await until('frames of every function', PATIENCE_MS, () =>
        counts().every((frames, i) => frames - before[i]! >= least),
      );
    };

    const sent: number[] = [];
    try {
      const senders: HostStream[] = [];
      for (const { peer } of functions) {
        const words = ['send', peer, `${SEND_PORT}`, `${SPACING_US}`, '64'];
        senders.push(await HostStream.start(used.scene.processes, used.scene.net, words));
      }
      await goOn();
      for (const [index, fault] of FAULTS.entries()) {
        const { pid } = await service.recovered(-1); // whoever serves now, with somebody to succeed it
        const { cause } = fault;
        if ('of' in fault) {
          // At once or not at all: half a file would be another fault.
          writeFileSync(`${file}.new`, `${fault.how} ${QUEUE_SIZES[fault.of]}`);
          renameSync(`${file}.new`, `${file}.${pid}`);
        } else process.kill(pid, fault.how);
        await until('the end of the emulator', PATIENCE_MS, () =>
          new RegExp(`"childPid":${pid},"served":true,"cause":"${cause}"`).test(log()),
        );
        await goOn();
        expect(isRunning(pid)).toBe(false);
        for (const { device } of functions) {
          await until(`health of ${device.id} names the cause`, PATIENCE_MS, async () => {
            const { health_recover_counter: recoveries, recovery } = await health(device.id);
            return recoveries === index + 1 && recovery.last_cause === cause;
          });
          expect(await health(device.id)).toMatchObject({
            health_status: 'Good',
            health_recover_counter: index + 1,
            recovery: { error: 'none' },
          });
        }
      }
      // The thread that span was told apart by the processor time it took, and not given longer than that takes.
      const [hang] = log()
        .split('\n')
        .filter((line) => line.includes('"msg":"hangs"'))
        .map((line) => JSON.parse(line) as { lane: number; how: string; chargedMs: number });
      expect(hang).toMatchObject({ how: 'spins' });
      expect(hang!.lane).toBeGreaterThanOrEqual(1);
      expect(hang!.chargedMs).toBeGreaterThanOrEqual(HANG_MS);
      expect(hang!.chargedMs).toBeLessThanOrEqual(HANG_MS + LOOK_MS_MAX);

      transmits = false;
      for (const sender of senders) sent.push(Number((await sender.finish()).split(' ')[0]));
      await sleep(SETTLE_MS);
    } finally {
      going = false;
      await traffic;
    }
    for (const [index, { streaming, receiver }] of functions.entries()) {
      const { arrived, transmitted, outstanding } = streaming;
      expect(outstanding).toBe(0);
      const toDriver = analyseStream(arrived, 0, sent[index]!);
      const fromDriver = analyseStream(parseArrivals(await receiver.finish()), 0, transmitted);
      for (const { lost, duplicated, reordered } of [toDriver, fromDriver]) {
        const text = `function ${index}: lost ${lost}, repeated ${duplicated}`;
        expect(lost.length + duplicated.length, text).toBeLessThanOrEqual(FAULTS.length);
        expect(reordered).toBe(0);
      }
      await streaming.fn.driver.stop();
      await streaming.fn.close();
    }
  }, 300_000);

  endsCleanly(used);
});
