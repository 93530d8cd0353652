/** moderation-driver-thread.ts: what works the queues of moderation-driver.ts, which says how; a worker thread of it. */
import { workerData } from 'node:worker_threads';
import { DriverRing, NOTHING_USED, RING_FAULT } from '@virtnet/driver-virtio-net';
import { Epoll, eventfdDrain, eventfdSignal, setThreadAffinity, sharedMapping } from '@virtnet/host-linux';
import { EpollEvent, NetHeader } from '@virtnet/wire';
import { type DrivenQueue, DriverCount, type DriverStart, DriverWord } from './moderation-driver.ts';

/** Buffers are given back to the device in bursts of so many, and frames sent, if so many are due. */
const BURST = 64;
/** What was due longer ago is not made up for. */
const OVERDUE_MS_MAX = 1;

const start = workerData as DriverStart;
const { words, counts, frame, framesPerMs } = start;
if (setThreadAffinity([start.processor]) < 0) throw new Error(`no thread on processor ${start.processor}`);

/** A queue's ring in its memory. */
function open({ memory, plan }: DrivenQueue, writable: boolean) {
  const mapping = sharedMapping(memory.fd, plan.end);
  if (typeof mapping === 'number') throw new Error(`mmap: errno ${-mapping}`);
  const { buffer } = mapping;
  return { mapping, ring: new DriverRing({ buffer, iova: memory.iova, plan, eventIdx: true, writable }) };
}

const receive = open(start.receive, true);
const transmit = open(start.transmit, false);
const opened = Epoll.create();
if (typeof opened === 'number') throw new Error(`epoll_create1: errno ${-opened}`);
const interrupts = opened;
interrupts.add(start.receive.callFd, EpollEvent.IN, 0);

function publish(ring: DriverRing, kickFd: number): void {
  if (ring.publish()) eventfdSignal(kickFd);
}

/** The next slot the device has done with; -1: there is none. */
function collect(ring: DriverRing): number {
  const slot = ring.collect();
  if (slot === RING_FAULT) throw new Error('the ring holds what was never offered');
  return slot === NOTHING_USED ? -1 : slot;
}

function giveBuffers(): void {
  const { ring } = receive;
  for (let slot = ring.take(); slot >= 0; slot = ring.take()) ring.offer(slot, ring.plan.slotBytes);
  ring.interruptsOn();
  publish(ring, start.receive.kickFd);
}

/** Everything there is, and what comes meanwhile. */
function receiveAll(): void {
  const { ring } = receive;
  do {
    let taken = 0;
    for (let slot = collect(ring); slot >= 0; slot = collect(ring)) {
      counts[DriverCount.BYTES]! += ring.usedBytes - NetHeader.sizeBytes;
      ring.offer(slot, ring.plan.slotBytes);
      if (++taken % BURST === 0) publish(ring, start.receive.kickFd);
    }
    counts[DriverCount.RECEIVED]! += taken;
    publish(ring, start.receive.kickFd);
  } while (ring.interruptsOn());
}

/** At most `count` frames, or none while there is no room for them or a burst; how many. */
function send(count: number): number {
  const { ring } = transmit;
  for (let slot = collect(ring); slot >= 0; slot = collect(ring)) ring.release(slot);
  if (ring.plan.size - ring.held < Math.min(count, BURST)) return 0;
  let sent = 0;
  for (; sent < count; sent++) {
    const slot = ring.take();
    if (slot < 0) break;
    ring.offer(slot, NetHeader.sizeBytes + frame.length);
  }
  publish(ring, start.transmit.kickFd);
  counts[DriverCount.SENT]! += sent;
  return sent;
}

function work(): void {
  let sinceMs = performance.now();
  let owed = 0;
  while (Atomics.load(words, DriverWord.GOES) === 1) {
    const nowMs = performance.now();
    owed = Math.min(owed + (nowMs - sinceMs) * framesPerMs, OVERDUE_MS_MAX * framesPerMs);
    sinceMs = nowMs;
    if (owed >= 1) owed -= send(Math.floor(owed));
    if (interrupts.wait(0) <= 0) continue;
    eventfdDrain(start.receive.callFd);
    counts[DriverCount.INTERRUPTS]!++;
    receiveAll();
  }
}

const memory = new Uint8Array(transmit.mapping.buffer);
for (let slot = 0; slot < transmit.ring.plan.size; slot++)
  memory.set(frame, transmit.ring.slotAt(slot) + NetHeader.sizeBytes);
giveBuffers();
for (let goes = 0; goes >= 0; goes = Atomics.load(words, DriverWord.GOES)) {
  if (goes === 1) work();
  else Atomics.wait(words, DriverWord.GOES, 0);
}
interrupts.close();
receive.mapping.close();
transmit.mapping.close();
