/**
 * raw-ring.ts: what a hostile driver can do to a ring, with either format behind it.
 *
 * Theory
 *   A hostile driver writes any bytes into the parts of the ring. Bytes alone seldom make anything a device looks at
 *   twice, so most of the writes here are descriptors whose fields are chosen among the values that matter: addresses
 *   in and around every region, lengths up to 2^32 - 1, every flag, links to everywhere.
 *   What costs a device most is a ring full of tables whose entries are nearly all without a byte, which no decision at a
 *   time would ever make: that is one act.
 */
import { DescriptorFlag, PackedEventFlag } from '@virtnet/wire';
import type { DriverMemory } from '../driver-memory.js';
import { PackedDriver } from '../packed-driver.js';
import { SplitDriver } from '../split-driver.js';
import type { FuzzInput } from './fuzz-input.js';

export interface RawRing {
  readonly driver: SplitDriver | PackedDriver;
  /** Carries one hostile act out. */
  act(input: FuzzInput): void;
}

/** Addresses worth a descriptor. */
export interface AddressMenu {
  readonly starts: readonly bigint[];
}

/** Entries of the table for indirect descriptors: as many as a chain of some length needs, or as a device looks at. */
export type TableEntries = 8 | 4096;

const LENGTHS = [0, 1, 11, 12, 13, 14, 60, 64, 128, 1_526, 4_096, 16_384, 65_562, 70_000] as const;
const HUGE_LENGTHS = [0x7fff_ffff, 0x8000_0000, 0xffff_fff0, 0xffff_ffff] as const;
const ENTRY_BYTES = 16;
const NOTHING = { address: 0n, lengthBytes: 0 };

function lengthOf(input: FuzzInput): number {
  const choice = input.u8();
  if (choice < 200) return LENGTHS[choice % LENGTHS.length]!;
  return choice < 220 ? HUGE_LENGTHS[choice % HUGE_LENGTHS.length]! : input.u16();
}

function addressOf(input: FuzzInput, { starts }: AddressMenu): bigint {
  const choice = input.u8();
  if (choice === 255) return (BigInt(input.u32()) << 32n) | BigInt(input.u32());
  const offset = BigInt(input.u16()) - 0x80n;
  return BigInt.asUintN(64, starts[choice % starts.length]! + offset);
}

/** Flags of a descriptor: mostly sensible ones, sometimes any. */
function flagsOf(input: FuzzInput): number {
  const choice = input.u8();
  return choice < 192 ? choice & 7 : input.u16();
}

function poke(memory: DriverMemory, at: bigint, sizeBytes: number, input: FuzzInput): void {
  const bytes = input.bytes(1 + (input.u8() % 8));
  const offset = memory.at(at) + (input.u16() % Math.max(1, sizeBytes - bytes.length));
  memory.bytes.set(bytes, offset);
}

/** A table for indirect descriptors. */
function tableOf(memory: DriverMemory, entries: TableEntries) {
  const address = memory.allocate(entries * ENTRY_BYTES);
  const lengths = [0, 8, 16, 32, 48, 64, 128, 65_536, 65_552] as const;
  return { address, lengthOf: (input: FuzzInput) => input.pick(lengths) };
}

/** How many entries of a table are written, and how many of them name a buffer. */
function fillOf(input: FuzzInput, entries: TableEntries) {
  const count = Math.max(1, entries >>> (input.u8() % 8));
  return { count, buffers: Math.min(count, 1 + (input.u8() % 4)) };
}

export function rawSplit(
  memory: DriverMemory,
  queueSize: number,
  eventIdx: boolean,
  startIndex: number,
  menu: AddressMenu,
  tableEntries: TableEntries,
): RawRing {
  const driver = new SplitDriver({ memory, queueSize, eventIdx, startIndex });
  const table = tableOf(memory, tableEntries);
  const link = (input: FuzzInput): number => (input.u8() < 230 ? input.u8() % queueSize : input.u16());
  const entry = (input: FuzzInput, next: number) => ({
    address: addressOf(input, menu),
    lengthBytes: lengthOf(input),
    flags: flagsOf(input),
    next,
  });
  /** All that is not available becomes so, each with the same table. */
  const offerTables = (input: FuzzInput): void => {
    const { count, buffers } = fillOf(input, tableEntries);
    for (let i = 0; i < count; i++) {
      const buffer =
        i < buffers ? { address: addressOf(input, menu), lengthBytes: lengthOf(input) } : NOTHING;
      const flags = i < count - 1 ? DescriptorFlag.WRITE | DescriptorFlag.NEXT : DescriptorFlag.WRITE;
      driver.writeEntry(table.address, i, { ...buffer, flags, next: i + 1 });
    }
    const lengthBytes = count * ENTRY_BYTES;
    for (let i = (driver.availableIndex - driver.usedIndex) & 0xffff; i < queueSize; i++) {
      driver.writeDescriptor(i, {
        address: table.address,
        lengthBytes,
        flags: DescriptorFlag.INDIRECT,
        next: 0,
      });
      driver.offer(i);
    }
  };
  const act = (input: FuzzInput): void => {
    switch (input.u8() % 9) {
      case 0:
      case 1: {
        const index = input.u8() % queueSize;
        driver.writeDescriptor(index, entry(input, link(input)));
        if (input.bit()) driver.offer(index);
        break;
      }
      case 2: {
        const index = input.u8() % queueSize;
        const flags = DescriptorFlag.INDIRECT | (input.u8() < 32 ? flagsOf(input) : 0);
        const lengthBytes = table.lengthOf(input);
        driver.writeDescriptor(index, { address: table.address, lengthBytes, flags, next: 0 });
        driver.offer(index);
        break;
      }
      case 3:
        driver.writeEntry(
          table.address,
          input.u8() % tableEntries,
          entry(input, input.u8() % (tableEntries + 2)),
        );
        break;
      case 4:
        driver.offer(link(input));
        break;
      case 5:
        driver.setAvailableIndex(input.bit() ? driver.availableIndex + input.u8() : input.u16());
        break;
      case 6:
        driver.setAvailableFlags(input.u16());
        driver.setUsedEvent(input.u16());
        break;
      case 7:
        offerTables(input);
        break;
      default:
        poke(memory, driver.descriptorAddress, Number(table.address - driver.descriptorAddress), input);
    }
  };
  return { driver, act };
}

export function rawPacked(
  memory: DriverMemory,
  queueSize: number,
  eventIdx: boolean,
  startPosition: number,
  menu: AddressMenu,
  tableEntries: TableEntries,
): RawRing {
  const driver = new PackedDriver({ memory, queueSize, eventIdx, startPosition });
  const table = tableOf(memory, tableEntries);
  const entry = (input: FuzzInput, flags: number) => ({
    address: addressOf(input, menu),
    lengthBytes: lengthOf(input),
    id: input.u16(),
    flags,
  });
  /** A slot near where the driver is, and flags that make it available there. */
  const slot = (input: FuzzInput) => {
    const place = driver.step(driver.addedPlace, input.u8() % Math.min(queueSize, 8));
    return { index: place.index, available: driver.availableFlags(place) };
  };
  /** Every descriptor becomes available, each with the same table. */
  const offerTables = (input: FuzzInput): void => {
    const { count, buffers } = fillOf(input, tableEntries);
    for (let i = 0; i < count; i++) {
      const buffer =
        i < buffers ? { address: addressOf(input, menu), lengthBytes: lengthOf(input) } : NOTHING;
      driver.writeEntry(table.address, i, { ...buffer, flags: DescriptorFlag.WRITE, id: i });
    }
    const lengthBytes = count * ENTRY_BYTES;
    let place = driver.addedPlace;
    for (let i = 0; i < queueSize; i++) {
      const flags = DescriptorFlag.INDIRECT | driver.availableFlags(place);
      driver.writeDescriptor(place.index, { address: table.address, lengthBytes, id: i, flags });
      place = driver.step(place, 1);
    }
  };
  const act = (input: FuzzInput): void => {
    switch (input.u8() % 9) {
      case 0:
      case 1:
      case 2: {
        const { index, available } = slot(input);
        driver.writeDescriptor(index, entry(input, flagsOf(input) ^ available));
        break;
      }
      case 3: {
        const { index, available } = slot(input);
        const flags = DescriptorFlag.INDIRECT | available | (input.u8() < 32 ? flagsOf(input) : 0);
        const lengthBytes = table.lengthOf(input);
        driver.writeDescriptor(index, { address: table.address, lengthBytes, id: input.u16(), flags });
        break;
      }
      case 4:
        driver.writeEntry(table.address, input.u8() % tableEntries, entry(input, flagsOf(input)));
        break;
      case 5:
        driver.writeDescriptor(input.u8() % queueSize, entry(input, input.u16()));
        break;
      case 6:
        driver.setDriverEvent(input.pick(Object.values(PackedEventFlag)) | (input.bit() ? 0 : input.u8()), {
          index: input.u16() & 0x7fff,
          wrap: input.u8() & 1,
        });
        break;
      case 7:
        offerTables(input);
        break;
      default:
        poke(memory, driver.descriptorAddress, Number(table.address - driver.descriptorAddress), input);
    }
  };
  return { driver, act };
}
