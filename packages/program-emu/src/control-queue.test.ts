import { type ControlChange, NetDevice } from '@virtnet/engine-virtio-net';
import { GuestMemory, type RingFault } from '@virtnet/engine-virtqueue';
import {
  ControlAck,
  ControlAnnounce,
  ControlClass,
  ControlGuestOffloads,
  ControlMac,
  ControlMq,
  ControlRx,
  ControlVlan,
  DescriptorFlag,
  featureMask,
  HASH_TYPES,
  NetFeature,
  QueueCounter,
  QueueWord,
  queueBlock,
  statePageSize,
  VirtioFeature,
} from '@virtnet/wire';
import { beforeEach, describe, expect, it } from 'vitest';
import { ControlQueue } from './control-queue.js';
import { CONTROL_COMMANDS_PER_TURN } from './limits.js';
import { TestMemory, TestRing } from './test-support/test-ring.js';

const N = NetFeature;
const FEATURES = featureMask([
  VirtioFeature.VERSION_1,
  ...[N.CSUM, N.GUEST_CSUM, N.GUEST_TSO4, N.CTRL_GUEST_OFFLOADS, N.MAC, N.STATUS, N.CTRL_VQ, N.CTRL_RX],
  ...[N.CTRL_RX_EXTRA, N.CTRL_VLAN, N.GUEST_ANNOUNCE, N.MQ, N.CTRL_MAC_ADDR],
]);
const SIZE = 64;
const MAC = Uint8Array.of(2, 0, 0, 0, 0, 9);
const u16 = (value: number) => Uint8Array.of(value & 0xff, value >> 8);
const u32 = (value: number) => Uint8Array.of(value & 0xff, (value >> 8) & 0xff, 0, 0);
const bytes = (...parts: (Uint8Array | number)[]) =>
  Uint8Array.from(parts.flatMap((part) => (typeof part === 'number' ? [part] : [...part])));
const turns = async (count: number) => {
  for (let i = 0; i < count; i++) await new Promise((resolve) => setImmediate(resolve));
};

describe('control queue', () => {
  let net: NetDevice;
  let memory: TestMemory;
  let ring: TestRing;
  let queue: ControlQueue;
  const block = queueBlock(new ArrayBuffer(statePageSize(1)), 0);
  const applied: ControlChange[][] = [];
  const faults: RingFault[] = [];
  let interrupts = 0;
  /** What carrying out a change waits for. */
  let gate: Promise<void> = Promise.resolve();
  let whenApplied: () => void = () => {};
  const start = () =>
    queue.start(
      { ...ring.addresses, packed: false, indirect: false, eventIdx: false },
      block,
      new GuestMemory([memory.region]),
    );

  beforeEach(() => {
    net = new NetDevice({
      mac: '0C:C4:7A:FF:22:93',
      mtu: 1500,
      maxQueuePairs: 4,
      maxQueueSize: 256,
      speedMbps: null,
      offeredFeatures: FEATURES,
      hashTypes: HASH_TYPES,
    });
    net.acceptFeatures(FEATURES);
    memory = new TestMemory(1 << 20);
    ring = new TestRing(memory, SIZE);
    block.words.fill(0);
    block.counters.fill(0);
    applied.length = 0;
    faults.length = 0;
    interrupts = 0;
    gate = Promise.resolve();
    whenApplied = () => {};
    queue = new ControlQueue(
      net,
      { isQueueEnabled: (index) => index < 6 },
      {
        apply: async (changes) => {
          applied.push([...changes]);
          whenApplied();
          await gate;
        },
        interrupt: () => interrupts++,
        fault: (fault) => faults.push(fault),
      },
    );
    start();
  });

  /** Sends one command, framed as given; what came back. */
  async function command(readable: readonly Uint8Array[], writable: readonly number[] = [1]) {
    const head = ring.add(readable, writable);
    ring.publish();
    queue.kick();
    await turns(2);
    const [given, ...others] = ring.collect();
    expect([given?.head, others.length]).toEqual([head, 0]);
    return { ack: given!.written[0], usedBytes: given!.lengthBytes };
  }
  const send = (controlClass: number, name: number, data: Uint8Array = new Uint8Array(0)) =>
    command([bytes(controlClass, name), data].filter((part) => part.length > 0));
  const OK = { ack: ControlAck.OK, usedBytes: 1 };
  const REFUSED = { ack: ControlAck.ERR, usedBytes: 1 };

  it.each<[string, number, number, Uint8Array, string, (device: NetDevice) => unknown, unknown]>([
    ['RX', ControlClass.RX, ControlRx.PROMISC, bytes(1), 'filter', (d) => d.filterState()?.promiscuous, true],
    [
      'RX_EXTRA',
      ControlClass.RX,
      ControlRx.NOBCAST,
      bytes(1),
      'filter',
      (d) => d.filterState()?.noBroadcast,
      true,
    ],
    [
      'MAC table',
      ControlClass.MAC,
      ControlMac.TABLE_SET,
      bytes(u32(1), MAC, u32(0)),
      'filter',
      (d) => d.filterState()?.unicast,
      MAC,
    ],
    ['MAC address', ControlClass.MAC, ControlMac.ADDR_SET, MAC, 'filter,config', (d) => d.currentMac, MAC],
    [
      'VLAN',
      ControlClass.VLAN,
      ControlVlan.ADD,
      u16(7),
      'filter',
      (d) => d.filterState()?.vlans,
      Uint16Array.of(7),
    ],
    ['MQ', ControlClass.MQ, ControlMq.VQ_PAIRS_SET, u16(3), 'queue-pairs', (d) => d.activePairs, 3],
    [
      'GUEST_OFFLOADS',
      ControlClass.GUEST_OFFLOADS,
      ControlGuestOffloads.SET,
      bytes(2, 0, 0, 0, 0, 0, 0, 0),
      'offloads',
      (d) => d.receiveOffloads(),
      2n,
    ],
  ])(
    '%s: acknowledged with used.len 1 after its change was carried out',
    async (_, cls, name, data, kinds, look, is) => {
      expect(await send(cls, name, data)).toEqual(OK);
      expect(applied.map((changes) => changes.map(({ kind }) => kind).join())).toEqual([kinds]);
      expect(look(net)).toEqual(is);
    },
  );

  it('ANNOUNCE: acknowledged, and the request to announce is gone', async () => {
    net.announce();
    expect(await send(ControlClass.ANNOUNCE, ControlAnnounce.ACK)).toEqual(OK);
    expect(net.announcing).toBe(false);
  });

  it.each([
    ['an unknown class', 77, 0, new Uint8Array(0)],
    ['an unknown command', ControlClass.RX, 99, bytes(1)],
    ['too little data', ControlClass.MAC, ControlMac.ADDR_SET, MAC.subarray(1)],
    ['more pairs than enabled queues', ControlClass.MQ, ControlMq.VQ_PAIRS_SET, u16(4)],
    ['no pairs', ControlClass.MQ, ControlMq.VQ_PAIRS_SET, u16(0)],
    ['offloads that were not agreed on', ControlClass.GUEST_OFFLOADS, 0, bytes(0, 0, 0, 0, 0, 0, 0, 128)],
  ])('%s: refused, nothing carried out, and the queue goes on', async (_, cls, name, data) => {
    expect(await send(cls, name, data)).toEqual(REFUSED);
    expect(applied).toEqual([]);
    expect(await send(ControlClass.VLAN, ControlVlan.ADD, u16(1))).toEqual(OK);
  });

  it('any framing of a command has the same answer (2.6.4)', async () => {
    const request = bytes(ControlClass.MAC, ControlMac.TABLE_SET, u32(1), MAC, u32(0));
    const ones = [...request].map((byte) => Uint8Array.of(byte));
    expect(await command(ones)).toEqual(OK);
    for (let cut = 1; cut < request.length; cut++) {
      net.control = { ...net.control, unicast: { addresses: new Uint8Array(0), overflow: false } as never };
      expect(await command([request.slice(0, cut), request.slice(cut)], [1])).toEqual(OK);
      expect(net.filterState()?.unicast).toEqual(MAC);
    }
  });

  it('more writable bytes than needed: one is written, and used.len says so', async () => {
    expect(await command([bytes(ControlClass.RX, ControlRx.ALLMULTI, 1)], [4, 4])).toEqual(OK);
  });

  it('no writable byte: executed, given back with used.len 0', async () => {
    const answer = await command([bytes(ControlClass.VLAN, ControlVlan.ADD, u16(5))], []);
    expect(answer).toEqual({ ack: undefined, usedBytes: 0 });
    expect(net.filterState()?.vlans).toEqual(Uint16Array.of(5));
  });

  it('nothing readable, or half a header: refused', async () => {
    expect(await command([], [1])).toEqual(REFUSED);
    expect(await command([bytes(ControlClass.RX)])).toEqual(REFUSED);
  });

  it('a chain that names memory outside: given back empty, counted, and the queue goes on', async () => {
    ring.writeDescriptor(0, {
      address: 0xdead_0000_0000n,
      lengthBytes: 8,
      flags: DescriptorFlag.WRITE,
      next: 0,
    });
    ring.offer(0);
    ring.publish();
    queue.kick();
    await turns(2);
    expect([ring.usedIndex, block.counters[QueueCounter.INVALID_BUFFER], faults]).toEqual([1, 1, []]);
  });

  it('a ring that lies: the fault is told once, and nothing is worked any more', async () => {
    ring.offer(SIZE);
    ring.publish();
    queue.kick();
    await turns(2);
    queue.kick();
    await turns(2);
    expect(faults).toMatchObject([{ code: 'HEAD_OUT_OF_RANGE' }]);
    expect([queue.open, ring.usedIndex]).toEqual([false, 0]);
  });

  it('rings that cannot be opened: the fault is told, and the queue is closed', () => {
    queue.start(
      { ...ring.addresses, descriptorAddress: 0x1n, packed: false, indirect: false, eventIdx: false },
      block,
      new GuestMemory([memory.region]),
    );
    expect(faults).toMatchObject([{ code: 'BAD_RING_ADDRESS' }]);
    expect(queue.open).toBe(false);
  });

  it('the answer is visible only after the change is in force', async () => {
    const hold = Promise.withResolvers<void>();
    gate = hold.promise;
    ring.add([bytes(ControlClass.RX, ControlRx.PROMISC, 1)], [1]);
    ring.publish();
    queue.kick();
    await turns(3);
    expect([applied.length, ring.usedIndex, interrupts]).toEqual([1, 0, 0]);
    hold.resolve();
    await turns(1);
    expect([ring.usedIndex, interrupts]).toEqual([1, 1]);
  });

  it('stop while a command runs: waits for it, does not give it back, and a successor executes it again', async () => {
    const hold = Promise.withResolvers<void>();
    gate = hold.promise;
    ring.add([bytes(ControlClass.VLAN, ControlVlan.ADD, u16(9))], [1]);
    ring.publish();
    queue.kick();
    await turns(1);
    let stopped = false;
    const stop = queue.stop().then(() => {
      stopped = true;
    });
    await turns(2);
    expect(stopped).toBe(false);
    hold.resolve();
    await stop;
    expect([ring.usedIndex, block.words[QueueWord.POSITION]]).toEqual([0, 0]);
    start();
    await turns(2);
    expect(ring.collect()).toMatchObject([{ lengthBytes: 1 }]);
    expect(applied.length).toBe(2);
    expect(net.filterState()?.vlans).toEqual(Uint16Array.of(9));
  });

  it('restarted over other memory while a command runs: the command is answered once, in the new ring', async () => {
    const hold = Promise.withResolvers<void>();
    gate = hold.promise;
    ring.add([bytes(ControlClass.VLAN, ControlVlan.ADD, u16(3))], [1]);
    ring.publish();
    queue.kick();
    await turns(1);
    start();
    hold.resolve();
    await turns(4);
    expect(ring.collect()).toHaveLength(1);
    expect(block.words[QueueWord.POSITION]).toBe(1);
  });

  it('a kick during a run causes another look', async () => {
    const hold = Promise.withResolvers<void>();
    gate = hold.promise;
    ring.add([bytes(ControlClass.RX, ControlRx.PROMISC, 1)], [1]);
    ring.publish();
    queue.kick();
    await turns(1);
    ring.add([bytes(ControlClass.RX, ControlRx.PROMISC, 0)], [1]);
    ring.publish();
    queue.kick();
    hold.resolve();
    await turns(3);
    expect(ring.collect()).toHaveLength(2);
  });

  it('continues where its block says, publishes what was completed, and interrupts for it', async () => {
    await send(ControlClass.VLAN, ControlVlan.ADD, u16(1));
    await queue.stop();
    block.words[QueueWord.PUBLISHED] = 0; // killed between the two stores
    const before = interrupts;
    start();
    await turns(1);
    expect([ring.usedIndex, interrupts - before]).toEqual([1, 1]);
    expect(await send(ControlClass.VLAN, ControlVlan.DEL, u16(1))).toEqual(OK);
  });

  it('a driver that never stops asking leaves the main thread to others', async () => {
    const ASKED_MAX = 1000; // a queue that kept the thread would end here
    let asked = 0;
    const ask = () => {
      ring.collect();
      if (asked++ >= ASKED_MAX) return;
      ring.add([bytes(ControlClass.RX, ControlRx.PROMISC, asked & 1)], [1]);
      ring.publish();
    };
    whenApplied = ask;
    ask();
    queue.kick();
    await turns(1);
    expect(asked).toBeLessThanOrEqual(CONTROL_COMMANDS_PER_TURN + 1);
    for (let i = 0; i < 3; i++) await turns(1);
    expect(asked).toBeGreaterThan(2 * CONTROL_COMMANDS_PER_TURN);
    await queue.stop();
  });
});
