/** split-ring-hostile.ts: raw descriptors for a split ring, and the two outcomes they may have, for tests. */
import assert from 'node:assert/strict';
import { VirtqDescriptor } from '@virtnet/wire';
import type { Descriptor } from './split-driver.js';
import type { SplitFixture } from './split-ring-fixture.js';

/** Posts raw descriptors from index 0 on and publishes head 0. */
export function post(fixture: SplitFixture, descriptors: readonly Descriptor[], head = 0): void {
  descriptors.forEach((descriptor, i) => {
    fixture.driver.writeDescriptor(i, descriptor);
  });
  fixture.driver.offer(head);
  fixture.driver.publish();
}

export const descriptor = (address: bigint, fields: Partial<Descriptor> = {}): Descriptor => ({
  address,
  lengthBytes: 16,
  flags: 0,
  next: 0,
  ...fields,
});

/** An indirect table with these entries; its address. */
export function table(fixture: SplitFixture, entries: readonly Descriptor[]): bigint {
  const at = fixture.memory.allocate(entries.length * VirtqDescriptor.sizeBytes);
  entries.forEach((entry, i) => {
    fixture.driver.writeEntry(at, i, entry);
  });
  return at;
}

/** The ring refuses for `code`, for good. */
export function expectBroken(fixture: SplitFixture, code: string): void {
  const { ring, driver } = fixture;
  const position = ring.position;
  assert.equal(ring.take(), -1);
  assert.equal(ring.fault?.code, code);
  driver.add({ readable: [new Uint8Array(8)] });
  driver.publish();
  assert.equal(ring.take(), -1, 'a broken ring is not asked again');
  assert.equal(ring.position, position);
}

/** One chain is refused for `code`, and the ring goes on. */
export function expectSkipped(fixture: SplitFixture, code: string): void {
  const { ring } = fixture;
  assert.equal(ring.take(), -1);
  assert.equal(ring.fault?.code, code);
  assert.deepEqual([ring.readableCount, ring.writableCount], [0, 0]);
  ring.give(0);
  assert.equal(ring.take(), 0, 'nothing else waits, and the ring still works');
}
