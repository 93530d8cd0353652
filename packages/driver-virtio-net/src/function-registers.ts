/** function-registers.ts: little-endian registers of one structure in a BAR, through a vfio-user client. */
import type { VfioUserClient } from '@virtnet/server-vfio-user';
import { type Scalar, u8, u16, u32, VirtioPciCommon, viewOf } from '@virtnet/wire';
import type { BarPart } from './pci-walk.js';

const HALF_BITS = 32n;
const HALF_MASK = (1n << HALF_BITS) - 1n;

/** Fields of the common configuration by width. 64-bit fields are written as two halves (virtio 4.1.3.1). */
export type CommonField = keyof typeof VirtioPciCommon.at;

export class FunctionRegisters {
  readonly #client: VfioUserClient;
  readonly #part: BarPart;

  constructor(client: VfioUserClient, part: BarPart) {
    this.#client = client;
    this.#part = part;
  }

  /** Where they are. */
  get part(): BarPart {
    return this.#part;
  }

  async read(offset: number, scalar: Scalar<number>): Promise<number> {
    const bytes = await this.#client.read(this.#part.bar, this.#part.offset + offset, scalar.sizeBytes);
    return scalar.read(viewOf(bytes), 0);
  }

  async write(offset: number, scalar: Scalar<number>, value: number): Promise<void> {
    const bytes = new Uint8Array(scalar.sizeBytes);
    scalar.write(viewOf(bytes), 0, value);
    await this.#client.write(this.#part.bar, this.#part.offset + offset, bytes);
  }

  readU8 = (field: CommonField) => this.read(VirtioPciCommon.at[field], u8);
  readU16 = (field: CommonField) => this.read(VirtioPciCommon.at[field], u16);
  readU32 = (field: CommonField) => this.read(VirtioPciCommon.at[field], u32);
  writeU8 = (field: CommonField, value: number) => this.write(VirtioPciCommon.at[field], u8, value);
  writeU16 = (field: CommonField, value: number) => this.write(VirtioPciCommon.at[field], u16, value);
  writeU32 = (field: CommonField, value: number) => this.write(VirtioPciCommon.at[field], u32, value);

  async writeU64(field: CommonField, value: bigint): Promise<void> {
    const at = VirtioPciCommon.at[field];
    await this.write(at, u32, Number(value & HALF_MASK));
    await this.write(at + u32.sizeBytes, u32, Number(value >> HALF_BITS));
  }
}
