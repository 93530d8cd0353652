/**
 * bound-function.ts: a function bound over its real vfio-user socket by the driver of packages/testing.
 *
 * Theory
 *   A memfd stands for the guest's memory: the driver works in a mapping of it, and the descriptor goes to the emulator
 *   with DMA_MAP. So the rings are truly shared, and nothing of the device is in this process.
 *
 * Invariants
 *   I1  a message of the client is answered, or the test fails: there is no retry and no reconnecting here.
 */
import {
  addSeals,
  close,
  ftruncate,
  memfdCreate,
  Poller,
  type SharedMapping,
  sharedMapping,
} from '@virtnet/host-linux';
import { VfioUserClient } from '@virtnet/server-vfio-user';
import { DriverMemory, type NetDriverOptions, overRegions, VirtioNetDriver } from '@virtnet/testing';
import { Seal } from '@virtnet/wire';

const MEMORY_BYTES = 16 * 1024 * 1024;
const IOVA = 0x1_0000_0000n;

export class BoundFunction {
  readonly client: VfioUserClient;
  readonly memory: DriverMemory;
  /** Null when it is another's. */
  readonly #poller: Poller | null;
  readonly #mapping: SharedMapping;
  readonly #fd: number;
  #driver: VirtioNetDriver | null = null;

  private constructor(
    client: VfioUserClient,
    memory: DriverMemory,
    poller: Poller | null,
    mapping: SharedMapping,
    fd: number,
  ) {
    this.client = client;
    this.memory = memory;
    this.#poller = poller;
    this.#mapping = mapping;
    this.#fd = fd;
  }

  /**
   * Connects and maps memory; no driver yet. `timeoutMs`: how long an answer may take; `shared`: a poller for many
   * functions, which its owner stops; `lasting`: the memory is sealed, as QEMU's is, and cannot be taken away.
   */
  static async open(
    socket: string,
    timeoutMs?: number,
    shared?: Poller,
    lasting = true,
  ): Promise<BoundFunction> {
    const poller = shared ?? new Poller();
    if (shared === undefined) poller.start();
    const fd = memfdCreate('guest', MEMORY_BYTES);
    if (lasting) addSeals(fd, Seal.SHRINK | Seal.GROW | Seal.SEAL);
    const mapping = sharedMapping(fd, MEMORY_BYTES);
    if (typeof mapping === 'number') throw new Error(`mmap: errno ${-mapping}`);
    try {
      const client = await VfioUserClient.connect(socket, {
        poller,
        ...(timeoutMs === undefined ? {} : { timeoutMs }),
      });
      const memory = new DriverMemory({ sizeBytes: MEMORY_BYTES, iova: IOVA, buffer: mapping.buffer });
      const fn = new BoundFunction(client, memory, shared === undefined ? poller : null, mapping, fd);
      await fn.map();
      return fn;
    } catch (error) {
      if (shared === undefined) await poller.stop();
      mapping.close();
      close(fd);
      throw error;
    }
  }

  /** Gives the device the memory. */
  async map(): Promise<void> {
    const range = { iova: IOVA, sizeBytes: MEMORY_BYTES, fdOffset: 0, readable: true, writable: true };
    await this.client.dmaMap({ ...range, fd: this.#fd });
  }

  /** Takes the memory away under the device's feet. Nobody here may touch it before `giveBack`. */
  takeAway(): void {
    if (ftruncate(this.#fd, 0) < 0) throw new Error('ftruncate');
  }

  /** Makes the memory as large as it was, zeroed; the device has to be given it again. */
  giveBack(): void {
    if (ftruncate(this.#fd, MEMORY_BYTES) < 0) throw new Error('ftruncate');
  }

  /** Probes the function and brings it to DRIVER_OK. */
  async start(options: Omit<NetDriverOptions, 'memory'> = {}): Promise<VirtioNetDriver> {
    this.#driver = await VirtioNetDriver.start(overRegions(this.client), { memory: this.memory, ...options });
    return this.#driver;
  }

  get driver(): VirtioNetDriver {
    if (this.#driver === null) throw new Error('no driver was started');
    return this.#driver;
  }

  async close(): Promise<void> {
    this.client.close();
    await this.#poller?.stop();
    this.#mapping.close();
    close(this.#fd);
  }
}
