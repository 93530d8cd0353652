/**
 * conf.ts: virtnet.conf, judged.
 *
 * Theory
 *   The text is read with the place of everything in it (json-text.ts), its keys and values are checked against the
 *   schema (conf-keys.ts), and only when each key is right by itself are the keys checked against each other and
 *   against the firmware. Whoever starts the service and whoever only validates ask the same function.
 *   The configuration that is in effect is handed to the other processes as a snapshot: the same keys, complete.
 *   A snapshot is checked against the schema when it is read, but not again against the firmware, which may have
 *   changed since.
 *
 * Invariants
 *   I1  a VirtnetConf that comes out of here has passed the schema.
 *   I2  every problem names a place in the file, the key, what is wrong and what to do; so does every note about what
 *       is accepted here and would be refused by the original.
 *
 * Limits
 *   CONF_BYTES_MAX, PROBLEMS_MAX. The original excludes packed_vq and mrg_rxbuf together; here both may be on, since
 *   the virtqueues support it, and a note says so. A comma behind the last key is accepted: the guide's example of LAG has one.
 */
import type { ErrorObject } from 'ajv';
import { CONF_KEYS, type ConfEntry, type VirtnetConf, withDefaults } from './conf-keys.js';
import { confValidator } from './conf-validator.js';
import { featureName, featureProblem, parseFeatures } from './feature-names.js';
import type { FirmwareValues } from './firmware-entries.js';
import { type JsonNode, placeOf, plainValue, readJson, type TextPlace } from './json-text.js';

/** All keys with the longest values take less than 2 KiB. */
export const CONF_BYTES_MAX = 64 * 1024;
/** Problems reported at once. */
export const PROBLEMS_MAX = 32;

export interface ConfProblem extends TextPlace {
  /** Names from the outermost, `vf.mac_base`; empty for the file as a whole. */
  readonly key: string;
  readonly problem: string;
  readonly remedy: string;
}

/** What else a configuration must fit. */
export interface ConfSurroundings {
  /** Current values of the firmware configuration; null when there are none that can be read. */
  readonly firmware: FirmwareValues | null;
}

/** A configuration that can be started with, and what should be known of it. */
export interface JudgedConf {
  readonly conf: VirtnetConf;
  readonly notes: readonly ConfProblem[];
}

/** The configuration in `text`, or all that is wrong with it in the order of the text. Never throws. */
export function judgeConf(
  text: string,
  surroundings: ConfSurroundings,
): JudgedConf | { readonly problems: readonly ConfProblem[] } {
  if (text.length > CONF_BYTES_MAX)
    return { problems: [whole(`larger than ${CONF_BYTES_MAX} bytes`, 'write only the keys you need')] };
  const read = readJson(text);
  if ('fault' in read)
    return {
      problems: [{ ...placeOf(text, read.at), key: '', problem: read.fault, remedy: read.remedy }],
    };
  const { node } = read;
  if (node.kind !== 'object')
    return { problems: [whole('not a JSON object', 'put the keys between { and }')] };
  const value = plainValue(node) as { readonly [key: string]: unknown };
  const found = schemaProblems(node, value);
  if (found.length === 0) found.push(...conflicts(node, withDefaults(value), surroundings));
  const placed = (all: readonly Found[]) =>
    all.map(({ at, ...problem }): ConfProblem => ({ ...placeOf(text, at), ...problem }));
  if (found.length === 0) {
    const conf = withDefaults(value);
    return { conf, notes: placed(moreThanTheOriginal(node, conf)) };
  }
  found.sort((a, b) => a.at - b.at);
  return { problems: placed(found.slice(0, PROBLEMS_MAX)) };
}

function whole(problem: string, remedy: string): ConfProblem {
  return { line: 1, column: 1, key: '', problem, remedy };
}

/** `virtnet.conf:3:12: vf.mac_base: …. Remedy: ….` */
export function confProblemText(file: string, { line, column, key, problem, remedy }: ConfProblem): string {
  return `${file}:${line}:${column}: ${key === '' ? '' : `${key}: `}${problem}. Remedy: ${remedy}.`;
}

/** `virtnet.conf:3:12: packed_vq: note: …. Remedy: ….` */
export function confNoteText(file: string, note: ConfProblem): string {
  return confProblemText(file, { ...note, problem: `note: ${note.problem}` });
}

/** The snapshot of a configuration that is in effect. */
export function serialiseConf(conf: VirtnetConf): string {
  return `${JSON.stringify(conf, null, 2)}\n`;
}

/** Reads a snapshot; a sentence when it is none. Never throws. */
export function restoreConf(text: string): VirtnetConf | string {
  if (text.length > CONF_BYTES_MAX) return `larger than ${CONF_BYTES_MAX} bytes`;
  const read = readJson(text);
  if ('fault' in read) return read.fault;
  const value = withoutNulls(plainValue(read.node));
  if (read.node.kind !== 'object') return 'not a JSON object';
  const check = confValidator();
  if (!check(value)) return `${check.errors?.[0]?.instancePath ?? ''} ${check.errors?.[0]?.message ?? ''}`;
  return withDefaults(value as { readonly [key: string]: unknown });
}

/** A snapshot says null for what is not set; a file leaves it out. */
function withoutNulls(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, inner]) => inner !== null)
      .map(([key, inner]) => [key, withoutNulls(inner)]),
  );
}

interface Found {
  readonly at: number;
  readonly key: string;
  readonly problem: string;
  readonly remedy: string;
}

function schemaProblems(root: JsonNode, value: unknown): Found[] {
  const check = confValidator();
  if (check(value)) return [];
  const found = new Map<string, Found>(); // one problem for each key: the first says it
  for (const error of check.errors ?? []) {
    const problem = error.keyword === 'additionalProperties' ? unknownKey(root, error) : wrong(root, error);
    if (!found.has(problem.key)) found.set(problem.key, problem);
  }
  return [...found.values()];
}

/** The names in a JSON pointer. */
function namesOf(pointer: string): string[] {
  return pointer
    .split('/')
    .slice(1)
    .map((name) => name.replaceAll('~1', '/').replaceAll('~0', '~'));
}

function unknownKey(root: JsonNode, { instancePath, params }: ErrorObject): Found {
  const name = String((params as { additionalProperty: unknown }).additionalProperty);
  const outer = namesOf(instancePath);
  const parent = nodeAt(root, outer);
  const at = parent?.kind === 'object' ? parent.members.get(name)!.keyAt : root.at;
  const entry = entryAt(outer);
  const known = Object.keys(entry?.kind === 'group' ? entry.keys : CONF_KEYS);
  const near = known.find((candidate) => isNear(name, candidate));
  const elsewhere = near === undefined ? placeOfName(name) : null;
  const remedy =
    near !== undefined
      ? `write "${near}"`
      : elsewhere !== null
        ? `put it into "${elsewhere}"`
        : `remove it; there are ${known.join(', ')}`;
  return { at, key: [...outer, name].join('.'), problem: 'there is no such key', remedy };
}

function wrong(root: JsonNode, { instancePath, data }: ErrorObject): Found {
  const names = namesOf(instancePath);
  const entry = entryAt(names);
  const node = nodeAt(root, names) ?? root;
  const expected = entry?.kind === 'key' ? entry.expected : 'an object: keys between { and }';
  const shown = JSON.stringify(data);
  const problem = `must be ${expected}, not ${shown.length > 60 ? `${shown.slice(0, 57)}…` : shown}`;
  return { at: node.at, key: names.join('.'), problem, remedy: remedyFor(entry, data, expected) };
}

function remedyFor(entry: ConfEntry | null, data: unknown, expected: string): string {
  const type = entry?.kind === 'key' ? entry.schema.type : 'object';
  if (type === 'integer' && typeof data === 'boolean') return `write ${data ? 1 : 0}`;
  if (type === 'integer' && typeof data === 'string' && /^\d+$/.test(data))
    return 'write the number without quotes';
  if (data === null) return 'leave the key out';
  return `write ${expected}`;
}

function entryAt(names: readonly string[]): ConfEntry | null {
  let entry: ConfEntry = { kind: 'group', keys: CONF_KEYS, meaning: '' };
  for (const name of names) {
    if (entry.kind !== 'group' || !Object.hasOwn(entry.keys, name)) return null;
    entry = entry.keys[name]!;
  }
  return entry;
}

function nodeAt(root: JsonNode, names: readonly string[]): JsonNode | null {
  let node: JsonNode | undefined = root;
  for (const name of names) node = node?.kind === 'object' ? node.members.get(name)?.value : undefined;
  return node ?? null;
}

/** The group that has a key of this name. */
function placeOfName(name: string): string | null {
  for (const [group, entry] of Object.entries(CONF_KEYS))
    if (entry.kind === 'group' && Object.hasOwn(entry.keys, name)) return group;
  return Object.hasOwn(CONF_KEYS, name) ? 'the outermost object' : null;
}

/** Spelt almost alike: at most two letters in one place differ, case and `-` for `_` not counted. */
function isNear(name: string, candidate: string): boolean {
  const plain = name.toLowerCase().replaceAll('-', '_');
  let start = 0;
  while (start < plain.length && plain[start] === candidate[start]) start++;
  let end = 0;
  const rest = Math.min(plain.length, candidate.length) - start;
  while (end < rest && plain.at(-1 - end) === candidate.at(-1 - end)) end++;
  const differing = Math.max(plain.length, candidate.length) - start - end;
  return differing <= 2 && differing * 3 <= candidate.length;
}

/** What each key permits by itself, but not together with another or with this adapter. */
function conflicts(root: JsonNode, conf: VirtnetConf, { firmware }: ConfSurroundings): Found[] {
  const found: Found[] = [];
  const given = (...names: string[]) => nodeAt(root, names);
  const add = (names: readonly string[], problem: string, remedy: string) =>
    found.push({ at: nodeAt(root, names)?.at ?? root.at, key: names.join('.'), problem, remedy });

  if (conf.is_lag === 1 && conf.single_port === 1)
    add(['single_port'], 'excludes is_lag: a bond has two ports', 'set one of the two to 0');
  for (const port of ['ib_dev_p0', 'ib_dev_p1'] as const)
    if (given(port) !== null && given('ib_dev_lag') !== null)
      add([port], 'excludes ib_dev_lag', 'remove one of the two');
  const bonded = conf.ib_dev_for_static_pf === 'mlx5_bond_0';
  if (conf.ib_dev_for_static_pf !== null && bonded !== (conf.is_lag === 1))
    add(
      ['ib_dev_for_static_pf'],
      bonded ? 'there is no bond while is_lag is 0' : 'with is_lag there is only mlx5_bond_0',
      bonded ? 'set is_lag to 1, or write "mlx5_0"' : 'write "mlx5_bond_0"',
    );
  if (conf.single_port === 1 && conf.ib_dev_for_static_pf === 'mlx5_1')
    add(['ib_dev_for_static_pf'], 'there is no port 1 while single_port is 1', 'write "mlx5_0"');

  const { dpa_core_start: start, dpa_core_end: end } = conf;
  if ((start === null) !== (end === null)) {
    const [has, lacks] = start === null ? ['end', 'start'] : ['start', 'end'];
    add([`dpa_core_${has}`], `needs dpa_core_${lacks}`, `add dpa_core_${lacks}`);
  } else if (start !== null && end !== null && end <= start)
    add(['dpa_core_end'], `must be greater than dpa_core_start (${start})`, `write at least ${start + 1}`);

  const vfsPerPf = conf.vf.vfs_per_pf;
  if (conf.vf.mac_base !== null && vfsPerPf === null)
    add(['vf', 'mac_base'], 'needs vf.vfs_per_pf', 'add "vfs_per_pf" to "vf"');
  const vfsMax = firmware?.VIRTIO_NET_EMULATION_NUM_VF ?? 0; // without VFs the number has no effect
  if (vfsPerPf !== null && vfsMax > 0 && vfsPerPf > vfsMax)
    add(
      ['vf', 'vfs_per_pf'],
      `more than VIRTIO_NET_EMULATION_NUM_VF, which is ${vfsMax}`,
      `write at most ${vfsMax}`,
    );

  for (const group of ['static_pf', 'vf'] as const) {
    const mask = parseFeatures(conf[group].features ?? '0x0') ?? 0n;
    const lack = featureProblem(mask);
    if (lack === null) continue;
    const needed = lack.needsOneOf.map(nameOfBit).join(' or ');
    add([group, 'features'], `${nameOfBit(lack.bit)} needs ${needed}`, 'add its bit');
  }
  return found;
}

/** What is accepted here and would stop the original. */
function moreThanTheOriginal(
  root: JsonNode,
  { packed_vq: packed, mrg_rxbuf: mergeable }: VirtnetConf,
): Found[] {
  if (packed !== 1 || mergeable !== 1) return [];
  return [
    {
      at: nodeAt(root, ['packed_vq'])!.at,
      key: 'packed_vq',
      problem: 'the original excludes mrg_rxbuf, and refuses this file; here devices offer both',
      remedy: 'set one of the two to 0 if the original shall take the file, too',
    },
  ];
}

function nameOfBit(bit: number): string {
  return featureName(bit) ?? `bit ${bit}`;
}
