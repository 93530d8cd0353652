/**
 * Random commands, sensible and not, against a model: what list, query, the host's view of PCI, the recovery files and the
 * sockets say is the same, and is what the commands have made of it, whatever their order and however often the service
 * starts anew.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  DEFAULT_CONF,
  type HotplugRequest,
  isVuid,
  type ModifyRequest,
  outcomeOf,
  type RecoveryEvent,
  readRecovery,
  recoveryBdf,
} from '@virtnet/engine-control';
import { PciExtendedCapability, PciHeader, PciSriov, VIRTIO_PCI_VENDOR_ID, viewOf } from '@virtnet/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { TestService } from './test-support/test-service.js';

const STATIC_PFS = 2;
const PORTS = 3;
const VFS = 3;
/** What each VF has at first. */
const SHARE = { msix: 16, pairs: 7 };
/** Carried out, and the VF does not function. */
const NOT_FUNCTIONAL = -1044;
const MTU = 1500;
/** Some seconds of a processor, and a busy machine may have little of it. */
const TEST_MS = 120_000;

/** What is typed; numbers stand for one of the functions that there are, or for none. */
type Typed =
  | {
      readonly verb: 'hotplug';
      readonly mac: string;
      readonly mtu: number;
      readonly queuePairs: number;
      readonly queueSize: number;
    }
  | { readonly verb: 'unplug'; readonly which: number }
  | { readonly verb: 'sriov'; readonly which: number; readonly count: number }
  | {
      readonly verb: 'modify';
      readonly which: number;
      readonly mac: string | null;
      readonly mtu: number | null;
    }
  | {
      readonly verb: 'share';
      readonly which: number;
      readonly option: 'msixNum' | 'maxQueuePairs';
      readonly value: number;
    }
  | { readonly verb: 'bind' | 'unbind' | 'flr'; readonly which: number }
  | { readonly verb: 'warm-reboot' | 'power-cycle' | 'restart' | 'again' };

/** A function as it should be seen. */
interface Expected {
  readonly kind: 'static PF' | 'hotplug PF' | 'VF';
  readonly pfId: number;
  readonly vfId: number | null;
  readonly bdf: string;
  mac: string;
  mtu: number;
  /** Of a VF: its part of what its PF's VFs have. */
  share: { readonly msix: number; readonly pairs: number } | null;
  driver: string;
}
type Kind = Parameters<typeof outcomeOf>[1];

interface Outcome {
  readonly errno: number;
  readonly [key: string]: unknown;
}

const hex = (value: number) => value.toString(16).toUpperCase().padStart(2, '0');
const goodMac = fc.nat(0xffff).map((number) => `0C:C4:7A:FF:${hex(number >> 8)}:${hex(number & 0xff)}`);
const anyMac = fc.oneof(
  { weight: 5, arbitrary: goodMac },
  fc.constantFrom('01:00:5E:00:00:01', '00:00:00:00:00:00', 'no'),
);
const anyMtu = fc.oneof({ weight: 5, arbitrary: fc.constant(MTU) }, fc.constantFrom(68, 9216, 67, 9217, -1));
const which = fc.nat(11);

const typed: fc.Arbitrary<Typed> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      verb: fc.constant('hotplug' as const),
      mac: anyMac,
      mtu: anyMtu,
      queuePairs: fc.constantFrom(1, 2, 8, 0, 4096),
      queueSize: fc.constantFrom(4, 256, 1024, 3, 0x10000),
    }),
  },
  { weight: 2, arbitrary: fc.record({ verb: fc.constant('unplug' as const), which }) },
  {
    weight: 3,
    arbitrary: fc.record({
      verb: fc.constant('sriov' as const),
      which,
      count: fc.integer({ min: -1, max: VFS + 1 }),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      verb: fc.constant('modify' as const),
      which,
      mac: fc.option(anyMac, { nil: null }),
      mtu: fc.option(anyMtu, { nil: null }),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      verb: fc.constant('share' as const),
      which,
      option: fc.constantFrom('msixNum' as const, 'maxQueuePairs' as const),
      value: fc.constantFrom(0, 0, 1, 2, 4, 5, 7, 8, 10, 14, 16, 20, 28, 40, 1000, -1),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      verb: fc.constantFrom('bind' as const, 'unbind' as const, 'flr' as const),
      which,
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      verb: fc.constantFrom(
        'warm-reboot' as const,
        'power-cycle' as const,
        'restart' as const,
        'again' as const,
      ),
    }),
  },
);

function newService(): TestService {
  return new TestService({
    firmware: [
      `VIRTIO_NET_EMULATION_NUM_PF=${STATIC_PFS}`,
      `PCI_SWITCH_EMULATION_NUM_PORT=${PORTS}`,
      `VIRTIO_NET_EMULATION_NUM_VF=${VFS}`,
      ...['VIRTIO_NET_EMULATION_ENABLE=1', 'PCI_SWITCH_EMULATION_ENABLE=1', 'SRIOV_EN=1'],
      ...['PF_BAR2_ENABLE=0', 'PER_PF_NUM_SF=1', 'PF_TOTAL_SF=64'],
      ...['VIRTIO_NET_EMULATION_NUM_MSIX=64', 'VIRTIO_NET_EMULATION_NUM_VF_MSIX=16'],
    ],
    conf: {
      static_pf: { ...DEFAULT_CONF.static_pf, mac_base: '02:00:00:00:01:00' },
      vf: { ...DEFAULT_CONF.vf, mac_base: '02:00:00:00:02:00' },
    },
  });
}

/** What a sequence of commands should have made. */
class Model {
  readonly functions = new Map<string, Expected>();
  #requests = 0;
  /** The last command that changes devices by its id, to be asked again. */
  #last: (() => Promise<Outcome>) | null = null;
  #lastAnswer: Outcome | null = null;
  readonly #service: TestService;

  constructor(service: TestService) {
    this.#service = service;
  }

  /** What is there after a start of a service that was never used. */
  begin(rows: readonly Row[]): void {
    expect(rows.map(({ kind }) => kind)).toEqual(Array.from({ length: STATIC_PFS }, () => 'static PF'));
    for (const { vuid, ...row } of rows) this.functions.set(vuid, { ...row, driver: '' });
  }

  async type(command: Typed): Promise<void> {
    const before = new Map([...this.functions].map(([vuid, each]) => [vuid, { ...each }]));
    const { commands } = this.#service;
    switch (command.verb) {
      case 'hotplug':
        return this.#hotplug(command);
      case 'unplug':
        return this.#unplug(command.which);
      case 'sriov':
        return this.#sriov(command.which, command.count);
      case 'modify':
        return this.#modify(command);
      case 'share':
        return this.#share(command);
      case 'bind':
      case 'unbind':
      case 'flr':
        return this.#host(command.verb, command.which);
      case 'warm-reboot':
        expect(await commands.host(hostRequest('warm-reboot'))).toMatchObject({ errno: 0 });
        return this.#event('warm reboot');
      case 'power-cycle':
        expect(await commands.host(hostRequest('power-cycle'))).toMatchObject({ errno: 0 });
        return this.#event('power cycle');
      case 'restart':
        await this.#service.stop();
        await this.#service.start();
        this.#last = null; // ids are those of a service that lives
        return;
      case 'again':
        if (this.#last === null) return;
        expect(await this.#last()).toEqual(this.#lastAnswer);
        expect(this.functions).toEqual(before);
    }
  }

  async #asked(ask: () => Promise<unknown>): Promise<Outcome> {
    const answer = (await ask()) as Outcome;
    const done = answer.errno === 0 || answer.errno === NOT_FUNCTIONAL;
    this.#last = done ? (ask as () => Promise<Outcome>) : null;
    this.#lastAnswer = answer;
    return answer;
  }

  async #hotplug({ mac, mtu, queuePairs, queueSize }: Extract<Typed, { verb: 'hotplug' }>): Promise<void> {
    const request: HotplugRequest & { readonly requestId: string } = {
      requestId: `h${this.#requests++}`,
      ibDevice: 'mlx5_0',
      mac,
      mtu,
      queues: null,
      queuePairs,
      queueSize,
      sfNum: null,
      features: null,
      legacy: false,
    };
    const answer = await this.#asked(() => this.#service.commands.hotplug(request));
    const sensible =
      /^0C/.test(mac) &&
      mtu >= 68 &&
      mtu <= 9216 &&
      [1, 2, 8].includes(queuePairs) &&
      [4, 256, 1024].includes(queueSize);
    const room = this.#of('hotplug PF').length < PORTS;
    expect(answer.errno === 0, JSON.stringify(answer)).toBe(sensible && room);
    if (answer.errno !== 0) return;
    const { vuid, bdf, id } = answer as unknown as { vuid: string; bdf: string; id: number };
    expect(this.functions.has(vuid)).toBe(false);
    const place = { pfId: id, vfId: null, bdf, share: null };
    this.functions.set(vuid, { kind: 'hotplug PF', ...place, mac, mtu, driver: '' });
  }

  async #unplug(number: number): Promise<void> {
    const [vuid, found] = this.#chosen(number);
    const request = {
      requestId: `u${this.#requests++}`,
      pf: found === null || found.vfId !== null ? 40 : found.pfId,
      vuid: null,
    };
    const answer = await this.#asked(() => this.#service.commands.unplug(request));
    expect(answer.errno === 0, JSON.stringify(answer)).toBe(found?.kind === 'hotplug PF');
    if (answer.errno === 0) this.functions.delete(vuid);
  }

  async #sriov(number: number, count: number): Promise<void> {
    const [, found] = this.#chosen(number);
    const bdf = found?.bdf ?? '7f:00.0';
    const present = found?.kind === 'static PF' ? this.#vfsOf(found.pfId).length : 0;
    const answer = await this.#service.commands.host({ ...hostRequest('sriov'), bdf, value: count });
    const permitted =
      found?.kind === 'static PF' &&
      count >= 0 &&
      count <= VFS &&
      (present === 0 || count === 0 || count === present);
    expect(Number(answer.errno) === 0, JSON.stringify(answer)).toBe(permitted);
    if (!permitted || count === present) return;
    if (count === 0) for (const vuid of this.#vfsOf(found.pfId)) this.functions.delete(vuid);
    // Where VFs are and what their addresses are follows from the configuration; that all are there is what counts.
    const rows = listed(this.#service).filter(({ kind, pfId }) => kind === 'VF' && pfId === found.pfId);
    expect(rows.map(({ vfId }) => vfId)).toEqual(Array.from({ length: count }, (_, vfId) => vfId));
    for (const { vuid, ...row } of rows) {
      expect(row.share).toEqual(SHARE);
      this.functions.set(vuid, { ...row, driver: '' });
    }
  }

  async #share({ which: number, option, value }: Extract<Typed, { verb: 'share' }>): Promise<void> {
    const [vuid, found] = this.#chosen(number);
    if (found === null || (found.share === null && option === 'maxQueuePairs')) return;
    const request: ModifyRequest & { readonly requestId: string } = {
      ...{ requestId: `s${this.#requests++}`, all: false, pf: null, vf: null, vuid },
      device: { [option]: value },
    };
    const answer = await this.#asked(() => this.#service.commands.modify(request));
    const after = found.share === null ? null : this.#shareAfter(found.pfId, found.share, option, value);
    if (after === null) {
      expect(answer.errno).toBe(option === 'msixNum' ? -1010 : -1074);
      return;
    }
    expect(answer.errno).toBe(after.msix === 0 || after.pairs === 0 ? NOT_FUNCTIONAL : 0);
    found.share = after;
  }

  /** Null: there is not so much, or no VF can have it. */
  #shareAfter(
    pfId: number,
    { msix, pairs }: typeof SHARE,
    option: 'msixNum' | 'maxQueuePairs',
    value: number,
  ): typeof SHARE | null {
    const free = poolOf(this, pfId);
    if (option === 'maxQueuePairs')
      return value >= 0 && value <= pairs + free.pairs ? { msix, pairs: value } : null;
    const possible = value === 0 || (value >= 4 && value % 2 === 0);
    if (!possible || value > msix + free.msix) return null;
    return { msix: value, pairs: Math.min(value < 4 ? 0 : (value - 2) / 2, pairs + free.pairs) };
  }

  async #modify({ which: number, mac, mtu }: Extract<Typed, { verb: 'modify' }>): Promise<void> {
    const [vuid, found] = this.#chosen(number);
    const device = { ...(mac === null ? {} : { mac }), ...(mtu === null ? {} : { mtu }) };
    const selector = {
      all: false,
      pf: null,
      vf: null,
      vuid: found === null ? 'MT2151X03152VNETS1D30F9' : vuid,
    };
    const request: ModifyRequest & { readonly requestId: string } = {
      requestId: `m${this.#requests++}`,
      ...selector,
      device,
    };
    const answer = await this.#asked(() => this.#service.commands.modify(request));
    const sensible = (mac === null || /^0C/.test(mac)) && (mtu === null || (mtu >= 68 && mtu <= 9216));
    if (mac !== null || mtu !== null)
      expect(answer.errno === 0, JSON.stringify(answer)).toBe(found !== null && sensible);
    if (answer.errno !== 0 || found === null) return;
    found.mac = mac ?? found.mac;
    found.mtu = mtu ?? found.mtu;
  }

  async #host(verb: 'bind' | 'unbind' | 'flr', number: number): Promise<void> {
    const [, found] = this.#chosen(number);
    const request = {
      ...hostRequest(verb),
      bdf: found?.bdf ?? '7f:00.0',
      driver: verb === 'flr' ? null : 'vfio-pci',
    };
    const answer = await this.#service.commands.host(request);
    const bound = found?.driver !== '';
    const permitted = found !== null && (verb === 'flr' || (verb === 'bind') !== bound);
    expect(Number(answer.errno) === 0, JSON.stringify(answer)).toBe(permitted);
    if (!permitted || verb === 'flr') return;
    found.driver = verb === 'bind' ? 'vfio-pci' : '';
    if (verb === 'unbind' && found.kind === 'static PF')
      for (const vuid of this.#vfsOf(found.pfId)) this.functions.delete(vuid);
  }

  /** What the guide's table says of an event that concerns everything. */
  #event(event: RecoveryEvent): void {
    for (const [vuid, each] of [...this.functions]) {
      each.driver = '';
      const outcome = outcomeOf(event, each.kind as Kind);
      if (outcome === 'gone') this.functions.delete(vuid);
      if (outcome !== 'fresh') continue;
      each.mac = `02:00:00:00:01:0${each.pfId}`;
      each.mtu = MTU;
    }
    this.#last = null;
  }

  #of(kind: Expected['kind']): Expected[] {
    return [...this.functions.values()].filter((each) => each.kind === kind);
  }

  #vfsOf(pfId: number): string[] {
    return [...this.functions]
      .filter(([, each]) => each.kind === 'VF' && each.pfId === pfId)
      .map(([vuid]) => vuid);
  }

  #chosen(number: number): readonly [string, Expected | null] {
    return [...this.functions][number] ?? ['', null];
  }
}

function hostRequest(
  verb: 'sriov' | 'bind' | 'unbind' | 'flr' | 'warm-reboot' | 'power-cycle' | 'functions',
) {
  return { verb, bdf: null, value: null, driver: null } as const;
}

interface Row extends Omit<Expected, 'driver'> {
  readonly vuid: string;
}

interface Shown {
  readonly vuid: string;
  readonly pci_bdf: string;
  readonly mac: string;
  readonly mtu: string;
  readonly function_type: Expected['kind'];
  readonly pf_id?: number;
  readonly vf_id?: number;
  readonly parent_pf_id?: number;
  readonly enabled_vfs: string;
  readonly num_msix: string;
  readonly num_queues: string;
  readonly max_queue_pairs: string;
  readonly msix_num_pool_size?: number;
  readonly qp_pool_size?: number;
}

/** What the VFs of a PF have left of what they had at first. */
function poolOf({ functions }: Pick<Model, 'functions'>, pfId: number): typeof SHARE {
  const left = { msix: 0, pairs: 0 };
  for (const { share, ...each } of functions.values()) {
    if (share === null || each.pfId !== pfId) continue;
    left.msix += SHARE.msix - share.msix;
    left.pairs += SHARE.pairs - share.pairs;
  }
  return left;
}

const rowOf = ({
  vuid,
  pci_bdf,
  mac,
  mtu,
  function_type,
  pf_id,
  vf_id,
  parent_pf_id,
  ...more
}: Shown): Row => ({
  vuid,
  share: vf_id === undefined ? null : { msix: Number(more.num_msix), pairs: Number(more.max_queue_pairs) },
  kind: function_type,
  pfId: pf_id ?? parent_pf_id!,
  vfId: vf_id ?? null,
  bdf: pci_bdf,
  mac,
  mtu: Number(mtu),
});
const devicesOf = (answer: unknown): readonly Shown[] => (answer as { devices: readonly Shown[] }).devices;
const listed = ({ commands }: TestService): Row[] => devicesOf(commands.list()).map(rowOf);
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
async function look(service: TestService, model: Model): Promise<void> {
  const { functions } = model;
  const expected = sorted(
    [...functions].map(([vuid, { driver: _, ...row }]) => ({ vuid, ...row })),
    ({ vuid }) => vuid,
  );
  expect(sorted(listed(service), ({ vuid }) => vuid)).toEqual(expected);
  for (const { function_type: kind, pf_id: pfId, ...shown } of devicesOf(service.commands.list())) {
    const pool = { msix: shown.msix_num_pool_size, pairs: shown.qp_pool_size };
    if (kind === 'static PF') expect(pool).toEqual(poolOf(model, pfId!));
  }
  const query = { all: true, pf: null, vf: null, vuid: null, brief: true, queue: null };
  const queried = devicesOf(service.commands.query(query));
  expect(sorted(queried.map(rowOf), ({ vuid }) => vuid)).toEqual(expected);
  for (const { vuid, enabled_vfs: enabled, ...shown } of queried) {
    const { kind, pfId, share } = functions.get(vuid)!;
    if (share !== null) {
      const functional = share.msix > 0 && share.pairs > 0;
      expect(Number(shown.num_queues)).toBe(functional ? 2 * share.pairs + 1 : 0);
    }
    const vfs = [...functions.values()].filter((each) => each.kind === 'VF' && each.pfId === pfId);
    if (kind === 'static PF') expect(Number(enabled)).toBe(vfs.length);
  }
  const { functions: host } = (await service.commands.host({
    ...hostRequest('functions'),
    value: 1,
  })) as unknown as {
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
    if (typeof recovery === 'string') throw new Error(recovery);
    const { mac, bdf, pfId, vfId, share } = functions.get(vuid)!;
    if (share !== null) expect(recovery.queuePairs).toBe(share.pairs);
    expect({
      mac: recovery.mac,
      bdf: recoveryBdf(recovery),
      pfId: recovery.pfId,
      vfId: recovery.vfId,
    }).toEqual({ mac, bdf, pfId, vfId });
  }
  expect(readdirSync(service.paths.pci).sort()).toEqual(
    [...functions.values()].map(({ bdf }) => `0000:${bdf}.sock`).sort(),
  );
}

const hotplug: Typed = { verb: 'hotplug', mac: '0C:C4:7A:FF:00:01', mtu: MTU, queuePairs: 2, queueSize: 256 };
const changeMac: Typed = { verb: 'modify', which: 0, mac: '0C:C4:7A:FF:00:02', mtu: null };
/** Something of everything, so that nothing of it is true by never happening. */
const EVERYTHING: readonly Typed[] = [
  ...[hotplug, { verb: 'again' }, hotplug, { verb: 'unplug', which: 2 }, { verb: 'again' }],
  ...[
    changeMac,
    { verb: 'again' },
    { verb: 'sriov', which: 0, count: VFS },
    { verb: 'sriov', which: 0, count: 1 },
    { verb: 'share', which: 3, option: 'msixNum', value: 0 },
    { verb: 'again' },
    { verb: 'share', which: 4, option: 'msixNum', value: 28 },
    { verb: 'share', which: 5, option: 'maxQueuePairs', value: 0 },
    { verb: 'restart' },
    { verb: 'share', which: 3, option: 'maxQueuePairs', value: 2 },
    { verb: 'share', which: 3, option: 'msixNum', value: 4 },
    { verb: 'modify', which: 0, mac: null, mtu: 1400 },
  ],
  ...[{ verb: 'bind', which: 0 }, { verb: 'flr', which: 0 }, { verb: 'restart' }],
  ...[{ verb: 'unbind', which: 0 }, { verb: 'sriov', which: 1, count: 2 }, { verb: 'warm-reboot' }],
  ...[{ verb: 'sriov', which: 1, count: 1 }, { verb: 'sriov', which: 1, count: 0 }, { verb: 'power-cycle' }],
] as Typed[];

describe('commands of any kind in any order', { timeout: TEST_MS }, () => {
  it('list, query, recovery files, sockets and the host agree with one another and with what was asked for', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(typed, { minLength: 1, maxLength: 14 }), async (commands) => {
        const service = newService();
        try {
          await service.start();
          const model = new Model(service);
          model.begin(listed(service));
          await look(service, model);
          for (const command of commands) {
            await model.type(command);
            await look(service, model);
          }
        } finally {
          await service.close();
        }
      }),
      { numRuns: 25, examples: [[[...EVERYTHING]]] },
    );
  });
});
