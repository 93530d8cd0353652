/**
 * fake-emu.fixture.ts: an emulator without devices, for tests of the controller: it speaks the RPC, keeps "devices" as
 * records on the shelf, and takes over as the real one does. `fake-emu.json` in VIRTNET_ROOT makes it misbehave.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { createLogger, RpcServer, ShelfClient, virtnetPaths } from '@virtnet/host-ipc';
import { beatingPage, isAlive, Poller, setProcessName } from '@virtnet/host-linux';

/** How an instance misbehaves. */
export interface FakeEmuKnobs {
  /** Comes up but never says ready. */
  readonly neverReady?: boolean;
  /** Exits at once. */
  readonly exits?: boolean;
  /** Do not take over by themselves: wait for emu.promote. */
  readonly passive?: boolean;
  /** Die over the first hotplug, after it was carried out and before it is answered. */
  readonly dieOnHotplug?: boolean;
  /** The event loop stands still from the first hotplug on. */
  readonly blockOnHotplug?: boolean;
  /** Do not end when asked to. */
  readonly stubborn?: boolean;
}

const string = { type: 'string' } as const;
const { values } = parseArgs({
  options: { instance: string, role: string, urgent: { type: 'boolean' }, 'progress-fd': string },
});
const instance = Number(values.instance);
const paths = virtnetPaths();
const knobsFile = join(paths.root, 'fake-emu.json');
const knobs: FakeEmuKnobs = existsSync(knobsFile) ? JSON.parse(readFileSync(knobsFile, 'utf8')) : {};
if (knobs.exits) process.exit(3);

setProcessName('virtio_net_emu');
const progress = beatingPage(Number(values['progress-fd']), 30);
progress.begin();
const log = createLogger('virtio_net_emu');
const poller = new Poller();
poller.start();
const shelf = new ShelfClient({ path: paths.haSocket, poller });
const devices = new Map<string, Uint8Array>();
const requests = new Map<string, string>();
let role: 'standby' | 'active' = 'standby';
let synced = false;
let holder: number | null = null;
let takeoverMs: number | null = null;
const encode = (text: string) => new TextEncoder().encode(text);

function remember(name: string, blob: Uint8Array): void {
  devices.set(name, blob);
  requests.set(new TextDecoder().decode(blob), name);
}

function upload(): void {
  for (const [name, blob] of devices) shelf.transaction([{ put: name, blob }]);
}

async function promote(): Promise<void> {
  if (role === 'active') return;
  const startedMs = performance.now();
  role = 'active';
  await shelf.lease(upload);
  takeoverMs = performance.now() - startedMs;
}

shelf.subscribe({
  onEntry: (name, blob) => remember(name, blob),
  onDelete: (name) => devices.delete(name),
  onSynced: (pid) => {
    synced = true;
    holder = pid;
  },
  onLeaseHeld: (pid) => {
    holder = pid;
  },
  onLeaseLost: (pid) => {
    if (!knobs.passive && pid === holder && !isAlive(pid)) void promote();
  },
});
shelf.start();

const end = () => setImmediate(() => process.exit(0));
await RpcServer.bind(
  'emu',
  paths.emuIpc(instance),
  {
    'emu.status': () => {
      progress.main.beat();
      return {
        role,
        ready: synced && !knobs.neverReady,
        pid: process.pid,
        devices: devices.size,
        takeoverMs,
        uptimeMs: process.uptime() * 1000,
        version: '0.1.0',
        reserve: false,
        informed: synced,
      };
    },
    'emu.devices': () => ({ devices: [] }),
    'emu.check': () => ({ devices: devices.size, problems: [] }),
    'emu.borrow': () => ({ pauseMs: 0 }),
    'emu.lend': () => ({}),
    'emu.pass': () => ({}),
    'emu.stand': () => ({}),
    'emu.verdicts': () => ({}),
    'emu.promote': async () => {
      await promote();
      return { devices: devices.size, takeoverMs };
    },
    'emu.shutdown': () => {
      if (!knobs.stubborn) setTimeout(end, 10);
      return {};
    },
    'log.level': () => ({}),
    'device.hotplug': ({ requestId }) => {
      const name = requests.get(requestId) ?? `dev/${devices.size}/record`;
      const repeated = requests.has(requestId);
      remember(name, encode(requestId));
      shelf.transaction([{ put: name, blob: encode(requestId) }]);
      while (knobs.blockOnHotplug && !repeated);
      if (knobs.dieOnHotplug && !repeated) process.kill(process.pid, 'SIGKILL');
      return { id: Number(name.split('/')[1]), repeated, errno: 0, errstr: 'Success' };
    },
    'device.unplug': () => ({ errno: 0, errstr: 'Success' }),
    'device.list': () => ({ instance, devices: [...devices.keys()] }),
    'device.query': () => ({ Error: "Device doesn't exist" }),
    'device.modify': () => ({ errno: 0, errstr: 'Success' }),
    'device.stats': () => ({}),
    'device.host': () => ({}),
    'device.health': () => ({}),
  },
  log,
);
