/**
 * commands-info.ts: DEVICE_GET_INFO, _REGION_INFO, _REGION_IO_FDS and _IRQ_INFO: what the device is made of.
 *
 * Theory
 *   Each request tells in argsz how much of a reply it has room for. A reply that needs more is cut to its fixed part
 *   and says in its own argsz what is needed; the client asks again.
 *
 * Invariants
 *   I1  nothing here changes the device, so any of these may be answered twice.
 *   I2  descriptors that go out stay the device's.
 *
 * Limits  a client is given no more descriptors than it said it takes.
 */
import {
  Errno,
  VFIO_USER_CAP_SPARSE_MMAP,
  VFIO_USER_CAP_SPARSE_MMAP_VERSION,
  VfioUserDeviceFlags,
  VfioUserDeviceInfo,
  VfioUserIoEventFd,
  VfioUserIoEventFdFlags,
  VfioUserIoFdType,
  VfioUserIrqFlags,
  VfioUserIrqInfo,
  VfioUserRegionFlags,
  VfioUserRegionInfo,
  VfioUserRegionIoFds,
  VfioUserSparseArea,
  VfioUserSparseMmap,
  viewOf,
} from '@virtnet/wire';
import type { Command } from './command.js';
import type { RegionEventFd, RegionInfo } from './device.js';

export const deviceGetInfo: Command = {
  bodyBytesMin: VfioUserDeviceInfo.sizeBytes,
  fdsMax: 0,
  changes: false,
  run({ device }, { view }) {
    if (VfioUserDeviceInfo.decode(view).argsz < VfioUserDeviceInfo.sizeBytes) return -Errno.EINVAL;
    const { regionCount, irqTypeCount, resettable } = device.deviceInfo;
    const body = VfioUserDeviceInfo.bytes({
      argsz: VfioUserDeviceInfo.sizeBytes,
      flags: VfioUserDeviceFlags.PCI | (resettable ? VfioUserDeviceFlags.RESET : 0),
      regionCount,
      irqTypeCount,
    });
    return { body };
  },
};

/**
 * The capabilities are announced with their offset even when there is no room for them: QEMU checks the offset in
 * its first, short request already, and asks again with the room that argsz tells.
 */
export const deviceGetRegionInfo: Command = {
  bodyBytesMin: VfioUserRegionInfo.sizeBytes,
  fdsMax: 0,
  changes: false,
  run({ device, negotiated }, { view }) {
    const { argsz, index } = VfioUserRegionInfo.decode(view);
    if (argsz < VfioUserRegionInfo.sizeBytes || index >= device.deviceInfo.regionCount) return -Errno.EINVAL;
    const region = device.regionInfo(index);
    const mmap = negotiated.peerMessageFdsMax > 0 && region.sizeBytes > 0 ? region.mmap : undefined;
    const full = regionInfoBytes(index, region, mmap);
    const fits = argsz >= full.length;
    return {
      body: fits ? full : full.subarray(0, VfioUserRegionInfo.sizeBytes),
      fds: mmap === undefined ? [] : [mmap.fd],
    };
  },
};

function regionInfoBytes(index: number, region: RegionInfo, mmap: RegionInfo['mmap']): Uint8Array {
  const areas = mmap?.areas ?? [];
  const capabilityBytes =
    mmap === undefined ? 0 : VfioUserSparseMmap.sizeBytes + areas.length * VfioUserSparseArea.sizeBytes;
  const body = new Uint8Array(VfioUserRegionInfo.sizeBytes + capabilityBytes);
  const view = viewOf(body);
  let at = VfioUserRegionInfo.encode(view, 0, {
    argsz: body.length,
    flags:
      (region.readable ? VfioUserRegionFlags.READ : 0) |
      (region.writable ? VfioUserRegionFlags.WRITE : 0) |
      (mmap === undefined ? 0 : VfioUserRegionFlags.MMAP | VfioUserRegionFlags.CAPS),
    index,
    capabilityOffset: mmap === undefined ? 0 : VfioUserRegionInfo.sizeBytes,
    sizeBytes: BigInt(region.sizeBytes),
    mmapOffset: BigInt(mmap?.fdOffset ?? 0),
  });
  if (mmap === undefined) return body;
  at += VfioUserSparseMmap.encode(view, at, {
    id: VFIO_USER_CAP_SPARSE_MMAP,
    version: VFIO_USER_CAP_SPARSE_MMAP_VERSION,
    next: 0,
    areaCount: areas.length,
    reserved: 0,
  });
  for (const area of areas) {
    at += VfioUserSparseArea.encode(view, at, {
      offset: BigInt(area.offset),
      sizeBytes: BigInt(area.sizeBytes),
    });
  }
  return body;
}

/** Without room for all entries none is sent, and no descriptor: argsz tells the client what to come back with. */
export const deviceGetRegionIoFds: Command = {
  bodyBytesMin: VfioUserRegionIoFds.sizeBytes,
  fdsMax: 0,
  changes: false,
  run({ device, negotiated }, { view }) {
    const { argsz, flags, index, count } = VfioUserRegionIoFds.decode(view);
    if (argsz < VfioUserRegionIoFds.sizeBytes || flags !== 0 || count !== 0) return -Errno.EINVAL;
    if (index >= device.deviceInfo.regionCount || device.regionInfo(index).sizeBytes === 0)
      return -Errno.EINVAL;
    const { entries, fds } = withinFdLimit(device.regionIoFds(index), negotiated.peerMessageFdsMax);
    const neededBytes = VfioUserRegionIoFds.sizeBytes + entries.length * VfioUserIoEventFd.sizeBytes;
    const fits = argsz >= neededBytes;
    const body = new Uint8Array(fits ? neededBytes : VfioUserRegionIoFds.sizeBytes);
    const out = viewOf(body);
    let at = VfioUserRegionIoFds.encode(out, 0, {
      argsz: neededBytes,
      flags: 0,
      index,
      count: entries.length,
    });
    if (!fits) return { body };
    for (const entry of entries) {
      at += VfioUserIoEventFd.encode(out, at, {
        offset: BigInt(entry.offset),
        sizeBytes: BigInt(entry.sizeBytes),
        fdIndex: fds.indexOf(entry.fd),
        type: VfioUserIoFdType.IOEVENTFD,
        flags: entry.dataMatch === null ? 0 : VfioUserIoEventFdFlags.DATAMATCH,
        padding: 0,
        dataMatch: entry.dataMatch ?? 0n,
      });
    }
    return { body, fds };
  },
};

/** As many entries, from the first on, as the client can take descriptors for; entries may share one. */
function withinFdLimit(
  offered: readonly RegionEventFd[],
  fdsMax: number,
): { entries: RegionEventFd[]; fds: number[] } {
  const entries: RegionEventFd[] = [];
  const fds: number[] = [];
  for (const entry of offered) {
    if (!fds.includes(entry.fd)) {
      if (fds.length >= fdsMax) break;
      fds.push(entry.fd);
    }
    entries.push(entry);
  }
  return { entries, fds };
}

export const deviceGetIrqInfo: Command = {
  bodyBytesMin: VfioUserIrqInfo.sizeBytes,
  fdsMax: 0,
  changes: false,
  run({ device }, { view }) {
    const { argsz, index } = VfioUserIrqInfo.decode(view);
    if (argsz < VfioUserIrqInfo.sizeBytes || index >= device.deviceInfo.irqTypeCount) return -Errno.EINVAL;
    const irq = device.irqInfo(index);
    const body = VfioUserIrqInfo.bytes({
      argsz: VfioUserIrqInfo.sizeBytes,
      flags:
        (irq.eventfd ? VfioUserIrqFlags.EVENTFD : 0) |
        (irq.maskable ? VfioUserIrqFlags.MASKABLE : 0) |
        (irq.automasked ? VfioUserIrqFlags.AUTOMASKED : 0) |
        (irq.noResize ? VfioUserIrqFlags.NORESIZE : 0),
      index,
      count: irq.count,
    });
    return { body };
  },
};
