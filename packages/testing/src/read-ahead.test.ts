/** A driver that changes its buffers between the reads into them and what is made of those. */
import { ReceiveQueue, SpreadReceiveQueue } from '@virtnet/engine-virtio-net';
import { type DeviceRing, GuestMemory, isRing, openRing, type QueueLedger } from '@virtnet/engine-virtqueue';
import {
  featureMask,
  NetFeature,
  NetHeaderFlag,
  QueueCounter,
  QueueWord,
  queueBlock,
  statePageSize,
  VirtioFeature,
} from '@virtnet/wire';
import { describe, expect, it } from 'vitest';
import { DriverMemory } from './driver-memory.js';
import { KernelReadingPort } from './memory-port.js';
import { netHeader, shapeFrame } from './net-fixture.js';
import { PackedDriver } from './packed-driver.js';
import { packedPosition } from './packed-ring-fixture.js';
import { SplitDriver } from './split-driver.js';

const QUEUE_SIZE = 256;
const BUDGET = 128;
const FRAMES = 4;
const BUFFER_BYTES = 1600;
/** Of a descriptor, split or packed: its size, and where its length is. */
const DESCRIPTOR_BYTES = 16;
const LENGTH_AT = 8;

/** Once the kernel has read, every buffer is one byte long. */
class Shrinking extends KernelReadingPort {
  readonly #driver: SplitDriver | PackedDriver;

  constructor(driver: SplitDriver | PackedDriver) {
    super();
    this.#driver = driver;
  }

  override readAhead(ring: DeviceRing, count: number, ledger: QueueLedger): boolean {
    const more = super.readAhead(ring, count, ledger);
    const { memory, descriptorAddress } = this.#driver;
    for (let i = 0; i < QUEUE_SIZE; i++)
      memory.view.setUint32(memory.at(descriptorAddress) + i * DESCRIPTOR_BYTES + LENGTH_AT, 1, true);
    return more;
  }
}

describe('buffers that shrink after frames were read into them', () => {
  it.each([
    ['split', 'own buffers'],
    ['packed', 'own buffers'],
    ['packed', 'mergeable buffers'],
  ] as const)('%s, %s: the frames are dropped, and the turn is no longer for it', (format, buffers) => {
    const memory = new DriverMemory({ sizeBytes: 1 << 20 });
    const common = { memory, queueSize: QUEUE_SIZE, eventIdx: false };
    const driver = format === 'split' ? new SplitDriver(common) : new PackedDriver(common);
    const block = queueBlock(new ArrayBuffer(statePageSize(1)), 0);
    const position = format === 'split' ? 0 : packedPosition(0, 1);
    block.words.set([position, position], QueueWord.POSITION);
    const ring = openRing({
      packed: format === 'packed',
      queueSize: QUEUE_SIZE,
      memory: new GuestMemory([memory.region]),
      descriptorAddress: driver.descriptorAddress,
      driverAddress: driver.driverAddress,
      deviceAddress: driver.deviceAddress,
      indirect: false,
      eventIdx: false,
      position,
      chainSegmentsMax: 16,
      journal: block.journal,
    });
    if (!isRing(ring)) throw new Error(ring.code);
    const mergeable = buffers === 'mergeable buffers';
    const port = new Shrinking(driver);
    const Queue = mergeable ? SpreadReceiveQueue : ReceiveQueue;
    const queue = new Queue({
      ring,
      port,
      block,
      features: featureMask([
        VirtioFeature.VERSION_1,
        ...(mergeable ? [NetFeature.MRG_RXBUF, NetFeature.MTU] : []),
      ]),
      mtu: 1500,
      linkUp: true,
      active: true,
      filter: null,
    });
    while (driver.add({ writable: [BUFFER_BYTES] }) >= 0);
    driver.publish();
    // What is not plain is looked at once more, when the buffers are no longer what they were.
    for (let i = 0; i < FRAMES; i++)
      port.push(
        shapeFrame({ seed: i, payloadBytes: 100 }).bytes,
        netHeader({ flags: NetHeaderFlag.DATA_VALID }),
      );
    const lost = FRAMES + 1; // and the buffer in which that was seen
    expect(queue.poll(BUDGET)).toBe(lost);
    expect(block.counters[QueueCounter.DROP_BAD_CHAIN]).toBe(lost);
    expect(block.counters[QueueCounter.FRAMES]).toBe(0);
    expect(block.words[QueueWord.BURST]).toBe(0);
    expect(driver.collect()).toHaveLength(1);
  });
});
