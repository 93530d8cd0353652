import { describe, expect, it } from 'vitest';
import { needsEvent } from './notification.js';

/** The rule as a sentence: entry `event` is among those passed. */
function passed(event: number, after: number, before: number): boolean {
  for (let index = before; index !== after; index = (index + 1) & 0xffff) if (index === event) return true;
  return false;
}

describe('notification by index', () => {
  it('§2.7.7.2 C16 every before, after and event around the wrap decides as counting does', () => {
    const around = Array.from({ length: 48 }, (_, i) => (0xffe8 + i) & 0xffff);
    let checked = 0;
    for (const before of around) {
      for (let count = 0; count <= 32; count++) {
        const after = (before + count) & 0xffff;
        for (const event of around) {
          if (needsEvent(event, after, before) !== passed(event, after, before)) {
            expect.fail(`before=${before} after=${after} event=${event}`);
          }
          checked++;
        }
      }
    }
    expect(checked).toBe(48 * 33 * 48);
  });

  it('§2.7.7.2 C16 a burst of the largest queue decides as counting does at its edges', () => {
    for (const before of [0, 1, 0x7fff, 0x8000, 0xffff]) {
      const after = (before + 0x8000) & 0xffff;
      for (const event of [before - 1, before, before + 1, after - 1, after, after + 1]) {
        const index = event & 0xffff;
        expect(needsEvent(index, after, before)).toBe(passed(index, after, before));
      }
    }
  });
});
