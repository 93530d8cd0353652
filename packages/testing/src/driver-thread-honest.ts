/** driver-thread-honest.ts: a driver that follows the rules, and holds the device to them; its parts: driver-thread.ts. */
import {
  Control,
  type DriverThreadEnd,
  type DriverThreadStart,
  makeDriver,
  randomWords,
  rest,
  SPINS,
  spinUntil,
  WAKE_UP_MS,
} from './driver-thread.js';
import { chainOf } from './race-chains.js';
import { POISON, type UsedChain } from './ring-driver.js';

export function litmus(start: DriverThreadStart, control: Int32Array): DriverThreadEnd {
  const driver = makeDriver(start);
  const random = randomWords(start.seed);
  for (let round = 1; round <= start.count; round++) {
    driver.wantInterrupts(false);
    driver.add({ writable: [8] });
    if (start.part === 'litmus-interrupt') driver.publish();
    Atomics.store(control, Control.READY, round);
    if (!spinUntil(control, Control.ROUND, round)) break;
    for (let spin = random() % 32; spin > 0; spin--) Atomics.load(control, Control.STOP);
    let saw: boolean;
    if (start.part === 'litmus-kick') saw = driver.publish();
    else {
      driver.wantInterrupts(true);
      saw = driver.hasUsed;
    }
    Atomics.store(control, Control.SAW, saw ? 1 : 0);
    Atomics.store(control, Control.DONE, round);
    if (!spinUntil(control, Control.JUDGED, round)) break;
    driver.collect();
  }
  return { complaint: null };
}

/** What is wrong with a chain that came back, or null. */
function judge({ lengthBytes, written, readableIntact }: UsedChain, number: number): string | null {
  const { answerBytes } = chainOf(number);
  if (!readableIntact) return `chain ${number}: what the device may only read has changed`;
  if (lengthBytes !== answerBytes) return `chain ${number}: used length ${lengthBytes}`;
  if (answerBytes === 0) return null;
  const answer = new DataView(written.buffer).getUint32(0, true);
  if (answer !== number) return `chain ${number}: holds ${answer}`;
  const zeros = written.subarray(4, answerBytes).every((byte) => byte === 0);
  const left = written.subarray(answerBytes).every((byte) => byte === POISON);
  return zeros && left ? null : `chain ${number}: not ${answerBytes} bytes were written`;
}

export function converse(start: DriverThreadStart, control: Int32Array): DriverThreadEnd {
  const driver = makeDriver(start);
  const random = randomWords(start.seed);
  const sleeps = start.part === 'steady';
  let posted = 0;
  let done = 0;
  let full = false;
  let idle = 0;
  driver.wantInterrupts(false);
  const collect = (): string | null => {
    for (const used of driver.collect()) {
      const complaint = judge(used, done);
      if (complaint !== null) return complaint;
      done++;
    }
    Atomics.store(control, Control.DONE, done);
    return null;
  };
  while (done < start.count && Atomics.load(control, Control.STOP) === 0) {
    const burst = 1 + (random() % start.queueSize);
    full = false;
    for (let i = 0; i < burst && posted < start.count && !full; i++) {
      const chain = chainOf(posted);
      full = driver.add(chain, chain.options) < 0;
      if (!full) posted++;
    }
    if (driver.publish()) {
      Atomics.add(control, Control.KICKS, 1);
      Atomics.notify(control, Control.KICKS);
    }
    for (let spin = random() % 200; spin > 0; spin--) Atomics.load(control, Control.STOP);
    const collected = done;
    let complaint = collect();
    if (complaint !== null) return { complaint };
    idle = done === collected ? idle + 1 : 0;
    if (!sleeps && idle % SPINS === SPINS - 1) rest(control);
    if (!sleeps || driver.outstanding === 0 || (!full && posted < start.count)) continue;
    // Sleep until something was used: say so, look once more, and only then wait.
    const before = Atomics.load(control, Control.INTERRUPTS);
    const doneBefore = done;
    driver.wantInterrupts(true);
    complaint = collect();
    if (complaint !== null) return { complaint };
    if (done === doneBefore) {
      const result = Atomics.wait(control, Control.INTERRUPTS, before, WAKE_UP_MS);
      complaint = collect();
      if (complaint !== null) return { complaint };
      if (result === 'timed-out' && done !== doneBefore) return { complaint: 'an interrupt was lost' };
    }
    driver.wantInterrupts(false);
  }
  return { complaint: null };
}
