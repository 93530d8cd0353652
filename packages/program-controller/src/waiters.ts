/** waiters.ts: those who wait until something is so; what they wait for is looked at after every event. */
export class Waiters {
  readonly #looks = new Set<() => void>(); // bounded by the calls in progress

  /** Resolves when `condition` holds. */
  until(condition: () => boolean): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const look = () => {
      if (!condition()) return;
      this.#looks.delete(look);
      resolve();
    };
    this.#looks.add(look);
    look();
    return promise;
  }

  /** Something has changed. */
  wake(): void {
    for (const look of [...this.#looks]) look();
  }
}
