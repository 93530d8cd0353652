import { MessageChannel } from 'node:worker_threads';
import { BURST_CREDIT } from '@virtnet/engine-eswitch';
import { SplitRing } from '@virtnet/engine-virtqueue';
import { Arena, close, eventfdDrain, laneAt, Receiver, send } from '@virtnet/host-linux';
import { createControl, MailboxReceiver } from '@virtnet/host-workers';
import { Errno, QueueCounter, QueueWord, queueBlockAt, WorkMark } from '@virtnet/wire';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { SwitchedConfig, WorkerMessage, WorkerReport } from './datapath-protocol.js';
import { IDLE_TURNS_MAX, POLL_BUDGET } from './limits.js';
import { SCRATCH_BYTES, Scratch } from './scratch.js';
import { openFds } from './test-support/holdings.js';
import { pairOfSockets } from './test-support/test-device.js';
import { HEADER_BYTES, RECEIVE, TRANSMIT, WorkerFixture } from './test-support/worker-fixture.js';
import { WorkerLoop } from './worker-loop.js';

const BROADCAST = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
const macOf = (device: number): number[] => [2, 0, 0, 0, 0, device + 1];
const HEADER = new Uint8Array(HEADER_BYTES);

function frame(from: number, to: number | null, lengthBytes = 200): Uint8Array {
  const bytes = new Uint8Array(lengthBytes).fill(from + 1);
  bytes.set(to === null ? BROADCAST : macOf(to));
  bytes.set(macOf(from), 6);
  bytes.set([8, 0], 12);
  return bytes;
}

/** Functions of one worker without TAPs; the loop is turned by hand. */
describe('switching', () => {
  let before: number;
  let functions: WorkerFixture[];
  let loop: WorkerLoop;
  let channel: MessageChannel;
  const reports: WorkerReport[] = [];

  beforeEach(() => {
    before = openFds();
    reports.length = 0;
    const arena = Arena.reserve(2 ** 26);
    functions = [0, 1, 2].map((device) => new WorkerFixture(arena, device));
    channel = new MessageChannel();
    const mailbox = new MailboxReceiver<WorkerMessage>(channel.port1, createControl());
    const scratch = new Scratch(arena.locate(arena.mapAnonymous(SCRATCH_BYTES)));
    const report = (each: WorkerReport) => reports.push(each);
    loop = new WorkerLoop(arena, mailbox, -1, report, laneAt(0n, 0), scratch);
  });
  afterEach(() => {
    loop.close();
    channel.port1.close();
    for (const each of functions) each.close();
    expect(openFds()).toBe(before);
  });

  const slotOf = (device: number, queue: number) => 2 * device + queue;
  const configure = (device: number, switched: SwitchedConfig | null) => {
    for (const queue of [RECEIVE, TRANSMIT]) {
      const config = switched === null ? null : functions[device]!.config(queue, { tapFd: -1, switched });
      loop.handle({ kind: 'queue', device, slot: slotOf(device, queue), config });
    }
  };
  const start = (mode: SwitchedConfig['mode'], domain = 0) => {
    functions.forEach((each, device) => {
      loop.handle(each.memoryMessage);
      configure(device, { mode, domain, frameBytes: 500 });
      each.offerBuffers(16);
    });
    settle();
    for (const each of functions) for (const fd of each.interruptFds) eventfdDrain(fd);
  };
  const settle = () => {
    for (let i = 0; i < 10 * IDLE_TURNS_MAX; i++) loop.turn();
  };
  const transmit = (device: number, ...frames: Uint8Array[]) => {
    functions[device]!.offer(...frames);
    loop.wake(slotOf(device, TRANSMIT));
    settle();
  };
  /** It counts in a block of the third function's page that no queue has. */
  const UPLINK_BLOCK = 3;
  const setUplink = (fd: number) => {
    const { page } = functions[2]!;
    const pageAddress = page.address + BigInt(queueBlockAt(UPLINK_BLOCK) - queueBlockAt(0));
    const pageBytes = page.buffer.byteLength - queueBlockAt(UPLINK_BLOCK) + queueBlockAt(0);
    loop.handle({ kind: 'uplink', domain: 0, uplink: fd < 0 ? null : { fd, pageAddress, pageBytes } });
  };
  const countUplink = (counter: QueueCounter) => functions[2]!.block(UPLINK_BLOCK).counters[counter]!;
  const received = (device: number) =>
    functions[device]!.receive.collect().map(({ written, lengthBytes }) =>
      written.slice(HEADER_BYTES, lengthBytes),
    );
  const countTransmit = (device: number, counter: QueueCounter) =>
    functions[device]!.block(TRANSMIT).counters[counter]!;

  it('frames go to who they are for, its driver is interrupted, and an idle receive queue asks for no kick', () => {
    start('eswitch');
    transmit(0, frame(0, null));
    expect([received(0), received(1), received(2)]).toEqual([[], [frame(0, null)], [frame(0, null)]]);
    transmit(1, frame(1, 0), frame(1, 0, 1500));
    expect([received(0), received(1), received(2)]).toEqual([[frame(1, 0), frame(1, 0, 1500)], [], []]);
    expect(eventfdDrain(functions[0]!.interruptFds[RECEIVE])).toBe(1);
    expect(functions[0]!.block(RECEIVE).counters[QueueCounter.INTERRUPTS]).toBe(1);
    expect(functions[0]!.offerBuffers(1), 'no kick').toBe(false);
  });

  it('a queue that is configured anew keeps what was learned, a function that left is gone', () => {
    start('eswitch');
    transmit(1, frame(1, null));
    for (const device of [0, 2]) received(device);
    configure(1, { mode: 'eswitch', domain: 0, frameBytes: 500 });
    transmit(0, frame(0, 1));
    expect([received(1).length, received(2).length]).toEqual([1, 0]);
    configure(1, null);
    transmit(0, frame(0, 1));
    expect(countTransmit(0, QueueCounter.DROP_NO_DESTINATION)).toBe(1);
    loop.handle({ kind: 'memory', device: 1, regions: null });
    transmit(0, frame(0, 1));
    expect([received(1).length, received(2).length]).toEqual([0, 1]);
  });

  it('functions of different domains do not meet', () => {
    start('eswitch');
    configure(2, null);
    loop.handle({ kind: 'memory', device: 2, regions: null });
    loop.handle(functions[2]!.memoryMessage);
    configure(2, { mode: 'eswitch', domain: 1, frameBytes: 500 });
    transmit(0, frame(0, null));
    expect([received(1).length, received(2).length]).toEqual([1, 0]);
    transmit(2, frame(2, null));
    expect(countTransmit(2, QueueCounter.DROP_NO_DESTINATION)).toBe(1);
  });

  it('a broken receive ring is reported for its own slot, and the sender goes on', () => {
    start('eswitch');
    const { memory, receive } = functions[1]!;
    memory.view.setUint16(memory.at(receive.driverAddress) + 2, 1000, true);
    transmit(0, frame(0, null));
    expect(reports).toMatchObject([
      { kind: 'fault', slot: slotOf(1, RECEIVE), fault: { code: 'AVAILABLE_INDEX_JUMP' } },
    ]);
    expect(received(2)).toHaveLength(1);
  });

  it('an uplink carries what nobody here is for, and brings frames in', () => {
    const [tap, network] = pairOfSockets();
    const receiver = new Receiver(4096, 1);
    const left = () => {
      const got = receiver.receive(network);
      return typeof got === 'number' ? got : got.bytes.slice(HEADER_BYTES);
    };
    start('eswitch');
    transmit(0, frame(0, null));
    for (const device of [1, 2]) received(device);
    send(network, Uint8Array.from([...HEADER, ...frame(9, 0)]));
    setUplink(tap);
    settle();
    expect([received(0), received(1)]).toEqual([[frame(9, 0)], []]);
    transmit(1, frame(1, 9));
    expect(left(), 'the station was heard behind the uplink').toEqual(frame(1, 9));
    expect(received(2)).toEqual([]);
    transmit(1, frame(1, 10));
    expect(left(), 'one nobody heard may be there too').toEqual(frame(1, 10));
    expect(received(2)).toEqual([frame(1, 10)]);
    setUplink(-1);
    transmit(1, frame(1, 9));
    expect([left(), received(2)]).toEqual([-Errno.EAGAIN, [frame(1, 9)]]);
    for (const fd of [tap, network]) close(fd);
  });

  it('what a full uplink, or one that refuses, does not take is counted at the sender for what it is', () => {
    const [tap, network] = pairOfSockets();
    const counts = () => {
      const { FRAMES, DROP_TAP_AGAIN, DROP_TAP_ERROR, UPLINK_MISSED, DROP_NO_DESTINATION } = QueueCounter;
      return [FRAMES, DROP_TAP_AGAIN, DROP_TAP_ERROR, UPLINK_MISSED, DROP_NO_DESTINATION].map((counter) =>
        countTransmit(1, counter),
      );
    };
    start('eswitch');
    send(network, Uint8Array.from([...HEADER, ...frame(9, null)]));
    setUplink(tap);
    settle();
    for (const device of [0, 1, 2]) received(device);
    while (send(tap, Uint8Array.of(0)) > 0);
    transmit(1, frame(1, 9), frame(1, null));
    expect(counts(), 'the station behind it, then everybody').toEqual([1, 1, 0, 1, 0]);
    expect([received(0), received(2)]).toEqual([[frame(1, null)], [frame(1, null)]]);
    close(network);
    transmit(1, frame(1, 9), frame(1, null));
    expect(counts()).toEqual([2, 1, 1, 2, 0]);
    expect([received(0), received(2)]).toEqual([[frame(1, null)], [frame(1, null)]]);
    setUplink(-1);
    close(tap);
  });

  it('what comes in by an uplink for nobody is counted at the uplink, under a reason, and everything else as a frame', () => {
    const [tap, network] = pairOfSockets();
    const { FRAMES, BYTES, DROP_NO_DESTINATION, DROP_SAME_PORT, DROP_NOT_SWITCHED } = QueueCounter;
    const counts = () =>
      [FRAMES, BYTES, DROP_NO_DESTINATION, DROP_SAME_PORT, DROP_NOT_SWITCHED].map(countUplink);
    const arrives = (...frames: Uint8Array[]) => {
      for (const each of frames) send(network, Uint8Array.from([...HEADER, ...each]));
      loop.takeEvents(0);
      settle();
    };
    setUplink(tap);
    arrives(frame(9, null), frame(9, 0));
    expect(counts(), 'there is no function').toEqual([0, 0, 2, 0, 0]);
    start('eswitch');
    arrives(frame(9, null), frame(9, 0, 300));
    expect([received(0).length, received(1).length, received(2).length]).toEqual([2, 2, 2]);
    arrives(frame(8, 9), new Uint8Array(9));
    expect(counts(), 'its station is where it came from; too short for addresses').toEqual([2, 500, 2, 1, 1]);
    for (const device of [0, 1, 2]) configure(device, null);
    arrives(frame(9, null));
    expect(counts(), 'nobody receives').toEqual([2, 500, 3, 1, 1]);
    for (const each of functions) each.receive.collect();
    setUplink(-1);
    for (const fd of [tap, network]) close(fd);
  });

  it('a receiver is marked beside its sender while its ring is worked, and alone when its frame came by an uplink', () => {
    const [tap, network] = pairOfSockets();
    start('eswitch');
    const seen = new Set<string>();
    const publish = vi.spyOn(SplitRing.prototype, 'publish').mockImplementation(function (this: SplitRing) {
      const marked = (queue: number) =>
        functions.flatMap((each, device) => {
          const mark = each.block(queue).words[QueueWord.UNDER_WORK]!;
          return mark === 0
            ? []
            : [`${queue === RECEIVE ? 'to' : 'from'} ${device} by ${mark - WorkMark.LANE}`];
        });
      seen.add([...marked(TRANSMIT), ...marked(RECEIVE)].join(', '));
      return false;
    });
    setUplink(tap);
    transmit(0, frame(0, null));
    expect([...seen].toSorted()).toEqual(['from 0 by 0', 'from 0 by 0, to 1 by 0', 'from 0 by 0, to 2 by 0']);
    seen.clear();
    send(network, Uint8Array.from([...HEADER, ...frame(9, 0)]));
    loop.takeEvents(0);
    loop.turn();
    expect([...seen]).toEqual(['to 0 by 0']);
    publish.mockRestore();
    setUplink(-1);
    for (const fd of [tap, network]) close(fd);
  });

  it('a burst from an uplink ends when its copies are paid for, and goes on in the next turn without an event', () => {
    const [tap, network] = pairOfSockets();
    start('eswitch');
    for (let i = 0; i < POLL_BUDGET; i++) send(network, Uint8Array.from([...HEADER, ...frame(9, null)]));
    setUplink(tap);
    const paid = Math.ceil(BURST_CREDIT / functions.length);
    expect(paid).toBeLessThan(POLL_BUDGET);
    expect(loop.turn()).toBe(paid);
    expect(countUplink(QueueCounter.FRAMES)).toBe(paid);
    expect(loop.turn()).toBe(POLL_BUDGET - paid);
    expect(countUplink(QueueCounter.FRAMES)).toBe(POLL_BUDGET);
    setUplink(-1);
    for (const fd of [tap, network]) close(fd);
  });

  it('a loop gives frames back, a sink swallows them, a source makes them up', () => {
    start('loop');
    transmit(0, frame(0, null), frame(0, 1));
    expect([received(0), received(1)]).toEqual([[frame(0, null), frame(0, 1)], []]);
    configure(1, { mode: 'sink', domain: 0, frameBytes: 500 });
    transmit(1, frame(1, 0), frame(1, 0));
    expect(countTransmit(1, QueueCounter.FRAMES)).toBe(2);
    expect(received(1)).toEqual([]);
    configure(2, { mode: 'source', domain: 0, frameBytes: 500 });
    settle();
    const frames = received(2);
    expect(frames).toHaveLength(16);
    for (const each of frames) expect(each).toHaveLength(500);
  });
});
