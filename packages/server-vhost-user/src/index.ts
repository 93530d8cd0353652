/**
 * @virtnet/server-vhost-user: vhost-user, the backend's side; and the frontend's, for tests and probes.
 *
 * @example
 *   const endpoint = listenEndpoint({ path, poller, onConnection: (fd) =>
 *     VhostUserBackend.open({ fd, poller, device, onClose: () => endpoint.next() }) });
 */
export * from './backend.js';
export * from './device.js';
export * from './endpoint.js';
export * from './faults.js';
export * from './features.js';
export * from './frontend.js';
export * from './limits.js';
export * from './memory-table.js';
export * from './message-reader.js';
export * from './requests.js';
export * from './saved-session.js';
export * from './session.js';
export type { AcceptedFeatures, SessionPorts } from './session-rings.js';
export * from './vring.js';
