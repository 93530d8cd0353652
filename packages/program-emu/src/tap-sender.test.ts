import { VIRT_QUEUES_MAX } from '@virtnet/engine-control';
import { type DeviceRing, GuestMemory, isRing, openRing, QueueLedger } from '@virtnet/engine-virtqueue';
import { Arena, close, memfdCreate, Receiver, WriteTable } from '@virtnet/host-linux';
import {
  NetHeader,
  type QueueBlock,
  QueueCounter,
  QueueWord,
  queueBlock,
  statePageFileSize,
} from '@virtnet/wire';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CHAIN_SEGMENTS_MAX } from './limits.js';
import { mapPage, type PageMapping } from './page-mapping.js';
import { TapSender } from './tap-sender.js';
import { openFds } from './test-support/holdings.js';
import { pairOfSockets } from './test-support/test-device.js';
import { TestMemory, TestRing } from './test-support/test-ring.js';

const H = NetHeader.sizeBytes;
const QUEUE = 1;

describe('TAP for a driver that sends', () => {
  let before: number;
  let memory: TestMemory;
  let driver: TestRing;
  let ring: DeviceRing;
  let page: PageMapping;
  let block: QueueBlock;
  let ledger: QueueLedger;
  let table: WriteTable | null;
  let tap: number;
  let network: number;
  let sender: TapSender;
  const receiver = new Receiver(4096, 1);

  beforeEach(() => {
    before = openFds();
    memory = new TestMemory(1 << 20, { arena: Arena.reserve(2 ** 24) });
    driver = new TestRing(memory, 256);
    page = mapPage(memfdCreate('tap-sender', statePageFileSize(VIRT_QUEUES_MAX)))!;
    page.view(2);
    block = queueBlock(page.buffer, QUEUE);
    const opened = openRing({
      packed: false,
      ...driver.addresses,
      memory: new GuestMemory([memory.region]),
      indirect: false,
      eventIdx: false,
      position: 0,
      chainSegmentsMax: CHAIN_SEGMENTS_MAX,
      journal: block.journal,
    });
    if (!isRing(opened)) throw new Error(opened.code);
    ring = opened;
    ledger = new QueueLedger(ring, block);
    table = WriteTable.create();
    [tap, network] = pairOfSockets();
    sender = new TapSender(tap, table, page.burstAddress(QUEUE));
  });
  afterEach(() => {
    sender.close();
    table?.close();
    page.close();
    for (const fd of [page.fd, tap, network]) close(fd);
    memory.close();
    expect(openFds()).toBe(before);
  });

  /** Offers frames `from` to `to` - 1 and has as many sent as are taken; how many. */
  const send = (from: number, to: number): number => {
    for (let number = from; number < to; number++) {
      const frame = new Uint8Array(H + 60).fill(number, H);
      driver.add([frame]);
    }
    driver.publish();
    ring.available();
    const count = ring.scan(to - from, false);
    expect(count).toBe(to - from);
    ledger.begin();
    const sent = sender.sendPlain(ring, count, H, ledger);
    ledger.endPlain(sent);
    return sent;
  };
  const arrived = (): number[] => {
    const numbers: number[] = [];
    for (;;) {
      const got = receiver.receive(network);
      if (typeof got === 'number') return numbers;
      expect(got.bytes.subarray(0, H)).toEqual(new Uint8Array(H));
      expect(got.bytes.length).toBe(H + 60);
      numbers.push(got.bytes[H]!);
    }
  };
  const all = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i);

  it.each([1, 3, 4, 31, 32, 33, 100])('%i frames arrive in their order, and are completed', (count) => {
    expect(send(0, count)).toBe(count);
    expect(arrived()).toEqual(all(0, count));
    const { FRAMES, BYTES, COMPLETED_DESC } = QueueCounter;
    expect([FRAMES, BYTES, COMPLETED_DESC].map((counter) => block.counters[counter])).toEqual([
      count,
      count * 60,
      count,
    ]);
    expect(block.words[QueueWord.POSITION]).toBe(count);
    expect([QueueWord.BURST, QueueWord.IN_FLIGHT].map((word) => block.words[word])).toEqual([0, 0]);
    expect(sender.sentBefore(block.burst, 0)).toBe(0);
  });

  it('without a table, or a page of its own, frames go one by one', () => {
    for (const [of, address] of [
      [null, page.burstAddress(QUEUE)],
      [table, 0],
    ] as const) {
      const plain = new TapSender(tap, of, address);
      const held = openFds();
      sender.close();
      sender = plain;
      const from = block.words[QueueWord.POSITION]!;
      expect(send(from, from + 40)).toBe(40);
      expect(arrived()).toEqual(all(from, from + 40));
      expect(openFds()).toBe(held);
    }
  });

  it('F17 what finds no room stays with the driver, and nothing is sent twice', () => {
    let sent = 0;
    const numbers: number[] = [];
    const taken = send(0, 120);
    sent += taken;
    numbers.push(...arrived());
    while (sent < 120) {
      ring.available();
      const count = ring.scan(120 - sent, false);
      ledger.begin();
      const more = sender.sendPlain(ring, count, H, ledger);
      ledger.endPlain(more);
      sent += more;
      numbers.push(...arrived());
    }
    expect(numbers).toEqual(all(0, 120));
    expect(block.counters[QueueCounter.DROP_TAP_AGAIN]).toBe(0);
  });

  it('a representor that refuses: every frame is dropped under that reason, one by one or in bursts', () => {
    close(network);
    expect(send(0, 3)).toBe(3);
    expect(send(3, 50)).toBe(47);
    expect(block.counters[QueueCounter.DROP_TAP_ERROR]).toBe(50);
    expect(block.words[QueueWord.POSITION]).toBe(50);
    [network] = [memfdCreate('in its place', 0)];
  });
});
