/**
 * host-model.ts: what the host has done to the functions: drivers, SR-IOV, and what it would have logged.
 *
 * Theory
 *   The original's host is another computer with a kernel of its own; here a small model stands for the parts of it
 *   that decide about functions. Functions themselves are not in it: it says how many VFs the host asked each PF for,
 *   and the devices follow. The number is changed before the VFs are made or removed, so whoever finds a number that
 *   the devices do not match (a successor after a crash) knows what remains to be done.
 *   The driver of virtio functions is a module: while it is loaded, it takes every function that appears and that nobody
 *   holds; of the VFs only those whose PF says so (sriov_drivers_autoprobe). Whoever drives functions follows `drivers`.
 *   Between the instant in which functions are asked for and the one in which the host has looked at them, the state
 *   names them (`appearing`): whoever finds them there lets the host look. Functions without a driver that are not named
 *   are so because somebody wants it.
 *   What came of the last requests is kept with what they changed, so a request that is sent again is answered as at first.
 *   The model is plain JSON, kept as one small file, and not trusted when it is read back.
 *
 * Invariants
 *   I1  numbers of VFs only change from 0 or to 0, as sriov_numvfs of a real PF.
 *   I2  a driver's name is one of HOST_DRIVERS.
 *
 * Limits  HOST_STATE_BYTES_MAX; LOG_LINES_MAX lines; ANSWERS_MAX requests; entries for functions that can exist.
 */
import { type Failure, isFailure, type Outcome, refusal } from './errors.js';
import { addressOf, canonicalBdf, formatBdf, netdevName, parseBdf, rawBdf } from './identity.js';
import { VFS_MAX } from './limits.js';

/** Drivers a function can be bound to here. */
export const HOST_DRIVERS = ['vfio-pci', 'virtio-pci'] as const;
export type HostDriver = (typeof HOST_DRIVERS)[number];

export const HOST_STATE_VERSION = 1;
export const HOST_STATE_BYTES_MAX = 1024 * 1024;
/** Lines of the log that are kept, 120 bytes each at most. */
export const LOG_LINES_MAX = 1000;
const LOG_TEXT_MAX = 120;

/** Requests whose outcome is kept. They run one after the other; an answer is lost before many others are asked. */
export const ANSWERS_MAX = 16;
const ANSWER_TEXT_MAX = 1024;
const REQUEST_ID = /^[0-9a-zA-Z-]{1,64}$/;

/** What came of a request that changed something. */
export interface HostAnswer extends Outcome {
  readonly requestId: string;
}

export interface HostLogLine {
  /** Seconds since the host booted. */
  readonly at: number;
  readonly text: string;
}

export interface HostState {
  /** When the host booted: milliseconds since the epoch. */
  readonly bootedAt: number;
  /** Driver by PCI address; absent: none. */
  readonly drivers: Readonly<Record<string, HostDriver>>;
  /** VFs the host asked a PF for, by its address; absent: 0. */
  readonly numVfs: Readonly<Record<string, number>>;
  /** The virtio-net driver is loaded. */
  readonly virtioNet: boolean;
  /** PFs whose VFs the driver does not take by itself, by address. */
  readonly noAutoprobe: Readonly<Record<string, true>>;
  /** What the host has not looked at yet: hotplug PFs, and PFs for their VFs, by address. */
  readonly appearing: Readonly<Record<string, true>>;
  /** The newest last. */
  readonly answers: readonly HostAnswer[];
  readonly log: readonly HostLogLine[];
}

/** A host that has just booted. */
export function freshHost(now: number): HostState {
  return {
    ...{ bootedAt: now, drivers: {}, numVfs: {}, virtioNet: false, noAutoprobe: {} },
    ...{ appearing: {}, answers: [], log: [] },
  };
}

/** The state with what came of a request. */
export function withAnswer(state: HostState, requestId: string, { errno, errstr }: Outcome): HostState {
  const answer = { requestId, errno, errstr: errstr.slice(0, ANSWER_TEXT_MAX) };
  return { ...state, answers: [...state.answers, answer].slice(-ANSWERS_MAX) };
}

/** What came of a request when it was sent before; null: nothing is known of it. */
export function formerAnswer({ answers }: HostState, requestId: string): Outcome | null {
  const former = answers.find((answer) => answer.requestId === requestId);
  return former === undefined ? null : { errno: former.errno, errstr: former.errstr };
}

/** The state with lines added to its log. */
export function logged(state: HostState, now: number, ...texts: readonly string[]): HostState {
  const at = Math.max(0, now - state.bootedAt) / 1000;
  const lines = texts.map((text) => ({ at, text: text.slice(0, LOG_TEXT_MAX) }));
  return { ...state, log: [...state.log, ...lines].slice(-LOG_LINES_MAX) };
}

/** A line as dmesg prints it. */
export function logText({ at, text }: HostLogLine): string {
  return `[${at.toFixed(6).padStart(12)}] ${text}`;
}

/** A function as the host sees it. */
export interface HostFunction {
  /** `bus:device.function`. */
  readonly bdf: string;
  /** TotalVFs of its SR-IOV capability; 0 for a function that has none. */
  readonly vfsMax: number;
  /** Somebody holds the function open. */
  readonly inUse: boolean;
}

function withoutSriov(bdf: string): string {
  return `${bdf} has no SR-IOV: it is no PF that can have VFs`;
}

function heldOpen(bdf: string): string {
  return `somebody has ${bdf} open, such as a virtual machine`;
}

/** The function at an address, with or without domain, or how the host says that there is none. */
export function findFunction<T extends HostFunction>(functions: readonly T[], text: string): T | Failure {
  const bdf = canonicalBdf(text);
  const found = functions.find((candidate) => candidate.bdf === bdf);
  return found ?? refusal('ENODEV', `there is no function ${text}`);
}

/** `echo <count> > sriov_numvfs`: the state that follows, null when nothing changes, or the error. New VFs appear. */
export function setNumVfs(
  state: HostState,
  functions: readonly HostFunction[],
  text: string,
  count: number,
  now: number,
): HostState | Failure | null {
  const pf = findFunction(functions, text);
  if (isFailure(pf)) return pf;
  if (pf.vfsMax === 0) return refusal('EINVAL', withoutSriov(pf.bdf));
  if (!Number.isInteger(count) || count < 0 || count > pf.vfsMax)
    return refusal('ERANGE', `${pf.bdf} can have 0 to ${pf.vfsMax} VFs`);
  const present = state.numVfs[pf.bdf] ?? 0;
  if (present === count) return null;
  if (present > 0 && count > 0) {
    // The kernel logs: "Disable before enabling".
    return refusal('EBUSY', `${pf.bdf} has ${present} VFs, and another number only after 0`);
  }
  return withNumVfs(state, pf.bdf, count, now);
}

/** The state of a host whose PF could not have its VFs: there is none, and everything else of the PF is as it was. */
export function withoutVfs(state: HostState, bdf: string, now: number): HostState {
  return (state.numVfs[bdf] ?? 0) === 0 ? state : withNumVfs(state, bdf, 0, now);
}

function withNumVfs(state: HostState, bdf: string, count: number, now: number): HostState {
  const { [bdf]: former, ...others } = state.numVfs;
  const numVfs = count === 0 ? others : { ...others, [bdf]: count };
  const what = count === 0 ? `${former ?? 0} VFs disabled` : `${count} VFs enabled`;
  const appearing = without(state.appearing, [bdf]);
  if (count > 0) appearing[bdf] = true;
  return logged({ ...state, numVfs, appearing }, now, `virtio-pci 0000:${bdf}: ${what}`);
}

/** `echo <bdf> > drivers/<driver>/bind`. */
export function bindDriver(
  state: HostState,
  functions: readonly HostFunction[],
  text: string,
  driver: HostDriver,
  now: number,
): HostState | Failure {
  const found = findFunction(functions, text);
  if (isFailure(found)) return found;
  const present = state.drivers[found.bdf];
  if (present !== undefined) return refusal('EBUSY', `${found.bdf} is bound to ${present}`);
  // vfio-pci hands the function to the one who has it open; virtio-pci opens it itself.
  if (driver === 'virtio-pci' && found.inUse) return refusal('EBUSY', heldOpen(found.bdf));
  return bound(state, found.bdf, driver, now);
}

function bound(state: HostState, bdf: string, driver: HostDriver, now: number): HostState {
  const drivers = { ...state.drivers, [bdf]: driver };
  const what =
    driver === 'virtio-pci' ? `virtio_net 0000:${bdf} ${netdevName(bdf)}` : `${driver} 0000:${bdf}`;
  return logged({ ...state, drivers }, now, `${what}: bound`);
}

/** A hotplug PF appears. `state` itself while there is no driver that would look at it. */
export function expectFunction(state: HostState, bdf: string): HostState {
  return state.virtioNet ? { ...state, appearing: { ...state.appearing, [bdf]: true } } : state;
}

/**
 * The host looks at what appears at an address, `functions`: a hotplug PF, or the VFs of a PF, of which the driver takes
 * none when the PF says so.
 */
export function lookAt(
  state: HostState,
  bdf: string,
  functions: readonly HostFunction[],
  now: number,
): HostState {
  const seen = { ...state, appearing: without(state.appearing, [bdf]) };
  return state.noAutoprobe[bdf] === undefined ? probeFunctions(seen, functions, now) : seen;
}

/** The driver meets functions that are new to it: it takes those that are free. `state` itself when it takes none. */
export function probeFunctions(state: HostState, functions: readonly HostFunction[], now: number): HostState {
  if (!state.virtioNet) return state;
  return functions
    .filter(({ bdf, inUse }) => !inUse && state.drivers[bdf] === undefined)
    .reduce((before, { bdf }) => bound(before, bdf, 'virtio-pci', now), state);
}

/** `modprobe virtio_net`: null when it is loaded. */
export function loadVirtioNet(
  state: HostState,
  functions: readonly HostFunction[],
  now: number,
): HostState | null {
  if (state.virtioNet) return null;
  const loaded = logged({ ...state, virtioNet: true }, now, 'virtio_net: loaded');
  return probeFunctions(loaded, functions, now);
}

/** `modprobe -r virtio_net`: every function of the driver is unbound, whether the module was loaded or bound by hand. */
export function unloadVirtioNet(
  state: HostState,
  functions: readonly HostFunction[],
  now: number,
): HostState {
  const driven = functions.filter(({ bdf }) => state.drivers[bdf] === 'virtio-pci');
  const left = driven.reduce((before, { bdf }) => released(before, bdf, 'virtio-pci', now), state);
  return logged({ ...left, virtioNet: false }, now, 'virtio_net: unloaded');
}

/** `echo 0|1 > sriov_drivers_autoprobe`. */
export function setAutoprobe(
  state: HostState,
  functions: readonly HostFunction[],
  text: string,
  value: number,
  now: number,
): HostState | Failure {
  const pf = findFunction(functions, text);
  if (isFailure(pf)) return pf;
  if (pf.vfsMax === 0) return refusal('EINVAL', withoutSriov(pf.bdf));
  if (value !== 0 && value !== 1) return refusal('EINVAL', 'autoprobe is 0 or 1');
  const others = without(state.noAutoprobe, [pf.bdf]);
  const noAutoprobe = value === 1 ? others : { ...others, [pf.bdf]: true as const };
  return logged({ ...state, noAutoprobe }, now, `pci 0000:${pf.bdf}: sriov_drivers_autoprobe ${value}`);
}

/** Whether the host cannot let go of a function: vfio-pci has given it to somebody, who holds it open. */
export function isHeld(state: HostState, { bdf, inUse }: HostFunction): boolean {
  return inUse && state.drivers[bdf] === 'vfio-pci';
}

/**
 * `echo <bdf> > drivers/<driver>/unbind`: a PF loses its VFs with its driver. Refused while somebody holds the
 * function through vfio-pci; virtio-pci lets go of it.
 */
export function unbindDriver(
  state: HostState,
  functions: readonly HostFunction[],
  text: string,
  driver: HostDriver,
  now: number,
): HostState | Failure {
  const found = boundTo(state, functions, text, driver);
  return isFailure(found) ? found : released(state, found.bdf, driver, now);
}

/** The function that is bound to a driver which can let go of it. */
function boundTo(
  state: HostState,
  functions: readonly HostFunction[],
  text: string,
  driver: HostDriver,
): HostFunction | Failure {
  const found = findFunction(functions, text);
  if (isFailure(found)) return found;
  if (state.drivers[found.bdf] !== driver) return refusal('ENODEV', `${found.bdf} is not bound to ${driver}`);
  return isHeld(state, found) ? refusal('EBUSY', heldOpen(found.bdf)) : found;
}

/** In an unbind's `value`: it takes a binding back with which the driver could do nothing (`undoBind`). */
export const UNDOES_BIND = 1;

/** Takes a binding back with which the driver could do nothing: it has driven nothing, so a PF keeps its VFs. */
export function undoBind(
  state: HostState,
  functions: readonly HostFunction[],
  text: string,
  driver: HostDriver,
  now: number,
): HostState | Failure {
  const found = boundTo(state, functions, text, driver);
  if (isFailure(found)) return found;
  return unbound(state, found.bdf, `${driver} 0000:${found.bdf}: probe failed`, now);
}

function unbound(state: HostState, bdf: string, line: string, now: number): HostState {
  return logged({ ...state, drivers: without(state.drivers, [bdf]) }, now, line);
}

function released(state: HostState, bdf: string, driver: HostDriver, now: number): HostState {
  return withoutVfs(unbound(state, bdf, `${driver} 0000:${bdf}: unbound`, now), bdf, now);
}

/** The state without what concerns functions that are gone. */
export function forgetFunctions(state: HostState, gone: readonly string[]): HostState {
  return {
    ...state,
    drivers: without(state.drivers, gone),
    numVfs: without(state.numVfs, gone),
    noAutoprobe: without(state.noAutoprobe, gone),
    appearing: without(state.appearing, gone),
  };
}

function without<V>(record: Readonly<Record<string, V>>, gone: readonly string[]): Record<string, V> {
  return Object.fromEntries(Object.entries(record).filter(([bdf]) => !gone.includes(bdf)));
}

/** The document of a state. */
export function serialiseHost(state: HostState): string {
  return `${JSON.stringify({ version: HOST_STATE_VERSION, ...state })}\n`;
}

/** Reads a document; a sentence when it is none. Never throws. */
export function restoreHost(text: string): HostState | string {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return 'not JSON';
  }
  if (!isObject(value)) return 'not an object';
  if (value.version !== HOST_STATE_VERSION) return `version is not ${HOST_STATE_VERSION}`;
  // Those with a default came later: a document without them is one of a host without them.
  const { bootedAt, drivers, numVfs, log, virtioNet = false, noAutoprobe = {} } = value;
  const { appearing = {}, answers = [] } = value;
  if (typeof bootedAt !== 'number' || !Number.isFinite(bootedAt)) return 'bootedAt is not a time';
  if (!isByFunction(drivers, isHostDriver)) return 'drivers are not drivers of functions';
  if (!isByFunction(numVfs, (count) => isCount(count, VFS_MAX))) return 'numVfs are not numbers of VFs';
  if (typeof virtioNet !== 'boolean') return 'virtioNet is not true or false';
  if (!isByFunction(noAutoprobe, (entry) => entry === true)) return 'noAutoprobe does not name functions';
  if (!isByFunction(appearing, (entry) => entry === true)) return 'appearing does not name functions';
  if (!Array.isArray(answers) || answers.length > ANSWERS_MAX || !answers.every(isAnswer))
    return 'answers are not answers';
  if (!Array.isArray(log) || log.length > LOG_LINES_MAX || !log.every(isLogLine)) return 'log is not a log';
  return {
    bootedAt,
    drivers: drivers as Record<string, HostDriver>,
    numVfs: numVfs as Record<string, number>,
    virtioNet,
    noAutoprobe: noAutoprobe as Record<string, true>,
    appearing: appearing as Record<string, true>,
    answers,
    log,
  };
}

export function isHostDriver(name: unknown): name is HostDriver {
  return HOST_DRIVERS.some((driver) => driver === name);
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isCount(value: unknown, most: number): boolean {
  return Number.isInteger(value) && (value as number) >= 1 && (value as number) <= most;
}

function isCanonicalBdf(text: unknown): text is string {
  const address = typeof text === 'string' ? parseBdf(text) : null;
  return address !== null && formatBdf(addressOf(rawBdf(address))) === text;
}

function isByFunction(value: unknown, check: (entry: unknown) => boolean): boolean {
  return (
    isObject(value) && Object.entries(value).every(([bdf, entry]) => isCanonicalBdf(bdf) && check(entry))
  );
}

function isAnswer(answer: unknown): answer is HostAnswer {
  if (!isObject(answer)) return false;
  const { requestId, errno, errstr } = answer;
  if (typeof requestId !== 'string' || !REQUEST_ID.test(requestId)) return false;
  return Number.isInteger(errno) && typeof errstr === 'string' && errstr.length <= ANSWER_TEXT_MAX;
}

function isLogLine(line: unknown): line is HostLogLine {
  if (!isObject(line)) return false;
  const { at, text } = line;
  return (
    typeof at === 'number' && Number.isFinite(at) && typeof text === 'string' && text.length <= LOG_TEXT_MAX
  );
}
