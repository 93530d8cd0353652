/** client-region-info.ts: what a server says about a region, checked. */
import {
  VFIO_USER_CAP_SPARSE_MMAP,
  VfioUserRegionFlags,
  VfioUserRegionInfo,
  VfioUserSparseArea,
  VfioUserSparseMmap,
} from '@virtnet/wire';
import { safeNumber } from './command.js';
import type { RegionInfo } from './device.js';

/** Capabilities looked at in one reply; there are two kinds. A chain that loops ends here. */
const CAPABILITIES_MAX = 8;

type Areas = { offset: number; sizeBytes: number }[];

/** The region of a full reply, or null when the reply makes no sense. The fd, if any, is the caller's then. */
export function parseRegionInfo(view: DataView, fd: number | null): RegionInfo | null {
  const info = VfioUserRegionInfo.decode(view);
  const sizeBytes = safeNumber(info.sizeBytes);
  const fdOffset = safeNumber(info.mmapOffset);
  if (sizeBytes < 0 || fdOffset < 0) return null;
  const region = {
    sizeBytes,
    readable: (info.flags & VfioUserRegionFlags.READ) !== 0,
    writable: (info.flags & VfioUserRegionFlags.WRITE) !== 0,
  };
  if ((info.flags & VfioUserRegionFlags.MMAP) === 0 || fd === null) return region;
  const whole = [{ offset: 0, sizeBytes }];
  const hasCapabilities = (info.flags & VfioUserRegionFlags.CAPS) !== 0;
  const areas = hasCapabilities ? sparseAreas(view, info.capabilityOffset, whole) : whole;
  if (areas?.every((area) => area.offset + area.sizeBytes <= sizeBytes) !== true) return null;
  return { ...region, mmap: { fd, fdOffset, areas } };
}

function sparseAreas(view: DataView, first: number, whole: Areas): Areas | null {
  let at = first;
  for (let count = 0; count < CAPABILITIES_MAX && at !== 0; count++) {
    if (at + VfioUserSparseMmap.sizeBytes > view.byteLength) return null;
    const { id, next, areaCount } = VfioUserSparseMmap.decode(view, at);
    if (id === VFIO_USER_CAP_SPARSE_MMAP)
      return readAreas(view, at + VfioUserSparseMmap.sizeBytes, areaCount);
    at = next;
  }
  return whole;
}

function readAreas(view: DataView, at: number, count: number): Areas | null {
  if (at + count * VfioUserSparseArea.sizeBytes > view.byteLength) return null;
  const areas: Areas = [];
  for (let i = 0; i < count; i++) {
    const area = VfioUserSparseArea.decode(view, at + i * VfioUserSparseArea.sizeBytes);
    const offset = safeNumber(area.offset);
    const sizeBytes = safeNumber(area.sizeBytes);
    if (offset < 0 || sizeBytes < 0) return null;
    areas.push({ offset, sizeBytes });
  }
  return areas;
}
