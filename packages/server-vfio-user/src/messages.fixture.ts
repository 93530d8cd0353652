/** messages.fixture.ts: vfio-user messages as bytes, for tests that speak the wire themselves. */
import {
  VfioUserCommand,
  VfioUserDeviceInfo,
  VfioUserDmaMap,
  VfioUserDmaUnmap,
  VfioUserFlags,
  VfioUserHeader,
  VfioUserIrqSet,
  VfioUserRegionAccess,
  viewOf,
} from '@virtnet/wire';
import { encodeVersion } from './version.js';

/** What QEMU 10.2 announces. */
export const qemuCapabilities = {
  pgsizes: 4096,
  max_msg_fds: 16,
  max_dma_maps: 65535,
  max_data_xfer_size: 1048576,
  migration: { max_bitmap_size: 268435456, pgsize: 4096 },
  write_multiple: true,
};

export function concat(...parts: Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

/** A request. `sizeBytes` lies when given. */
export function request(
  messageId: number,
  command: number,
  body: Uint8Array = new Uint8Array(0),
  { flags = 0, sizeBytes = VfioUserHeader.sizeBytes + body.length } = {},
): Uint8Array {
  return concat(VfioUserHeader.bytes({ messageId, command, sizeBytes, flags, errno: 0 }), body);
}

export function version(messageId: number, capabilities: object = qemuCapabilities): Uint8Array {
  return request(messageId, VfioUserCommand.VERSION, encodeVersion({ ...capabilities }));
}

export function getInfo(messageId: number): Uint8Array {
  const body = { argsz: VfioUserDeviceInfo.sizeBytes, flags: 0, regionCount: 0, irqTypeCount: 0 };
  return request(messageId, VfioUserCommand.DEVICE_GET_INFO, VfioUserDeviceInfo.bytes(body));
}

export function dmaMapBody(iova: bigint, sizeBytes: bigint, fdOffset = 0n, flags = 3): Uint8Array {
  return VfioUserDmaMap.bytes({ argsz: VfioUserDmaMap.sizeBytes, flags, fdOffset, iova, sizeBytes });
}

export function dmaMap(messageId: number, iova: bigint, sizeBytes: bigint, fdOffset = 0n): Uint8Array {
  return request(messageId, VfioUserCommand.DMA_MAP, dmaMapBody(iova, sizeBytes, fdOffset));
}

export function dmaUnmap(messageId: number, iova: bigint, sizeBytes: bigint, flags = 0): Uint8Array {
  const body = { argsz: VfioUserDmaUnmap.sizeBytes, flags, iova, sizeBytes };
  return request(messageId, VfioUserCommand.DMA_UNMAP, VfioUserDmaUnmap.bytes(body));
}

export function setIrqs(
  messageId: number,
  { flags = 0x24, index = 2, start = 0, count = 1 },
  values = new Uint8Array(0),
): Uint8Array {
  const body = VfioUserIrqSet.bytes({ argsz: VfioUserIrqSet.sizeBytes, flags, index, start, count });
  return request(messageId, VfioUserCommand.DEVICE_SET_IRQS, concat(body, values));
}

export function regionRead(messageId: number, region: number, offset: bigint, count: number): Uint8Array {
  const body = VfioUserRegionAccess.bytes({ offset, region, count });
  return request(messageId, VfioUserCommand.REGION_READ, body);
}

export function regionWrite(
  messageId: number,
  region: number,
  offset: bigint,
  data: Uint8Array,
  { posted = false, count = data.length } = {},
): Uint8Array {
  const body = concat(VfioUserRegionAccess.bytes({ offset, region, count }), data);
  return request(messageId, VfioUserCommand.REGION_WRITE, body, {
    flags: posted ? VfioUserFlags.NO_REPLY : 0,
  });
}

/** A reply taken apart. */
export function parseReply(bytes: Uint8Array) {
  const header = VfioUserHeader.decode(viewOf(bytes));
  const body = bytes.subarray(VfioUserHeader.sizeBytes);
  return { ...header, body, view: viewOf(body) };
}
