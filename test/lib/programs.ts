/** Programs of the tests that run inside a network namespace. */
import { join } from 'node:path';

export const STREAM_PROGRAM = join(import.meta.dirname, 'stream-host.ts');
export const TRANSFER_PROGRAM = join(import.meta.dirname, 'transfer-host.ts');
export const TRANSFER_CLIENT_PROGRAM = join(import.meta.dirname, 'transfer-client.ts');
/** A vfio-user client. */
export const CLIENT_PROGRAM = join(import.meta.dirname, 'client-host.ts');
export const UDP_PROGRAM = join(import.meta.dirname, 'udp-host.ts');
