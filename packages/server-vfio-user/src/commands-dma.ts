/**
 * commands-dma.ts: DMA_MAP and DMA_UNMAP: which memory of the client the device may use.
 *
 * Theory
 *   The reply to DMA_UNMAP promises that nothing touches the range any more; the device's answer is that promise, and
 *   it may take its time. Memory that the client cannot share comes without a descriptor and is the device's problem.
 *
 * Invariants
 *   I1  the table changes only after the device agreed: a refused request leaves both as they were.
 *
 * Limits  DMA_REGIONS_MAX ranges (dma-table.ts).
 */
import { Errno, VfioUserDmaFlags, VfioUserDmaMap, VfioUserDmaUnmap, VfioUserUnmapFlags } from '@virtnet/wire';
import { type Command, safeNumber } from './command.js';
import { type Answer, andThen } from './outcome.js';

const KNOWN_FLAGS =
  VfioUserDmaFlags.READ | VfioUserDmaFlags.WRITE | VfioUserDmaFlags.MMAP | VfioUserDmaFlags.FILE_IO;
const NEEDS_FD = VfioUserDmaFlags.MMAP | VfioUserDmaFlags.FILE_IO;

export const dmaMap: Command = {
  bodyBytesMin: VfioUserDmaMap.sizeBytes,
  fdsMax: 1,
  changes: true,
  run({ device, dma }, { view, fds }) {
    const map = VfioUserDmaMap.decode(view);
    const range = { iova: map.iova, sizeBytes: safeNumber(map.sizeBytes) };
    const fdOffset = safeNumber(map.fdOffset);
    const fd = fds[0] ?? null;
    if (map.argsz < VfioUserDmaMap.sizeBytes || (map.flags & ~KNOWN_FLAGS) !== 0) return -Errno.EINVAL;
    if (fd === null && (map.flags & NEEDS_FD) !== 0) return -Errno.EINVAL;
    if (fdOffset < 0) return -Errno.EINVAL;
    const admitted = dma.admits(range);
    if (admitted < 0) return admitted;
    const readable = (map.flags & VfioUserDmaFlags.READ) !== 0;
    const writable = (map.flags & VfioUserDmaFlags.WRITE) !== 0;
    return andThen(device.dmaMap({ ...range, fdOffset, readable, writable, fd }), (answer) => {
      return answer < 0 ? answer : dma.add(range);
    });
  },
};

export const dmaUnmap: Command = {
  bodyBytesMin: VfioUserDmaUnmap.sizeBytes,
  fdsMax: 0,
  changes: true,
  run({ device, dma }, { view, body }) {
    const unmap = VfioUserDmaUnmap.decode(view);
    const range = { iova: unmap.iova, sizeBytes: safeNumber(unmap.sizeBytes) };
    if (unmap.argsz < VfioUserDmaUnmap.sizeBytes) return -Errno.EINVAL;
    if (unmap.flags === VfioUserUnmapFlags.GET_DIRTY_BITMAP) return -Errno.EOPNOTSUPP;
    if (unmap.flags !== 0 && unmap.flags !== VfioUserUnmapFlags.ALL) return -Errno.EINVAL;
    const all = unmap.flags === VfioUserUnmapFlags.ALL;
    if (all && (range.iova !== 0n || range.sizeBytes !== 0)) return -Errno.EINVAL;
    const held = all ? 0 : dma.holds(range);
    if (held < 0) return held;
    return andThen(device.dmaUnmap({ ...range, all }), (answer): Answer => {
      if (answer < 0) return answer;
      if (all) dma.clear();
      else dma.remove(range);
      return { body: body.slice(0, VfioUserDmaUnmap.sizeBytes) };
    });
  },
};
