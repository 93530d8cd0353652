/**
 * Memory that a client takes back while frames are written into it: whatever the device does with the chains that name it,
 * not a byte of it changes once DMA_UNMAP is answered, headers included (failure F4).
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { close, memfdCreate, type SharedMapping, sharedMapping } from '@virtnet/host-linux';
import { DescriptorFlag, featureMask, NetFeature } from '@virtnet/wire';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { POISON } from '../ring-driver.js';
import { EmulatorService, eventually, type Hotplugged } from './emulator-service.fixture.js';
import { Guest } from './guest.fixture.js';
import { namespaceObstacle } from './network.fixture.js';

const obstacle = namespaceObstacle();
const ROUNDS = 16;
const QUEUE_SIZE = 256;
const RECEIVE = 0;
/** Several of them a frame, where they are mergeable. */
const BUFFER_BYTES = 320;
const DATAGRAM_BYTES = 1400;
const BURST = 16;
const IOVA = 0x8_0000_0000n;
const SIZE_BYTES = 128 << 10;

describe.skipIf(obstacle !== null)(`memory taken back${obstacle ? `: ${obstacle}` : ''}`, () => {
  let service: EmulatorService;
  let device: Hotplugged;
  let guest: Guest;
  let fd: number;
  let mapping: SharedMapping;
  let next = 0;

  beforeAll(async () => {
    service = await EmulatorService.start({ standby: false });
    const features = `0x${featureMask([NetFeature.MRG_RXBUF]).toString(16)}`;
    device = await service.hotplug({ features });
    service.network.address(device.representor, device.mac);
    await service.network.listen();
  }, 60_000);
  afterAll(() => service.end());

  beforeEach(() => {
    fd = memfdCreate('test-taken', SIZE_BYTES);
    const mapped = sharedMapping(fd, SIZE_BYTES);
    if (typeof mapped === 'number') throw new Error(`mmap: errno ${-mapped}`);
    mapping = mapped;
  });
  afterEach(() => {
    guest.close();
    mapping.close();
    close(fd);
  });

  const range = { iova: IOVA, sizeBytes: SIZE_BYTES };
  const map = () => guest.client.dmaMap({ ...range, fd, fdOffset: 0, readable: true, writable: true });

  /** Fills the receive queue with buffers in that memory. */
  async function post(bufferBytes: number): Promise<void> {
    const ring = guest.driver.ring(RECEIVE);
    const { usedIndex } = ring;
    for (let entry = 0; entry < QUEUE_SIZE; entry++) {
      const address = IOVA + BigInt((entry * bufferBytes) % (SIZE_BYTES - bufferBytes));
      ring.writeDescriptor(entry, {
        address,
        lengthBytes: bufferBytes,
        flags: DescriptorFlag.WRITE,
        next: 0,
      });
    }
    while (((ring.availableIndex - usedIndex) & 0xffff) < QUEUE_SIZE) {
      ring.offer(ring.availableIndex % QUEUE_SIZE);
      ring.publish();
    }
    await guest.notify(RECEIVE, ring.availableIndex);
  }

  const flood = async () => {
    const numbers = Array.from({ length: BURST }, () => next++);
    await service.network.send(numbers, { bytes: DATAGRAM_BYTES });
  };

  it.each([
    ['mergeable buffers', BUFFER_BYTES, undefined],
    ['a buffer a frame', 2048, ~featureMask([NetFeature.MRG_RXBUF])],
  ])('F4 %s: nothing is written there once DMA_UNMAP is answered', async (_, bufferBytes, features) => {
    const agreed = features === undefined ? {} : { features };
    guest = await Guest.start(service, device, { queueSize: QUEUE_SIZE, ...agreed });
    await eventually('carrier', () => service.network.hasCarrier(device.representor));
    const ring = guest.driver.ring(RECEIVE);
    const bytes = new Uint8Array(mapping.buffer);
    let written = 0;
    for (let round = 0; round < ROUNDS; round++) {
      await map();
      bytes.fill(POISON);
      const before = ring.usedIndex;
      await post(bufferBytes);
      const floods = [flood(), flood()];
      await eventually('the first frame', () => ring.usedIndex !== before);
      if (round % 2 === 0) await sleep(round / 10);
      await guest.client.dmaUnmap(range);
      if (bytes.some((byte) => byte !== POISON)) written++;
      bytes.fill(POISON);
      // What is posted still is outside of memory: it comes back, by frames if need be.
      await Promise.all(floods);
      await eventually('every buffer', async () => {
        if (ring.usedIndex === ring.availableIndex) return true;
        await flood();
        return false;
      });
      expect(bytes.every((byte) => byte === POISON)).toBe(true);
    }
    expect(written).toBe(ROUNDS);
    expect([guest.ends, await guest.needsReset()]).toEqual([[], false]);
  });
});
