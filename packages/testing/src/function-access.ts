/** How a driver reaches a PCI function: in this process, or through a client of a vfio-user server. */
import type { Effect, VirtioPciFunction } from '@virtnet/engine-pci';
import { VfioPciRegion } from '@virtnet/wire';

export interface FunctionAccess {
  /** Exactly `count` bytes of configuration space. */
  readConfig(offset: number, count: number): Promise<Uint8Array>;
  writeConfig(offset: number, bytes: Uint8Array): Promise<void>;
  /** Exactly `count` bytes of a BAR. */
  readRegion(bar: number, offset: number, count: number): Promise<Uint8Array>;
  writeRegion(bar: number, offset: number, bytes: Uint8Array): Promise<void>;
}

/** Access to a function in this process; `carryOut` is the program's part, done before a write returns. */
export function inProcess(
  fn: VirtioPciFunction,
  carryOut: (effect: Effect) => void | Promise<void> = () => undefined,
): FunctionAccess {
  const carryOutAll = async (effects: readonly Effect[]): Promise<void> => {
    for (const effect of effects) await carryOut(effect);
  };
  return {
    readConfig: async (offset, count) => fn.readConfig(offset, count),
    writeConfig: (offset, bytes) => carryOutAll(fn.writeConfig(offset, bytes)),
    readRegion: async (bar, offset, count) => fn.readRegion(bar, offset, count),
    writeRegion: (bar, offset, bytes) => carryOutAll(fn.writeRegion(bar, offset, bytes)),
  };
}

/** The part of a vfio-user client a driver needs. */
export interface RegionClient {
  read(region: number, offset: number, count: number): Promise<Uint8Array>;
  write(region: number, offset: number, bytes: Uint8Array): Promise<void>;
}

/** Access through a vfio-user client: BARs are regions 0 to 5, configuration space is a region of its own. */
export function overRegions(client: RegionClient): FunctionAccess {
  return {
    readConfig: (offset, count) => client.read(VfioPciRegion.CONFIG, offset, count),
    writeConfig: (offset, bytes) => client.write(VfioPciRegion.CONFIG, offset, bytes),
    readRegion: (bar, offset, count) => client.read(bar, offset, count),
    writeRegion: (bar, offset, bytes) => client.write(bar, offset, bytes),
  };
}
