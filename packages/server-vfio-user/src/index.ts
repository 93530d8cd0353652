/**
 * @virtnet/server-vfio-user: both ends of the vfio-user protocol.
 *
 * @example
 *   const connection = ServerConnection.open({
 *     fd: accept(listener), poller, session: new ServerSession(device), replyRing: ReplyRing.create(),
 *     journal: new RequestJournal(ports), onClose: (end) => log(end.reason),
 *   });
 *   const client = await VfioUserClient.connect(path, { poller });
 *   await client.read(VfioPciRegion.CONFIG, 0, 256);
 */

export * from './client.js';
export { type LastRequest, VfioUserError } from './client-channel.js';
export * from './device.js';
export * from './journal.js';
export * from './limits.js';
export type { CloseReason, Outcome } from './outcome.js';
export * from './server-connection.js';
export * from './session.js';
export { type Negotiated, parseNegotiated } from './version.js';
