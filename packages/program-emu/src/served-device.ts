/** A function that is served, with its sockets. */
import type { DeviceEndpoint } from './device-endpoint.js';
import type { DeviceHost } from './device-host.js';

export interface Device {
  readonly host: DeviceHost;
  readonly endpoint: DeviceEndpoint;
}
