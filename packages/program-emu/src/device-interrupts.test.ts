import { closeSync, openSync, writeSync } from 'node:fs';
import {
  close,
  dup,
  eventfd,
  eventfdDrain,
  eventfdSignal,
  memfdCreate,
  setNonBlocking,
} from '@virtnet/host-linux';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { admitEventfd, DeviceInterrupts, IrqIndex } from './device-interrupts.js';
import { isOpen, openFds } from './test-support/holdings.js';

const { INTX, MSIX } = IrqIndex;

describe('device interrupts', () => {
  let interrupts: DeviceInterrupts;
  let before: number;
  beforeEach(() => {
    before = openFds();
    interrupts = new DeviceInterrupts([1, 0, 4, 1, 1]);
  });
  afterEach(() => interrupts.clearAll());

  it('fire writes to the vector asked for and to no other', () => {
    const [a, b] = [eventfd(), eventfd()];
    interrupts.replace(MSIX, 0, a);
    interrupts.replace(MSIX, 3, b);
    expect(interrupts.fire(MSIX, 3)).toBe(true);
    expect(interrupts.fire(MSIX, 3)).toBe(true);
    expect([eventfdDrain(a), eventfdDrain(b)]).toEqual([0, 2]);
  });

  it('a vector without descriptor, a vector and an index that do not exist: fire says so, and nothing happens', () => {
    for (const [index, vector] of [
      [MSIX, 1],
      [MSIX, 4],
      [MSIX, -1],
      [9, 0],
      [1, 0],
    ] as const)
      expect(interrupts.fire(index, vector)).toBe(false);
  });

  it('has answers for the vectors that were declared only', () => {
    expect([interrupts.has(MSIX, 0), interrupts.has(MSIX, 3), interrupts.has(INTX, 0)]).toEqual([
      true,
      true,
      true,
    ]);
    for (const [index, vector] of [
      [MSIX, 4],
      [MSIX, -1],
      [MSIX, Number.NaN],
      [MSIX, 0.5],
      [1, 0],
      [7, 0],
    ] as const)
      expect(interrupts.has(index, vector)).toBe(false);
  });

  it('replace hands the former descriptor back open, since a worker may still signal it', () => {
    const [a, b] = [eventfd(), eventfd()];
    expect(interrupts.replace(MSIX, 2, a)).toBe(-1);
    expect(interrupts.replace(MSIX, 2, b)).toBe(a);
    expect([isOpen(a), isOpen(b)]).toEqual([true, true]);
    expect(interrupts.fd(MSIX, 2)).toBe(b);
    close(a);
    expect(interrupts.replace(MSIX, 2, -1)).toBe(b);
    close(b);
    expect([...interrupts.entries()]).toEqual([]);
    expect(openFds()).toBe(before);
  });

  it('clear closes every descriptor of its index once, and leaves the others', () => {
    const fds = Array.from({ length: 3 }, () => eventfd());
    for (const [vector, fd] of fds.entries()) interrupts.replace(MSIX, vector, fd);
    const intx = eventfd();
    interrupts.replace(INTX, 0, intx);
    interrupts.clear(MSIX);
    expect(fds.map(isOpen)).toEqual([false, false, false]);
    expect([interrupts.assigned(MSIX), interrupts.assigned(INTX)]).toEqual([false, true]);
    expect([...interrupts.entries()]).toEqual([{ index: INTX, vector: 0, fd: intx }]);
    interrupts.clearAll();
    expect(openFds()).toBe(before);
  });

  it('masked: interrupts are remembered as one, which is fired by the unmask', () => {
    const fd = eventfd();
    interrupts.replace(INTX, 0, fd);
    interrupts.mask(INTX, 0);
    for (let i = 0; i < 3; i++) expect(interrupts.fire(INTX, 0)).toBe(true);
    expect(eventfdDrain(fd)).toBe(0);
    interrupts.unmask(INTX, 0);
    expect(eventfdDrain(fd)).toBe(1);
    interrupts.unmask(INTX, 0);
    expect(eventfdDrain(fd)).toBe(0);
  });

  it('pending, descriptor replaced: the new one is fired; descriptor withdrawn: nothing is', () => {
    const [a, b, c] = [eventfd(), eventfd(), eventfd()];
    interrupts.replace(INTX, 0, a);
    interrupts.mask(INTX, 0);
    interrupts.fire(INTX, 0);
    close(interrupts.replace(INTX, 0, b));
    interrupts.unmask(INTX, 0);
    expect(eventfdDrain(b)).toBe(1);
    interrupts.mask(INTX, 0);
    interrupts.fire(INTX, 0);
    close(interrupts.replace(INTX, 0, -1));
    interrupts.replace(INTX, 0, c);
    interrupts.unmask(INTX, 0);
    expect(eventfdDrain(c)).toBe(0);
  });

  it('clear ends a mask', () => {
    interrupts.mask(INTX, 0);
    interrupts.clear(INTX);
    const fd = eventfd();
    interrupts.replace(INTX, 0, fd);
    interrupts.fire(INTX, 0);
    expect(eventfdDrain(fd)).toBe(1);
  });

  it('mask and unmask of what does not exist change nothing', () => {
    interrupts.mask(9, 0);
    interrupts.unmask(9, 0);
    interrupts.mask(MSIX, 4);
    interrupts.unmask(MSIX, 4);
    expect([...interrupts.entries()]).toEqual([]);
  });
});

describe('admission of a peer’s eventfd', () => {
  it('only eventfds are admitted', () => {
    const [event, memory, file] = [eventfd(), memfdCreate('x', 4096), openSync('/dev/null', 'r+')];
    expect([admitEventfd(event), admitEventfd(memory), admitEventfd(file), admitEventfd(-1)]).toEqual([
      true,
      false,
      false,
      false,
    ]);
    close(event);
    close(memory);
    closeSync(file);
  });

  it('an eventfd that blocks and is full: signalling it returns', () => {
    const theirs = eventfd();
    setNonBlocking(theirs, false);
    const ours = dup(theirs);
    expect(admitEventfd(ours)).toBe(true);
    const largest = Buffer.alloc(8, 0xff);
    largest[0] = 0xfe;
    writeSync(theirs, largest); // one more would have to wait
    expect(eventfdSignal(ours)).toBe(0);
    close(theirs);
    close(ours);
  });
});
