/**
 * shelf-codec.ts: messages of the descriptor channel as bytes; the layouts are in wire/shelf-channel.ts.
 * Decoding distrusts every length and never throws.
 */
import { badShelfName, type ShelfMessage, type ShelfOperation } from '@virtnet/engine-recovery';
import {
  Errno,
  SHELF_DESCRIPTORS_MAX,
  SHELF_MAGIC,
  SHELF_MESSAGE_BYTES_MAX,
  SHELF_NAME_BYTES_MAX,
  SHELF_OPERATIONS_MAX,
  SHELF_VERSION,
  ShelfMessageHeader,
  type ShelfMessageKind,
  ShelfOperationHeader,
  ShelfOperationKind,
  viewOf,
} from '@virtnet/wire';

export interface EncodedShelfMessage<H> {
  readonly bytes: Uint8Array;
  /** The handles to attach, in order. */
  readonly handles: readonly H[];
}

const kindOf = {
  put: ShelfOperationKind.PUT,
  delete: ShelfOperationKind.DELETE,
  'delete-prefix': ShelfOperationKind.DELETE_PREFIX,
} as const satisfies Record<ShelfOperation<unknown>['kind'], ShelfOperationKind>;

const encoder = new TextEncoder();
const decoder = new TextDecoder('latin1'); // names are ASCII, which the shelf checks
const NO_BLOB = new Uint8Array(0);

function nameOf(operation: ShelfOperation<unknown>): string {
  return operation.kind === 'delete-prefix' ? operation.prefix : operation.name;
}

/** Bytes that `operation` takes in a message; its name is ASCII. */
export function operationBytes(operation: ShelfOperation<unknown>): number {
  const blob = operation.kind === 'put' ? operation.blob.byteLength : 0;
  return ShelfOperationHeader.sizeBytes + nameOf(operation).length + blob;
}

/** Encodes a message, or -EMSGSIZE (bytes), -E2BIG (operations or descriptors), -EINVAL (a name). */
export function encodeShelfMessage<H>(message: ShelfMessage<H>): EncodedShelfMessage<H> | number {
  const { kind, argument, operations } = message;
  if (operations.length > SHELF_OPERATIONS_MAX) return -Errno.E2BIG;
  let sizeBytes = ShelfMessageHeader.sizeBytes;
  for (const operation of operations) {
    if (badShelfName(nameOf(operation)) !== null) return -Errno.EINVAL;
    sizeBytes += operationBytes(operation);
  }
  if (sizeBytes > SHELF_MESSAGE_BYTES_MAX) return -Errno.EMSGSIZE;
  const bytes = new Uint8Array(sizeBytes);
  const view = viewOf(bytes);
  const handles: H[] = [];
  let at = ShelfMessageHeader.sizeBytes;
  for (const operation of operations) {
    const put = operation.kind === 'put' ? operation : null;
    const blob = put?.blob ?? NO_BLOB;
    const handle = put?.handle ?? null;
    const nameAt = at + ShelfOperationHeader.sizeBytes;
    const { written } = encoder.encodeInto(nameOf(operation), bytes.subarray(nameAt));
    ShelfOperationHeader.encode(view, at, {
      kind: kindOf[operation.kind],
      hasDescriptor: handle === null ? 0 : 1,
      nameBytes: written,
      blobBytes: blob.byteLength,
      ttlWithoutHolderMs: put?.ttlWithoutHolderMs ?? 0,
      reserved: 0,
    });
    bytes.set(blob, nameAt + written);
    if (handle !== null) handles.push(handle);
    at = nameAt + written + blob.byteLength;
  }
  if (handles.length > SHELF_DESCRIPTORS_MAX) return -Errno.E2BIG;
  ShelfMessageHeader.encode(view, 0, {
    magic: SHELF_MAGIC,
    version: SHELF_VERSION,
    kind,
    sizeBytes,
    operations: operations.length,
    argument,
    reserved: 0,
  });
  return { bytes, handles };
}

/**
 * Reads a message. `fds` are given to the operations in order; one too many or too few makes the message wrong.
 * Returns text that says what is wrong. Blobs are copies. Whose the descriptors are does not change.
 */
export function decodeShelfMessage(bytes: Uint8Array, fds: readonly number[]): ShelfMessage<number> | string {
  const view = viewOf(bytes);
  if (bytes.byteLength < ShelfMessageHeader.sizeBytes) return 'shorter than its header';
  const header = ShelfMessageHeader.decode(view);
  if (header.magic !== SHELF_MAGIC) return 'bad magic';
  if (header.version !== SHELF_VERSION) return `version ${header.version}`;
  if (header.sizeBytes !== bytes.byteLength) return `says ${header.sizeBytes} bytes, has ${bytes.byteLength}`;
  if (header.operations > SHELF_OPERATIONS_MAX) return `${header.operations} operations`;
  const operations: ShelfOperation<number>[] = [];
  let at = ShelfMessageHeader.sizeBytes;
  let nextFd = 0;
  for (let index = 0; index < header.operations; index++) {
    if (at + ShelfOperationHeader.sizeBytes > bytes.byteLength) return 'an operation is cut off';
    const { kind, hasDescriptor, nameBytes, blobBytes, ttlWithoutHolderMs } = ShelfOperationHeader.decode(
      view,
      at,
    );
    const nameAt = at + ShelfOperationHeader.sizeBytes;
    const blobAt = nameAt + nameBytes;
    at = blobAt + blobBytes;
    if (at > bytes.byteLength) return 'an operation is cut off';
    if (nameBytes > SHELF_NAME_BYTES_MAX) return `name of ${nameBytes} bytes`;
    const name = decoder.decode(bytes.subarray(nameAt, blobAt));
    if (kind === ShelfOperationKind.PUT) {
      const handle = hasDescriptor === 0 ? null : (fds[nextFd++] ?? -1);
      if (handle === -1) return 'a descriptor is missing';
      operations.push({ kind: 'put', name, blob: bytes.slice(blobAt, at), handle, ttlWithoutHolderMs });
    } else if (hasDescriptor !== 0 || blobBytes !== 0) return 'a delete with content';
    else if (kind === ShelfOperationKind.DELETE) operations.push({ kind: 'delete', name });
    else if (kind === ShelfOperationKind.DELETE_PREFIX)
      operations.push({ kind: 'delete-prefix', prefix: name });
    else return `operation kind ${kind}`;
  }
  if (at !== bytes.byteLength) return 'bytes behind the last operation';
  if (nextFd !== fds.length) return `${fds.length} descriptors for ${nextFd} operations`;
  return { kind: header.kind as ShelfMessageKind, argument: header.argument, operations };
}
