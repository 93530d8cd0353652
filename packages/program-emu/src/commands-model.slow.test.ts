/**
 * Random commands, sensible and not, against a model: what list, query, the host's view of PCI, the recovery files and the
 * sockets say is the same, and is what the commands have made of it, whatever their order and however often the service
 * starts anew.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { DEFAULT_CONF, isVuid, readRecovery, recoveryBdf } from '@virtnet/engine-control';
import {
  ControlRx,
  HASH_TYPES,
  PciExtendedCapability,
  PciHeader,
  PciSriov,
  VIRTIO_PCI_VENDOR_ID,
  viewOf,
} from '@virtnet/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  CommandModel,
  type Expected,
  type FEATURE_MASKS,
  hostRequest,
  MTU,
  PORTS,
  type Pool,
  type Row,
  STATES,
  STATIC_PFS,
  type Typed,
  type TypedOptions,
  VFS,
} from './test-support/command-model.js';
import { TestService } from './test-support/test-service.js';

/** Some seconds, nearly all of them of a disk that others may be writing to as well. */
const TEST_MS = 300_000;
const FIRMWARE = [
  ...[`VIRTIO_NET_EMULATION_NUM_PF=${STATIC_PFS}`, `PCI_SWITCH_EMULATION_NUM_PORT=${PORTS}`],
  `VIRTIO_NET_EMULATION_NUM_VF=${VFS}`,
  ...['VIRTIO_NET_EMULATION_ENABLE=1', 'PCI_SWITCH_EMULATION_ENABLE=1', 'SRIOV_EN=1'],
  ...['PF_BAR2_ENABLE=0', 'PER_PF_NUM_SF=1', 'PF_TOTAL_SF=64'],
  ...['VIRTIO_NET_EMULATION_NUM_MSIX=64', 'VIRTIO_NET_EMULATION_NUM_VF_MSIX=16'],
];
const CONF = {
  static_pf: { ...DEFAULT_CONF.static_pf, mac_base: '02:00:00:00:01:00' },
  vf: { ...DEFAULT_CONF.vf, mac_base: '02:00:00:00:02:00' },
};

const hex = (value: number) => value.toString(16).toUpperCase().padStart(2, '0');
const goodMac = fc.nat(0xffff).map((number) => `0C:C4:7A:FF:${hex(number >> 8)}:${hex(number & 0xff)}`);
const mostly = <T>(good: fc.Arbitrary<T>, ...bad: T[]) =>
  fc.oneof({ weight: 5, arbitrary: good }, fc.constantFrom(...bad));
const anyMac = mostly(goodMac, '01:00:5E:00:00:01', '00:00:00:00:00:00', 'no');
const anyMtu = mostly(fc.constantFrom(MTU, 1400, 68, 9216), 67, 9217, -1);
const onOff = fc.constantFrom('enable' as const, 'disable' as const);
const which = fc.nat(11);
/** One or several options; of most commands all are good. */
const options: fc.Arbitrary<TypedOptions> = fc
  .record(
    {
      mac: anyMac,
      mtu: anyMtu,
      mask: mostly(
        fc.constantFrom<keyof typeof FEATURE_MASKS>('own', 'without MTU', 'with hashes', 'without hashes'),
        'without VERSION_1',
        'unknown',
      ),
      maxQueueSize: mostly(fc.constantFrom(4, 256, 1024), 3, 100, 0x10000),
      maxQueuePairs: mostly(fc.constantFrom(1, 2, 4, 7, 14), 0, 20, 1000, -1),
      msixNum: mostly(fc.constantFrom(4, 8, 16, 24, 28), 0, 1, 2, 5, 40, 1000, -1),
      speed: mostly(fc.constantFrom(1000, 25_000), 123),
      link: mostly(fc.constantFrom(0, 1), 2),
      status: fc.constantFrom(...(Object.keys(STATES) as (keyof typeof STATES)[])),
      rxMode: mostly(fc.constantFrom(0, 1, 0x3f), 0x40, -1),
      supportedHashTypes: mostly(fc.constantFrom(0, 0x2f, HASH_TYPES), HASH_TYPES + 1),
      rssMaxKeySize: mostly(fc.constant(40), 52),
      dropCounter: onOff,
      packetCounter: onOff,
      aarfs: onOff,
      dim: onOff,
    },
    { requiredKeys: [] },
  )
  .chain((all) => {
    const names = Object.keys(all) as (keyof typeof all)[];
    const some = fc.shuffledSubarray(names, { maxLength: Math.min(2, names.length) });
    return some.map((kept) => Object.fromEntries(kept.map((name) => [name, all[name]])) as TypedOptions);
  });

const verb = <V extends Typed['verb']>(...names: V[]) => fc.constantFrom(...names);
const typed = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      verb: verb('hotplug'),
      mac: anyMac,
      mtu: anyMtu,
      queuePairs: fc.constantFrom(1, 2, 8, 0, 4096),
      queueSize: fc.constantFrom(4, 256, 1024, 3, 0x10000),
    }),
  },
  { weight: 2, arbitrary: fc.record({ verb: verb('unplug'), which }) },
  {
    weight: 5,
    arbitrary: fc.record({
      verb: verb('sriov'),
      which: fc.nat(3),
      count: fc.integer({ min: -1, max: VFS + 1 }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ verb: verb('autoprobe'), which: fc.nat(3), count: fc.nat(2) }) },
  { weight: 12, arbitrary: fc.record({ verb: verb('modify'), which, options }) },
  {
    weight: 3,
    arbitrary: fc.record({
      verb: verb('bind', 'unbind'),
      which,
      driver: fc.constantFrom('vfio-pci' as const, 'virtio-pci' as const),
    }),
  },
  { weight: 2, arbitrary: fc.record({ verb: verb('modprobe'), load: fc.boolean() }) },
  {
    weight: 4,
    arbitrary: fc.record({
      verb: verb('load-driver'),
      which,
      started: fc.boolean(),
      modes: fc.boolean(),
    }),
  },
  { weight: 2, arbitrary: fc.record({ verb: verb('flr', 'unload-driver'), which }) },
  {
    weight: 3,
    arbitrary: fc.record({ verb: verb('warm-reboot', 'power-cycle', 'restart', 'again') }),
  },
) as fc.Arbitrary<Typed>;

interface Shown {
  readonly vuid: string;
  readonly pci_bdf: string;
  readonly function_type: Expected['kind'];
  readonly pf_id?: number;
  readonly vf_id?: number;
  readonly parent_pf_id?: number;
  readonly enabled_vfs: string;
  readonly msix_num_pool_size?: number;
  readonly qp_pool_size?: number;
  readonly max_msix_num?: number;
  readonly max_num_of_qp?: number;
  readonly num_msix: string;
  readonly num_queues: string;
  readonly max_queue_size: string;
  readonly max_queue_pairs: string;
  readonly mac: string;
  readonly mtu: string;
  readonly speed: string;
  readonly link_status: string;
  readonly aarfs: string;
  readonly dim: string;
  readonly supported_hash_types: string;
  readonly rss_max_key_size: string;
}

/** What only `query` shows. */
interface Queried extends Shown {
  readonly device_feature: { readonly value: string };
  readonly status: { readonly value: string };
  readonly num_desc_drop_pkts?: string;
}

const nameOf = ({ vuid, pci_bdf, function_type, pf_id, vf_id, parent_pf_id }: Shown) => ({
  vuid,
  kind: function_type,
  pfId: pf_id ?? parent_pf_id!,
  vfId: vf_id ?? null,
  bdf: pci_bdf,
});
/** What `list` shows of what can be modified, by the names of the model. */
const listedOf = (shown: Shown) => ({
  mac: shown.mac,
  mtu: Number(shown.mtu),
  queueSize: Number(shown.max_queue_size),
  queuePairs: Number(shown.max_queue_pairs),
  msixVectors: Number(shown.num_msix),
  link: shown.link_status,
  speed: shown.speed,
  aarfs: shown.aarfs,
  dim: shown.dim,
  hashTypes: Number(shown.supported_hash_types),
  keyBytes: Number(shown.rss_max_key_size),
});

/** The receive modes of a function, as `modify -r` writes them; no answer shows them. */
function modesOf(service: TestService, vuid: string): number {
  const { modes } = service.device(vuid).host.net.control;
  const on: Record<keyof typeof ControlRx, boolean> = {
    PROMISC: modes.promiscuous,
    ALLMULTI: modes.allMulticast,
    ALLUNI: modes.allUnicast,
    NOMULTI: modes.noMulticast,
    NOUNI: modes.noUnicast,
    NOBCAST: modes.noBroadcast,
  };
  const names = Object.keys(on) as (keyof typeof ControlRx)[];
  return names.reduce((mask, name) => mask | (on[name] ? 1 << ControlRx[name] : 0), 0);
}

function queriedRow(service: TestService, shown: Queried): Row {
  const { commands } = service;
  const { link, speed, aarfs, dim, ...shape } = listedOf(shown);
  const { vuid } = shown;
  const { device } = commands.stats({ pf: null, vf: null, vuid, queue: null }) as {
    device: { packet_counters: string };
  };
  const drops = shown.num_desc_drop_pkts !== undefined;
  return {
    ...nameOf(shown),
    status: Number(shown.status.value),
    modes: modesOf(service, vuid),
    shape: { ...shape, features: BigInt(shown.device_feature.value) },
    settings: { link, speed, aarfs, dim, drops, packets: device.packet_counters },
  };
}
const devicesOf = (answer: unknown): readonly Shown[] => (answer as { devices: readonly Shown[] }).devices;
const listed = ({ commands }: TestService) => devicesOf(commands.list());
function queried({ commands }: TestService): readonly Queried[] {
  const query = { all: true, pf: null, vf: null, vuid: null, brief: true, queue: null };
  return devicesOf(commands.query(query)) as readonly Queried[];
}
const rowsOf = (service: TestService) => queried(service).map((shown) => queriedRow(service, shown));

/** The caps of VFs, by the first static PF. */
function poolOf(service: TestService): Pool {
  const { msix_num_pool_size, qp_pool_size, max_msix_num, max_num_of_qp } = listed(service)[0]!;
  return {
    ...{ vectors: msix_num_pool_size!, pairs: qp_pool_size! },
    ...{ vectorsMost: max_msix_num!, pairsMost: max_num_of_qp! },
  };
}

const sorted = <T>(rows: readonly T[], key: (row: T) => string): T[] =>
  [...rows].sort((a, b) => (key(a) < key(b) ? -1 : 1));

/** NumVFs of an SR-IOV capability; 0 without one. */
function numVfs(config: Uint8Array): number {
  const view = viewOf(config);
  for (let at = 0x100; at !== 0; ) {
    const word = view.getUint32(at, true);
    if ((word & 0xffff) === PciExtendedCapability.SRIOV) return view.getUint16(at + PciSriov.at.numVfs, true);
    at = word >>> 20;
  }
  return 0;
}

/** Everything that can be seen is what the model says. */
async function look(service: TestService, model: CommandModel): Promise<void> {
  const { functions } = model;
  const expected = sorted(
    [...functions].map(([vuid, { driver: _, agreedModes: _agreed, hashTypes: _types, ...row }]) => ({
      vuid,
      ...row,
    })),
    ({ vuid }) => vuid,
  );
  expect(sorted(rowsOf(service), ({ vuid }) => vuid)).toEqual(expected);
  const shown = listed(service);
  expect(shown.map(({ vuid }) => vuid).sort()).toEqual(expected.map(({ vuid }) => vuid));
  for (const row of shown) {
    const { vuid, num_queues, enabled_vfs, msix_num_pool_size, qp_pool_size } = row;
    const { kind, pfId, vfId, bdf, shape, settings } = functions.get(vuid)!;
    expect(nameOf(row)).toEqual({ vuid, kind, pfId, vfId, bdf });
    const { features: _features, ...listedShape } = shape;
    const { drops: _drops, packets: _packets, ...listedSettings } = settings;
    expect(listedOf(row)).toEqual({ ...listedShape, ...listedSettings });
    const works = shape.msixVectors > 0 && shape.queuePairs > 0;
    expect(Number(num_queues)).toBe(works ? 2 * shape.queuePairs + 1 : 0);
    if (kind !== 'static PF') continue;
    const vfs = [...functions.values()].filter((each) => each.kind === 'VF' && each.pfId === pfId);
    expect(Number(enabled_vfs)).toBe(vfs.length);
    const { vectors, pairs } = model.pool(pfId);
    expect([msix_num_pool_size, qp_pool_size]).toEqual([vectors, pairs]);
  }
  const { functions: host } = (await service.commands.host(
    hostRequest('functions', { value: 1 }),
  )) as unknown as {
    functions: readonly { readonly bdf: string; readonly driver: string; readonly config: string }[];
  };
  const seen = host.map(({ bdf, driver }) => ({ bdf, driver }));
  expect(sorted(seen, ({ bdf }) => bdf)).toEqual(
    sorted(
      [...functions.values()].map(({ bdf, driver }) => ({ bdf, driver })),
      ({ bdf }) => bdf,
    ),
  );
  for (const { bdf, config } of host) {
    const bytes = Uint8Array.from(Buffer.from(config, 'base64'));
    const { kind, pfId } = [...functions.values()].find((each) => each.bdf === bdf)!;
    expect(PciHeader.decode(viewOf(bytes)).vendorId).toBe(VIRTIO_PCI_VENDOR_ID);
    const vfs = [...functions.values()].filter((each) => each.kind === 'VF' && each.pfId === pfId);
    expect(numVfs(bytes)).toBe(kind === 'static PF' ? vfs.length : 0);
  }
  const files = readdirSync(service.paths.recovery);
  expect(files.sort()).toEqual([...functions.keys()].sort());
  for (const vuid of files) {
    expect(isVuid(vuid)).toBe(true);
    const recovery = readRecovery(readFileSync(join(service.paths.recovery, vuid), 'utf8'), vuid);
    if ('problem' in recovery) throw new Error(recovery.problem);
    const { shape, bdf, pfId, vfId } = functions.get(vuid)!;
    expect({
      mac: recovery.mac,
      bdf: recoveryBdf(recovery),
      pfId: recovery.pfId,
      vfId: recovery.vfId,
      queuePairs: recovery.queuePairs,
    }).toEqual({ mac: shape.mac, bdf, pfId, vfId, queuePairs: shape.queuePairs });
  }
  expect(readdirSync(service.paths.pci).sort()).toEqual(
    [...functions.values()].map(({ bdf }) => `0000:${bdf}.sock`).sort(),
  );
}

const hotplug: Typed = { verb: 'hotplug', mac: '0C:C4:7A:FF:00:01', mtu: MTU, queuePairs: 2, queueSize: 256 };
const modify = (number: number, options: TypedOptions): Typed => ({ verb: 'modify', which: number, options });
/** Something of everything, so that nothing of it is true by never happening. */
const EVERYTHING: readonly Typed[] = [
  ...[hotplug, { verb: 'again' }, hotplug, { verb: 'unplug', which: 2 }, { verb: 'again' }],
  ...[modify(0, { mac: '0C:C4:7A:FF:00:02' }), { verb: 'again' }, { verb: 'sriov', which: 0, count: VFS }],
  ...[{ verb: 'sriov', which: 0, count: 1 }, modify(0, { mtu: 1400, mask: 'without MTU' }), modify(0, {})],
  ...[{ verb: 'bind', which: 0, driver: 'vfio-pci' }, { verb: 'flr', which: 0 }, { verb: 'restart' }],
  ...[
    { verb: 'unbind', which: 0, driver: 'vfio-pci' },
    { verb: 'sriov', which: 1, count: 2 },
  ],
  ...[{ verb: 'warm-reboot' }, { verb: 'sriov', which: 1, count: 1 }, { verb: 'sriov', which: 1, count: 0 }],
  { verb: 'power-cycle' },
] as Typed[];
/** A driver is loaded: what it would have to read again is refused, the rest is done at once. */
const WITH_DRIVER: readonly Typed[] = [
  ...[modify(0, { dropCounter: 'enable' }), { verb: 'load-driver', which: 0, started: false, modes: false }],
  ...[
    modify(0, { packetCounter: 'enable' }),
    modify(0, { mtu: 1400 }),
    { verb: 'load-driver', which: 0, started: true, modes: false },
  ],
  ...[modify(0, { mac: '0C:C4:7A:FF:00:03' }), modify(0, { mask: 'own' }), modify(0, { maxQueueSize: 1024 })],
  ...[modify(0, { maxQueuePairs: 2 }), modify(0, { dim: 'enable' }), modify(0, { link: 0, speed: 25_000 })],
  ...[modify(0, { dropCounter: 'enable', packetCounter: 'enable' }), modify(0, { aarfs: 'enable' })],
  ...[{ verb: 'unload-driver', which: 0 }, modify(0, { maxQueuePairs: 2, maxQueueSize: 1024 })],
  ...[
    modify(0, { dim: 'enable' }),
    { verb: 'load-driver', which: 0, started: true, modes: false },
    { verb: 'flr', which: 0 },
  ],
] as Typed[];
/** What stands between an operator and a driver: its status, its receive modes, its hashes. */
const DRIVERS_OWN: readonly Typed[] = [
  ...[modify(0, { rxMode: 1 }), { verb: 'load-driver', which: 0, started: true, modes: false }],
  ...[modify(0, { rxMode: 1 }), { verb: 'load-driver', which: 0, started: true, modes: true }],
  ...[modify(0, { rxMode: 0x3f }), modify(0, { rxMode: 0x40 }), modify(0, { status: 'needs reset' })],
  ...[modify(0, { status: 'needs reset too' }), modify(0, { status: 'as it is' })],
  ...[modify(0, { status: "the driver's" }), modify(0, { status: 'no status', link: 0 })],
  ...[modify(0, { rxMode: 2, status: 'reset' }), modify(0, { status: 'needs reset' })],
  ...[modify(0, { supportedHashTypes: 3 }), modify(0, { mask: 'with hashes' })],
  ...[modify(0, { supportedHashTypes: 3, rssMaxKeySize: 40 }), modify(0, { rssMaxKeySize: 52 })],
  ...[modify(0, { supportedHashTypes: 0x200 }), modify(0, { mask: 'without hashes' })],
  ...[modify(0, { mask: 'with hashes' }), { verb: 'load-driver', which: 0, started: true, modes: false }],
  ...[modify(0, { supportedHashTypes: 1 }), modify(0, { rssMaxKeySize: 40 }), { verb: 'restart' }],
  ...[modify(0, { mask: 'without hashes', rssMaxKeySize: 40 }), modify(0, { mask: 'without hashes' })],
  ...[modify(0, { mask: 'with hashes', supportedHashTypes: 0x2f }), { verb: 'power-cycle' }],
] as Typed[];
/** VFs give and take, down to nothing, while modules come and go. */
const SHARES: readonly Typed[] = [
  ...[
    { verb: 'autoprobe', which: 0, count: 0 },
    { verb: 'modprobe', load: true },
  ],
  ...[
    { verb: 'sriov', which: 0, count: VFS },
    { verb: 'sriov', which: 1, count: 2 },
  ],
  ...[modify(3, { msixNum: 4 }), modify(2, { msixNum: 24 }), modify(4, { msixNum: 24 }), { verb: 'again' }],
  ...[
    modify(3, { maxQueuePairs: 0 }),
    { verb: 'again' },
    { verb: 'restart' },
    modify(2, { maxQueuePairs: 1000 }),
  ],
  ...[
    { verb: 'load-driver', which: 3, started: true, modes: false },
    { verb: 'unload-driver', which: 3 },
  ],
  ...[modify(2, { maxQueuePairs: 2, msixNum: 8 }), modify(0, { msixNum: 8 }), modify(3, { msixNum: 0 })],
  ...[
    { verb: 'restart' },
    modify(3, { msixNum: 4 }),
    modify(3, { aarfs: 'enable' }),
    { verb: 'modprobe', load: false },
  ],
] as Typed[];

/** A host that boots has forgotten its modules and what it was told of them. */
const BOOTS: readonly Typed[] = [
  ...[{ verb: 'autoprobe', which: 0, count: 0 }, { verb: 'modprobe', load: true }, { verb: 'restart' }],
  { verb: 'load-driver', which: 0, started: false, modes: false },
  ...[hotplug, { verb: 'warm-reboot' }, hotplug, { verb: 'modprobe', load: true }],
  ...[{ verb: 'sriov', which: 0, count: 1 }, { verb: 'power-cycle' }, { verb: 'sriov', which: 1, count: 1 }],
] as Typed[];

describe('commands of any kind in any order', { timeout: TEST_MS }, () => {
  it('list, query, recovery files, sockets and the host agree with one another and with what was asked for', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(typed, { minLength: 1, maxLength: 14 }), async (commands) => {
        const service = new TestService({ firmware: FIRMWARE, conf: CONF });
        try {
          await service.start();
          const model = new CommandModel(service, () => rowsOf(service), poolOf(service));
          await look(service, model);
          for (const command of commands) {
            await model.type(command);
            await look(service, model);
          }
        } finally {
          await service.close();
        }
      }),
      {
        numRuns: 50,
        examples: [[[...EVERYTHING]], [[...WITH_DRIVER]], [[...DRIVERS_OWN]], [[...SHARES]], [[...BOOTS]]],
      },
    );
  });
});
