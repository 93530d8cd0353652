/**
 * conf-keys.ts: everything virtnet.conf may contain. One line declares a key: its values, its default, its meaning.
 *
 * @example
 *   A new key of ours is one line in `software` below; it has its place in VirtnetConf, in the checks, in their
 *   messages and in the snapshot that the emulators read.
 */
import { REPRESENTOR_KINDS } from './facts.js';
import { QUEUE_PAIRS_MAX, QUEUE_SIZE_MAX, QUEUE_SIZE_MIN, VFS_MAX } from './limits.js';

/** A JSON schema, as far as keys need one. */
export type KeySchema = { readonly [keyword: string]: unknown };

/** A key whose value is no object. */
export interface ConfKey<T> {
  readonly kind: 'key';
  readonly schema: KeySchema;
  readonly fallback: T;
  /** What may be written, as it follows "must be". */
  readonly expected: string;
  readonly meaning: string;
}
export interface ConfGroup<K extends ConfKeys> {
  readonly kind: 'group';
  readonly keys: K;
  readonly meaning: string;
}
export type ConfEntry = ConfKey<unknown> | ConfGroup<ConfKeys>;
export interface ConfKeys {
  readonly [name: string]: ConfEntry;
}
/** The values of a set of keys, all of them there. */
export type ConfValues<K extends ConfKeys> = {
  readonly [N in keyof K]: K[N] extends ConfGroup<infer G>
    ? ConfValues<G>
    : K[N] extends ConfKey<infer T>
      ? T
      : never;
};

function key<T>(schema: KeySchema, fallback: T, expected: string, meaning: string): ConfKey<T> {
  return { kind: 'key', schema, fallback, expected, meaning };
}
const flag = (fallback: 0 | 1, meaning: string): ConfKey<0 | 1> =>
  key({ type: 'integer', enum: [0, 1] }, fallback, '0 or 1', meaning);
const range = (minimum: number, maximum: number): [KeySchema, string] => [
  { type: 'integer', minimum, maximum },
  `a whole number from ${minimum} to ${maximum}`,
];
const whole = (least: number, most: number, fallback: number, meaning: string): ConfKey<number> => {
  const [schema, expected] = range(least, most);
  return key(schema, fallback, expected, meaning);
};
/** A number that has no default: what is used without it depends on the machine or the firmware. */
const wholeOrUnset = (least: number, most: number, meaning: string): ConfKey<number | null> => {
  const [schema, expected] = range(least, most);
  return key<number | null>(schema, null, expected, meaning);
};
const oneOf = <const T extends string, F extends T | null>(
  values: readonly T[],
  fallback: F,
  meaning: string,
): ConfKey<T | F> =>
  key<T | F>(
    { type: 'string', enum: values },
    fallback,
    values.map((value) => `"${value}"`).join(' or '),
    meaning,
  );
const station = (meaning: string): ConfKey<string | null> =>
  key<string | null>(
    { type: 'string', pattern: '^(?!00(?::00){5}$)[0-9A-Fa-f][02468ACEace](?::[0-9A-Fa-f]{2}){5}$' },
    null,
    'the MAC address of one station, such as "0C:C4:7A:FF:22:93"',
    meaning,
  );
const featureBits = (meaning: string): ConfKey<string | null> =>
  key<string | null>(
    { type: 'string', pattern: '^(?:0[xX])?[0-9A-Fa-f]{1,16}$' },
    null,
    'a hexadecimal number of 64 bits in quotes, such as "0x230047082b"',
    meaning,
  );
const netDeviceOrUnset = (meaning: string): ConfKey<string | null> => netDevice<string | null>(null, meaning);
const netDevice = <F extends string | null>(fallback: F, meaning: string): ConfKey<string | F> =>
  key<string | F>(
    { type: 'string', pattern: '^(?!\\.\\.?$)[^/:\\s]{1,15}$' },
    fallback,
    'the name of a network device, of at most 15 letters',
    meaning,
  );
const queueSize = (meaning: string): ConfKey<number | null> => {
  const sizes: number[] = [];
  for (let size = QUEUE_SIZE_MIN; size <= QUEUE_SIZE_MAX; size *= 2) sizes.push(size);
  return key<number | null>(
    { type: 'integer', enum: sizes },
    null,
    `a power of two from ${QUEUE_SIZE_MIN} to ${QUEUE_SIZE_MAX}`,
    meaning,
  );
};
const group = <K extends ConfKeys>(meaning: string, keys: K): ConfGroup<K> => ({
  kind: 'group',
  keys,
  meaning,
});

const PORT_0 = 'mlx5_0';
const PORT_1 = 'mlx5_1';
const BOND = 'mlx5_bond_0';
const DPA_CORE_LAST = 15;
const ETH_VQ_WORKERS_MAX = 24;
const ADMIN_CMD_WORKERS_MAX = 16;

/** The keys of the original in the order of its guide, then ours. Null: not set. */
export const CONF_KEYS = {
  ib_dev_p0: oneOf([PORT_0], PORT_0, 'RDMA device of port 0; manages the emulation without LAG'),
  ib_dev_p1: oneOf([PORT_1], PORT_1, 'RDMA device of port 1'),
  ib_dev_for_static_pf: oneOf([PORT_0, PORT_1, BOND], null, 'RDMA device static PFs and their VFs are on'),
  ib_dev_lag: oneOf([BOND], null, 'RDMA device of the bond; manages the emulation with LAG'),
  static_pf: group('static PFs', {
    mac_base: station('MAC address of static PF 0; the next has the next'),
    features: featureBits('feature bits static PFs offer'),
  }),
  is_lag: flag(0, 'both ports are one bond'),
  single_port: flag(0, 'there is no port 1'),
  recovery: flag(1, 'devices come back after a restart'),
  sf_pool_percent: whole(0, 100, 0, 'SFs made at the start, in per cent of all'),
  sf_pool_force_destroy: flag(0, 'the pool of SFs is destroyed when the controller stops'),
  packed_vq: flag(0, 'devices offer packed virtqueues'),
  mrg_rxbuf: flag(0, 'devices offer mergeable receive buffers'),
  dpa_core_start: wholeOrUnset(1, 10, 'first CPU of the datapath'),
  dpa_core_end: wholeOrUnset(2, DPA_CORE_LAST, 'last CPU of the datapath'),
  vf: group('VFs', {
    mac_base: station('MAC address of VF 0 of PF 0; the next has the next'),
    features: featureBits('feature bits VFs offer'),
    vfs_per_pf: wholeOrUnset(1, VFS_MAX, 'MAC addresses set aside for each PF'),
    max_queue_pairs: wholeOrUnset(1, QUEUE_PAIRS_MAX, 'queue pairs of a VF'),
    max_queue_size: queueSize('entries of a virtqueue of a VF'),
  }),
  lm_prov: oneOf(['dpdk', 'kernel'], null, 'who migrates VFs'),
  eth_vq_workers: wholeOrUnset(1, ETH_VQ_WORKERS_MAX, 'threads of the datapath'),
  admin_cmd_workers: wholeOrUnset(1, ADMIN_CMD_WORKERS_MAX, 'no meaning here'),
  software: group('what the original does not have', {
    uplinks: group('network devices of this host behind the RDMA devices', {
      mlx5_0: netDevice('p0', 'behind port 0'),
      mlx5_1: netDevice('p1', 'behind port 1'),
      mlx5_bond_0: netDevice('bond0', 'the bond'),
    }),
    representor: oneOf(REPRESENTOR_KINDS, null, 'what stands for a function on the host'),
    uplink_taps: group('TAPs behind which the eswitch reaches the host', {
      mlx5_0: netDeviceOrUnset('of the functions on port 0'),
      mlx5_1: netDeviceOrUnset('of the functions on port 1'),
      mlx5_bond_0: netDeviceOrUnset('of the functions on the bond'),
    }),
    source_frame_bytes: whole(60, 65_000, 1500, 'size of the frames that the representor "source" gives'),
  }),
} as const satisfies ConfKeys;

/** A configuration, complete: what the file does not say has its default, or null where there is none. */
export type VirtnetConf = ConfValues<typeof CONF_KEYS>;

/** `given` with every missing key added; keys nobody declared are left out. The caller has checked what is given. */
export function withDefaults(given: { readonly [key: string]: unknown }): VirtnetConf {
  return fill(CONF_KEYS, given) as unknown as VirtnetConf;
}

function fill(keys: ConfKeys, given: { readonly [key: string]: unknown }): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(keys).map(([name, entry]) => {
      const value = Object.hasOwn(given, name) ? given[name] : undefined;
      if (entry.kind === 'key') return [name, value ?? entry.fallback];
      return [name, fill(entry.keys, (value ?? {}) as { readonly [key: string]: unknown })];
    }),
  );
}

/** The configuration without a file. */
export const DEFAULT_CONF: VirtnetConf = withDefaults({});

/** JSON schema of the file; editors can use it too. */
export function confSchema(): KeySchema {
  return schemaOf(CONF_KEYS, 'virtnet.conf');
}

function schemaOf(keys: ConfKeys, meaning: string): KeySchema {
  const properties = Object.entries(keys).map(([name, entry]) => [
    name,
    entry.kind === 'group'
      ? schemaOf(entry.keys, entry.meaning)
      : { ...entry.schema, description: entry.meaning },
  ]);
  return {
    type: 'object',
    description: meaning,
    properties: Object.fromEntries(properties),
    additionalProperties: false,
  };
}
