/** Bad messages, bad rings and dead clients: each costs its own connection or function, and everything else goes on. */
import { connect, type Socket } from 'node:net';
import { DeviceStatus } from '@virtnet/wire';
import { describe, expect, test, vi } from 'vitest';
import { pinnedNode } from '../scripts/lib/paths.ts';
import { BoundFunction } from './lib/bound-function.ts';
import { macBytes, udpFrame } from './lib/frames.ts';
import { signalPid } from './lib/processes.ts';
import { CLIENT_PROGRAM } from './lib/programs.ts';
import { randomNumbers, seed } from './lib/random.ts';
import { Service } from './lib/service.ts';
import { endsCleanly, useScene } from './lib/use-scene.ts';
import { sleep, until, within } from './lib/waiting.ts';

const HEALTHY_MAC = '0C:C4:7A:FF:22:01';
const VICTIM_MAC = '0C:C4:7A:FF:22:02';
const CLIENT_KILLS = 30;
const CLOSE_MS_MAX = 2_000;
const HOLDINGS_MS_MAX = 30_000;
/** A head that no descriptor table has. */
const NO_SUCH_HEAD = 0xffff;

const used = useScene(async (scene) => {
  const service = await Service.start(scene);
  await scene.net.bridge('br0', '10.78.0.1/24');
  const [healthy, victim] = [
    await service.hotplug({ mac: HEALTHY_MAC, queues: 3, queueSize: 256 }),
    await service.hotplug({ mac: VICTIM_MAC, queues: 3, queueSize: 256 }),
  ];
  for (const device of [healthy, victim]) await scene.net.enslave(device.sf_rep_net_device, 'br0');
  const bound = await BoundFunction.open(service.socket(healthy.bdf));
  scene.atEnd(() => bound.close());
  await bound.start();
  await service.startVhostd('server');
  return { service, bound, victim, emu: service.runningPid('emu'), socket: service.socket(victim.bdf) };
});

/** The healthy function answers commands and takes frames, and the emulator is still the same process. */
async function expectHealth(): Promise<void> {
  const { bound, service, emu } = used.value;
  const { driver } = bound;
  await driver.setMac(macBytes(HEALTHY_MAC));
  expect(await driver.transmit(0, broadcast(HEALTHY_MAC))).toBe(true);
  await until('a transmitted frame', 2_000, () => {
    driver.ring(1).collect();
    return driver.ring(1).outstanding === 0;
  });
  expect(service.pid('emu')).toBe(emu);
}

/** A new client of the victim is served. */
async function expectService(): Promise<void> {
  const fn = await until('the function for a new client', 30_000, () =>
    BoundFunction.open(used.value.socket),
  );
  const driver = await fn.start();
  expect(await driver.transmit(0, broadcast(VICTIM_MAC))).toBe(true);
  await until('a transmitted frame', 2_000, () => driver.ring(1).collect().length > 0);
  await fn.close();
}

function broadcast(sourceMac: string): Buffer {
  const addresses = {
    destination: '10.78.0.255',
    source: '10.78.0.2',
    destinationMac: 'FF:FF:FF:FF:FF:FF',
    sourceMac,
  };
  return udpFrame({ ...addresses, port: 9, payload: Buffer.alloc(64) });
}

async function open(path: string): Promise<Socket> {
  const socket = connect(path);
  await new Promise((resolve, reject) => socket.once('connect', resolve).once('error', reject));
  socket.on('error', () => {}); // EPIPE when it is closed under us
  return socket;
}

/** Sends bytes and tells what the peer does about them. */
async function reaction(path: string, bytes: Uint8Array): Promise<'closes' | 'answers' | 'nothing'> {
  const socket = await open(path);
  const first = new Promise<'closes' | 'answers'>((resolve) => {
    socket.once('close', () => resolve('closes')).once('data', () => resolve('answers'));
  });
  socket.write(bytes);
  const result = await within(first, CLOSE_MS_MAX);
  socket.destroy();
  return result ?? 'nothing';
}

/** A vfio-user header: id 1, a command, a size of the sender's choice. */
function vfioUserHeader(command: number, sizeBytes: number): Buffer {
  const header = Buffer.alloc(16);
  header.writeUInt16LE(1, 0);
  header.writeUInt16LE(command, 2);
  header.writeUInt32LE(sizeBytes, 4);
  return header;
}

function randomBytes(count: number, from: number): Buffer {
  const next = randomNumbers(from);
  return Buffer.from(Array.from({ length: count }, () => Math.floor(next() * 256)));
}

describe('vfio-user socket', () => {
  const BAD: readonly { readonly name: string; readonly bytes: () => Buffer }[] = [
    { name: 'a size below the header', bytes: () => vfioUserHeader(1, 8) },
    { name: 'a size of 4 GiB', bytes: () => vfioUserHeader(1, 0xffff_ffff) },
    { name: 'a VERSION without JSON', bytes: () => vfioUserHeader(1, 16) },
    {
      name: 'a command before VERSION',
      bytes: () => Buffer.concat([vfioUserHeader(9, 32), Buffer.alloc(16)]),
    },
    { name: 'random bytes', bytes: () => randomBytes(4_096, seed) },
  ];

  test.for(BAD)(
    '$name > that connection ends or is answered, others and the next one go on',
    async ({ bytes }) => {
      const { socket } = used.value;
      expect(['closes', 'answers']).toContain(await reaction(socket, bytes()));
      await expectHealth();
      await expectService();
    },
  );

  test('a message that never gets complete, then a dead client > the next client is served', async () => {
    const { socket } = used.value;
    const half = await open(socket);
    half.write(vfioUserHeader(1, 200));
    await sleep(100);
    await expectHealth();
    half.destroy();
    await expectService();
  });

  test(`${CLIENT_KILLS} clients killed at random instants > nothing of them is held`, async () => {
    const { service, socket } = used.value;
    const { processes } = used.scene;
    const random = randomNumbers(seed);
    const before = await service.settledHoldings();
    for (let round = 0; round < CLIENT_KILLS; round++) {
      const client = processes.start([pinnedNode, CLIENT_PROGRAM, socket], { name: 'vfio-user client' });
      // Half of them die while they connect and probe.
      if (round % 2 === 0) await client.printed(/bound/, 30_000);
      await sleep(random() * 200);
      signalPid(client.pid, 'SIGKILL');
      await client.exited;
    }
    await vi.waitFor(
      () => expect({ emu: service.holdings('emu'), ha: service.holdings('ha') }).toEqual(before),
      HOLDINGS_MS_MAX,
    );
    await expectHealth();
    await expectService();
  });
});

describe('rings', () => {
  test('a head outside the table on the transmit queue > that function needs a reset, the other one goes on', async () => {
    const fn = await until('the function', 30_000, () => BoundFunction.open(used.value.socket));
    const driver = await fn.start();
    driver.ring(1).offer(NO_SUCH_HEAD);
    driver.ring(1).publish();
    await driver.pci.notify(1);
    await until('NEEDS_RESET', 2_000, async () => {
      return ((await driver.pci.read('deviceStatus')) & DeviceStatus.NEEDS_RESET) !== 0;
    });
    await expectHealth();
    await driver.stop();
    await fn.close();
    await expectService();
  });

  test('an available index that jumps by more than the queue > the same', async () => {
    const fn = await until('the function', 30_000, () => BoundFunction.open(used.value.socket));
    const driver = await fn.start();
    const ring = driver.ring(1);
    ring.setAvailableIndex(ring.availableIndex + ring.queueSize + 1);
    await driver.pci.notify(1);
    await until('NEEDS_RESET', 2_000, async () => {
      return ((await driver.pci.read('deviceStatus')) & DeviceStatus.NEEDS_RESET) !== 0;
    });
    await expectHealth();
    await fn.close();
    await expectService();
  });
});

describe('vhost-user socket', () => {
  const BAD: readonly { readonly name: string; readonly bytes: Buffer }[] = [
    { name: 'a size of 4 GiB', bytes: Buffer.from('0100000001000000ffffffff', 'hex') },
    { name: 'a version that does not exist', bytes: Buffer.from('010000000300000000000000', 'hex') },
    { name: 'random bytes', bytes: randomBytes(4_096, seed + 1) },
  ];

  test.for(BAD)('$name > that connection ends, the next frontend is greeted', async ({ bytes }) => {
    const { service, victim } = used.value;
    const path = used.scene.path('vhost.sock');
    await service.addVhost(victim.bdf, path);
    expect(await reaction(path, bytes)).toBe('closes');
    await expectHealth();
    const frontend = await until('the next connection', 30_000, () => open(path));
    const answer = new Promise<Buffer>((resolve) => frontend.once('data', resolve));
    frontend.write(Buffer.from('010000000100000000000000', 'hex')); // GET_FEATURES
    expect((await within(answer, CLOSE_MS_MAX))?.readUInt32LE(8)).toBe(8);
    frontend.destroy();
    await service.removeVhost(victim.bdf);
  });
});

describe('command line', () => {
  test.for(
    [
      ['query', '-p', '77'],
      ['hotplug', '-i', 'mlx5_9', '-m', VICTIM_MAC, '-t', '1500', '-n', '3', '-s', '256'],
      ['hotplug', '-i', 'mlx5_0', '-m', 'nonsense', '-t', '1500', '-n', '3', '-s', '256'],
      ['hotplug', '-i', 'mlx5_0', '-m', VICTIM_MAC, '-t', '1500', '-n', '3', '-s', '300'],
      ['unplug', '-p', '99'],
      ['no-such-command'],
    ].map((words) => ({ words })),
  )('virtnet $words > a non-zero exit code and a reason, nothing else happens', async ({ words }) => {
    const { service } = used.value;
    const { code, stdout, stderr } = await service.virtnet(...words);
    expect(code, stdout).not.toBe(0);
    expect(stdout + stderr).toMatch(/err|error|exist|usage|unknown/i);
    await expectHealth();
  });
});

endsCleanly(used);
