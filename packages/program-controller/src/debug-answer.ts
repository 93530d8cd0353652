/**
 * The answer of `virtnet debug`: the processes of the service and what each says of itself. For people who look for a
 * fault; its keys may change with any version.
 */
import type { JsonValue } from '@virtnet/host-ipc';
import type { Child } from './child.js';
import type { Supervisor } from './supervisor.js';

const ANSWER_MS = 1000;

export async function debugAnswer({ children, counters }: Supervisor): Promise<JsonValue> {
  return {
    controller: { pid: process.pid, uptimeMs: Math.round(process.uptime() * 1000), ...counters },
    processes: await Promise.all(children.map(describe)),
  };
}

async function describe(child: Child): Promise<JsonValue> {
  const { spec, state, pid } = child;
  const known = { kind: spec.kind, instance: spec.instance, pid, state };
  try {
    const name = spec.kind === 'ha' ? 'ha.status' : 'emu.status';
    const status = await child.client.call(name, {}, { deadlineMs: ANSWER_MS });
    return { ...known, status: { ...status } };
  } catch (error) {
    return { ...known, problem: error instanceof Error ? error.message : String(error) };
  }
}
