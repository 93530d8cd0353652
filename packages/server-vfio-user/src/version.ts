/**
 * version.ts: the VERSION exchange.
 *
 * Theory
 *   The client speaks first: a version and, in JSON that ends in a NUL, its limits. We answer with ours. What is not
 *   a limit of our own is only mentioned when the client mentioned it: QEMU warns about words it does not know, and
 *   the private capability must not be seen by strangers.
 *
 * Invariants
 *   I1  the reply is at most VERSION_REPLY_BYTES_MAX long, ends in NUL and says minor version 0 (QEMU).
 *
 * Limits  VERSION_BYTES_MAX; the JSON may be missing altogether.
 * Saved   Negotiated, as plain JSON; parseNegotiated checks it on the way back.
 * Spec    "VFIO_USER_VERSION".
 */
import {
  Errno,
  VFIO_USER_DEFAULT_MAX_DATA_XFER_SIZE,
  VFIO_USER_DEFAULT_MAX_MSG_FDS,
  VFIO_USER_PRIVATE_VERSION,
  VFIO_USER_VERSION_MAJOR,
  VFIO_USER_VERSION_MINOR,
  VfioUserCapability,
  VfioUserHeader,
  VfioUserVersion,
  viewOf,
} from '@virtnet/wire';
import { DATA_TRANSFER_BYTES_MAX, DMA_REGIONS_MAX, MESSAGE_FDS_MAX, VERSION_BYTES_MAX } from './limits.js';

/** What both sides agreed on, as far as this side needs it. */
export interface Negotiated {
  /** Most descriptors the peer takes with one message. */
  readonly peerMessageFdsMax: number;
  /** Most bytes of data the peer takes in one access. */
  readonly peerDataTransferBytesMax: number;
  readonly writeMultiple: boolean;
  readonly privateCommands: boolean;
}

type Json = Record<string, unknown>;

/** The server's answer to a VERSION body: what was agreed and the reply's body, or a negative errno. */
export function negotiate(body: Uint8Array): { negotiated: Negotiated; body: Uint8Array } | number {
  const proposal = decodeVersion(body);
  if (typeof proposal === 'number') return proposal;
  const negotiated = readCapabilities(proposal);
  if (negotiated === null) return -Errno.EINVAL;
  const offered: Json = {
    [VfioUserCapability.MAX_MSG_FDS]: MESSAGE_FDS_MAX,
    [VfioUserCapability.MAX_DATA_XFER_SIZE]: DATA_TRANSFER_BYTES_MAX,
  };
  if (VfioUserCapability.MAX_DMA_MAPS in proposal) offered[VfioUserCapability.MAX_DMA_MAPS] = DMA_REGIONS_MAX;
  if (negotiated.writeMultiple) offered[VfioUserCapability.WRITE_MULTIPLE] = true;
  if (negotiated.privateCommands) offered[VfioUserCapability.PRIVATE] = VFIO_USER_PRIVATE_VERSION;
  return { negotiated, body: encodeVersion(offered) };
}

/** A VERSION body, either way. */
export function encodeVersion(capabilities: Json): Uint8Array {
  const json = new TextEncoder().encode(`${JSON.stringify({ capabilities })}\0`);
  const body = new Uint8Array(VfioUserVersion.sizeBytes + json.length);
  VfioUserVersion.encode(viewOf(body), 0, { major: VFIO_USER_VERSION_MAJOR, minor: VFIO_USER_VERSION_MINOR });
  body.set(json, VfioUserVersion.sizeBytes);
  return body;
}

/** The capabilities in a VERSION body, empty without JSON, or a negative errno. */
export function decodeVersion(body: Uint8Array): Json | number {
  if (body.length < VfioUserVersion.sizeBytes) return -Errno.EINVAL;
  if (body.length > VERSION_BYTES_MAX - VfioUserHeader.sizeBytes) return -Errno.EINVAL;
  if (VfioUserVersion.decode(viewOf(body)).major !== VFIO_USER_VERSION_MAJOR) return -Errno.EINVAL;
  const text = body.subarray(VfioUserVersion.sizeBytes);
  if (text.length === 0) return {};
  if (text[text.length - 1] !== 0) return -Errno.EINVAL;
  const json = parseJson(new TextDecoder().decode(text.subarray(0, text.indexOf(0))));
  if (!isObject(json)) return -Errno.EINVAL;
  const { capabilities = {} } = json;
  return isObject(capabilities) ? capabilities : -Errno.EINVAL;
}

/** The peer's limits, or null when one is malformed. */
export function readCapabilities(capabilities: Json): Negotiated | null {
  const peerMessageFdsMax = capabilities[VfioUserCapability.MAX_MSG_FDS] ?? VFIO_USER_DEFAULT_MAX_MSG_FDS;
  const peerDataTransferBytesMax =
    capabilities[VfioUserCapability.MAX_DATA_XFER_SIZE] ?? VFIO_USER_DEFAULT_MAX_DATA_XFER_SIZE;
  const writeMultiple = capabilities[VfioUserCapability.WRITE_MULTIPLE] ?? false;
  if (
    !isCount(peerMessageFdsMax) ||
    !isCount(peerDataTransferBytesMax) ||
    typeof writeMultiple !== 'boolean'
  ) {
    return null;
  }
  const privateCommands = capabilities[VfioUserCapability.PRIVATE] === VFIO_USER_PRIVATE_VERSION;
  return { peerMessageFdsMax, peerDataTransferBytesMax, writeMultiple, privateCommands };
}

/** What `Negotiated` was before it was saved; null when it is not that. */
export function parseNegotiated(saved: unknown): Negotiated | null {
  if (!isObject(saved)) return null;
  const { peerMessageFdsMax, peerDataTransferBytesMax, writeMultiple, privateCommands } = saved;
  if (!isCount(peerMessageFdsMax) || !isCount(peerDataTransferBytesMax)) return null;
  if (typeof writeMultiple !== 'boolean' || typeof privateCommands !== 'boolean') return null;
  return { peerMessageFdsMax, peerDataTransferBytesMax, writeMultiple, privateCommands };
}

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null; // not JSON: the caller refuses it as it refuses anything that is not an object
  }
}
