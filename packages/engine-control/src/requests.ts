/**
 * What each command of the command line asks for, and the line that shows it.
 *
 * The command line sends `{command, params}` with these parameters; the emulator's methods take the same fields.
 */

import { isWithin } from './device-plan.js';
import type { DeviceSelector } from './device-selector.js';
import { type Failure, failure } from './errors.js';
import type { EchoParams } from './format.js';
import { type ModifyRequest, modifyEcho } from './modify-request.js';

/** One new hotplug PF. Exactly one of `queues` (virtqueues, control queue included) and `queuePairs` is a number. */
export interface HotplugRequest {
  readonly ibDevice: string;
  readonly mac: string;
  /** Bytes. */
  readonly mtu: number;
  readonly queues: number | null;
  readonly queuePairs: number | null;
  /** Entries per virtqueue. */
  readonly queueSize: number;
  readonly sfNum: number | null;
  /** Feature bits to add to the default ones, hexadecimal. */
  readonly features: string | null;
  readonly legacy: boolean;
}

/** One hotplug PF, by number or by VUID. */
export interface UnplugRequest {
  readonly pf: number | null;
  readonly vuid: string | null;
}

export interface QueryRequest extends DeviceSelector {
  readonly brief: boolean;
  /** Only this virtqueue. */
  readonly queue: number | null;
  /** Adds the counters that serve debugging. */
  readonly dbgStats?: boolean;
  /** Sets the counters that serve debugging back first. */
  readonly statsClear?: boolean;
}

/** One device, never all. */
export interface StatsRequest {
  readonly pf: number | null;
  readonly vf: number | null;
  readonly vuid: string | null;
  /** Only this virtqueue. */
  readonly queue: number | null;
}

export type HealthRequest = DeviceSelector;

/** Names of the log levels on the command line. */
export const LOG_LEVELS = ['info', 'err', 'debug'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

export interface LogRequest {
  readonly level: LogLevel;
}

/** What the host can be asked to do with functions. */
export const HOST_VERBS = [
  'functions',
  'sriov',
  'bind',
  'unbind',
  'flr',
  'warm-reboot',
  'power-cycle',
  'dmesg',
  'autoprobe',
  'modprobe',
] as const;
export type HostVerb = (typeof HOST_VERBS)[number];

/** One act of the host; null where the verb needs nothing. */
export interface HostRequest {
  readonly verb: HostVerb;
  /** Address of the function. */
  readonly bdf: string | null;
  /**
   * VFs for sriov; 1 for functions: with their configuration space; 0 or 1 for autoprobe; 1 for modprobe, 0 for
   * modprobe -r.
   */
  readonly value: number | null;
  readonly driver: string | null;
}

/** Exactly one of them. */
export interface UpdateRequest {
  readonly start: boolean;
  readonly status: boolean;
}

/** The commands that exist, with their parameters. */
export interface ControlRequests {
  readonly hotplug: HotplugRequest;
  readonly unplug: UnplugRequest;
  readonly list: Readonly<Record<string, never>>;
  readonly query: QueryRequest;
  readonly health: HealthRequest;
  readonly modify: ModifyRequest;
  readonly stats: StatsRequest;
  readonly log: LogRequest;
  readonly debug: Readonly<Record<string, never>>;
  readonly version: Readonly<Record<string, never>>;
  readonly host: HostRequest;
  readonly update: UpdateRequest;
  readonly restart: Readonly<Record<string, never>>;
}
export type ControlCommand = keyof ControlRequests;

/** A command with its own parameters. */
export type ControlRequest = {
  [C in ControlCommand]: { readonly command: C; readonly params: ControlRequests[C] };
}[ControlCommand];

/** Largest number and longest text a request carries; anything beyond names nothing that exists. */
const REQUEST_ID_MAX = 0xffff;
const REQUEST_TEXT_MAX = 64;

/**
 * What is wrong with a request by itself, or null: a number or text no device can have. Whether a device has it is
 * judged where the devices are.
 */
export function requestFailure(request: ControlRequest): Failure | null {
  switch (request.command) {
    case 'hotplug': {
      const { ibDevice, mac, features } = request.params;
      if (ibDevice.length > REQUEST_TEXT_MAX) return failure('PORT_CTX_NOT_FOUND');
      if (mac.length > REQUEST_TEXT_MAX) return failure('MAC_INVALID');
      return features !== null && features.length > REQUEST_TEXT_MAX ? failure('DEV_FEATURE_VALIDATE') : null;
    }
    case 'unplug':
      return idFailure([request.params.pf], request.params.vuid);
    case 'query': {
      const { pf, vf, vuid, queue } = request.params;
      return idFailure([pf, vf], vuid) ?? (isId(queue) ? null : failure('QUEUE_IDX_INVALID'));
    }
    case 'stats': {
      const { pf, vf, vuid, queue } = request.params;
      return idFailure([pf, vf], vuid) ?? (isId(queue) ? null : failure('QUEUE_IDX_INVALID'));
    }
    case 'health':
      return idFailure([request.params.pf, request.params.vf], request.params.vuid);
    case 'modify': {
      const { pf, vf, vuid, device } = request.params;
      const wrong = idFailure([pf, vf], vuid);
      if (wrong !== null) return wrong;
      if ((device?.mac?.length ?? 0) > REQUEST_TEXT_MAX) return failure('MAC_INVALID');
      return (device?.features?.length ?? 0) > REQUEST_TEXT_MAX ? failure('DEV_FEATURE_VALIDATE') : null;
    }
    case 'debug':
    case 'host':
    case 'list':
    case 'log':
    case 'version':
    case 'update':
    case 'restart':
      return null;
  }
}

function idFailure(ids: readonly (number | null)[], vuid: string | null): Failure | null {
  if (!ids.every(isId)) return failure('ID_OUT_OF_RANGE');
  return vuid !== null && vuid.length > REQUEST_TEXT_MAX ? failure('VUID_INVALID') : null;
}

function isId(id: number | null): boolean {
  return id === null || isWithin(id, 0, REQUEST_ID_MAX);
}

/** Options of `query` that the parameters line shows although they change nothing here. */
export interface QueryDisplay {
  readonly latencyStats?: boolean;
}

/** Number of health's only sub-command, `show`, in the parameters line. */
const HEALTH_SHOW = 0;

/**
 * The parameters a command shows before its answer, in the original's order; null for a command that shows none. The
 * original's examples of hotplug show none, and list and version have no parameters.
 */
export function echoOf(request: ControlRequest, display: QueryDisplay = {}): EchoParams | null {
  switch (request.command) {
    case 'unplug': {
      const { pf, vuid } = request.params;
      return { ...(pf === null ? {} : { id: pf }), ...(vuid === null ? {} : { vuid }) };
    }
    case 'query':
      return queryEcho(request.params, display);
    case 'health':
      return { ...chosenDevice(request.params), all: flag(request.params.all), subcmd: HEALTH_SHOW };
    case 'modify':
      return { ...chosenDevice(request.params), ...modifyEcho(request.params) };
    case 'stats': {
      const { queue } = request.params;
      return { ...chosenDevice(request.params), ...(queue === null ? {} : { queue_id: queue }) };
    }
    case 'log':
      return { level: request.params.level };
    case 'debug':
    case 'host':
    case 'hotplug':
    case 'list':
    case 'version':
    case 'restart':
      return null;
    case 'update':
      return request.params.start ? { start: 1 } : { status: 1 };
  }
}

function queryEcho(query: QueryRequest, display: QueryDisplay): EchoParams {
  return {
    all: flag(query.all),
    ...chosenDevice(query),
    dbg_stats: flag(query.dbgStats),
    brief: flag(query.brief),
    latency_stats: flag(display.latencyStats),
    ...(query.queue === null ? {} : { queue_id: query.queue }),
    stats_clear: flag(query.statsClear),
  };
}

function chosenDevice({ pf, vf, vuid }: Omit<DeviceSelector, 'all'>): EchoParams {
  return {
    ...(vf === null ? {} : { vf }),
    ...(pf === null ? {} : { pf }),
    ...(vuid === null ? {} : { vuid }),
  };
}

function flag(on: boolean | undefined): number {
  return on === true ? 1 : 0;
}
