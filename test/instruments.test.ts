/**
 * The instruments of the other tests, held against a backend that is not ours: DPDK's vhost. What they say of a guest,
 * of a pause and of a loss has to be true there, too.
 */
import { expect, test } from 'vitest';
import { Guest } from './lib/guest.ts';
import { markedProcesses, signalPid } from './lib/processes.ts';
import { describeDisorder, longestPause } from './lib/stream-analysis.ts';
import { streamFromGuest, streamToGuest } from './lib/streams.ts';
import { Testpmd } from './lib/testpmd.ts';
import { useScene } from './lib/use-scene.ts';
import { sleep } from './lib/waiting.ts';

const HOST_ADDRESS = '10.77.0.1';
const GUEST_ADDRESS = '10.77.0.2';
const MAC = '0c:c4:7a:ff:22:93';
const STOP_MS = 80;
/** What the machine adds by itself to a pause. */
const TOLERANCE_MS = 60;
const ATTEMPTS_MAX = 8;

const used = useScene(async (scene) => {
  const { processes, net, directory } = scene;
  await net.bridge('br0', `${HOST_ADDRESS}/24`);
  const vhostSocket = scene.path('vhost.sock');
  const devices = [`net_vhost0,iface=${vhostSocket}`, 'net_tap0,iface=dtap0'];
  const testpmd = await Testpmd.start({ processes, net, directory, devices });
  await net.enslave('dtap0', 'br0');
  await testpmd.forward('io');
  const guest = await Guest.boot({
    ...{ processes, net, directory, vhostSocket, vhostServer: 'backend', mac: MAC },
    // DPDK's TAP port completes no checksums.
    deviceOptions: 'csum=off,gso=off,host_tso4=off,host_tso6=off,host_ufo=off',
  });
  await guest.address(`${GUEST_ADDRESS}/24`);
  // Else what waits for the guest's answer to ARP is sent by the kernel while it sends the next packets on another processor.
  await net.ip(`neigh replace ${GUEST_ADDRESS} lladdr ${MAC} dev br0 nud permanent`);
  const bridge = await net.waitForLink('br0');
  return { ends: { processes, net, guest }, testpmd, bridgeMac: bridge.address };
});

test('a backend stopped for 80 ms > both streams show a pause of that length', async () => {
  const { ends } = used.value;
  const events = await ends.guest.watchLink();
  // A busy machine makes longer pauses of its own, and a sender that is late meanwhile takes from them.
  for (let attempt = 1; ; attempt++) {
    const pauses = await pausesOfOneStop();
    if (pauses.every((pauseMs) => pauseMs > STOP_MS - 5 && pauseMs < STOP_MS + TOLERANCE_MS)) break;
    expect(attempt, `pauses of ${pauses.join(', ')} ms`).toBeLessThan(ATTEMPTS_MAX);
  }
  expect(await events()).toEqual({ carrierChanges: 0, monitored: [], resets: [] });
});

/** Longest pause of each stream, ms, around one stop of the backend. */
async function pausesOfOneStop(): Promise<number[]> {
  const { ends, testpmd, bridgeMac } = used.value;
  const toGuest = await streamToGuest(ends, GUEST_ADDRESS, 7001);
  const fromGuest = await streamFromGuest(ends, HOST_ADDRESS, bridgeMac, 7002);
  await sleep(1_000);
  signalPid(testpmd.child.pid, 'SIGSTOP');
  await sleep(STOP_MS);
  signalPid(testpmd.child.pid, 'SIGCONT');
  await sleep(1_000);
  const streams = { 'from the guest': await fromGuest(), 'to the guest': await toGuest() };
  return Object.entries(streams).map(([name, { arrivals, report }]) => {
    const { duplicated, reordered } = report;
    expect([duplicated, reordered], `${name}: ${describeDisorder(arrivals)}`).toEqual([[], 0]);
    expect(report.received, name).toBeGreaterThan(500);
    return longestPause(arrivals, () => true)?.pauseMs ?? 0;
  });
}

test('forwarding stopped until queues are full > what is lost on the way is counted as lost', async () => {
  const { ends, testpmd } = used.value;
  // The representor drops what does not fit into its queue; 1000 frames do.
  const toGuest = await streamToGuest(ends, GUEST_ADDRESS, 7003);
  await sleep(300);
  await testpmd.stop();
  await sleep(3_000);
  await testpmd.forward('io');
  await sleep(500);
  const { report } = await toGuest();
  expect(report.lost.length).toBeGreaterThan(500);
  // What came through before and after the stop is not among them.
  expect(report.received).toBeGreaterThan(500);
  expect(report.received + report.lost.length).toBe(report.expected);
});

test('a backend that is killed > the guest sees its link go', async () => {
  const { ends, testpmd } = used.value;
  const events = await ends.guest.watchLink();
  signalPid(testpmd.child.pid, 'SIGKILL');
  await sleep(1_500);
  const { carrierChanges, monitored } = await events();
  expect(carrierChanges).toBeGreaterThan(0);
  expect(monitored.length).toBeGreaterThan(0);
});

test('a program nobody ends > it is found by its mark, ended and reported', async () => {
  const { scene } = used;
  const child = scene.processes.start(['sh', '-c', 'sleep 1000 & exec sleep 2000'], { name: 'left' });
  await sleep(100);
  expect(
    markedProcesses(scene.processes.mark).filter(({ command }) => /^sleep [12]000$/.test(command)),
  ).toHaveLength(2);
  signalPid(child.pid, 'SIGKILL'); // its child lives on without parent
  await child.exited;
  const problems = await scene.end();
  expect(problems.filter((problem) => problem.includes('sleep 1000'))).toHaveLength(1);
  expect(markedProcesses(scene.processes.mark)).toEqual([]);
});
