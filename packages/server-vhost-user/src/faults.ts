/**
 * faults.ts: what a frontend may do wrong. Each of these costs it the connection, never the process.
 */
import { vhostUserRequestName } from '@virtnet/wire';

export type VhostUserFault =
  /** The header names another protocol version. */
  | { readonly code: 'BAD_VERSION'; readonly flags: number }
  /** A reply, though nothing was asked. */
  | { readonly code: 'UNEXPECTED_REPLY'; readonly request: number }
  /** Not a request, or one this backend never offered. */
  | { readonly code: 'UNKNOWN_REQUEST'; readonly request: number }
  /** A request that belongs to a protocol feature that was not agreed on. */
  | { readonly code: 'NOT_NEGOTIATED'; readonly request: number }
  /** A payload of a size that the request cannot have. */
  | { readonly code: 'PAYLOAD_SIZE'; readonly request: number; readonly sizeBytes: number }
  /** More or fewer descriptors than the request has. */
  | { readonly code: 'DESCRIPTOR_COUNT'; readonly request: number; readonly count: number }
  /** Well-formed but impossible, and the frontend did not ask for an acknowledgement. */
  | { readonly code: 'REFUSED'; readonly request: number; readonly errno: number };

export type VhostUserFaultCode = VhostUserFault['code'];

/** Whether the message itself was damaged, as opposed to a request that could not be granted. */
export function isMalformed(fault: VhostUserFault): boolean {
  return fault.code !== 'REFUSED';
}

/** One line for the log. */
export function describeFault(fault: VhostUserFault): string {
  const { code, ...facts } = fault;
  const parts = Object.entries(facts).map(([key, value]) =>
    key === 'request' ? `request=${vhostUserRequestName.get(value) ?? value}` : `${key}=${value}`,
  );
  return `${code} (${parts.join(' ')})`;
}
