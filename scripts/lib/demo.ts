/**
 * demo.ts: what scripts/demo shows.
 *
 * Theory
 *   The guest pings, two numbered streams run (one packet a millisecond, either way), and 64 MiB are transferred in
 *   both directions at once, again and again until the last kill is survived. A kill's pause is the longest silence of
 *   a stream that ends within a second after it, less the normal spacing of its packets.
 *
 * Invariants
 *   I1  every number shown was measured in this run.
 *   I2  everything that was started is ended, however this ends.
 */
import { Scene } from '../../test/lib/scene.ts';
import type { Kill } from '../../test/lib/service.ts';
import { type StreamResult, streamFromGuest, streamToGuest } from '../../test/lib/streams.ts';
import { isIntact, TransferHost, type TransferResult } from '../../test/lib/transfer.ts';
import { sleep } from '../../test/lib/waiting.ts';
import { BRIDGE, GUEST_ADDRESS, HOST_ADDRESS, World } from '../../test/lib/world.ts';
import { type DemoResult, parsePings, pauses, table, verdict } from './demo-report.ts';
import { program } from './paths.ts';

const KILLS = 5;
const TRANSFER_BYTES = 64 * 1024 * 1024;
const KILL_SPACING_MS = 1_500;
const TO_GUEST_PORT = 7001;
const FROM_GUEST_PORT = 7002;
const PING_SPACING_S = 0.1;
const PING_MS_MAX = 3_600_000;
/** Frames the representor may queue: bulk traffic and the streams share it, and a full queue would drop by itself. */
const REPRESENTOR_QUEUE_FRAMES = 10_000;

const started = performance.now();

function say(line: string): void {
  process.stdout.write(`${((performance.now() - started) / 1000).toFixed(1).padStart(6)} s  ${line}\n`);
}

export async function demo({ keep }: { keep: boolean }): Promise<number> {
  const scene = await Scene.open();
  let good = false;
  try {
    const world = await prepare(scene);
    const result = await measure(world);
    process.stdout.write(`\n${table(result)}\n`);
    const problems = verdict(result);
    good = problems.length === 0;
    process.stdout.write(good ? 'All is well.\n' : `Not well: ${problems.join('; ')}.\n`);
    if (keep) await lookAround(world);
  } finally {
    const left = await scene.end();
    for (const problem of left) process.stdout.write(`not clean: ${problem}\n`);
    if (left.length > 0) good = false;
  }
  return good ? 0 : 1;
}

async function prepare(scene: Scene): Promise<World> {
  say('starting virtio_net_controller, virtio_net_ha, two virtio_net_emu, and vfe-vhostd');
  const world = await World.open(scene, { queueSize: 1024 });
  const { device, service } = world;
  await scene.net.ip(`link set ${device.sf_rep_net_device} txqueuelen ${REPRESENTOR_QUEUE_FRAMES}`);
  say(
    `hotplugged ${device.bdf} (${device.vuid}); its representor ${device.sf_rep_net_device} is in bridge ${BRIDGE}`,
  );
  say('booting a Linux guest: QEMU without KVM, vhost-user');
  const guest = await world.bootGuest();
  say(
    `guest is up: Linux ${await guest.run('uname -r')}, ${GUEST_ADDRESS} on eth0, and ${HOST_ADDRESS} answers`,
  );
  say(
    `active emulator ${service.pid('emu')}, standby ${service.pid('emu-standby')}, keeper ${service.pid('ha')}`,
  );
  return world;
}

async function measure(world: World): Promise<DemoResult> {
  const { ends, guest, service, bridgeMac } = world;
  const linkEvents = await guest.watchLink();
  say('starting pings and a numbered stream of 1000 packets a second each way');
  const toGuest = await streamToGuest(ends, GUEST_ADDRESS, TO_GUEST_PORT);
  const fromGuest = await streamFromGuest(ends, HOST_ADDRESS, bridgeMac, FROM_GUEST_PORT);
  const pings = guest.result(`/usr/bin/ping -q -i ${PING_SPACING_S} ${HOST_ADDRESS}`, PING_MS_MAX);
  pings.catch(() => {}); // awaited below

  say(`transferring ${TRANSFER_BYTES / 2 ** 20} MiB each way`);
  let killing = true;
  const transfers = transferWhile(world, () => killing);
  transfers.catch(() => {}); // awaited below
  const kills: Kill[] = [];
  const recoveries: number[] = [];
  for (let index = 1; index <= KILLS; index++) {
    await sleep(KILL_SPACING_MS);
    const kill = service.killEmu();
    kills.push(kill);
    const { pid, takeoverMs } = await service.recovered(kill.pid);
    recoveries.push(takeoverMs ?? Number.NaN);
    say(`kill ${index} of ${KILLS}: ${kill.pid} is dead, ${pid} is active, and a new standby is ready`);
  }
  killing = false;
  const transferred = await transfers;
  await sleep(KILL_SPACING_MS);
  await guest.run('kill -INT $(pidof ping)');
  const pinged = parsePings((await pings).output.toString());
  const up: StreamResult = await fromGuest();
  const down: StreamResult = await toGuest();
  say('counting');
  const health = await service.answer<{ health_recover_counter: number }>('health', '-p', '0', 'show');
  return {
    pings: pinged,
    toGuest: { ...down.report, pauses: pauses(down.arrivals, kills, 'sentUs') },
    fromGuest: { ...up.report, pauses: pauses(up.arrivals, kills, 'arrivedUs') },
    takeoversMs: recoveries,
    transfers: transferred.map((transfer) => ({ ...transfer, intact: isIntact(transfer, TRANSFER_BYTES) })),
    linkEvents: await linkEvents(),
    recoveriesCounted: health.health_recover_counter,
    kills: kills.map(({ pid }) => pid),
  };
}

/** Transfers in both directions at once, at least one round, and further rounds while `going`. */
async function transferWhile(world: World, going: () => boolean): Promise<TransferResult[]> {
  const host = await TransferHost.start(world.ends, HOST_ADDRESS, TRANSFER_BYTES);
  const results: TransferResult[] = [];
  do {
    const round = await Promise.all([host.toGuest(), host.fromGuest()]);
    for (const { direction, seconds } of round) say(`64 MiB ${direction} in ${seconds.toFixed(1)} s`);
    results.push(...round);
  } while (going());
  await host.end();
  return results;
}

/** Tells how to look at what runs, and waits for the end. */
async function lookAround(world: World): Promise<void> {
  const { scene, service } = world;
  const enter = scene.net.inside(['sh']).join(' ');
  const lines = [
    '',
    'Still running; in another terminal:',
    `  export VIRTNET_ROOT=${service.root}`,
    `  ${program('virtnet')} list`,
    `  ${program('virtnet')} query -p 0`,
    `  ${program('virtnet')} health -p 0 show`,
    '  kill -9 $(cat $VIRTNET_ROOT/run/virtnet/emu.pid)',
    `  tail -f ${scene.path('controller.log')}`,
    'inside the network namespace (the guest is 10.77.0.2 and answers pings):',
    `  ${enter}`,
    'Ctrl-C ends everything.',
    '',
  ];
  process.stdout.write(lines.join('\n'));
  await new Promise(() => {}); // the handler of the signal ends what runs
}
