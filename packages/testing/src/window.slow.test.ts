/**
 * What rings and queues promise holds for memory in the copy window as well, where bursts are laid out and copied by
 * WebAssembly: the same tests, over such memory.
 */
import { describe, expect, it } from 'vitest';
import { DriverMemory, placeInWindow } from './driver-memory.js';
import { ensureWindow } from './window-room.js';

placeInWindow(); // before rooms are made

describe('memory in the window', () => {
  it('is where the tests below have theirs', () => {
    expect(new DriverMemory({ sizeBytes: 4096 }).region.buffer).toBe(ensureWindow());
  });
});

await import('./split-ring.contract.test.js');
await import('./split-ring.hostile.test.js');
await import('./split-ring.memory.test.js');
await import('./split-ring.notification.test.js');
await import('./packed-ring.contract.test.js');
await import('./packed-ring.hostile.test.js');
await import('./packed-ring.notification.test.js');
await import('./packed-ring.position.test.js');
await import('./transmit-queue.test.js');
await import('./transmit-header.test.js');
await import('./receive-queue.test.js');
await import('./receive-header.test.js');
await import('./spread-queue.test.js');
await import('./queue-crash.slow.test.js');
await import('./switch-crash.slow.test.js');
await import('./switch-domain.test.js');
await import('./switch-steering.test.js');
await import('./steered-crash.slow.test.js');
