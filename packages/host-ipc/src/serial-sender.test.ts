import { describe, expect, it } from 'vitest';
import { SerialSender } from './serial-sender.js';

const frame = (value: number) => [Uint8Array.of(value)];

describe('serial sender', () => {
  it('never has two sends in progress, and keeps the order', async () => {
    const sent: number[] = [];
    let inProgress = 0;
    const sender = new SerialSender(async (frames) => {
      expect(++inProgress).toBe(1);
      await new Promise((resolve) => setImmediate(resolve));
      sent.push(frames[0]![0]!);
      inProgress--;
    }, 100);
    for (let value = 0; value < 50; value++) expect(sender.push(frame(value))).toBe(true);
    await sender.flush();
    expect(sent).toEqual([...Array(50).keys()]);
  });

  it('a full queue drops the message, counts it, and takes the next when there is room', async () => {
    const gate = Promise.withResolvers<void>();
    const sender = new SerialSender(() => gate.promise, 2);
    sender.push(frame(0)); // in progress
    expect([1, 2, 3, 4].map((value) => sender.push(frame(value)))).toEqual([true, true, false, false]);
    expect(sender.dropped).toBe(2);
    gate.resolve();
    await sender.flush();
    expect(sender.push(frame(5))).toBe(true);
  });

  it('a send that fails is counted, and the next message is sent', async () => {
    const sent: number[] = [];
    const sender = new SerialSender(async (frames) => {
      if (frames[0]![0] === 0) throw new Error('no such peer');
      sent.push(frames[0]![0]!);
    }, 10);
    sender.push(frame(0));
    sender.push(frame(1));
    await sender.flush();
    expect([sender.dropped, sent]).toEqual([1, [1]]);
  });
});
