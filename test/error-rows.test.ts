/** Every row of the guide's table of errors: raised by a command, through everything that judges one, or said not to be. */
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { CONTROL_ERRORS, type ControlErrorName, failure } from '@virtnet/engine-control';
import { VfioUserClient } from '@virtnet/server-vfio-user';
import { DeviceStatus, featureMask, NetFeature, VirtioFeature } from '@virtnet/wire';
import { describe, expect, onTestFinished, test } from 'vitest';
import { parseVirtnet } from '../packages/program-cli/dist/definition.js';
import { CliFront, type CliFrontOptions } from '../packages/program-controller/dist/cli-front.js';
import { type FunctionClient, TestDriver } from '../packages/program-emu/dist/test-support/test-driver.js';
import {
  TestService,
  type TestServiceOptions,
} from '../packages/program-emu/dist/test-support/test-service.js';

/** Two static PFs with three VFs each, and three ports for hotplug PFs. */
const FIRMWARE = [
  ...['VIRTIO_NET_EMULATION_ENABLE=1', 'PCI_SWITCH_EMULATION_ENABLE=1', 'SRIOV_EN=1'],
  ...['VIRTIO_NET_EMULATION_NUM_PF=2', 'VIRTIO_NET_EMULATION_NUM_VF=3', 'PCI_SWITCH_EMULATION_NUM_PORT=3'],
  ...['PF_BAR2_ENABLE=0', 'PER_PF_NUM_SF=1', 'PF_TOTAL_SF=64'],
  ...['VIRTIO_NET_EMULATION_NUM_MSIX=64', 'VIRTIO_NET_EMULATION_NUM_VF_MSIX=16'],
];
/** After a reset, when a PF has the factory's two vectors. */
const HOTPLUG_ONLY = FIRMWARE.filter((value) => /EMULATION_ENABLE|NUM_PORT/.test(value));
/** Less than a second each, and a busy machine may have little of a processor. */
const TEST_MS = 60_000;
const PF1_BDF = '14:00.3';
const PF0_VUID = 'MT2151X03152VNETS0D0F2';
const HOTPLUG_BDF = '15:00.0';
const MAC = '0C:C4:7A:FF:22:93';
const { ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK } = DeviceStatus;

interface Answered {
  readonly errno: number;
  readonly errstr: string;
}

interface Queried {
  readonly devices: readonly { readonly pci_bdf: string }[];
}

/** A service, and a controller's front before it that has no processes. */
class Scene {
  readonly service: TestService;
  /** The front's own state, for rows that are about it. */
  moving: { pf: number; vf: number | null; vuid: string } | null = null;
  destinationLost = false;
  readonly #front: CliFront;
  readonly #clients: VfioUserClient[] = [];

  private constructor(options: TestServiceOptions) {
    this.service = new TestService(options);
    const scene = this;
    const { service } = this;
    const client = {
      call: async (name: string, params: never): Promise<unknown> => {
        const { commands } = service;
        switch (name) {
          case 'device.hotplug':
            return commands.hotplug(params);
          case 'device.unplug':
            return commands.unplug(params);
          case 'device.modify':
            return commands.modify(params);
          case 'device.query':
            return commands.query(params);
          case 'device.stats':
            return commands.stats(params);
          case 'device.host':
            return commands.host(params);
        }
        throw new Error(`no scenario asks for ${name}`);
      },
    };
    const supervisor = {
      get moving() {
        return scene.moving;
      },
      waitForActive: async () => ({ client }),
    };
    const running = { version: '0.1.0' };
    const destination = () => {
      if (scene.destinationLost) throw new Error('no such file');
      return running;
    };
    const update = { record: null, ongoing: false, begin: () => true };
    const parts = { supervisor, update, running, destination, setLogLevel: () => {} };
    this.#front = new CliFront(parts as unknown as CliFrontOptions);
  }

  static async open(options: TestServiceOptions = { firmware: FIRMWARE }): Promise<Scene> {
    const scene = new Scene(options);
    await scene.service.start();
    onTestFinished(async () => {
      for (const client of scene.#clients) client.close();
      await scene.service.close();
    });
    return scene;
  }

  /** What `virtnet` answers to a command line. */
  async type(line: string): Promise<Answered> {
    const parsed = parseVirtnet(line.split(' '));
    if (parsed.kind !== 'request') throw new Error(`${line}: ${JSON.stringify(parsed)}`);
    const { command, params } = parsed.request;
    const { answer, exitCode } = await this.#front.request({ command, params: params as never });
    const { errno = 0 } = answer as { errno?: number };
    expect(exitCode, line).toBe(errno === 0 ? 0 : 1);
    return answer as unknown as Answered;
  }

  async succeeds(line: string): Promise<void> {
    expect(await this.type(line), line).toMatchObject({ errno: 0 });
  }

  hotplugged(...more: readonly string[]): Promise<Answered> {
    return this.type(hotplug(...more));
  }

  async host(
    verb: 'sriov' | 'bind',
    bdf: string,
    value: number | null,
    driver: string | null,
  ): Promise<void> {
    expect(await this.ask(verb, bdf, value, driver)).toMatchObject({ errno: 0 });
  }

  /** What `virtnet-host` answers. */
  async ask(verb: string, bdf: string, value: number | null, driver: string | null): Promise<Answered> {
    const params = { verb, bdf, value, driver };
    const { answer } = await this.#front.request({ command: 'host', params });
    return answer as unknown as Answered;
  }

  /** From now on no recovery file can be written or removed. */
  loseRecovery(): void {
    const { recovery } = this.service.paths;
    rmSync(recovery, { recursive: true });
    writeFileSync(recovery, '');
  }

  /** Opens a function, as a virtual machine does. */
  async client(bdf: string): Promise<VfioUserClient> {
    const { paths, poller } = this.service;
    const client = await VfioUserClient.connect(paths.pciSocket(`0000:${bdf}`), { poller });
    this.#clients.push(client);
    return client;
  }

  /** Opens a function and drives it, with no queue enabled. */
  async drive(bdf: string, features: bigint): Promise<void> {
    const client = (await this.client(bdf)) as unknown as FunctionClient;
    const driver = new TestDriver(client);
    await driver.negotiate(features);
    await driver.register('deviceStatus', 1, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    expect(await driver.status()).toBe(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
  }
}

/** `virtnet hotplug` with what it needs; options in `more` come later and win. */
function hotplug(...more: readonly string[]): string {
  const given: Record<string, string> = { '-i': 'mlx5_0', '-m': MAC, '-t': '1500', '-n': '3', '-s': '256' };
  for (let i = 0; i < more.length; i += 2) {
    if (more[i] === '-qp') delete given['-n'];
    given[more[i]!] = more[i + 1]!;
  }
  return ['hotplug', ...Object.entries(given).flat()].join(' ').trim();
}

/** Command lines that are each answered with the row, or what has to be done for that. */
type Scenario = readonly string[] | ((scene: Scene) => Promise<readonly Answered[]>);

/** What the lines below find: a hotplug PF with number 2, and three VFs of PF 0. */
async function furnished(): Promise<Scene> {
  const scene = await Scene.open();
  expect(await scene.hotplugged()).toMatchObject({ errno: 0, id: 2, bdf: HOTPLUG_BDF });
  await scene.host('sriov', '14:00.2', 3, null);
  return scene;
}

const VERSION_1 = featureMask([VirtioFeature.VERSION_1]);
const WITHOUT_RX = VERSION_1 | featureMask([NetFeature.CTRL_VQ]);

async function all(scene: Scene, lines: readonly string[]): Promise<readonly Answered[]> {
  const answers: Answered[] = [];
  for (const line of lines) answers.push(await scene.type(line));
  return answers;
}

/** A new service with another firmware configuration, whose command line is typed. */
async function elsewhere(changes: readonly string[], ...lines: readonly string[]): Promise<Answered> {
  const scene = await Scene.open({ firmware: withFirmware(changes) });
  for (const line of lines.slice(0, -1)) await scene.succeeds(line);
  return scene.type(lines.at(-1)!);
}

function withFirmware(changes: readonly string[]): readonly string[] {
  const names = changes.map((change) => change.split('=')[0]);
  return [...FIRMWARE.filter((value) => !names.includes(value.split('=')[0])), ...changes];
}

/** Changes that are carried out and cannot be saved. */
function unsaved(...lines: readonly string[]): Scenario {
  return async (scene) => {
    scene.loseRecovery();
    return all(scene, lines);
  };
}

const SCENARIOS: Partial<Record<ControlErrorName, Scenario>> = {
  DEV_FEATURE_VALIDATE: [
    hotplug('-f', '0x4000000000000000'),
    'modify -p 0 device -f 0x20',
    'modify -p 0 device -f 0x100000800',
  ],
  DEV_NOT_EXIST: [
    ...['unplug -p 61', 'unplug -u MT2151X03152VNETS1D9F0'],
    ...['modify -p 61 device -l 0', 'modify -u MT2151X03152VNETS1D9F0 device -l 0'],
  ],
  DEV_NOT_HOTPLUG: ['unplug -p 0'],
  DEV_NOT_START: [
    'modify -p 0 device -dc enable',
    'modify -p 0 device -pkt_cnt enable',
    'modify -p 0 device -r 0x1',
    'modify -p 0 device -s 0x40',
  ],
  DRV_SHOULD_NOT_LOAD: async (scene) => {
    await scene.drive(PF1_BDF, VERSION_1);
    const { devices } = (await scene.type('query -p 0 -v 0 -b')) as unknown as Queried;
    await scene.client(devices[0]!.pci_bdf); // a VF's vectors stay while somebody has read their number
    const driven = [`-m ${MAC}`, '-t 1400', '-q 64', '-qp 2', '-dim enable', '-f 0x100000000'];
    return all(scene, [
      'modify -p 0 -v 0 device -n 4',
      ...driven.map((option) => `modify -p 1 device ${option}`),
    ]);
  },
  ID_OUT_OF_RANGE: [
    'unplug -p 62',
    'query -p 70000',
    'modify -p 62 device -l 0',
    'modify -p 62 queue -e event -n 1 -c 1',
    'modify -p 0 -v 1008 device -l 0',
  ],
  VUID_INVALID: ['unplug -u PF0', 'modify -u PF0 device -l 0'],
  MAC_INVALID: [hotplug('-m', '01:00:5e:00:00:01'), 'modify -p 0 device -m 0c:c4:7a'],
  MSIX_INVALID: async (scene) => [
    ...(await all(scene, [
      'modify -p 0 device -n 8',
      'modify -p 0 -v 0 device -n 18',
      'modify -p 0 -v 0 device -n 5',
    ])),
    await (await Scene.open({ firmware: HOTPLUG_ONLY, reset: true })).type(hotplug()),
  ],
  MTU_INVALID: [hotplug('-t', '67'), hotplug('-t', '9217'), 'modify -p 0 device -t 9217'],
  PORT_CTX_NOT_FOUND: [hotplug('-i', 'mlx5_7'), hotplug('-i', 'mlx5_bond_0')],
  REC_CONFIG_SAVE: unsaved(
    'modify -p 0 device -t 1400',
    'modify -p 0 device -q 64',
    'modify -p 0 device -f 0x100000000',
  ),
  REC_FILE_CREATE: async (scene) => {
    scene.loseRecovery();
    return [await scene.type(hotplug()), await scene.ask('sriov', PF1_BDF, 1, null)];
  },
  REC_MAC_DEL: async (scene) => {
    scene.loseRecovery();
    return [await scene.type('unplug -p 2'), await scene.ask('power-cycle', '', null, null)];
  },
  REC_MAC_SAVE: unsaved(`modify -p 0 device -m ${MAC}`, `modify -p 0 -v 0 device -n 4 -m ${MAC}`),
  REC_MQ_SAVE: unsaved('modify -p 0 device -qp 2', 'modify -p 0 -v 0 device -n 0'),
  SF_RX_MODE_SET: async (scene) => {
    await scene.drive(PF1_BDF, WITHOUT_RX);
    return [await scene.type('modify -p 1 device -r 0x1')];
  },
  SNAP_PF_HOTPLUG: async () => [
    await elsewhere(['PCI_SWITCH_EMULATION_NUM_PORT=1'], hotplug(), hotplug()),
    await elsewhere(['PCI_SWITCH_EMULATION_ENABLE=0'], hotplug()),
    await elsewhere(['VIRTIO_NET_EMULATION_ENABLE=0'], hotplug()),
  ],
  VQ_PERIOD_UPDATE: ['modify -p 0 queue -e event -n 65536 -c 1', 'modify -p 0 queue -e cqe -n 1 -c 65536'],
  QUEUE_SIZE_INVALID: [hotplug('-s', '65536'), 'modify -p 0 device -q 65536'],
  DEV_IS_MIGRATING: async (scene) => {
    scene.moving = { pf: 0, vf: 1, vuid: 'MT2151X03152VNETS0D0F2VF2' };
    expect(await scene.type('stats -p 0 -v 1')).toMatchObject({ device: { vf_id: 1 } }); // only looks
    return all(scene, ['modify -p 0 -v 1 device -l 0', `modify -u ${PF0_VUID}VF2 device -l 0`]);
  },
  QUEUE_SIZE_RULE: [hotplug('-s', '2'), hotplug('-s', '48'), 'modify -p 0 device -q 3'],
  DEV_NOT_FUNCTIONAL: ['modify -p 0 -v 0 device -n 0', 'modify -p 0 -v 1 device -qp 0'],
  DEV_UNPLUG_NOT_READY: async (scene) => {
    await scene.host('bind', HOTPLUG_BDF, null, 'vfio-pci');
    const machine = await scene.client(HOTPLUG_BDF);
    const refused = await all(scene, ['unplug -p 2', 'unplug -p 2']);
    expect(await scene.type('query -p 2 -b')).toMatchObject({ devices: [{ pf_id: 2 }] });
    machine.close();
    await expect.poll(() => scene.type('unplug -p 2')).toMatchObject({ errno: 0 });
    return refused;
  },
  OPT_NOT_SUPPORTED: [
    `${hotplug()} -l`,
    'modify -p 0 device -d 1',
    'modify -p 0 device -b 1',
    'modify -p 0 -v 0 device -aarfs enable',
    'modify -p 0 device -k 40',
  ],
  SF_CREATE: async () => {
    const few = await Scene.open({ firmware: withFirmware(['PF_TOTAL_SF=4']) });
    return [
      await elsewhere(['PF_TOTAL_SF=3'], hotplug(), hotplug()),
      await few.ask('sriov', PF1_BDF, 3, null),
    ];
  },
  SF_NUM_RANGE: [hotplug('-u', '1999'), hotplug('-u', '3000')],
  SF_NUM_IN_USE: [hotplug('-u', '2000')],
  QUEUE_IDX_INVALID: ['query -p 0 -q 999', 'stats -p 0 -q 62', 'query -p 0 -q 70000'],
  SPEED_INVALID: ['modify -p 0 device -e 123'],
  HASH_TYPES_INVALID: ['modify -p 0 device -o 0x10000'],
  RSS_KEY_SIZE_INVALID: ['modify -p 0 device -k 41'],
  READLINK: async (scene) => {
    scene.destinationLost = true;
    return all(scene, ['version', 'update -s']);
  },
  VF_DEV_GET: ['modify -p 0 -v 1007 device -l 0', 'modify -p 1 -v 0 device -l 0'],
  QUEUES_INVALID: [
    hotplug('-n', '2'),
    hotplug('-qp', '0'),
    'modify -p 0 device -qp 0',
    'modify -p 0 -v 0 device -qp 100',
    'modify -p 0 -v 0 device -qp 2 -n 6',
  ],
};

/** Rows that no command waits for: what is wrong with the recovery file of PF 0, and what a start says in the log. */
const LOGGED: Partial<Record<ControlErrorName, object>> = {
  REC_CONFIG_LOAD: { mq: 4 },
  REC_MAC_LOAD: { mac: '01:00:5e:00:00:01' },
  REC_PFNUM_LOAD: { pf_num: 'two' },
  REC_SFNUM_LOAD: { sf_num: 2000 },
};

/** Rows that the program can answer with and that no command can bring about, because others are judged before. */
const GUARDS: readonly ControlErrorName[] = ['SNAP_DEV_MODIFY'];

const names = (rows: Iterable<string>): string[] => [...rows].sort();

describe('the table of errors', { timeout: TEST_MS }, () => {
  test.for(Object.entries(SCENARIOS))('%s', async ([name, scenario]) => {
    const scene = await furnished();
    const answers = typeof scenario === 'function' ? await scenario(scene) : await all(scene, scenario);
    expect(answers.length).toBeGreaterThan(0);
    const expected = failure(name as ControlErrorName);
    for (const [i, answer] of answers.entries())
      expect(answer, typeof scenario === 'function' ? `answer ${i}` : scenario[i]).toEqual(expected);
  });

  test.for(Object.entries(LOGGED))('%s, in the log', async ([name, wrong]) => {
    const { service } = await Scene.open();
    const { recovery } = service.paths;
    const path = join(recovery, PF0_VUID);
    const file = JSON.parse(readFileSync(path, 'utf8')) as object;
    await service.stop();
    writeFileSync(path, JSON.stringify({ ...file, ...wrong }));
    await service.start();
    const errors = service.said.filter(({ level }) => level === 'error');
    const row = failure(name as ControlErrorName);
    expect(errors).toEqual([
      expect.objectContaining({ ...row, path, msg: 'a recovery file cannot be used and is set aside' }),
    ]);
    expect(readdirSync(recovery)).toContain(`${PF0_VUID}.bad`);
  });

  test('every row that the program names has a scenario, is logged, or is a guard behind others', () => {
    const known = new Set<string>(CONTROL_ERRORS.map(({ name }) => name));
    const packages = join(import.meta.dirname, '..', 'packages');
    const sources = readdirSync(packages, { recursive: true, encoding: 'utf8' }).filter(
      (path) =>
        /^[^/]+\/src\/.*\.ts$/.test(path) &&
        !/\.(test|fixture|bench)\.ts$|test-support|\/errors\.ts$/.test(path),
    );
    const named = new Set<string>();
    for (const path of sources)
      for (const [, text] of readFileSync(join(packages, path), 'utf8').matchAll(/'([A-Z][A-Z_]+)'/g))
        if (known.has(text!)) named.add(text!);
    expect(named.size).toBeGreaterThan(20);
    expect(names(named)).toEqual(names([...Object.keys(SCENARIOS), ...Object.keys(LOGGED), ...GUARDS]));
  });

  test('docs/compatibility.md says of each row when it is raised, or why it is not', () => {
    const text = readFileSync(join(import.meta.dirname, '..', 'docs', 'compatibility.md'), 'utf8');
    const [, raised = '', logged = '', not = ''] = text.split(
      /^\| Number \| (?:When it is raised here|When the log says it|Why not) \|$/m,
    );
    const numbersIn = (table: string) =>
      table
        .split('\n')
        .slice(2)
        .map((row) => /^\| (-[-\d, to]+) \|/.exec(row)?.[1])
        .filter((cell) => cell !== undefined)
        .flatMap((cell) => cell.split(',').flatMap(range));
    const numbersOf = (rows: readonly string[]) =>
      rows.map((name) => failure(name as ControlErrorName).errno);
    const ascending = (numbers: readonly number[]) => [...numbers].sort((a, b) => b - a);
    expect(ascending(numbersIn(raised).filter((errno) => errno < -1000))).toEqual(
      ascending(numbersOf(Object.keys(SCENARIOS))),
    );
    expect(ascending(numbersIn(logged))).toEqual(ascending(numbersOf(Object.keys(LOGGED))));
    const others = CONTROL_ERRORS.filter(
      ({ name }) => SCENARIOS[name] === undefined && LOGGED[name] === undefined,
    );
    expect(ascending(numbersIn(not))).toEqual(ascending(others.map(({ errno }) => errno)));
  });
});

/** `-1016 to -1023`, or one number. */
function range(text: string): number[] {
  const [first = 0, last = first] = text.split(' to ').map(Number);
  return Array.from({ length: first - last + 1 }, (_, i) => first - i);
}
