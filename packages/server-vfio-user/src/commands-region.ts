/**
 * commands-region.ts: REGION_READ, REGION_WRITE and REGION_WRITE_MULTI: the client's loads and stores.
 *
 * Theory
 *   An access names a region, an offset and a count; writes to memory BARs usually come posted, several of them in one
 *   message when the client's socket is full.
 *
 * Invariants
 *   I1  the device sees accesses inside its regions only: sums are made in 64 bits and cannot wrap.
 *   I2  the writes of one message are judged before the first is made, and made in order.
 *
 * Limits  DATA_TRANSFER_BYTES_MAX in one access.
 */
import { Errno, VfioUserRegionAccess, VfioUserWriteMulti, VfioUserWriteOne, viewOf } from '@virtnet/wire';
import { type Command, type CommandContext, safeNumber } from './command.js';
import type { VfioUserDevice } from './device.js';
import { DATA_TRANSFER_BYTES_MAX } from './limits.js';
import { type Answer, andThen, isPromise } from './outcome.js';

/** The offset of an access that lies inside its region, or a negative errno. */
function offsetInside(device: VfioUserDevice, region: number, offset: bigint, count: number): number {
  if (count > DATA_TRANSFER_BYTES_MAX || region >= device.deviceInfo.regionCount) return -Errno.EINVAL;
  const inside = offset + BigInt(count) <= BigInt(device.regionInfo(region).sizeBytes);
  return inside ? safeNumber(offset) : -Errno.EINVAL;
}

export const regionRead: Command = {
  bodyBytesMin: VfioUserRegionAccess.sizeBytes,
  fdsMax: 0,
  changes: true, // a read may clear what it reads
  run({ device }, { view }) {
    const access = VfioUserRegionAccess.decode(view);
    const offset = offsetInside(device, access.region, access.offset, access.count);
    if (offset < 0) return offset;
    return andThen(device.read(access.region, offset, access.count), (data): Answer => {
      if (typeof data === 'number') return data < 0 ? data : -Errno.EIO;
      if (data.length !== access.count) return -Errno.EIO;
      const body = new Uint8Array(VfioUserRegionAccess.sizeBytes + data.length);
      VfioUserRegionAccess.encode(viewOf(body), 0, access);
      body.set(data, VfioUserRegionAccess.sizeBytes);
      return { body };
    });
  },
};

export const regionWrite: Command = {
  bodyBytesMin: VfioUserRegionAccess.sizeBytes,
  fdsMax: 0,
  changes: true,
  run({ device }, { view, body }) {
    const access = VfioUserRegionAccess.decode(view);
    const data = body.subarray(VfioUserRegionAccess.sizeBytes);
    if (data.length !== access.count) return -Errno.EINVAL;
    const offset = offsetInside(device, access.region, access.offset, access.count);
    if (offset < 0) return offset;
    return andThen(device.write(access.region, offset, data), (answer): Answer => {
      return answer < 0 ? answer : { body: VfioUserRegionAccess.bytes(access) };
    });
  },
};

interface Write {
  readonly region: number;
  readonly offset: number;
  readonly data: Uint8Array;
}

/** All writes are judged before the first is made. Those made before one failed are counted in the reply. */
export const regionWriteMulti: Command = {
  bodyBytesMin: VfioUserWriteMulti.sizeBytes,
  fdsMax: 0,
  changes: true,
  run(context, { view, body }) {
    if (!context.negotiated.writeMultiple) return -Errno.EINVAL;
    const { writeCount } = VfioUserWriteMulti.decode(view);
    const entries = body.subarray(VfioUserWriteMulti.sizeBytes);
    if (BigInt(entries.length) !== writeCount * BigInt(VfioUserWriteOne.sizeBytes)) return -Errno.EINVAL;
    const writes: Write[] = [];
    for (let at = 0; at < entries.length; at += VfioUserWriteOne.sizeBytes) {
      const { offset, region, count } = VfioUserWriteOne.decode(viewOf(entries), at);
      const inside = offsetInside(context.device, region, offset, count);
      if (inside < 0 || at + VfioUserWriteOne.at.data + count > at + VfioUserWriteOne.sizeBytes) {
        return -Errno.EINVAL;
      }
      const data = entries.subarray(at + VfioUserWriteOne.at.data, at + VfioUserWriteOne.at.data + count);
      writes.push({ region, offset: inside, data });
    }
    return writeFrom(context, writes, 0);
  },
};

function writeFrom(
  context: CommandContext,
  writes: readonly Write[],
  first: number,
): Answer | Promise<Answer> {
  for (let done = first; done < writes.length; done++) {
    const { region, offset, data } = writes[done] as Write;
    const answer = context.device.write(region, offset, data);
    if (isPromise(answer)) {
      return answer.then((late) => (late < 0 ? failed(late, done) : writeFrom(context, writes, done + 1)));
    }
    if (answer < 0) return failed(answer, done);
  }
  return { body: VfioUserWriteMulti.bytes({ writeCount: BigInt(writes.length) }) };
}

function failed(errno: number, done: number): Answer {
  return done === 0 ? errno : { body: VfioUserWriteMulti.bytes({ writeCount: BigInt(done) }) };
}
