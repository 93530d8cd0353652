/**
 * Which receive queue frames of many flows go to, on a TAP and on the eswitch: as the driver's table says (RSS), or with
 * the queue that answers them (aarfs).
 */
import type { Steering, VirtioNetDriver } from '@virtnet/testing';
import { ControlClass, ControlMq, featureMask, HashType, NetFeature } from '@virtnet/wire';
import { describe, expect, test } from 'vitest';
import { BoundFunction } from './lib/bound-function.ts';
import { udpFrame } from './lib/frames.ts';
import type { Scene } from './lib/scene.ts';
import { Service } from './lib/service.ts';
import { endsCleanly, useScene } from './lib/use-scene.ts';
import { until } from './lib/waiting.ts';

const SENDER_MAC = '0C:C4:7A:FF:22:01';
const MAC = '0C:C4:7A:FF:22:93';
const PAIRS = 4;
const FLOWS = 64;
const FLOW_PORT = 20_000;
const BUFFERS = 128;
const PATIENCE_MS = 60_000;
const KEY = Buffer.from(
  '6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa',
  'hex',
);
const TABLE = Array.from({ length: 128 }, (_, i) => (i * 7 + (i >> 3)) % 3);
/** The last pair is for frames without a hash alone. */
const STEERING: Steering = { types: HashType.UDPV4, key: KEY, table: TABLE, unclassified: PAIRS - 1 };
const SOURCE = [10, 79, 0, 100];
const DESTINATION = [10, 79, 0, 2];

interface Stage {
  readonly service: Service;
  readonly sender: VirtioNetDriver;
  readonly driver: VirtioNetDriver;
}

async function stage(scene: Scene, representor: 'tap' | 'eswitch'): Promise<Stage> {
  const service = await Service.start(scene, { conf: { software: { representor } } });
  if (representor === 'tap') await scene.net.bridge('br0', '10.79.0.1/24');
  const bind = async (mac: string, more: readonly number[]): Promise<VirtioNetDriver> => {
    const device = await service.hotplug({
      mac,
      queues: 2 * PAIRS + 1,
      queueSize: 256,
      addFeatures: featureMask(more),
    });
    if (representor === 'tap') await scene.net.enslave(device.sf_rep_net_device, 'br0');
    const fn = await BoundFunction.open(service.socket(device.bdf));
    scene.atEnd(() => fn.close());
    return fn.start();
  };
  const sender = await bind(SENDER_MAC, []);
  const driver = await bind(MAC, [NetFeature.RSS]);
  for (let pair = 0; pair < PAIRS; pair++) await driver.postReceive(pair, BUFFERS);
  await until('frames pass', PATIENCE_MS, async () => {
    const passed = await places({ sender, driver }, [frameOf(0)], 500);
    return passed.size > 0;
  });
  return { service, sender, driver };
}

/** A frame of a flow of its own; one without UDP has no hash that is enabled. */
function frameOf(flow: number, udp = true): Buffer {
  const frame = udpFrame({
    destinationMac: MAC,
    sourceMac: SENDER_MAC,
    source: SOURCE.join('.'),
    destination: DESTINATION.join('.'),
    port: FLOW_PORT + flow,
    payload: Buffer.from(`flow ${String(flow).padStart(5)}`),
  });
  if (!udp) {
    frame[23] = 253; // protocol: for experiments (RFC 3692)
    frame.writeUInt16BE(frame.readUInt16BE(24) - (253 - 17), 24); // the header's checksum
  }
  return frame;
}

/** The other way round. */
function answerOf(flow: number): Buffer {
  return udpFrame({
    destinationMac: SENDER_MAC,
    sourceMac: MAC,
    source: DESTINATION.join('.'),
    destination: SOURCE.join('.'),
    port: FLOW_PORT + flow,
    payload: Buffer.from(`flow ${String(flow).padStart(5)}`),
  });
}

const FLOW_TEXT = /flow +(\d+)$/;

/** Sends frames; the pairs in whose receive queue each flow's arrived, as soon as all have, or nothing comes any more. */
async function places(
  { sender, driver }: Pick<Stage, 'sender' | 'driver'>,
  frames: readonly Buffer[],
  timeoutMs = PATIENCE_MS,
): Promise<Map<number, number>> {
  const found = new Map<number, number>();
  const collect = async () => {
    for (let pair = 0; pair < PAIRS; pair++) {
      const arrived = driver.received(pair);
      await driver.postReceive(pair, arrived.length);
      for (const { frame } of arrived) {
        const flow = FLOW_TEXT.exec(Buffer.from(frame).toString('latin1'))?.[1];
        if (flow !== undefined) found.set(Number(flow), pair);
      }
    }
    sender.ring(1).collect();
    return found.size >= frames.length;
  };
  await collect();
  found.clear();
  for (const frame of frames) expect(await sender.transmit(0, frame)).toBe(true);
  await until('all frames', timeoutMs, collect).catch((error: unknown) => {
    if (timeoutMs === PATIENCE_MS) throw error;
  });
  return found;
}

/** By the definition, bit for bit. */
function hashOf(flow: number): number {
  const port = FLOW_PORT + flow;
  const input = Buffer.from([...SOURCE, ...DESTINATION, port >> 8, port & 0xff, port >> 8, port & 0xff]);
  const bit = (bytes: Buffer, at: number) => ((bytes[at >> 3] ?? 0) >> (7 - (at & 7))) & 1;
  let hash = 0;
  for (let at = 0; at < input.length * 8; at++) {
    if (bit(input, at) === 0) continue;
    for (let i = 0; i < 32; i++) hash ^= bit(KEY, at + i) << (31 - i);
  }
  return hash >>> 0;
}

const expectedBy = (table: readonly number[]) =>
  new Map(Array.from({ length: FLOWS }, (_, flow) => [flow, table[hashOf(flow) % table.length]]));
const sorted = (places: ReadonlyMap<number, number | undefined>) => [...places].sort(([a], [b]) => a - b);

describe.each(['tap', 'eswitch'] as const)('receive-side scaling: %s', (representor) => {
  const used = useScene((scene) => stage(scene, representor));
  const allFlows = Array.from({ length: FLOWS }, (_, flow) => frameOf(flow));

  test('the configuration tells what there is, and the list shows the key and the types', async () => {
    const { driver, service } = used.value;
    const config = await driver.config();
    expect([config.rssMaxKeySize, config.rssMaxIndirectionTableLength]).toEqual([40, 128]);
    expect([config.supportedHashTypes, config.maxVirtqueuePairs]).toEqual([0x1ff, PAIRS]);
    const { rss_max_key_size: keyBytes, supported_hash_types: types } = await service.query(1);
    expect([keyBytes, types]).toEqual(['40', '0x1ff']);
  });

  test('before RSS_CONFIG everything goes to the first queue', async () => {
    const found = await places(used.value, allFlows);
    expect(new Set(found.values())).toEqual(new Set([0]));
  });

  test('every flow goes where the table says, before a kill of the emulator, after it, and after an update', async () => {
    const { driver, service } = used.value;
    await driver.setSteering(STEERING, PAIRS);
    const expected = sorted(expectedBy(TABLE));
    expect(new Set(expected.map(([, pair]) => pair)).size, 'more than one queue').toBe(3);
    expect(sorted(await places(used.value, allFlows))).toEqual(expected);
    const { pid } = service.killEmu();
    await service.recovered(pid);
    expect(sorted(await places(used.value, allFlows))).toEqual(expected);
    expect((await service.virtnet('restart')).stdout).toBe('SUCCESS\n');
    expect(sorted(await places(used.value, allFlows))).toEqual(expected);
    expect((await service.query(1)).ctrl_mq).toBe(String(PAIRS));
  });

  test('what has no hash goes to the queue for it', async () => {
    const found = await places(used.value, [frameOf(900, false), frameOf(901, false)]);
    expect(sorted(found)).toEqual([
      [900, PAIRS - 1],
      [901, PAIRS - 1],
    ]);
  });

  test('E7 E8 a table with a queue that is not there, or data that is cut off, is refused; the former table holds', async () => {
    const { driver } = used.value;
    const bad = { ...STEERING, table: TABLE.map((pair, i) => (i === 127 ? PAIRS : pair)) };
    await expect(driver.setSteering(bad, PAIRS)).rejects.toThrow('refused');
    for (const length of [0, 7, 8, 200, 267])
      expect(await driver.command(ControlClass.MQ, ControlMq.RSS_CONFIG, new Uint8Array(length))).toBe(1);
    expect(sorted(await places(used.value, allFlows))).toEqual(sorted(expectedBy(TABLE)));
  });

  test('another table is in force when it is acknowledged, and VQ_PAIRS_SET ends steering', async () => {
    const { driver } = used.value;
    const table = [2, 1];
    await driver.setSteering({ ...STEERING, table }, 1);
    expect(sorted(await places(used.value, allFlows))).toEqual(sorted(expectedBy(table)));
    await driver.setQueuePairs(1);
    expect(new Set((await places(used.value, allFlows)).values())).toEqual(new Set([0]));
  });

  /** Answers each flow with another queue. */
  async function answerFlows(pairOf: (flow: number) => number): Promise<void> {
    const { driver, sender } = used.value;
    for (let flow = 0; flow < FLOWS; flow++) {
      const pair = pairOf(flow);
      driver.ring(2 * pair + 1).collect();
      await sender.postReceive(0, 1);
      expect(await driver.transmit(pair, answerOf(flow))).toBe(true);
    }
    const counted = new Set<number>();
    await until('all answers', PATIENCE_MS, () => {
      for (const { frame } of sender.received(0)) {
        const flow = FLOW_TEXT.exec(Buffer.from(frame).toString('latin1'))?.[1];
        if (flow !== undefined) counted.add(Number(flow));
      }
      return counted.size === FLOWS;
    });
  }
  const setAarfs = (state: string) =>
    used.value.service.answer('modify', '-p', '1', 'device', '-aarfs', state);
  const SUCCESS = { errno: 0, errstr: 'Success' };

  test('aarfs: flows follow the queue that answers them, as soon as it does, also after a kill', async () => {
    const { driver, service } = used.value;
    await driver.setQueuePairs(PAIRS);
    expect(await setAarfs('enable')).toEqual(SUCCESS);
    for (const step of [1, 3]) {
      const pairOf = (flow: number) => (flow * step + 1) % PAIRS;
      await answerFlows(pairOf);
      expect(sorted(await places(used.value, allFlows))).toEqual(
        allFlows.map((_, flow) => [flow, pairOf(flow)]),
      );
    }
    const { pid } = service.killEmu();
    await service.recovered(pid);
    expect((await service.query(1)).aarfs).toBe('enabled');
    const pairOf = (flow: number) => (flow >> 2) % PAIRS;
    await answerFlows(pairOf);
    expect(sorted(await places(used.value, allFlows))).toEqual(
      allFlows.map((_, flow) => [flow, pairOf(flow)]),
    );
  });

  test('aarfs: switched off the eswitch goes by the sender’s pair, a TAP follows flows all the same', async () => {
    const { driver, service } = used.value;
    expect(await setAarfs('disable')).toEqual(SUCCESS);
    expect((await service.query(1)).aarfs).toBe('disabled');
    const pairOf = (flow: number) => (flow + 2) % PAIRS;
    await answerFlows(pairOf);
    expect(sorted(await places(used.value, allFlows))).toEqual(
      allFlows.map((_, flow) => [flow, representor === 'tap' ? pairOf(flow) : 0]),
    );
    expect(await setAarfs('enable')).toEqual(SUCCESS);
    await driver.setSteering({ ...STEERING, table: [2] }, PAIRS);
    await answerFlows(pairOf);
    const found = await places(used.value, allFlows);
    expect(new Set(found.values()), 'what the driver says goes before').toEqual(new Set([2]));
  });

  endsCleanly(used);
});
