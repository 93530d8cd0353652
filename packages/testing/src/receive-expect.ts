/** receive-expect.ts: the two outcomes of receiving a frame, for tests. */
import assert from 'node:assert/strict';
import { NetHeader, type QueueCounter } from '@virtnet/wire';
import { decodeHeader, type HeaderFields, type ReceiveFixture, shapeFrame } from './net-fixture.js';

/** Bytes of the header of a driver with VERSION_1. */
export const HEADER = NetHeader.sizeBytes;
const BUDGET = 64;
/** More than any frame. */
const BUFFER_BYTES = 70_000;

/** Receives what waits in the port into one posted buffer; header and frame as the driver finds them. */
export function receiveOne(fixture: ReceiveFixture): { header: HeaderFields; frame: Uint8Array } {
  fixture.post(BUFFER_BYTES);
  assert.equal(fixture.queue.poll(BUDGET), 1);
  const [used] = fixture.driver.collect();
  const header = decodeHeader(used!.written.subarray(0, HEADER));
  return { header, frame: used!.written.subarray(HEADER, used!.lengthBytes) };
}

/** The frame in the port is dropped for `reason`, and the buffer that was posted receives the next one. */
export function expectDropped(
  fixture: ReceiveFixture,
  reason: QueueCounter,
  bufferBytes = BUFFER_BYTES,
): void {
  fixture.post(bufferBytes);
  assert.equal(fixture.queue.poll(BUDGET), 1);
  assert.deepEqual([fixture.count(reason), fixture.drops()], [1, 1]);
  assert.deepEqual(fixture.driver.collect(), []);
  assert.equal(fixture.driver.outstanding, 1);
  const next = shapeFrame({ seed: 77 }).bytes;
  fixture.port.push(next);
  assert.equal(fixture.queue.poll(BUDGET), 1);
  const [used] = fixture.driver.collect();
  assert.deepEqual(used!.written.subarray(HEADER, used!.lengthBytes), next);
}
