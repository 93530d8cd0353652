/** The command line on a service that runs: what is modified, guest and representor show; what is counted, is so. */
import type { VirtioNetDriver } from '@virtnet/testing';
import { featureMask, HashType, NetFeature, NetStatus, VirtioFeature } from '@virtnet/wire';
import { describe, expect, test } from 'vitest';
import { BoundFunction } from './lib/bound-function.ts';
import { udpFrame } from './lib/frames.ts';
import { UDP_PROGRAM } from './lib/programs.ts';
import { parseAnswer, Service } from './lib/service.ts';
import { endsCleanly, useScene } from './lib/use-scene.ts';
import { until } from './lib/waiting.ts';

const MAC = '0C:C4:7A:FF:22:93';
const NEW_MAC = '0C:C4:7A:FF:22:94';
const REPRESENTOR = 'en3f0pf0sf2000';
const HOST_ADDRESS = '10.79.0.1';
const GUEST_ADDRESS = '10.79.0.2';
const PORT = 7400;
const FRAME_BYTES = 242;
const HEADERS_BYTES = 42;

interface Answer {
  readonly errno: number;
  readonly errstr: string;
}

const used = useScene(async (scene) => {
  const service = await Service.start(scene);
  const { net } = scene;
  await service.hotplug({ mac: MAC });
  await net.quiet(REPRESENTOR);
  await net.ip(`addr add ${HOST_ADDRESS}/24 dev ${REPRESENTOR}`);
  await net.ip(`link set ${REPRESENTOR} up`);
  await net.ip(`neigh add ${GUEST_ADDRESS} lladdr ${MAC} dev ${REPRESENTOR}`);
  const fn = await BoundFunction.open(service.socket('15:00.0'));
  scene.atEnd(() => fn.close());
  return { service, fn };
});

/** The words behind `virtnet`. */
function words(command: string): string[] {
  return command.split(' ').slice(1);
}

async function modify(...options: string[]): Promise<Answer> {
  const { stdout } = await used.value.service.virtnet('modify', '-p', '0', 'device', ...options);
  return parseAnswer(stdout) as Answer;
}
const SUCCESS = { errno: 0, errstr: 'Success' };

const link = async () => (await used.scene.net.link(REPRESENTOR))!;

/** Sends datagrams to the function through the kernel. */
async function send(count: number): Promise<void> {
  const command = [process.execPath, UDP_PROGRAM, 'flows', GUEST_ADDRESS, `${PORT}`, '1', `${count}`];
  await used.scene.net.run(command);
}

interface QueueStats {
  readonly 'VQ Index': number;
  readonly received_desc: string;
  readonly completed_desc: string;
  readonly total_bytes: string;
  readonly [key: string]: string | number;
}
function bytesSince(before: QueueStats, now: QueueStats): number {
  return Number(now.total_bytes) - Number(before.total_bytes);
}
interface Stats {
  readonly device: { readonly packet_counters: string; readonly 'queues-stats': readonly QueueStats[] };
}

async function stats(): Promise<Stats['device']> {
  return (await used.value.service.answer<Stats>('stats', '-p', '0')).device;
}

type Debug = Readonly<Record<string, number | string>>;
async function queues(): Promise<Debug[]> {
  const { devices } = await used.value.service.answer<{
    devices: { 'enabled-queues-info': Debug[] }[];
  }>('query', '-p', '0', '--dbg_stats');
  return devices[0]!['enabled-queues-info'];
}

/** Frames a queue moved or dropped, by its counters. */
function accounted(queue: Debug): number {
  const counters = Object.entries(queue).filter(([key]) => key === 'frames' || key.startsWith('drop_'));
  return counters.reduce((sum, [, count]) => sum + Number(count), 0);
}

async function droppedByRepresentor(): Promise<number> {
  const { stdout } = await used.value.service.virtnet('query', '-p', '0', '-b');
  const { devices } = parseAnswer(stdout) as { devices: { num_desc_drop_pkts: string }[] };
  return Number(devices[0]!.num_desc_drop_pkts);
}

describe('modify device', () => {
  let driver: VirtioNetDriver;

  test('without a driver > the next one finds address, MTU, features, queue size and queue pairs', async () => {
    const { fn, service } = used.value;
    const first = await fn.start();
    const features = `0x${(first.features & ~(1n << BigInt(NetFeature.GUEST_ANNOUNCE))).toString(16)}`;
    const shape = ['-m', NEW_MAC, '-t', '2000', '-f', features, '-q', '128', '-qp', '2'];
    expect(await modify(...shape)).toEqual({
      errno: -1005,
      errstr: 'Failed - Virtio driver should not be loaded',
    });
    await first.stop();
    expect(await modify(...shape)).toEqual(SUCCESS);
    driver = await fn.start();
    const config = await driver.config();
    expect([config.mac5, config.mtu, config.maxVirtqueuePairs]).toEqual([0x94, 2000, 2]);
    expect([driver.ring(0).queueSize, driver.maxPairs]).toEqual([128, 2]);
    expect(`0x${driver.features.toString(16)}`).toBe(features);
    expect((await link()).mtu).toBe(2000);
    expect(await service.query()).toMatchObject({ mac: NEW_MAC, mtu: '2000', enabled_queues: '5' });
    await driver.setQueuePairs(2);
    expect((await service.query()).ctrl_mq).toBe('2');
  });

  test('fewer queue pairs and the former address > and what was grown is given back', async () => {
    const { fn, service } = used.value;
    await driver.stop();
    expect(await modify('-m', MAC, '-qp', '1', '-t', '1500')).toEqual(SUCCESS);
    driver = await fn.start();
    expect((await driver.config()).maxVirtqueuePairs).toBe(1);
    expect(await service.query()).toMatchObject({ mac: MAC, enabled_queues: '3' });
    expect((await link()).mtu).toBe(1500);
  });

  test('link > the driver’s configuration and the representor’s carrier follow', async () => {
    expect((await driver.config()).status & NetStatus.LINK_UP).toBe(NetStatus.LINK_UP);
    await until('carrier', 5_000, async () => !(await link()).flags.includes('NO-CARRIER'));
    expect(await modify('-l', '0')).toEqual(SUCCESS);
    expect((await driver.config()).status & NetStatus.LINK_UP).toBe(0);
    await until('no carrier', 5_000, async () => (await link()).flags.includes('NO-CARRIER'));
    expect(await modify('-l', '1')).toEqual(SUCCESS);
    await until('carrier', 5_000, async () => !(await link()).flags.includes('NO-CARRIER'));
    expect((await driver.config()).status & NetStatus.LINK_UP).toBe(NetStatus.LINK_UP);
  });

  test('NET-3 speed > list shows it, and the driver reads it when the link comes up', async () => {
    const { speed } = await driver.config();
    expect(await modify('-e', '123')).toMatchObject({ errno: -1052 });
    expect(await modify('-e', '25000')).toEqual(SUCCESS);
    expect((await driver.config()).speed).toBe(speed);
    expect([await modify('-l', '0'), await modify('-l', '1')]).toEqual([SUCCESS, SUCCESS]);
    expect((await driver.config()).speed).toBe(25_000);
    const { devices } = await used.value.service.answer<{ devices: { speed: string }[] }>('list');
    expect(devices[0]!.speed).toBe('25000');
  });

  test('while its emulator is killed > each command is carried out once, and nothing of it is lost', async () => {
    const { service } = used.value;
    for (const up of ['0', '1', '0', '1']) {
      const answer = modify('-l', up);
      const { pid } = service.killEmu();
      expect(await answer).toEqual(SUCCESS);
      await service.recovered(pid);
      const wanted = up === '1';
      expect(((await driver.config()).status & NetStatus.LINK_UP) !== 0).toBe(wanted);
      await until('carrier', 5_000, async () => !(await link()).flags.includes('NO-CARRIER') === wanted);
    }
    expect((await service.healthAfter('killed')).health_recover_counter).toBe(4);
  });

  test('packet counters > off at first; on, every frame that arrives is in its class', async () => {
    expect((await stats()).packet_counters).toBe('Disabled');
    expect(await modify('-pkt_cnt', 'enable')).toEqual(SUCCESS);
    await driver.postReceive(0, 100);
    await send(50);
    await until(
      'the frames',
      5_000,
      async () => (await stats())['queues-stats'][0]!.rx_128_to_255_octet_packets === 50,
    );
    expect((await stats()).packet_counters).toBe('Enabled');
    expect(await modify('-pkt_cnt', 'disable')).toEqual(SUCCESS);
    const { packet_counters, 'queues-stats': shown } = await stats();
    expect([packet_counters, shown[0]!.rx_128_to_255_octet_packets]).toEqual(['Disabled', 50]);
    driver.received(0);
  });

  test('towards the driver > what was sent is what arrived and what is counted as dropped, exactly', async () => {
    const { service } = used.value;
    expect(await modify('-dc', 'enable')).toEqual(SUCCESS);
    expect(await droppedByRepresentor()).toBe(0);
    await service.virtnet('query', '-p', '0', '--stats_clear');
    const sent = 2000;
    await send(sent);
    const arrived = async () => {
      const taken = driver.received(0).length;
      await driver.postReceive(0, 128);
      return taken;
    };
    let taken = 0;
    await until('all frames are accounted for', 20_000, async () => {
      taken += await arrived();
      return taken + (await droppedByRepresentor()) === sent;
    });
    const [receive] = await queues();
    expect(await droppedByRepresentor()).toBeGreaterThan(0);
    expect([receive!.frames, accounted(receive!)]).toEqual([taken, taken]);
    expect(await modify('-dc', 'disable')).toEqual(SUCCESS);
    expect((await service.virtnet('query', '-p', '0')).stdout).not.toContain('num_desc_drop_pkts');
  });

  test('from the driver > what was sent is what left and what is counted as dropped, by reason', async () => {
    const { service } = used.value;
    await service.virtnet('query', '-p', '0', '--stats_clear');
    const before = await received();
    const bad = new Uint8Array(12).fill(0xff);
    for (let i = 0; i < 30; i++)
      expect(await driver.transmit(0, frame(), i % 3 === 0 ? bad : undefined)).toBe(true);
    await until('the queue is empty', 5_000, async () => accounted((await queues())[1]!) === 30);
    await modify('-l', '0');
    for (let i = 0; i < 5; i++) expect(await driver.transmit(0, frame())).toBe(true);
    await until('the queue is empty', 5_000, async () => accounted((await queues())[1]!) === 35);
    await modify('-l', '1');
    expect((await queues())[1]).toMatchObject({ frames: 20, drop_header: 10, drop_link_down: 5 });
    expect((await received()) - before).toBe(20);
    driver.ring(1).collect();
  });

  test('a driver that should reset > reads it, resets, and works again', async () => {
    const { fn, service } = used.value;
    expect(await modify('-s', '0x40')).toEqual(SUCCESS);
    expect((await service.query()).status).toMatchObject({ value: '0x4f', '    6': 'DEVICE_NEEDS_RESET' });
    const health = await service.answer<{ health_status: string }>(...words('virtnet health -p 0 show'));
    expect(health.health_status).toBe('Fatal');
    await driver.stop();
    driver = await fn.start();
    expect((await service.query()).status.value).toBe('0xf');
  });

  test('moderation: the driver’s word is kept and counts; without it the operator’s; DIM for the next driver', async () => {
    const { service, fn } = used.value;
    await driver.stop();
    driver = await fn.start({ features: driver.features & ~(1n << BigInt(VirtioFeature.EVENT_IDX)) });
    const moderate = async (line: string) =>
      parseAnswer((await service.virtnet(...words(`virtnet modify -p 0 queue ${line}`))).stdout);
    const receive = async () => {
      const [queue] = (await stats())['queues-stats'];
      return [queue!.rq_cq_max_count, queue!.rq_cq_period, queue!.rq_cq_period_mode];
    };
    expect(await moderate('-e event -n 8 -c 65536')).toMatchObject({ errno: -1033 });
    expect(await moderate('-e cqe -n 8 -c 32')).toEqual(SUCCESS);
    expect(await receive()).toEqual(['32', '8', '2']);
    await driver.coalesce('receive', 40, 600_000_000);
    expect(await receive()).toEqual(['40', '600000000', '0']);
    const before = (await stats())['queues-stats'][0]!;
    await driver.postReceive(0, 100);
    await send(100);
    const now = async () => (await stats())['queues-stats'][0]!;
    await until('the frames', 5_000, async () => bytesSince(before, await now()) === 100 * FRAME_BYTES);
    const sent = async () =>
      Number((await now()).aux_handler_schd_number) - Number(before.aux_handler_schd_number);
    await until('an interrupt', 5_000, async () => (await sent()) > 0);
    expect(await sent()).toBeLessThanOrEqual(2);
    driver.received(0);
    const { pid } = service.killEmu();
    await service.recovered(pid);
    expect(await receive()).toEqual(['40', '600000000', '0']);
    await driver.coalesce('receive', 0, 0);
    expect(await receive()).toEqual(['32', '8', '2']);
    expect(await moderate('-e event -n 0 -c 0')).toEqual(SUCCESS);
    expect(await receive()).toEqual(['0', '0', '1']);
    expect(await modify('-dim', 'enable')).toMatchObject({ errno: -1005 });
    await driver.stop();
    expect(await modify('-dim', 'enable')).toEqual(SUCCESS);
    expect((await service.query()).dim).toBe('enabled');
    driver = await fn.start();
    expect(await receive()).toEqual(['0', '0', '1']); // there is no traffic yet
    await driver.stop();
    expect(await modify('-netdim', 'disable')).toEqual(SUCCESS);
    driver = await fn.start();
    expect((await service.query()).dim).toBe('disabled');
  });

  test('-aarfs is set at once, and shown', async () => {
    const { service } = used.value;
    const shown = async () => (await service.query()).aarfs;
    expect(await shown()).toBe('disabled');
    expect(await modify('-aarfs', 'enable')).toEqual(SUCCESS);
    expect(await shown()).toBe('enabled');
    expect(await modify('-aarfs', 'disable')).toEqual(SUCCESS);
    expect(await shown()).toBe('disabled');
  });

  test('options without effect here are refused, and nothing of their command is carried out', async () => {
    for (const option of [
      ['-d', '50'],
      ['-b', '4'],
    ])
      expect(await modify('-l', '0', ...option)).toEqual({ errno: -1047, errstr: 'Option is not supported' });
    expect((await driver.config()).status & NetStatus.LINK_UP).toBe(NetStatus.LINK_UP);
    expect(await modify('-qp', '2', '-n', '6')).toMatchObject({ errno: -1074 });
    expect(await modify('-n', '8')).toMatchObject({ errno: -1010 });
  });

  function frame(): Buffer {
    return udpFrame({
      ...{ source: GUEST_ADDRESS, destination: HOST_ADDRESS, sourceMac: MAC, destinationMac: NEW_MAC },
      port: PORT,
      payload: Buffer.alloc(FRAME_BYTES - HEADERS_BYTES),
    });
  }

  /** Frames the representor has taken from the function. */
  async function received(): Promise<number> {
    const [shown] = JSON.parse(await used.scene.net.ip(`-j -s link show ${REPRESENTOR}`)) as [
      { stats64: { rx: { packets: number } } },
    ];
    return shown.stats64.rx.packets;
  }
});

describe('a second function', () => {
  const SECOND_MAC = '0C:C4:7A:FF:22:95';
  const SECOND = 'en3f0pf0sf2001';
  const KEY = Uint8Array.from({ length: 40 }, (_, i) => i + 1);
  let driver: VirtioNetDriver;

  const modifySecond = async (...options: string[]): Promise<Answer> => {
    const { stdout } = await used.value.service.virtnet('modify', '-p', '1', 'device', ...options);
    return parseAnswer(stdout) as Answer;
  };

  test('types of hashes > the next driver reads those of `modify -o`, and may enable no others', async () => {
    const { service } = used.value;
    const { HASH_REPORT, CTRL_VQ, MQ } = NetFeature;
    const features = featureMask([HASH_REPORT]);
    const { bdf } = await service.hotplug({ mac: SECOND_MAC, queues: 5, addFeatures: features });
    const fn = await BoundFunction.open(service.socket(bdf));
    used.scene.atEnd(() => fn.close());
    expect(await modifySecond('-o', '0x10000')).toMatchObject({ errno: -1053 });
    expect(await modifySecond('-o', `0x${(HashType.UDPV4 | HashType.TCPV4).toString(16)}`)).toEqual(SUCCESS);
    const agreed = features | featureMask([CTRL_VQ, MQ, VirtioFeature.VERSION_1]);
    driver = await fn.start({ features: agreed });
    expect((await driver.config()).supportedHashTypes).toBe(HashType.UDPV4 | HashType.TCPV4);
    await driver.setHash(HashType.UDPV4, KEY);
    await expect(driver.setHash(HashType.UDPV6, KEY)).rejects.toThrow('HASH_CONFIG was refused');
    expect(await modifySecond('-o', '0x1ff')).toMatchObject({ errno: -1005 });
    await driver.stop();
    expect(await modifySecond('-o', '0x1ff')).toEqual(SUCCESS);
    driver = await fn.start({ features: agreed });
    await driver.setHash(HashType.UDPV6, KEY);
  });

  test('health > each counter of an error is 0 until its cause happens, and counts that alone', async () => {
    const errors = async () => {
      const { dev_health_details: details } = await used.value.service.answer<{
        dev_health_details: {
          control_plane_errors: { sf_flows_apply_err: number };
          data_plane_errors: { sq_stall: number; spurious_db_invoke: number };
        };
      }>(...words('virtnet health -p 1 show'));
      const { control_plane_errors: control, data_plane_errors: data } = details;
      return [data.spurious_db_invoke, data.sq_stall, control.sf_flows_apply_err];
    };
    expect(await errors()).toEqual([0, 0, 0]);
    await driver.pci.notify(1);
    await until('a kick that brought nothing', 5_000, async () => (await errors())[0] === 1);
    expect(await errors()).toEqual([1, 0, 0]);
    driver.ring(1).offer(0xffff); // no descriptor has this number
    driver.ring(1).publish();
    await driver.pci.notify(1);
    await until('the queue is stopped', 5_000, async () => (await errors())[1] === 1);
    expect(await errors()).toEqual([1, 1, 0]);
    await used.scene.net.ip(`link del ${SECOND}`);
    expect(await modifySecond('-l', '0')).toEqual(SUCCESS); // the driver's side of it
    const [kicks, stalls, refused] = await errors();
    expect([kicks, stalls]).toEqual([1, 1]);
    expect(refused).toBeGreaterThan(0);
    expect(await used.value.service.answer('unplug', '-p', '1')).toEqual(SUCCESS);
  });
});

describe('debug', () => {
  test('debug shows every process of the service', async () => {
    const { service } = used.value;
    const { processes } = await service.answer<{
      processes: { kind: string; pid: number; status: object }[];
    }>('debug');
    const pids = (['emu', 'emu-standby', 'ha'] as const).map((role) => service.pid(role));
    expect(processes.map(({ pid }) => pid).sort()).toEqual([...pids].sort());
    for (const { status } of processes) expect(status).toMatchObject({ ready: true });
  });
});

endsCleanly(used);
