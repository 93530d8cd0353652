/**
 * control-queue.ts: the control virtqueue of one function, worked on the main thread.
 *
 * Theory
 *   Commands are rare and touch everything (filters, steering, records), so they are executed here and not by a
 *   worker. One command at a time: its request is read once into private memory, executed, its effect recorded and
 *   carried out in the datapath, and only then is it acknowledged and given back. A successor that finds a command
 *   not given back executes it again; every command is a setting, so that is harmless.
 *
 * Invariants
 *   I1  the acknowledgement is written after the effect is in force and recorded.
 *   I2  used.len is what was written: 1 for a bare acknowledgement, 0 when there is no writable byte.
 *   I3  at most one run at a time; a kick during a run causes another look.
 *   I4  a driver that never stops asking does not keep the main thread: others have their turn in between.
 *
 * Limits  CONTROL_COMMAND_BYTES_MAX a command, longer ones are refused; CONTROL_COMMANDS_PER_TURN.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import {
  type ControlChange,
  type ControlContext,
  type ControlResult,
  executeControl,
  type NetDevice,
} from '@virtnet/engine-virtio-net';
import {
  type DeviceRing,
  type GuestMemory,
  isRing,
  openRing,
  QueueLedger,
  type RingFault,
  resumePosition,
} from '@virtnet/engine-virtqueue';
import { MAIN_LANE, type QueueBlock, QueueCounter, QueueWord, WorkMark } from '@virtnet/wire';
import { CHAIN_SEGMENTS_MAX, CONTROL_COMMAND_BYTES_MAX, CONTROL_COMMANDS_PER_TURN } from './limits.js';

/** virtio_net_ctrl_ack: the command was refused (5.1.6.5). */
const ACK_ERROR = 1;
/** The main thread works every control queue. */
const MARK = WorkMark.LANE + MAIN_LANE;

export interface ControlQueueConfig {
  readonly queueSize: number;
  readonly descriptorAddress: bigint;
  readonly driverAddress: bigint;
  readonly deviceAddress: bigint;
  readonly packed: boolean;
  readonly indirect: boolean;
  readonly eventIdx: boolean;
}

export interface ControlQueueOwner {
  /** Records and carries out what a command changed. */
  apply(changes: readonly ControlChange[]): Promise<void>;
  interrupt(): void;
  fault(fault: RingFault): void;
}

interface OpenRing {
  readonly ring: DeviceRing;
  readonly ledger: QueueLedger;
  /** Words of its block of the state page. */
  readonly words: Uint32Array;
}

export class ControlQueue {
  readonly #device: NetDevice;
  readonly #context: ControlContext;
  readonly #owner: ControlQueueOwner;
  #open: OpenRing | null = null;
  #running: Promise<void> | null = null;
  #again = false;

  constructor(device: NetDevice, context: ControlContext, owner: ControlQueueOwner) {
    this.#device = device;
    this.#context = context;
    this.#owner = owner;
  }

  get open(): boolean {
    return this.#open !== null;
  }

  /** Starts (or restarts, over other memory) the queue where its block of the state page says. */
  start(config: ControlQueueConfig, block: QueueBlock, memory: GuestMemory): void {
    block.words[QueueWord.UNDER_WORK] = MARK;
    this.#start(config, block, memory);
    block.words[QueueWord.UNDER_WORK] = 0;
  }

  #start(config: ControlQueueConfig, block: QueueBlock, memory: GuestMemory): void {
    const ring = openRing({
      ...config,
      memory,
      position: resumePosition(block),
      chainSegmentsMax: CHAIN_SEGMENTS_MAX,
      journal: block.journal,
    });
    if (!isRing(ring)) {
      this.#open = null;
      this.#owner.fault(ring);
      return;
    }
    const ledger = new QueueLedger(ring, block);
    this.#open = { ring, ledger, words: block.words };
    if (ledger.resume()) this.#owner.interrupt();
    this.kick();
  }

  /** Stops the queue; a command being executed finishes first, and is not given back. */
  async stop(): Promise<void> {
    this.#open = null;
    await this.#running;
  }

  /** Looks at the queue; returns at once. */
  kick(): void {
    if (this.#open === null) return;
    if (this.#running !== null) {
      this.#again = true;
      return;
    }
    this.#running = this.#run().finally(() => {
      this.#running = null;
      if (this.#again) {
        this.#again = false;
        this.kick();
      }
    });
  }

  async #run(): Promise<void> {
    for (let looks = 1; ; looks++) {
      if (looks % CONTROL_COMMANDS_PER_TURN === 0) await nextTurn();
      const open = this.#open;
      if (open === null) return;
      const { ring, ledger, words } = open;
      words[QueueWord.UNDER_WORK] = MARK;
      const result = this.#take(open);
      words[QueueWord.UNDER_WORK] = 0;
      if (result === 'again') continue;
      if (result === 'done') return;
      const { ack, extra, changed } = result;
      if (changed.length > 0) await this.#owner.apply(changed);
      if (this.#open !== open) return; // stopped meanwhile; a successor of this ring executes the command again
      words[QueueWord.UNDER_WORK] = MARK;
      ledger.completeAnswer(this.#answer(ring, ack, extra ?? null));
      this.#publish(ledger);
      words[QueueWord.UNDER_WORK] = 0;
    }
  }

  /** Takes and executes one command; whether to look again or to wait for a kick when there is none. */
  #take({ ring, ledger }: OpenRing): ControlResult | 'again' | 'done' {
    ledger.turn();
    const segments = ring.take();
    if (segments === 0) return ring.armKicks() ? 'again' : 'done';
    if (segments > 0) return this.#execute(ring);
    if (!ledger.refuse()) {
      this.#open = null;
      this.#owner.fault(ring.fault!);
      return 'done';
    }
    this.#publish(ledger);
    return 'again';
  }

  #execute(ring: DeviceRing): ControlResult {
    if (ring.readableBytes > CONTROL_COMMAND_BYTES_MAX) return { ack: ACK_ERROR, changed: [] };
    const request = new Uint8Array(ring.readableBytes);
    ring.gather(0, request, 0, request.length);
    return executeControl(this.#device, request, this.#context);
  }

  #answer(ring: DeviceRing, ack: number, extra: Uint8Array | null): number {
    const reply = new Uint8Array(1 + (extra?.length ?? 0));
    if (extra !== null) reply.set(extra, 0);
    reply[reply.length - 1] = ack;
    return ring.scatter(0, reply, 0, Math.min(reply.length, ring.writableBytes));
  }

  #publish(ledger: QueueLedger): void {
    if (!ledger.publish()) return;
    ledger.count(QueueCounter.INTERRUPTS);
    this.#owner.interrupt();
  }
}
