/**
 * command-model.ts: what commands make of the functions, told without any of the code that does it.
 *
 * Theory
 *   A command names functions by a number, which stands for one that there is or for none. The model says whether it may
 *   succeed, with which error it fails, and what is there afterwards. Of a command that is wrong in several ways the
 *   guide does not say which error it shows: any of theirs is right.
 *
 * Invariants
 *   I1  a command that is refused changes nothing.
 *   I2  a command that is asked again by its id is answered as at first, and changes nothing.
 */
import {
  type DeviceOptions,
  type HostRequest,
  type HotplugRequest,
  LINK_SPEEDS,
  type ModifyRequest,
  outcomeOf,
  type RecoveryEvent,
} from '@virtnet/engine-control';
import {
  ControlRx,
  DeviceStatus,
  HASH_TYPES,
  NetFeature,
  VfioPciRegion,
  VirtioFeature,
  VirtioPciCommon,
} from '@virtnet/wire';
import { expect } from 'vitest';
import { DeviceAccess } from '../device-access.js';
import type { SentRequest } from '../host-commands.js';
import type { TestService } from './test-service.js';

export const STATIC_PFS = 2;
export const PORTS = 3;
export const VFS = 3;
export const MTU = 1500;
const MTU_MAX = 9216;
const QUEUE_SIZE_MAX = 0x8000;
const UPLINK = 'mlx5_0';
const NOWHERE = '7f:00.0';
const UNKNOWN_VUID = 'MT2151X03152VNETS1D30F9';
const { ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET } = DeviceStatus;
const bits = (...features: readonly number[]): bigint =>
  features.reduce((mask, bit) => mask | (1n << BigInt(bit)), 0n);
/** What a driver of the model agrees to, and with receive modes. */
const AGREED = bits(VirtioFeature.VERSION_1, NetFeature.MAC);
const AGREED_MODES = AGREED | bits(NetFeature.CTRL_VQ, NetFeature.CTRL_RX);
const HASHES = bits(NetFeature.HASH_REPORT);
const HASH_KEY_BYTES = 40;
/** Every command of class CTRL_RX on. */
const ALL_MODES = 2 ** Object.keys(ControlRx).length - 1;

/** The features a command asks for, by what makes of a function's own ones. */
export const FEATURE_MASKS = {
  own: (own: bigint) => own,
  'without MTU': (own: bigint) => own & ~bits(NetFeature.MTU),
  'with hashes': (own: bigint) => own | HASHES,
  'without hashes': (own: bigint) => own & ~HASHES,
  'without VERSION_1': (own: bigint) => own & ~bits(VirtioFeature.VERSION_1),
  unknown: (own: bigint) => own | (1n << 50n),
} as const;

/** The device status a command asks for, by what makes of the one there is. */
export const STATES = {
  reset: () => 0,
  'needs reset': () => NEEDS_RESET,
  'needs reset too': (now: number) => now | NEEDS_RESET,
  'as it is': (now: number) => now,
  "the driver's": (now: number) => now ^ DRIVER_OK,
  'no status': () => 0x30,
} as const;

/** Options of `modify`; features and the status are named by what becomes of them. */
export type TypedOptions = Omit<DeviceOptions, 'features' | 'state'> & {
  readonly mask?: keyof typeof FEATURE_MASKS;
  readonly status?: keyof typeof STATES;
};
type HostDriver = 'vfio-pci' | 'virtio-pci';

/** What is typed; `which` stands for one of the functions that there are, or for none. */
export type Typed =
  | {
      readonly verb: 'hotplug';
      readonly mac: string;
      readonly mtu: number;
      readonly queuePairs: number;
      readonly queueSize: number;
    }
  | { readonly verb: 'unplug' | 'flr' | 'unload-driver'; readonly which: number }
  | {
      readonly verb: 'load-driver';
      readonly which: number;
      readonly started: boolean;
      /** Whether it agrees to set receive modes. */
      readonly modes: boolean;
    }
  | { readonly verb: 'sriov' | 'autoprobe'; readonly which: number; readonly count: number }
  | { readonly verb: 'modify'; readonly which: number; readonly options: TypedOptions }
  | { readonly verb: 'bind' | 'unbind'; readonly which: number; readonly driver: HostDriver }
  | { readonly verb: 'modprobe'; readonly load: boolean }
  | { readonly verb: 'warm-reboot' | 'power-cycle' | 'restart' | 'again' };

type Kind = Parameters<typeof outcomeOf>[1];

/** What the next driver finds; it outlives a restart. */
export interface Shape {
  readonly mac: string;
  readonly mtu: number;
  readonly features: bigint;
  readonly queueSize: number;
  readonly queuePairs: number;
  readonly msixVectors: number;
  /** Of one that offers hashes; else 0. */
  readonly hashTypes: number;
  readonly keyBytes: number;
}

/** What the operator has set besides. */
export interface Settings {
  readonly link: string;
  readonly speed: string;
  readonly aarfs: string;
  readonly dim: string;
  readonly drops: boolean;
  readonly packets: string;
}

/** A function as it should be seen. */
export interface Expected {
  readonly kind: 'static PF' | 'hotplug PF' | 'VF';
  readonly pfId: number;
  readonly vfId: number | null;
  readonly bdf: string;
  /** Of the host; empty: none. */
  driver: string;
  /** Device status. */
  status: number;
  /** Receive modes: a bit for each command of class CTRL_RX. */
  modes: number;
  /** Whether its driver agreed to set them. */
  agreedModes: boolean;
  /** Hashes that it offers as soon as it offers any. */
  hashTypes: number;
  shape: Shape;
  settings: Settings;
}

/** A function of `list`, and what `query` and `stats` say more of it. */
export interface Row extends Omit<Expected, 'driver' | 'status' | 'modes' | 'agreedModes' | 'hashTypes'> {
  readonly vuid: string;
  readonly status: number;
  readonly modes: number;
}

interface Outcome {
  readonly errno: number;
  readonly [key: string]: unknown;
}

/** What of the pool of a PF is free, and the most that one VF may have. */
export interface Pool {
  readonly vectors: number;
  readonly pairs: number;
  readonly vectorsMost: number;
  readonly pairsMost: number;
}

/** What a sequence of commands should have made. */
export class CommandModel {
  readonly functions = new Map<string, Expected>();
  readonly #service: TestService;
  readonly #rows: () => readonly Row[];
  readonly #poolMost: Pool;
  #fresh: ReadonlyMap<string, Row> = new Map();
  #freshVf: Row | null = null;
  readonly #initialModes: number;
  #moduleLoaded = false;
  readonly #noAutoprobe = new Set<string>();
  #requests = 0;
  /** The last command that changes devices by its id, to be asked again. */
  #last: (() => Promise<Outcome>) | null = null;
  #lastAnswer: Outcome | null = null;

  /** After a start of a service that was never used. `rows`: what is seen; `pool`: the caps of VFs. */
  constructor(service: TestService, rows: () => readonly Row[], pool: Pool) {
    this.#service = service;
    this.#rows = rows;
    this.#poolMost = pool;
    const first = rows();
    expect(first.map(({ kind }) => kind)).toEqual(Array.from({ length: STATIC_PFS }, () => 'static PF'));
    this.#fresh = new Map(first.map((row) => [row.vuid, row]));
    this.#initialModes = first[0]!.modes;
    for (const row of first) this.#appear(row, '');
  }

  async type(command: Typed): Promise<void> {
    const before = structuredClone(this.functions);
    const { commands } = this.#service;
    switch (command.verb) {
      case 'hotplug':
        return this.#hotplug(command);
      case 'unplug':
        return this.#unplug(command.which);
      case 'sriov':
        return this.#sriov(command.which, command.count);
      case 'autoprobe':
        return this.#autoprobe(command.which, command.count);
      case 'modify':
        return this.#modify(command.which, command.options);
      case 'bind':
      case 'unbind':
        return this.#binding(command.verb, command.which, command.driver);
      case 'modprobe':
        return this.#modprobe(command.load);
      case 'flr':
        return this.#flr(command.which);
      case 'load-driver':
        return this.#load(command.which, command.started, command.modes);
      case 'unload-driver': {
        const [vuid, found] = this.#chosen(command.which);
        if (found === null) return;
        await this.#writeStatus(vuid, 0);
        this.#reset(found);
        return;
      }
      case 'warm-reboot':
      case 'power-cycle':
        expect(await commands.host(hostRequest(command.verb))).toMatchObject({ errno: 0 });
        this.#moduleLoaded = false;
        this.#noAutoprobe.clear();
        return this.#event(command.verb === 'warm-reboot' ? 'warm reboot' : 'power cycle');
      case 'restart':
        await this.#service.stop();
        await this.#service.start();
        for (const each of this.functions.values()) this.#restarted(each);
        this.#last = null; // ids are those of a service that lives
        return;
      case 'again':
        if (this.#last === null) return;
        expect(await this.#last()).toEqual(this.#lastAnswer);
        expect(this.functions).toEqual(before);
    }
  }

  /** What VFs of a PF leave of what they started with. */
  pool(pfId: number): { readonly vectors: number; readonly pairs: number } {
    const shares = this.#vfsOf(pfId).map((vuid) => this.functions.get(vuid)!.shape);
    const started = this.#freshVf?.shape;
    if (started === undefined) return { vectors: 0, pairs: 0 };
    return {
      vectors: shares.reduce((sum, { msixVectors }) => sum + started.msixVectors - msixVectors, 0),
      pairs: shares.reduce((sum, { queuePairs }) => sum + started.queuePairs - queuePairs, 0),
    };
  }

  async #asked(ask: () => Promise<unknown>): Promise<Outcome> {
    const answer = (await ask()) as Outcome;
    this.#last = answer.errno === 0 || answer.errno === -1044 ? (ask as () => Promise<Outcome>) : null;
    this.#lastAnswer = answer;
    return answer;
  }

  #host(request: SentRequest): Promise<Outcome> {
    return this.#asked(() => this.#service.commands.host(request));
  }

  async #hotplug({ mac, mtu, queuePairs, queueSize }: Extract<Typed, { verb: 'hotplug' }>): Promise<void> {
    const request: HotplugRequest & { readonly requestId: string } = {
      requestId: `h${this.#requests++}`,
      ...{ ibDevice: UPLINK, mac, mtu, queues: null, queuePairs, queueSize },
      ...{ sfNum: null, features: null, legacy: false },
    };
    const answer = await this.#asked(() => this.#service.commands.hotplug(request));
    const sensible =
      isStation(mac) && isMtu(mtu) && [1, 2, 8].includes(queuePairs) && [4, 256, 1024].includes(queueSize);
    const room = this.#of('hotplug PF').length < PORTS;
    expect(answer.errno === 0, JSON.stringify(answer)).toBe(sensible && room);
    if (answer.errno !== 0) return;
    const { vuid, bdf, id } = answer as unknown as { vuid: string; bdf: string; id: number };
    expect(this.functions.has(vuid)).toBe(false);
    const row = this.#rows().find((each) => each.vuid === vuid)!;
    expect(row).toMatchObject({ kind: 'hotplug PF', pfId: id, bdf });
    expect(row.shape).toMatchObject({ mac, mtu, queuePairs, queueSize });
    this.#appear(row, this.#moduleLoaded ? 'virtio-pci' : '');
  }

  async #unplug(number: number): Promise<void> {
    const [vuid, found] = this.#chosen(number);
    const pf = found === null || found.vfId !== null ? 40 : found.pfId;
    const request = { requestId: `u${this.#requests++}`, pf, vuid: null };
    const answer = await this.#asked(() => this.#service.commands.unplug(request));
    expect(answer.errno === 0, JSON.stringify(answer)).toBe(found?.kind === 'hotplug PF');
    if (answer.errno === 0) this.functions.delete(vuid);
  }

  async #sriov(number: number, count: number): Promise<void> {
    const [, found] = this.#chosen(number);
    const bdf = found?.bdf ?? NOWHERE;
    const present = found?.kind === 'static PF' ? this.#vfsOf(found.pfId).length : 0;
    const answer = await this.#host(hostRequest('sriov', { bdf, value: count }));
    const permitted =
      found?.kind === 'static PF' &&
      count >= 0 &&
      count <= VFS &&
      (present === 0 || count === 0 || count === present);
    expect(Number(answer.errno) === 0, JSON.stringify(answer)).toBe(permitted);
    if (!permitted || count === present) return;
    if (count === 0) for (const vuid of this.#vfsOf(found.pfId)) this.functions.delete(vuid);
    // Where VFs are and what their addresses are follows from the configuration; that all are there is what counts.
    const rows = this.#rows().filter(({ kind, pfId }) => kind === 'VF' && pfId === found.pfId);
    expect(rows.map(({ vfId }) => vfId)).toEqual(Array.from({ length: count }, (_, vfId) => vfId));
    const probed = this.#moduleLoaded && !this.#noAutoprobe.has(found.bdf);
    for (const row of rows) {
      this.#freshVf ??= row;
      const { mac } = row.shape;
      expect([row.shape, row.settings]).toEqual([{ ...this.#freshVf.shape, mac }, this.#freshVf.settings]);
      this.#appear(row, probed ? 'virtio-pci' : '');
    }
  }

  async #autoprobe(number: number, value: number): Promise<void> {
    const [, found] = this.#chosen(number);
    const bdf = found?.bdf ?? NOWHERE;
    const answer = await this.#host(hostRequest('autoprobe', { bdf, value }));
    const permitted = found?.kind === 'static PF' && (value === 0 || value === 1);
    expect(Number(answer.errno) === 0, JSON.stringify(answer)).toBe(permitted);
    if (!permitted) return;
    if (value === 0) this.#noAutoprobe.add(bdf);
    else this.#noAutoprobe.delete(bdf);
  }

  async #modify(number: number, typed: TypedOptions): Promise<void> {
    const { mask, status, ...options } = typed;
    const [vuid, found] = this.#chosen(number);
    const features = mask === undefined ? null : FEATURE_MASKS[mask](found?.shape.features ?? AGREED);
    const asked = status === undefined ? null : STATES[status](found?.status ?? 0);
    const device = {
      ...options,
      ...(features === null ? {} : { features: `0x${features.toString(16)}` }),
      ...(asked === null ? {} : { state: asked }),
    };
    const request: ModifyRequest & { readonly requestId: string } = {
      requestId: `m${this.#requests++}`,
      ...{ all: false, pf: null, vf: null, vuid: found === null ? UNKNOWN_VUID : vuid, device },
    };
    const { errno } = await this.#asked(() => this.#service.commands.modify(request));
    const wrong = found === null ? [-1002] : this.#problems(found, typed);
    const about = JSON.stringify({ errno, wrong, device, status: found?.status, kind: found?.kind });
    if (wrong.length > 0) return expect(wrong, about).toContain(errno);
    const after = found!;
    after.hashTypes = options.supportedHashTypes ?? after.hashTypes;
    after.shape = this.#changedShape(after, options, features ?? after.shape.features);
    after.settings = changedSettings(after.settings, options);
    after.modes = options.rxMode ?? after.modes;
    if (asked === 0) this.#reset(after);
    else after.status = asked === null ? after.status : asked | after.status;
    expect(errno, about).toBe(isFunctional(after.shape) ? 0 : -1044);
  }

  /** Every reason to refuse a command; empty: it is carried out. */
  #problems({ kind, status, shape, pfId, agreedModes }: Expected, options: TypedOptions): number[] {
    const { mac, mtu, maxQueueSize, maxQueuePairs, msixNum, speed, link, dim } = options;
    const { mask, status: asked, dropCounter, packetCounter, aarfs, rxMode } = options;
    const { supportedHashTypes, rssMaxKeySize } = options;
    const free = this.pool(pfId);
    const { vectorsMost, pairsMost } = this.#poolMost;
    const ofVf = kind === 'VF';
    const badVectors = (wanted: number) =>
      !ofVf ||
      wanted < 0 ||
      wanted % 2 !== 0 ||
      wanted === 2 ||
      wanted > vectorsMost ||
      wanted - shape.msixVectors > free.vectors;
    const badPairs = (wanted: number) =>
      ofVf
        ? wanted < 0 || wanted > pairsMost || wanted - shape.queuePairs > free.pairs
        : wanted < 1 || wanted > 127;
    const offered = mask === undefined ? shape.features : FEATURE_MASKS[mask](shape.features);
    const becomes = asked === undefined ? status : STATES[asked](status);
    const started = (status & DRIVER_OK) !== 0;
    const forNext = [mac, mtu, mask, maxQueueSize, maxQueuePairs, msixNum, dim, supportedHashTypes];
    const needsDriver = [dropCounter, packetCounter, rxMode];
    const given = (values: readonly unknown[]) => values.some((value) => value !== undefined);
    const reasons: readonly (readonly [boolean, number])[] = [
      [Object.keys(options).length === 0, -22],
      [mac !== undefined && !isStation(mac), -1009],
      [mtu !== undefined && !isMtu(mtu), -1011],
      [mask === 'unknown' || mask === 'without VERSION_1', -1001],
      [maxQueueSize !== undefined && maxQueueSize > QUEUE_SIZE_MAX, -1034],
      [
        maxQueueSize !== undefined &&
          maxQueueSize <= QUEUE_SIZE_MAX &&
          ![4, 256, 1024].includes(maxQueueSize),
        -1043,
      ],
      [msixNum !== undefined && maxQueuePairs !== undefined, -1074],
      [msixNum !== undefined && badVectors(msixNum), -1010],
      [maxQueuePairs !== undefined && badPairs(maxQueuePairs), -1074],
      [speed !== undefined && !(LINK_SPEEDS as readonly number[]).includes(speed), -1052],
      [link !== undefined && link !== 0 && link !== 1, -22],
      [aarfs !== undefined && ofVf, -1047],
      [asked === 'no status', -22],
      [asked === "the driver's", -1047],
      [becomes !== status && (becomes & NEEDS_RESET) !== 0 && !started, -1004],
      [rxMode !== undefined && (rxMode < 0 || rxMode > ALL_MODES), -22],
      [rxMode !== undefined && !agreedModes, -1026],
      [supportedHashTypes !== undefined && supportedHashTypes > HASH_TYPES, -1053],
      [rssMaxKeySize !== undefined && rssMaxKeySize !== HASH_KEY_BYTES, -1054],
      [given([supportedHashTypes, rssMaxKeySize]) && (offered & HASHES) === 0n, -1047],
      [given(forNext) && (status & DRIVER) !== 0, -1005],
      [given(needsDriver) && !started, -1004],
    ];
    return reasons.filter(([applies]) => applies).map(([, errno]) => errno);
  }

  #changedShape({ shape, pfId, hashTypes }: Expected, options: TypedOptions, features: bigint): Shape {
    const { mac, mtu, maxQueueSize, maxQueuePairs, msixNum } = options;
    const pairs = Math.min(this.#poolMost.pairsMost, shape.queuePairs + this.pool(pfId).pairs);
    const ofVectors = msixNum === undefined ? undefined : Math.min(Math.max(0, (msixNum - 2) / 2), pairs);
    return {
      ...hashShape(features, hashTypes),
      features,
      mac: mac ?? shape.mac,
      mtu: mtu ?? shape.mtu,
      queueSize: maxQueueSize ?? shape.queueSize,
      queuePairs: maxQueuePairs ?? ofVectors ?? shape.queuePairs,
      msixVectors: msixNum ?? shape.msixVectors,
    };
  }

  async #binding(verb: 'bind' | 'unbind', number: number, driver: HostDriver): Promise<void> {
    const [, found] = this.#chosen(number);
    const bdf = found?.bdf ?? NOWHERE;
    const answer = await this.#host(hostRequest(verb, { bdf, driver }));
    const permitted = found !== null && found.driver === (verb === 'bind' ? '' : driver);
    expect(Number(answer.errno) === 0, JSON.stringify(answer)).toBe(permitted);
    if (!permitted) return;
    found.driver = verb === 'bind' ? driver : '';
    if (verb === 'unbind') this.#losesVfs(found);
  }

  /** `modprobe [-r] virtio_net`. */
  async #modprobe(load: boolean): Promise<void> {
    expect(await this.#host(hostRequest('modprobe', { value: load ? 1 : 0 }))).toMatchObject({ errno: 0 });
    const first = load && !this.#moduleLoaded;
    this.#moduleLoaded = load;
    for (const each of [...this.functions.values()]) {
      if (first && each.driver === '') each.driver = 'virtio-pci';
      if (load || each.driver !== 'virtio-pci') continue;
      each.driver = '';
      this.#losesVfs(each);
    }
  }

  async #flr(number: number): Promise<void> {
    const [, found] = this.#chosen(number);
    const answer = await this.#host(hostRequest('flr', { bdf: found?.bdf ?? NOWHERE }));
    expect(Number(answer.errno) === 0, JSON.stringify(answer)).toBe(found !== null);
    if (found !== null) this.#reset(found);
  }

  /** A driver takes the function, and starts it or not yet. One without queues agrees to nothing. */
  async #load(number: number, started: boolean, modes: boolean): Promise<void> {
    const [vuid, found] = this.#chosen(number);
    if (found === null) return;
    const last = started ? DRIVER_OK : 0;
    const works = isFunctional(found.shape);
    const agreed = modes ? AGREED_MODES : AGREED;
    this.#reset(found);
    await this.#writeStatus(vuid, 0);
    await this.#writeStatus(vuid, ACKNOWLEDGE | DRIVER);
    for (const word of [0, 1]) {
      await this.#register(vuid, 'driverFeatureSelect', word);
      await this.#register(vuid, 'driverFeature', Number((agreed >> BigInt(32 * word)) & 0xffff_ffffn));
    }
    await this.#writeStatus(vuid, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    if (works) await this.#writeStatus(vuid, ACKNOWLEDGE | DRIVER | FEATURES_OK | last);
    found.status = ACKNOWLEDGE | DRIVER | (works ? FEATURES_OK | last : 0);
    found.agreedModes = works && modes;
  }

  /** What a driver has agreed to and set is gone. */
  #reset(each: Expected): void {
    each.status = 0;
    each.modes = this.#initialModes;
    each.agreedModes = false;
  }

  #writeStatus(vuid: string, value: number): Promise<void> {
    return this.#register(vuid, 'deviceStatus', value);
  }

  async #register(
    vuid: string,
    name: 'deviceStatus' | 'driverFeatureSelect' | 'driverFeature',
    value: number,
  ) {
    const bytes = new Uint8Array(name === 'deviceStatus' ? 1 : 4);
    for (let i = 0; i < bytes.length; i++) bytes[i] = value >>> (8 * i);
    const access = new DeviceAccess(this.#service.device(vuid).host);
    expect(await access.write(VfioPciRegion.BAR0, VirtioPciCommon.at[name], bytes)).toBe(0);
  }

  /** What the guide's table says of an event that concerns everything. */
  #event(event: RecoveryEvent): void {
    for (const [vuid, each] of [...this.functions]) {
      each.driver = '';
      this.#reset(each);
      const outcome = outcomeOf(event, each.kind as Kind);
      if (outcome === 'gone') this.functions.delete(vuid);
      if (outcome === 'fresh') this.#appear(this.#fresh.get(vuid)!, '');
    }
    this.#last = null;
  }

  /** Settings are those of a service that lives; the shape is on record. */
  #restarted(each: Expected): void {
    this.#reset(each);
    each.settings = [...this.#fresh.values()][0]!.settings;
    each.hashTypes = HASH_TYPES;
    each.shape = { ...each.shape, ...hashShape(each.shape.features, HASH_TYPES) };
  }

  #appear({ vuid, ...row }: Row, driver: string): void {
    expect(row.status).toBe(0);
    expect(row.modes).toBe(this.#initialModes);
    this.functions.set(vuid, { ...row, driver, agreedModes: false, hashTypes: HASH_TYPES });
  }

  #losesVfs({ kind, pfId }: Expected): void {
    if (kind === 'static PF') for (const vuid of this.#vfsOf(pfId)) this.functions.delete(vuid);
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

let hostRequests = 0;

/** A request of the host's side; a new one, unless `more` has its id. */
export function hostRequest(verb: HostRequest['verb'], more: Partial<SentRequest> = {}): SentRequest {
  return { requestId: `host-${hostRequests++}`, verb, bdf: null, value: null, driver: null, ...more };
}

const isStation = (mac: string): boolean => mac.startsWith('0C');
const isMtu = (mtu: number): boolean => mtu >= 68 && mtu <= MTU_MAX;
const isFunctional = ({ msixVectors, queuePairs }: Shape): boolean => msixVectors > 0 && queuePairs > 0;

const hashShape = (features: bigint, types: number) =>
  (features & HASHES) === 0n ? { hashTypes: 0, keyBytes: 0 } : { hashTypes: types, keyBytes: HASH_KEY_BYTES };

function changedSettings(now: Settings, options: TypedOptions): Settings {
  const { speed, link, aarfs, dim, dropCounter, packetCounter } = options;
  const named = { enable: 'enabled', disable: 'disabled' } as const;
  return {
    link: link === undefined ? now.link : `${link}`,
    speed: speed === undefined ? now.speed : `${speed}`,
    aarfs: aarfs === undefined ? now.aarfs : named[aarfs],
    dim: dim === undefined ? now.dim : named[dim],
    drops: dropCounter === undefined ? now.drops : dropCounter === 'enable',
    packets: packetCounter === undefined ? now.packets : packetCounter === 'enable' ? 'Enabled' : 'Disabled',
  };
}
