/**
 * control-target.ts: the control queue's commands, any bytes of them.
 *
 * Invariants checked
 *   I1  a refused command changes nothing, an acknowledged one leaves a state that can be saved and taken over.
 *   I2  no command throws, and none takes longer than STEP_MS_MAX; the filter and the steering that follow from it
 *       neither.
 *   I3  nothing outside the driver's memory is read or written.
 *   I4  frames are steered to queues that exist.
 */
import {
  executeControl,
  HASHED_BYTES_MAX,
  hotplugFeatures,
  NetDevice,
  ReceiveFilter,
  ReceiveSteering,
} from '@virtnet/engine-virtio-net';
import { ControlAck, ControlClass, ControlMq, featureMask, HASH_TYPES, NetFeature } from '@virtnet/wire';
import { ChainFixture, CUT_REGION, split } from './chain-fixture.js';
import { FuzzInput } from './fuzz-input.js';
import { FuzzFailure, type FuzzTarget, type FuzzWatch } from './fuzzer.js';
import { GuardedMemory } from './guarded-memory.js';

const PROFILE = {
  mac: '0C:C4:7A:FF:22:93',
  mtu: 1500,
  maxQueuePairs: 31,
  maxQueueSize: 1024,
  speedMbps: 25_000,
  offeredFeatures:
    hotplugFeatures({ uso: true, vlan: true, packedVq: true, mrgRxbuf: true }) |
    featureMask([NetFeature.HASH_REPORT, NetFeature.RSS]),
  hashTypes: HASH_TYPES,
};
const COMMANDS_MAX = 24;
/** With one more of the longest command they fit the driver's memory, however they are cut. */
const BYTES_MAX = 128 * 1024;
const COMMANDS_PER_CLASS = 6;
const DATA_BYTES = [0, 1, 2, 4, 6, 8, 12, 20, 392, 776, 66_000] as const;
const Saw = { ACK: 1, CHANGE: 2, FILTER: 3, NO_FEATURES: 4, STEERED: 5 } as const;

/** Data of RSS_CONFIG that is as long as it says, or nearly, with queues that are there, mostly. */
function steeringOf(input: FuzzInput): Uint8Array {
  const entries = input.u8() < 224 ? 1 << (input.u8() & 7) : input.u8() + 1;
  const keyBytes = input.u8() % 42;
  const data = new Uint8Array(11 + 2 * entries + keyBytes + (input.bit() ? 0 : input.u8() % 8));
  const view = new DataView(data.buffer);
  const pair = () => (input.u8() < 240 ? input.u8() & 3 : input.u16());
  view.setUint32(0, input.u8() < 224 ? input.u16() & HASH_TYPES : input.u32(), true);
  view.setUint16(4, input.u8() < 240 ? entries - 1 : input.u16(), true);
  view.setUint16(6, pair(), true);
  for (let i = 0; i < entries; i++) view.setUint16(8 + 2 * i, pair(), true);
  view.setUint16(8 + 2 * entries, pair(), true);
  view.setUint8(10 + 2 * entries, keyBytes);
  return data;
}

/** Data of a command: any bytes, or MAC tables that are as long as they say, or nearly. */
function dataOf(input: FuzzInput): Uint8Array {
  if (input.u8() < 192) {
    const data = new Uint8Array(input.pick(DATA_BYTES));
    data.set(input.bytes(Math.min(data.length, 16)));
    return data;
  }
  const counts = [input.u8(), input.u8()];
  const data = new Uint8Array(8 + 6 * (counts[0]! + counts[1]!) + (input.bit() ? 0 : input.u8() % 8));
  const view = new DataView(data.buffer);
  view.setUint32(0, counts[0]!, true);
  view.setUint32(4 + 6 * counts[0]!, input.bit() ? counts[1]! : input.u32(), true);
  return data;
}

/** Sends one command; its bytes. */
function command(device: NetDevice, chains: ChainFixture, input: FuzzInput, watch: FuzzWatch): number {
  const kind = input.u8() < 224 ? input.pick(Object.values(ControlClass)) : input.u8();
  const header = Uint8Array.of(kind, input.u8() < 224 ? input.u8() % COMMANDS_PER_CLASS : input.u8());
  const steers = kind === ControlClass.MQ && header[1] === ControlMq.RSS_CONFIG && input.u8() < 224;
  const request = new Uint8Array([...header, ...(steers ? steeringOf(input) : dataOf(input))]);
  const cut = input.u8() === 255 ? request.subarray(0, input.u8() % 3) : request;
  if (!chains.take({ readable: split(cut, input), writable: [input.u8() % 12] })) return cut.length;
  const { ring } = chains;
  const taken = new Uint8Array(ring.readableBytes);
  ring.gather(0, taken, 0, taken.length);
  const enabled = input.bit() ? 0xffff : input.u16();
  const before = device.control;
  const { ack, extra, changed } = watch.step(() =>
    executeControl(device, taken, { isQueueEnabled: (queue) => ((enabled >> (queue & 15)) & 1) === 1 }),
  );
  watch.saw(Saw.ACK, (kind << 16) | (header[1]! << 8) | ack);
  for (const change of changed) watch.saw(Saw.CHANGE, change.kind.length);
  if (ack !== ControlAck.OK && (device.control !== before || changed.length > 0))
    throw new FuzzFailure(`refused command ${header.join('.')} changed something`);
  const answer = new Uint8Array([...(extra ?? []), ack]);
  chains.give(ring.scatter(0, answer, 0, Math.min(answer.length, ring.writableBytes)));
  return cut.length;
}

function checkState(device: NetDevice, input: FuzzInput, watch: FuzzWatch): void {
  const saved = JSON.parse(JSON.stringify(device.save()));
  const successor = new NetDevice(PROFILE);
  const problems = successor.restore(saved);
  if (problems.length > 0) throw new FuzzFailure(`a successor refuses the state: ${problems[0]}`);
  const rss = device.rssSettings();
  if (rss !== null) {
    const steering = new ReceiveSteering(rss);
    const frame = new Uint8Array(HASHED_BYTES_MAX);
    frame.set([8, 0, 0x45], 12);
    frame.set(input.bytes(64), input.bit() ? 0 : 15);
    const pair = watch.step(() => steering.pairOf(frame, frame.length));
    if (!(pair < device.queuePairs)) throw new FuzzFailure(`a frame is steered to pair ${pair}`);
    watch.saw(Saw.STEERED, pair);
  }
  const state = device.filterState();
  if (state === null) return;
  const filter = new ReceiveFilter(state);
  const head = input.bytes(22);
  const verdict = watch.step(() => filter.accepts(head, input.u16() & 0xfff));
  watch.saw(Saw.FILTER, verdict);
}

const seed = (...commands: readonly (readonly number[])[]): Uint8Array =>
  Uint8Array.from([0, 0, 0, 0, 0, ...commands.flat()]);

export function controlTarget(): FuzzTarget {
  const guarded = new GuardedMemory([CUT_REGION]);
  return {
    name: 'control',
    seeds: [
      seed([0, 0, 0, 0, 0, 1, 1, 0, 0, 2, 255, 255]),
      seed([0, 1, 0, 0, 200, 2, 3, 0, 0, 0, 0, 2]),
      seed([0, 4, 0, 0, 0, 2, 3, 0, 0, 0, 2, 255, 255]),
      seed([0, 4, 0, 1, 0, 0, 1, 40, 1, 0, 255, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1]),
    ],
    run: (bytes, watch) => {
      const input = new FuzzInput(bytes);
      const device = new NetDevice(PROFILE);
      const left = (BigInt(input.u32()) << 10n) | BigInt(input.u8() & 3);
      const features = PROFILE.offeredFeatures & ~left;
      // A transport agrees on none that do not go together.
      if (device.featureProblems(features).length > 0) return watch.saw(Saw.NO_FEATURES);
      device.acceptFeatures(features);
      const chains = new ChainFixture(guarded);
      try {
        let bytes = 0;
        for (let i = 0; i < COMMANDS_MAX && bytes < BYTES_MAX && input.left > 0; i++)
          bytes += command(device, chains, input, watch);
        checkState(device, input, watch);
      } finally {
        guarded.check();
      }
    },
  };
}
