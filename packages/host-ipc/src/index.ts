/**
 * @virtnet/host-ipc: how our processes talk: the ZeroMQ message catalogue, the descriptor channel of the state keeper,
 * the paths below VIRTNET_ROOT, and the logger. The only importer of zeromq.
 *
 * @example
 *   const paths = virtnetPaths();
 *   const server = await RpcServer.bind('emu', paths.emuIpc(1), handlers, log);
 *   const client = new RpcClient(paths.emuIpc(1));
 *   const { role } = await client.call('emu.status', {});
 */
export * from './catalogue.js';
export * from './catalogue-vfe.js';
export * from './configuration.js';
export * from './descriptor-store.js';
export * from './fault-text.js';
export * from './firmware-store.js';
export * from './firmware-update.js';
export * from './journal.js';
export * from './logging.js';
export * from './package-version.js';
export * from './paths.js';
export * from './rpc.js';
export * from './schema.js';
export * from './shared-fd.js';
export * from './shelf-channel.js';
export * from './shelf-log.js';
export * from './shelf-rehearsal.js';
export * from './shelf-store.js';
export * from './text-file.js';
export * from './vfe-request.js';
