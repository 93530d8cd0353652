/**
 * shared-fd.ts: a descriptor with several owners in this process: the shelf, and messages not yet sent.
 * It is closed when the last owner lets go; letting go once too often is our own fault and throws.
 */
import { close } from '@virtnet/host-linux';

export class SharedFd {
  readonly fd: number;
  #owners = 1;

  constructor(fd: number) {
    this.fd = fd;
  }

  retain(): this {
    this.#owners += 1;
    return this;
  }

  release(): void {
    if (this.#owners === 0) throw new RangeError(`descriptor ${this.fd} released once too often`);
    this.#owners -= 1;
    if (this.#owners === 0) close(this.fd);
  }
}
