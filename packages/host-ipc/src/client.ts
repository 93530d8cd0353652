/**
 * @virtnet/host-ipc/client: asking the controller, for a command line that has to be quick. The schemas' compiler stays
 * out of it: the one message that is sent has two fields to check.
 *
 * @example
 *   const { answer, exitCode } = await commandClient(path).call('cli.request', { command: 'list', params: {} });
 */
import { RpcCaller } from './rpc-caller.js';

export { HOST_DEADLINE_MS } from './deadlines.js';
export { virtnetPaths } from './paths.js';
export { RpcCaller } from './rpc-caller.js';
export { RpcError } from './rpc-envelope.js';

function commandReplyProblem(name: string, half: 'params' | 'result', value: unknown): string | null {
  if (name !== 'cli.request') return `${name} is not for a command line`;
  if (half === 'params') return null; // judged by the controller
  const fields = typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
  return Number.isInteger(fields.exitCode) && 'answer' in fields ? null : 'result has no exitCode and answer';
}

/** A client of the controller's socket at `path`. */
export function commandClient(path: string): RpcCaller {
  return new RpcCaller(path, commandReplyProblem);
}
