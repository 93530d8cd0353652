import { describe, expect, test } from 'vitest';
import {
  type Arrival,
  analyseStream,
  describeDisorder,
  describeLoss,
  longestPause,
  summarise,
} from './stream-analysis.ts';

/** Packets 0..n-1 sent a millisecond apart, each arriving `delayUs` later on a clock one hour ahead. */
function stream(count: number, delayUs: (sequence: number) => number = () => 200): Arrival[] {
  return Array.from({ length: count }, (_, sequence) => {
    const sentUs = sequence * 1_000;
    return { sequence, sentUs, arrivedUs: sentUs + delayUs(sequence) + 3_600e6 };
  });
}

describe('numbered stream', () => {
  test('all arrived in order: nothing lost, repeated or reordered', () => {
    const report = analyseStream(stream(100), 0, 100);
    expect(report).toEqual({ expected: 100, received: 100, lost: [], duplicated: [], reordered: 0 });
  });

  test('missing packets are named, also the last ones', () => {
    const arrivals = stream(98).filter(({ sequence }) => sequence !== 40);
    expect(analyseStream(arrivals, 0, 100).lost).toEqual([40, 98, 99]);
  });

  test('a packet that comes twice is repeated, one that comes late is reordered', () => {
    const arrivals = stream(10);
    const [first, second, third, ...rest] = arrivals as [Arrival, Arrival, Arrival, ...Arrival[]];
    const report = analyseStream([first, third, second, second, ...rest], 0, 10);
    expect(report).toMatchObject({ received: 11, lost: [], duplicated: [1], reordered: 1 });
    expect(describeDisorder([first, third, second, ...rest])).toMatch(
      /^0 \(.*\), 2 \(.*\), 1 \(sent at 1000, there at 1000 us\), 3 /,
    );
    expect(describeDisorder(arrivals)).toBe('all in order');
  });

  test('runs of lost packets are told with the times around them', () => {
    const arrivals = stream(10).filter(({ sequence }) => ![3, 4, 9].includes(sequence));
    expect(describeLoss(arrivals, analyseStream(arrivals, 0, 10))).toBe(
      '3..4, between packets sent 3.0 ms apart that arrived 3.0 ms apart, the former 2.0 ms after the first; ' +
        '9..9 at an end of the stream',
    );
    expect(describeLoss(stream(10), analyseStream(stream(10), 0, 10))).toBe('nothing');
  });

  test('a number that was never sent is refused', () => {
    expect(() => analyseStream(stream(11), 0, 10)).toThrow(RangeError);
  });

  test('packets held for 25 ms and then delivered together are one pause of 25 ms', () => {
    const held = stream(200, (sequence) =>
      sequence >= 100 && sequence < 125 ? (125 - sequence) * 1_000 + 200 : 200,
    );
    const pause = longestPause(held, () => true);
    expect(pause?.index).toBe(100);
    expect(pause?.pauseMs).toBeCloseTo(25, 5);
  });

  test('a sender that is late by 25 ms is not a pause', () => {
    const late = stream(200).map((packet) =>
      packet.sequence < 100
        ? packet
        : { ...packet, sentUs: packet.sentUs + 25_000, arrivedUs: packet.arrivedUs + 25_000 },
    );
    expect(longestPause(late, () => true)?.pauseMs).toBe(0);
  });

  test('only arrivals inside the window are judged', () => {
    const held = stream(200, (sequence) => (sequence === 100 ? 900 : 200));
    expect(longestPause(held, ({ sequence }) => sequence < 50)?.pauseMs).toBe(0);
    expect(longestPause(held, () => false)).toBeNull();
  });
});

describe('summary', () => {
  test('order statistics of 1..100', () => {
    const values = Array.from({ length: 100 }, (_, index) => 100 - index);
    expect(summarise(values)).toEqual({ count: 100, min: 1, median: 50, p99: 99, max: 100 });
  });

  test('of nothing is an error, not a zero', () => {
    expect(() => summarise([])).toThrow(RangeError);
  });
});
