import { VIRT_QUEUES_MAX } from '@virtnet/engine-control';
import { type FramePort, ReceiveQueue } from '@virtnet/engine-virtio-net';
import { type DeviceRing, GuestMemory, isRing, openRing, QueueLedger } from '@virtnet/engine-virtqueue';
import { Arena, close, memfdCreate, ReadTable, send } from '@virtnet/host-linux';
import {
  featureMask,
  GsoType,
  NetFeature,
  NetHeader,
  NetHeaderFlag,
  type QueueBlock,
  QueueCounter,
  QueueWord,
  queueBlock,
  statePageFileSize,
  VirtioFeature,
} from '@virtnet/wire';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CHAIN_SEGMENTS_MAX } from './limits.js';
import { mapPage, type PageMapping } from './page-mapping.js';
import { TapReceiver } from './tap-receiver.js';
import { openFds } from './test-support/holdings.js';
import { pairOfSockets } from './test-support/test-device.js';
import { TestMemory, TestRing } from './test-support/test-ring.js';

const H = NetHeader.sizeBytes;
const QUEUE = 0;
const BUFFER_BYTES = 256;
const FRAME_BYTES = 60;
const { FRAMES, DROP_HEADER, DROP_NO_BUFFER, DROP_TAP_ERROR } = QueueCounter;
const ONE_BUFFER = 10;

describe('TAP for a driver that receives', () => {
  let before: number;
  let memory: TestMemory;
  let driver: TestRing;
  let page: PageMapping;
  let block: QueueBlock;
  let table: ReadTable | null;
  let tap: number;
  let network: number;
  let receiver: TapReceiver;
  let ring: DeviceRing;
  let queue: ReceiveQueue;

  beforeEach(() => {
    before = openFds();
    memory = new TestMemory(1 << 20, { arena: Arena.reserve(2 ** 24) });
    driver = new TestRing(memory, 256, BUFFER_BYTES);
    page = mapPage(memfdCreate('tap-receiver', statePageFileSize(VIRT_QUEUES_MAX)))!;
    page.view(2);
    block = queueBlock(page.buffer, QUEUE);
    table = ReadTable.create();
    [tap, network] = pairOfSockets();
    succeed();
  });
  afterEach(() => {
    receiver.close();
    table?.close();
    page.close();
    for (const fd of [page.fd, tap, network]) close(fd);
    memory.close();
    expect(openFds()).toBe(before);
  });

  /** Goes on where the page says, as a successor does. */
  function succeed(pageAddress = page.burstAddress(QUEUE), features: number[] = []): void {
    receiver?.close();
    const opened = openRing({
      packed: false,
      ...driver.addresses,
      memory: new GuestMemory([memory.region]),
      indirect: false,
      eventIdx: false,
      position: block.words[QueueWord.POSITION]!,
      chainSegmentsMax: CHAIN_SEGMENTS_MAX,
      journal: block.journal,
    });
    if (!isRing(opened)) throw new Error(opened.code);
    ring = opened;
    receiver = new TapReceiver(tap, table, pageAddress);
    const port: FramePort = receiver;
    queue = new ReceiveQueue({
      ring,
      block,
      port,
      features: featureMask([VirtioFeature.VERSION_1, ...features]),
      mtu: 1500,
      linkUp: true,
      active: true,
      filter: null,
    });
    queue.resume();
  }

  const offer = (count: number) => {
    for (let i = 0; i < count; i++) driver.add([], [BUFFER_BYTES]);
    driver.publish();
  };
  const sends = (
    number: number,
    header: Partial<Record<'flags' | 'gsoType', number>> = {},
    bytes = FRAME_BYTES,
  ) => {
    const frame = new Uint8Array(H + bytes).fill(number, H);
    frame[NetHeader.at.flags] = header.flags ?? 0;
    frame[NetHeader.at.gsoType] = header.gsoType ?? 0;
    expect(send(network, frame)).toBe(frame.length);
  };
  const sendAll = (from: number, to: number) => {
    for (let number = from; number < to; number++) sends(number);
  };
  const pollAll = () => {
    while (queue.poll(128) > 0);
  };
  /** Numbers of the frames that the driver was given, each under a header of one buffer. */
  const received = () =>
    driver.collect().map(({ written, lengthBytes }) => {
      expect(lengthBytes).toBe(H + FRAME_BYTES);
      expect([...written.subarray(H, lengthBytes)]).toEqual(Array(FRAME_BYTES).fill(written[H]));
      expect(written[ONE_BUFFER]).toBe(1);
      return written[H]!;
    });
  const all = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i);
  const counted = (...counters: QueueCounter[]) => counters.map((counter) => block.counters[counter]);
  /** From now on frames are expected to come many at a time. */
  const stream = () => {
    offer(20);
    sendAll(0, 20);
    queue.poll(128);
    received();
    block.counters.fill(0);
  };

  it('a few are read one by one, and without a table or a page all are; else a stream has a ring', () => {
    const held = openFds();
    offer(8);
    sendAll(0, 7);
    pollAll();
    expect([received(), receiver.expected, openFds()]).toEqual([all(0, 7), 0, held]);
    offer(200);
    sendAll(0, 100);
    queue.poll(128);
    expect([receiver.expected, openFds()]).toEqual([200, held]);
    sendAll(100, 150);
    queue.poll(128);
    expect([received(), receiver.expected, openFds()]).toEqual([all(0, 150), 100, held + 1]);
    queue.poll(128);
    expect(receiver.expected, 'nothing came').toBe(0);
    receiver.close();
    expect(openFds()).toBe(held);
    succeed(0);
    sendAll(0, 40);
    queue.poll(128);
    expect([received(), receiver.expected, openFds()]).toEqual([all(0, 40), 0, held]);
    expect(counted(FRAMES)).toEqual([197]);
  });

  it.each([1, 7, 16, 31, 32, 33, 90])('%i frames of a stream arrive in their order', (count) => {
    stream();
    offer(count + 5);
    sendAll(100, 100 + count);
    pollAll();
    expect(received()).toEqual(all(100, 100 + count));
    expect(counted(FRAMES, QueueCounter.BYTES, DROP_TAP_ERROR)).toEqual([count, count * FRAME_BYTES, 0]);
    expect([QueueWord.BURST, QueueWord.IN_FLIGHT].map((word) => block.words[word])).toEqual([0, 0]);
  });

  it('headers are judged as ever; what is dropped uses no buffer up, and moves those behind it into it', () => {
    succeed(undefined, [NetFeature.GUEST_CSUM]);
    stream();
    offer(5);
    sends(1);
    sends(2, { flags: NetHeaderFlag.DATA_VALID });
    sends(3, { gsoType: GsoType.TCPV4 });
    sends(4);
    sends(5, {}, 2 * BUFFER_BYTES);
    sends(6, { flags: NetHeaderFlag.DATA_VALID });
    pollAll();
    const used = driver.collect();
    expect(used.map(({ written }) => [written[H], written[0]])).toEqual([
      [1, 0],
      [2, NetHeaderFlag.DATA_VALID],
      [4, 0],
      [6, NetHeaderFlag.DATA_VALID],
    ]);
    expect(counted(FRAMES, DROP_HEADER, DROP_NO_BUFFER)).toEqual([4, 1, 1]);
    sends(7);
    pollAll();
    expect(received()).toEqual([7]);
  });

  it('what the kernel had read when its process died is the driver’s all the same, once', () => {
    stream();
    offer(40);
    sendAll(0, 10);
    ring.available();
    const count = ring.scan(32, true);
    const ledger = new QueueLedger(ring, block);
    ledger.begin();
    expect(receiver.readAhead(ring, count, ledger), 'and it dies').toBe(false);
    receiver.ahead.forget();
    sendAll(10, 12);
    succeed();
    expect(queue.interrupt).toBe(true);
    expect(received()).toEqual(all(0, 10));
    pollAll();
    expect([received(), block.words[QueueWord.BURST]]).toEqual([all(10, 12), 0]);
    succeed();
    expect(received(), 'nothing is repeated').toEqual([]);
  });

  it('a driver that takes back what it had made available loses frames, each under a reason', () => {
    stream();
    offer(40);
    sendAll(0, 10);
    ring.available();
    const count = ring.scan(32, true);
    receiver.readAhead(ring, count, new QueueLedger(ring, block));
    receiver.ahead.forget();
    const free = block.words[QueueWord.POSITION]! % 256;
    for (let i = 0; i < 10; i++)
      driver.writeDescriptor((free + i) % 256, { address: 0x10n, lengthBytes: 64, flags: 2, next: 0 });
    succeed();
    expect(counted(FRAMES, QueueCounter.DROP_BAD_CHAIN)).toEqual([0, 10]);
  });
});
