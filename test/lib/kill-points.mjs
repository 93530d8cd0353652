/**
 * Preloaded into the emulators of a test: they die at the n-th step that is visible outside, once.
 *
 * Every method by which the main thread makes something visible to a client, a driver, the host, the keeper or the caller
 * of a command is wrapped; before and after each of its calls is a point. VIRTNET_TEST_KILL_POINTS names a file, made by
 * kill-points.ts: which process, whether it notes the points it passes or dies, and at which of them. Without the file,
 * and in every other process, the points do nothing.
 */
import './run-modules.mjs';
import { appendFileSync, readFileSync } from 'node:fs';
import { isMainThread } from 'node:worker_threads';

const file = process.env.VIRTNET_TEST_KILL_POINTS;
let round = '';
let passed = 0;

function point(name) {
  let text;
  try {
    text = readFileSync(file, 'utf8');
  } catch {
    return;
  }
  const [pid, mode, number] = text.split(' ');
  if (Number(pid) !== process.pid) return;
  if (text !== round) passed = 0;
  round = text;
  passed += 1;
  if (mode === 'note') appendFileSync(`${file}.noted`, `${name}\n`);
  else if (passed === Number(number)) {
    process.kill(process.pid, 'SIGKILL');
    for (;;); // until it arrives
  }
}

/** `original` with a point before and after it. */
function between(name, original) {
  return function (...parameters) {
    point(`before ${name}`);
    const result = original.apply(this, parameters);
    if (!(result instanceof Promise)) {
      point(`after ${name}`);
      return result;
    }
    return result.then((value) => {
      point(`after ${name}`);
      return value;
    });
  };
}

function wrap(type, ...methods) {
  for (const method of methods)
    type.prototype[method] = between(`${type.name}.${method}`, type.prototype[method]);
}

if (isMainThread && file !== undefined && /program-emu/.test(process.argv[1] ?? '')) {
  const load = (module) => import(`../../packages/${module}.js`);
  const [linux, ipc, rings, vfio] = await Promise.all(
    ['host-linux', 'host-ipc', 'engine-virtqueue', 'server-vfio-user'].map((name) =>
      load(`${name}/dist/index`),
    ),
  );
  const emu = (name) => load(`program-emu/dist/${name}`);
  wrap(vfio.RequestJournal, 'begin', 'commit', 'finish');
  wrap(linux.ReplyRing, 'sendThenDiscard');
  wrap(rings.QueueLedger, 'completeAnswer', 'publish');
  wrap((await emu('device-store')).DeviceStore, 'commit', 'forget');
  wrap((await emu('host-store')).HostStore, 'save');
  wrap((await emu('device-taps')).DeviceTaps, 'resize', 'close');
  wrap((await emu('device-endpoint')).DeviceEndpoint, 'upload', 'listen', 'end');
  wrap((await emu('device-queues')).DeviceQueues, 'reconcile');
  wrap((await emu('device-interrupts')).DeviceInterrupts, 'fire');
  const { bind } = ipc.RpcServer;
  ipc.RpcServer.bind = (kind, path, handlers, log) => {
    const names = ['device.hotplug', 'device.unplug', 'device.modify', 'device.host'];
    const pointed = names.map((name) => [name, between(name, handlers[name])]);
    return bind.call(ipc.RpcServer, kind, path, { ...handlers, ...Object.fromEntries(pointed) }, log);
  };
}
