import { MessageChannel } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import { createControl, MailboxReceiver, MailboxSender } from './mailbox.js';

function pair() {
  const channel = new MessageChannel();
  const control = createControl();
  let wakes = 0;
  const sender = new MailboxSender<number>(channel.port1, control, () => wakes++);
  const receiver = new MailboxReceiver<number>(channel.port2, control);
  return { sender, receiver, wakes: () => wakes, end: () => channel.port1.close() };
}

describe('mailbox', () => {
  it('hands over messages in order, each once', () => {
    const { sender, receiver, end } = pair();
    for (let i = 0; i < 100; i++) sender.post(i);
    const seen: number[] = [];
    receiver.drainMessages((m) => seen.push(m), Number.POSITIVE_INFINITY);
    receiver.drainMessages((m) => seen.push(m), Number.POSITIVE_INFINITY);
    expect(seen).toEqual(Array.from({ length: 100 }, (_, i) => i));
    expect(receiver.pending).toBe(false);
    end();
  });

  it('hands over so many messages at once and no more; the others keep it awake', () => {
    const { sender, receiver, end } = pair();
    for (let i = 0; i < 5; i++) sender.post(i);
    const seen: number[] = [];
    receiver.drainMessages((m) => seen.push(m), 3);
    expect(seen).toEqual([0, 1, 2]);
    expect([receiver.pending, receiver.goToSleep()]).toEqual([true, false]);
    receiver.drainMessages((m) => seen.push(m), 3);
    expect([seen.length, receiver.pending]).toEqual([5, false]);
    end();
  });

  it('hands over each rung doorbell once, the first and the last slot included', () => {
    const { sender, receiver, end } = pair();
    for (const slot of [0, 31, 32, 4095, 8191, 32]) sender.ring(slot);
    const seen: number[] = [];
    receiver.drainDoorbells((slot) => seen.push(slot));
    expect(seen).toEqual([0, 31, 32, 4095, 8191]);
    receiver.drainDoorbells((slot) => seen.push(slot));
    expect(seen).toHaveLength(5);
    end();
  });

  it('refuses to sleep while something waits, and is woken only when asleep', () => {
    const { sender, receiver, wakes, end } = pair();
    sender.post(1);
    expect(wakes()).toBe(0);
    expect(receiver.goToSleep()).toBe(false);
    receiver.drainMessages(() => {}, Number.POSITIVE_INFINITY);
    expect(receiver.goToSleep()).toBe(true);
    sender.ring(7);
    expect(wakes()).toBe(1);
    receiver.wokeUp();
    sender.ring(8);
    expect(wakes()).toBe(1);
    end();
  });
});
