/** rpc.ts: both ends of the catalogue. */
export { type CallOptions, REQUESTS_OPEN_MAX, RpcCaller } from './rpc-caller.js';
export { cliParamsProblem, warmUpAllChecks } from './rpc-checks.js';
export * from './rpc-client.js';
export { RpcError } from './rpc-envelope.js';
export * from './rpc-server.js';
