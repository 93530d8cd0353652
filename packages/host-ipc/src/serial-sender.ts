/**
 * serial-sender.ts: the one place that sends on a ZeroMQ socket.
 *
 * Theory
 *   A ZeroMQ socket takes one send at a time. Everybody who wants to send puts the message into this queue; one loop
 *   sends from it in order.
 *
 * Invariants
 *   I1  at most one send is in progress.
 *   I2  a message that finds the queue full is dropped and counted, never waited for.
 *
 * Limits  capacity, given by the owner.
 */
export class SerialSender {
  readonly #send: (frames: readonly Uint8Array[]) => Promise<void>;
  readonly #capacity: number;
  readonly #queue: (readonly Uint8Array[])[] = [];
  #running: Promise<void> = Promise.resolve();
  #active = false;
  /** Messages dropped because the queue was full or the peer would not take them. */
  dropped = 0;

  constructor(send: (frames: readonly Uint8Array[]) => Promise<void>, capacity: number) {
    this.#send = send;
    this.#capacity = capacity;
  }

  /** Queues a message; false when it was dropped. */
  push(frames: readonly Uint8Array[]): boolean {
    if (this.#queue.length >= this.#capacity) {
      this.dropped += 1;
      return false;
    }
    this.#queue.push(frames);
    if (!this.#active) this.#running = this.#run();
    return true;
  }

  /** Resolves when everything queued so far was handed to the socket. */
  async flush(): Promise<void> {
    await this.#running;
  }

  async #run(): Promise<void> {
    this.#active = true;
    for (let frames = this.#queue.shift(); frames !== undefined; frames = this.#queue.shift()) {
      try {
        await this.#send(frames);
      } catch {
        this.dropped += 1; // the peer went away or its queue is full: its deadline tells it
      }
    }
    this.#active = false;
  }
}
