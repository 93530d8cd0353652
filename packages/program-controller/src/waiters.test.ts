import { expect, it, vi } from 'vitest';
import { Waiters } from './waiters.js';

it('waits until something is so, and no longer than it may', async () => {
  const waiters = new Waiters();
  let isSo = false;
  const ended = vi.fn();
  void waiters.until(() => isSo).then(ended);
  await waiters.until(() => isSo, 20);
  waiters.wake();
  expect(ended).not.toHaveBeenCalled();
  isSo = true;
  await waiters.until(() => isSo);
  waiters.wake();
  await vi.waitFor(() => expect(ended).toHaveBeenCalledOnce());
});
