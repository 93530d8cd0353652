/**
 * Every example command of the guide on a service that runs, in the guide's order: what it prints has the keys, order and
 * types that the guide shows, and what it does to the host's functions is done.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { shapeOf } from './lib/answer-shape.ts';
import {
  CANNOT_RUN,
  GUIDE,
  type GuideExample,
  type GuideNames,
  SHELL_FUNCTIONS,
  shellLine,
  whyNot,
} from './lib/guide-examples.ts';
import type { Output } from './lib/processes.ts';
import { parseAnswer, Service } from './lib/service.ts';
import { endsCleanly, useScene } from './lib/use-scene.ts';
import { until } from './lib/waiting.ts';

const PATIENCE_MS = 60_000;
const UPLINK = 'p0';
const PLUGGED_MAC = '0C:C4:7A:FF:22:93';
const PF_MAC = '4A:82:E3:2E:96:AC';
const CONF = {
  static_pf: { mac_base: PF_MAC },
  software: { uplinks: { mlx5_0: UPLINK }, representor: 'tap' },
};
/** The rows of `mlxconfig -e q` are the configuration of the scene. */
const ROWS = GUIDE.examples.find(
  ({ command }) => command.startsWith('mlxconfig') && command.includes('-e q'),
)!;
const FIRMWARE = [
  'SRIOV_EN=1',
  ...ROWS.rows!.map((row) => {
    const [, name, , current] = row.split(/ +/) as [string, string, string, string];
    return `${name}=${/\((\d)\)/.exec(current)?.[1] ?? current}`;
  }),
];

type Driver = '' | 'virtio-pci' | 'vfio-pci';

/** The host's functions: which driver each kind has, null where there is none of it. */
interface HostState {
  readonly pf: Driver;
  readonly vfs: readonly Driver[];
  readonly plugged: Driver | null;
}

const used = useScene(async (scene) => {
  const { net } = scene;
  await net.ip(`link add ${UPLINK} type bridge`);
  await net.ip(`link set ${UPLINK} mtu 1500 up`);
  const service = await Service.start(scene, { conf: CONF });
  await configure(service);
  expect((await service.host('power-cycle')).code).toBe(0);
  scene.atEnd(() => service.unloadDriver());
  await service.startVhostd('server');
  const conf = scene.path('virtnet.conf');
  writeFileSync(conf, '{}');
  const names: GuideNames = {
    pf: '14:00.2',
    vfs: ['14:00.4', '14:00.5'],
    pfMac: PF_MAC,
    cards: { pf: 'vnet14s00f2', plugged: 'vnet15s00f0', vf: 'vnet14s00f4' },
    conf,
    vhostSocket: scene.path('vhost-net0'),
  };
  return { service, names };
});

/** Next boot's values: those of the guide's rows. */
async function configure(service: Service): Promise<void> {
  expect((await service.mlxconfig('-y', '-d', '03:00.0', 's', ...FIRMWARE)).code).toBe(0);
}

async function shell(line: string): Promise<Output> {
  return used.scene.net.output(['bash', '-c', `set -o pipefail\n${SHELL_FUNCTIONS}\n${line}`], {
    env: { VIRTNET_ROOT: used.value.service.root },
    timeoutMs: PATIENCE_MS,
  });
}

async function host(...words: string[]): Promise<void> {
  const { code, stdout, stderr } = await used.value.service.host(...words);
  expect([code, stdout.includes('"errno": 0'), stderr], words.join(' ')).toEqual([0, true, '']);
}

/** What `lspci -k` shows, without a process for it. */
async function hostState(): Promise<HostState> {
  const { names, service } = used.value;
  const { functions } = await service.ask<{ functions: readonly { bdf: string; driver: Driver }[] }>('host', {
    verb: 'functions',
    bdf: null,
    value: 0,
    driver: null,
  });
  const drivers = new Map(functions.map(({ bdf, driver }) => [bdf, driver]));
  const vfs = names.vfs.map((bdf) => drivers.get(bdf)).filter((driver) => driver !== undefined);
  return { pf: drivers.get(names.pf) ?? '', vfs, plugged: drivers.get('15:00.0') ?? null };
}

/** What must be so before an example, for the guide describes more than one host. */
interface Needs {
  readonly pf?: Driver;
  readonly vfs?: 0 | 2;
  readonly vf?: Driver;
  readonly plugged?: Driver | 'any';
  readonly uplinkMtu?: number;
  readonly dropCounter?: true;
  readonly firmware?: true;
}
const VFS: Needs = { vfs: 2 };
const NEEDS: readonly (readonly [RegExp, Needs])[] = [
  [/-p 0 -v \d device/, { vfs: 2, vf: '' }],
  [/device .*-(dc|pkt_cnt) /, { vfs: 2, vf: 'virtio-pci' }],
  [/-p 0 device -(m|f|dim|netdim) /, { pf: '' }],
  [/-e q/, { firmware: true }],
  [/-t 9216/, { uplinkMtu: 9216 }],
  [/num_desc_drop_pkts/, { dropCounter: true }],
  [/(query|stats|health) -p (0|<\w+>)(?! -v)/, { pf: 'virtio-pci' }],
  [/(query|stats|health) -p (0|<\w+>) -v/, { vfs: 2, vf: 'virtio-pci' }],
  [/^lspci \| grep|^virtnet list$/, { vfs: 2, plugged: 'any' }],
  [/^virtnet list \|/, VFS],
  [/0c:c4:7a:ff:22:93|ens2f0|15:00\.0/, { plugged: 'virtio-pci' }],
  [/4A:82|ens2f2|eth0/, { pf: 'virtio-pci' }],
  [/^virtnet unplug|en3f0pf0sf2000/, { plugged: 'any' }],
  [/en3f0pf0sf3000/, VFS],
  [/<vnet>/, { vfs: 2, vf: 'virtio-pci' }],
  [/<(virtio_)?pf_bdf> > \S*virtio-pci\/unbind/, { pf: 'virtio-pci' }],
  [/<(virtio_)?pf_bdf> > \S*\/bind/, { pf: '' }],
  [/(vf\d?_bdf>|virtio-dev") > \S*\/unbind/, { vfs: 2, vf: 'virtio-pci' }],
  [/(vf\d?_bdf>|virtio-dev") > \S*\/bind/, { vfs: 2, vf: '' }],
  [/0 > \S*numvfs/, VFS],
  [/[^0] > \S*numvfs/, { vfs: 0 }],
  [/lspci -vvv -s <pf_bdf>/, { pf: 'vfio-pci' }],
  [/lspci -vvv -s <vf_bdf>/, { vfs: 2, vf: 'vfio-pci' }],
  [/vfe-vhost-cli vf -a/, { vfs: 2, vf: 'vfio-pci' }],
];

function needsOf({ command, shape }: GuideExample): Needs {
  if (shape?.[0] === 'Error T') return { vfs: 0 };
  return Object.assign({}, ...NEEDS.filter(([pattern]) => pattern.test(command)).map(([, needs]) => needs));
}

async function rebind(bdf: string, from: Driver, to: Driver): Promise<void> {
  if (from === to) return;
  if (from !== '') await host('unbind', bdf, from);
  if (to !== '') await host('bind', bdf, to);
}

async function prepare(needs: Needs): Promise<void> {
  const { names, service } = used.value;
  if (needs.firmware) await configure(service);
  if (needs.uplinkMtu !== undefined) await used.scene.net.ip(`link set ${UPLINK} mtu ${needs.uplinkMtu}`);
  let state = await hostState();
  if (needs.plugged !== undefined && state.plugged === null) {
    await service.hotplug({ mac: PLUGGED_MAC });
    state = await hostState();
  }
  if (needs.plugged !== undefined && needs.plugged !== 'any')
    await rebind('15:00.0', state.plugged!, needs.plugged);
  if (needs.pf !== undefined) await rebind(names.pf, state.pf, needs.pf);
  state = await hostState(); // a PF without a driver has no VFs
  if (needs.vfs !== undefined && state.vfs.length !== needs.vfs) {
    if (state.vfs.length > 0) await host('sriov', names.pf, '0');
    if (needs.vfs > 0) await host('sriov', names.pf, `${needs.vfs}`);
    state = await hostState();
  }
  if (needs.vf !== undefined)
    for (const [i, driver] of state.vfs.entries()) await rebind(names.vfs[i]!, driver, needs.vf);
  if (needs.dropCounter) {
    const { code, stdout } = await service.virtnet('modify', '-p', '0', '-v', '0', 'device', '-dc', 'enable');
    expect(code, stdout).toBe(0);
  }
}

/** What is answered beside what the guide shows: docs/compatibility.md says so. */
const MORE: readonly (readonly [RegExp, RegExp])[] = [
  [/^virtnet health/, /^recovery( O|\.(last_cause T|last_pause_ms N|max_pause_ms N|error T|datapath T))$/],
  [
    /^virtnet update -t/,
    /^(reason|original|destination|phase) T|^(phases \(s\)|device pauses \(ms\))( O|\.\w+ N)$/,
  ],
];

/** Where the guide contradicts itself, or shows an older version: docs/compatibility.md says what is decided. */
const DIFFERS: Readonly<Record<number, string>> = {
  325: 'lspci without the revision, and another class',
  2076: 'lspci without the revision',
  2118: 'two objects without the array around them',
  2176: 'order of keys of an older version',
  2180: 'order of keys of an older version',
  2205: 'netdim, elsewhere dim',
  2322: 'a transitional function',
};
/** Features of the guide that no function has here. */
const NOT_OFFERED = ['VIRTIO_F_ORDER_PLATFORM', 'VIRTIO_F_SR_IOV', 'VIRTIO_F_ADMIN_VQ'];
/** What the guide says must fail, or warns of. */
const REFUSED: Readonly<Record<string, number>> = {
  'virtnet modify -p 0 -v 1 device -qp 2 -n 6': -1074,
  'virtnet modify -p 0 -v 1 device -n 0': -1044,
  'virtnet modify -p 0 -v 1 device -qp 0': -1044,
};

/** Whether `part` are lines of `whole` in this order. */
function inOrder(part: readonly string[], whole: readonly string[]): boolean {
  let at = 0;
  for (const line of whole) if (line === part[at]) at += 1;
  return at === part.length;
}

/** The value and everything in it. */
function* parts(value: unknown): Generator<unknown> {
  if (typeof value !== 'object' || value === null) return;
  yield value;
  for (const each of Object.values(value)) yield* parts(each);
}

function expectShape(example: GuideExample, answer: unknown): void {
  const { shape, partial, command, at } = example;
  if (DIFFERS[at] !== undefined) {
    const matches = [...parts(answer)].some((part) => inOrder(shape!, shapeOf(part)));
    expect(matches && partial === true, `no longer so: ${DIFFERS[at]}`).toBe(false);
    return;
  }
  if (partial === true) {
    const shapes = [...parts(answer)].map((part) => shapeOf(part));
    const matches = shapes.some((own) => inOrder(shape!, own));
    if (!matches) expect(shapes[0]).toEqual(shape);
    return;
  }
  const more = MORE.filter(([pattern]) => pattern.test(command)).map(([, keys]) => keys);
  const own = shapeOf(answer).filter((line) => !more.some((keys) => keys.test(line)));
  expect(own).toEqual(shape);
}

/** Keys of `ethtool`'s lines. */
const keysOf = (text: string) => [...text.matchAll(/^([A-Za-z][A-Za-z -]*?):/gm)].map(([, key]) => key!);
/** Keys and kinds of single lines of JSON. */
const foundIn = (text: string) =>
  [...text.matchAll(/^ *("[^"]+": .*?),?$/gm)].map(([, pair]) => shapeOf(JSON.parse(`{${pair}}`))[0]!);

function expectOutput(example: GuideExample, line: string, { stdout, code, stderr }: Output): void {
  const { command, parameters, shape, found, text, keys, rows, at } = example;
  const refused = REFUSED[command];
  expect([code, stderr], stdout).toEqual([refused === undefined && shape?.[0] !== 'Error T' ? 0 : 1, '']);
  if (parameters !== undefined) expect(stdout.split('\n')[0]).toBe(parameters);
  if (shape !== undefined) expectShape(example, parseAnswer(stdout));
  else if (found !== undefined && DIFFERS[at] === undefined)
    expect([...new Set(foundIn(stdout))]).toEqual([...new Set(found)]);
  else if (text !== undefined) expect(stdout.trim()).toBe(text.replace(/^\/\S+/, used.value.names.conf));
  else if (keys !== undefined) expect(keysOf(stdout)).toEqual(keys);
  else if (rows !== undefined) expectRows(example, stdout);
  else if (/^virtnet modify/.test(command))
    expect(parseAnswer(stdout)).toMatchObject({ errno: refused ?? 0 });
  else if (line.includes('grep')) {
    const word = /grep (?:-i )?"?(\S+?)"?(?: -B \d)?$/.exec(line)![1]!;
    expect(stdout.toLowerCase()).toContain(word.toLowerCase());
  }
}

/** Rows of `lspci` are compared without the address of the function, the others as they are. */
function expectRows({ command, rows, at }: GuideExample, stdout: string): void {
  const plain = (row: string) => row.trimEnd().replace(/^(0000:)?[0-9a-f]{2}:[0-9a-f]{2}\.\d/, '<function>');
  const lines = stdout.trim().split('\n').map(plain);
  if (DIFFERS[at] !== undefined) expect(lines).not.toContain(plain(rows![0]!));
  else if (command.startsWith('mlxconfig')) expect(lines).toEqual(rows!.map(plain));
  else expect(lines).toEqual(expect.arrayContaining(rows!.map(plain)));
}

/** What a command of the host makes of its functions. */
function expectedState(line: string, before: HostState): Partial<HostState> {
  const { names } = used.value;
  const [program, verb, target, value] = line.split(' ');
  if (/^modprobe -rv/.test(line)) return { pf: '', vfs: before.pf === 'virtio-pci' ? [] : before.vfs };
  if (/^modprobe .*virtio/.test(line))
    return { pf: before.pf || 'virtio-pci', vfs: before.vfs.map((driver) => driver || 'virtio-pci') };
  if (program !== 'virtnet-host') return before;
  const driver = verb === 'bind' ? (value as Driver) : '';
  if (verb === 'bind' || verb === 'unbind')
    return target === names.pf
      ? { ...before, pf: driver, vfs: verb === 'unbind' ? [] : before.vfs }
      : { ...before, vfs: before.vfs.map((old, i) => (names.vfs[i] === target ? driver : old)) };
  return { pf: before.pf };
}

const RUNNABLE = GUIDE.examples.filter((example) => whyNot(example) === null);

describe('the guide’s examples', () => {
  test('every one is run, or there is a reason why not; no reason is idle', () => {
    const unknown = RUNNABLE.filter((example) => shellLine(example, used.value.names) === null);
    expect(unknown.map(({ at, command }) => `${at}: ${command}`)).toEqual([]);
    for (const { command, reason } of CANNOT_RUN)
      expect(
        GUIDE.examples.some((example) => command.test(example.command)),
        reason,
      ).toBe(true);
    expect(RUNNABLE.length).toBeGreaterThan(100);
    for (const at of Object.keys(DIFFERS))
      expect(
        RUNNABLE.some((example) => example.at === Number(at)),
        at,
      ).toBe(true);
  });

  test.for(RUNNABLE)('$at: $command', async (example) => {
    const { service, names } = used.value;
    await prepare(needsOf(example));
    const line = shellLine(example, names)!;
    const before = await hostState();
    const output = await shell(line);
    expectOutput(example, line, output);
    if (example.side === 'host') expect(await hostState()).toMatchObject(expectedState(line, before));
    const vfs = /^virtnet-host sriov \S+ (\d)$/.exec(line)?.[1];
    if (vfs !== undefined) expect((await hostState()).vfs).toHaveLength(Number(vfs));
    if (/ -(n|qp) 0$/.test(line)) await host('sriov', names.pf, '0'); // such a VF is of no use to the others
    if (/^virtnet update -s/.test(line))
      await until('the end of the update', PATIENCE_MS, async () => {
        return (await service.virtnet('update', '-t')).stdout.includes('"inactive"');
      });
  });
});

describe('beside the examples', () => {
  test.for(GUIDE.syntax)('$at: usage of $command', async ({ command, options }) => {
    const words = command.split(' ').slice(1);
    const [verb, rest] = [words.slice(0, 1), words.slice(1)];
    const device = rest.length === 0 ? [] : ['-p', '0'];
    const { code, stdout } = await used.value.service.virtnet(...verb, ...device, ...rest, '-h');
    const general = rest.length === 0 ? '' : (await used.value.service.virtnet(...verb, '-h')).stdout;
    expect(code).toBe(0);
    for (const option of options)
      expect(`${stdout}${general}`, option).toMatch(new RegExp(`(^|[ [{|,])${option}(?![\\w-])`, 'm'));
  });

  const configurations = GUIDE.files.filter(({ content }) => !content.includes('port_ib_dev'));
  test.for(configurations)('$at: the configuration is valid', async ({ content }) => {
    const { names, service } = used.value;
    writeFileSync(names.conf, content);
    expect(await service.virtnet('validate', '-f', names.conf)).toMatchObject({
      code: 0,
      stdout: `${names.conf} is valid\n`,
    });
  });

  test('bits of features have the guide’s names, and keys of five characters', async () => {
    interface Listed {
      readonly controller: { readonly supported_features: Readonly<Record<string, string>> };
    }
    const { controller } = await used.value.service.answer<Listed>('list');
    const own = controller.supported_features;
    for (const [bit, name] of Object.entries(GUIDE.features))
      expect(own[bit.padStart(5)], bit).toBe(NOT_OFFERED.includes(name) ? undefined : name);
  });

  test('a recovery file has the guide’s keys', async () => {
    const { service } = used.value;
    const { content } = GUIDE.files.find((file) => file.content.includes('port_ib_dev'))!;
    await prepare({ plugged: 'any' });
    const { devices } = await service.answer<{ devices: { pci_bdf: string; vuid: string }[] }>('list');
    const { vuid } = devices.find(({ pci_bdf }) => pci_bdf === '15:00.0')!;
    const file = readFileSync(join(service.root, 'opt/mellanox/mlnx_virtnet/recovery', vuid), 'utf8');
    expect(shapeOf(JSON.parse(file))).toEqual(shapeOf(JSON.parse(content)));
  });

  test('--json prints the same answers, and nothing else', async () => {
    const { service } = used.value;
    await prepare({ pf: 'virtio-pci', vfs: 2 });
    for (const line of [
      'list',
      'query -p 0',
      'stats -p 0 -q 0',
      'health -p 0 show',
      'log -l info',
      'version',
    ]) {
      const plain = await service.virtnet(...line.split(' '));
      const json = await service.virtnet('--json', ...line.split(' '));
      expect(shapeOf(JSON.parse(json.stdout)), line).toEqual(shapeOf(parseAnswer(plain.stdout)));
    }
  });
});

endsCleanly(used);
