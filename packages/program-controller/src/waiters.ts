/** waiters.ts: those who wait until something is so; what they wait for is looked at after every event. */
export class Waiters {
  readonly #looks = new Set<() => void>(); // bounded by the calls in progress

  /** Resolves when `condition` holds, or `deadlineMs` milliseconds are over. */
  until(condition: () => boolean, deadlineMs: number | null = null): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const end = () => {
      clearTimeout(timer);
      this.#looks.delete(look);
      resolve();
    };
    const look = () => {
      if (condition()) end();
    };
    const timer = deadlineMs === null ? undefined : setTimeout(end, deadlineMs);
    this.#looks.add(look);
    look();
    return promise;
  }

  /** Something has changed. */
  wake(): void {
    for (const look of [...this.#looks]) look();
  }
}
