/**
 * cli-front.ts: what the controller answers to the `virtnet` command line.
 *
 * Theory
 *   Commands about devices go to the active emulator. While there is none, or when it dies over a command, the
 *   command waits for the next one and is sent again: hotplug and unplug carry an id by which the emulator knows a
 *   command that its predecessor carried out already.
 *
 * Invariants
 *   I1  every command gets an answer within COMMAND_DEADLINE_MS, or its message's deadline if that is longer.
 *   I2  only commands whose message is idempotent are sent again.
 */
import { randomUUID } from 'node:crypto';
import {
  type ControlCommand,
  type ControlRequest,
  type ControlRequests,
  destinationMissing,
  echoOf,
  exitCodeOf,
  type Failure,
  failure,
  refusal,
  requestFailure,
  UPDATE_BUSY,
  UPDATE_STARTED,
  updateAnswer,
  versionAnswer,
} from '@virtnet/engine-control';
import {
  type CliCommand,
  catalogue,
  cliParamsProblem,
  type JsonObject,
  type JsonValue,
  type LogLevelName,
  type MessageName,
  type Params,
  type Result,
  RpcError,
} from '@virtnet/host-ipc';
import { Errno } from '@virtnet/wire';
import type { Build } from './builds.js';
import { debugAnswer } from './debug-answer.js';
import { COMMAND_DEADLINE_MS } from './limits.js';
import type { LiveUpdate } from './live-update.js';
import type { Supervisor } from './supervisor.js';

type DeviceMessage = Extract<MessageName, `device.${string}`>;

export interface CliFrontOptions {
  readonly supervisor: Supervisor;
  /** Applies a log level to this process. */
  readonly setLogLevel: (level: LogLevelName) => void;
  /** The build that runs, and the one installed now, which throws when there is none. */
  readonly running: Build;
  readonly destination: () => Build;
  readonly update: LiveUpdate;
}

export class CliFront {
  readonly #options: CliFrontOptions;

  constructor(options: CliFrontOptions) {
    this.#options = options;
  }

  /** Answers `cli.request`. */
  async request({ command, params }: Params<'cli.request'>): Promise<Result<'cli.request'>> {
    const request = asRequest(command, params);
    if (typeof request === 'number') {
      const answer =
        request === Errno.EINVAL
          ? refusal('EINVAL', `the parameters of ${command} are not those of this controller`)
          : failure('OPT_NOT_SUPPORTED');
      return { answer: { ...answer }, exitCode: exitCodeOf(answer) };
    }
    const echo = echoOf(request);
    const answer = await this.#answer(request);
    return { ...(echo === null ? {} : { echo }), answer, exitCode: exitCodeOf(answer) };
  }

  async #answer(request: ControlRequest): Promise<JsonValue> {
    const wrong = requestFailure(request);
    if (wrong !== null) return { ...wrong };
    switch (request.command) {
      case 'hotplug':
        return this.#onActive('device.hotplug', { requestId: randomUUID(), ...request.params });
      case 'unplug':
        return this.#onActive('device.unplug', { requestId: randomUUID(), ...request.params });
      case 'list':
        return this.#onActive('device.list', {});
      case 'query': {
        const { all, pf, vf, vuid, brief, queue, dbgStats, statsClear } = request.params;
        const flags = {
          ...(dbgStats === true ? { dbgStats } : {}),
          ...(statsClear === true ? { statsClear } : {}),
        };
        return this.#onActive('device.query', { all, pf, vf, vuid, brief, queue, ...flags });
      }
      case 'modify':
        return this.#onActive('device.modify', { requestId: randomUUID(), ...request.params });
      case 'stats':
        return this.#onActive('device.stats', request.params);
      case 'debug':
        return debugAnswer(this.#options.supervisor);
      case 'health':
        return this.#onActive('device.health', request.params);
      case 'host': {
        const { verb, bdf, value, driver } = request.params;
        if ([bdf, driver].some((text) => text !== null && text.length > HOST_TEXT_MAX))
          return { ...refusal('ENODEV', 'that is too long for the name of a function or driver') };
        return this.#onActive('device.host', { requestId: randomUUID(), verb, bdf, value, driver });
      }
      case 'log':
        this.#options.setLogLevel(request.params.level);
        this.#options.supervisor.setLogLevel(request.params.level);
        return 'Success';
      case 'version':
        return this.#version();
      case 'update':
        return request.params.start ? this.#begin('update') : this.#updateStatus();
      case 'restart':
        return this.#begin('restart');
    }
  }

  #version(): JsonValue {
    const destination = this.#destination();
    if ('errno' in destination) return { ...destination };
    return versionAnswer(this.#options.running.version, destination.version) as JsonValue;
  }

  #destination(): Build | Failure {
    try {
      return this.#options.destination();
    } catch {
      return destinationMissing();
    }
  }

  /** A restart is the move onto the build that runs. */
  #begin(kind: 'update' | 'restart'): JsonValue {
    const build = kind === 'restart' ? this.#options.running : this.#destination();
    if ('errno' in build) return { ...build };
    return this.#options.update.begin(kind, build) ? UPDATE_STARTED : { ...UPDATE_BUSY };
  }

  #updateStatus(): JsonValue {
    const { record, ongoing } = this.#options.update;
    return updateAnswer(record === null ? null : { ...record, ongoing }) as JsonValue;
  }

  /** The device a change is about is between two processes this instant. */
  #isMoving(name: DeviceMessage, params: object): boolean {
    const { moving } = this.#options.supervisor;
    if (moving === null || reading.has(name)) return false;
    const { pf = null, vf = null, vuid = null } = params as { pf?: unknown; vf?: unknown; vuid?: unknown };
    return vuid === moving.vuid || (pf === moving.pf && vf === moving.vf);
  }

  async #onActive<N extends DeviceMessage>(name: N, params: Params<N>): Promise<JsonValue> {
    const deadlineMs = performance.now() + Math.max(COMMAND_DEADLINE_MS, catalogue[name].deadlineMs);
    if (this.#isMoving(name, params)) return { ...failure('DEV_IS_MIGRATING') };
    for (;;) {
      const leftMs = deadlineMs - performance.now();
      const active = leftMs > 0 ? await this.#options.supervisor.waitForActive(leftMs) : null;
      if (active === null) return { errno: -Errno.ETIMEDOUT, errstr: 'Connection timed out' };
      try {
        return await active.client.call(name, params, {
          deadlineMs: Math.max(1, deadlineMs - performance.now()),
        });
      } catch (error) {
        if (!(error instanceof RpcError)) throw error;
        const lost = error.errno === -Errno.ECONNRESET || error.errno === -Errno.ENOTCONN;
        if (!lost || !catalogue[name].idempotent) return { errno: error.errno, errstr: error.message };
        // Its death is noticed a moment after its connection: only another answers this, or it again if it does live.
        await this.#options.supervisor.waitUntilNotActive(active, CONNECTION_LOST_MS);
      }
    }
  }
}

/** The kernel tells of a death that much later than of the end of a connection at most. */
const CONNECTION_LOST_MS = 1_000;
/** Longest address or driver's name that means anything. */
const HOST_TEXT_MAX = 64;

/** What only looks waits until the device has arrived. */
const reading: ReadonlySet<DeviceMessage> = new Set([
  'device.list',
  'device.query',
  'device.health',
  'device.stats',
]);

const commands: Readonly<Record<ControlCommand, CliCommand>> = {
  hotplug: 'hotplug',
  unplug: 'unplug',
  list: 'list',
  query: 'query',
  health: 'health',
  modify: 'modify',
  stats: 'stats',
  debug: 'debug',
  host: 'host',
  log: 'log',
  version: 'version',
  update: 'update',
  restart: 'restart',
};

/** The request, EINVAL when its parameters are not those of the command, ENOSYS when there is no such command. */
function asRequest(command: string, params: JsonObject): ControlRequest | number {
  if (!Object.hasOwn(commands, command)) return Errno.ENOSYS;
  const known = command as ControlCommand;
  if (cliParamsProblem(commands[known], params) !== null) return Errno.EINVAL;
  return { command: known, params: params as unknown as ControlRequests[typeof known] } as ControlRequest;
}
