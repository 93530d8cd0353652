/**
 * driver-thread-hostile.ts: a driver that rewrites everything a device reads, as fast as it can, while the device works.
 *
 * Theory
 *   Each turn rewrites one field of the descriptors in a cache line some times, or a whole descriptor: addresses, lengths, flags with links or ids, entries of tables,
 *   headers, bytes of frames that headers are judged by, the available ring, its index, what is wished to be told. All
 *   values come from lists made before. Most make a chain that a device takes; some must be refused, and lead out of
 *   memory or astray if they are not. A line
 *   that is written all the time leaves the device's processor between two reads, even if they are close together; then they
 *   find two values.
 *   Fields that say the same are in one word, so that they can be told from two reads of it: the id of a packed descriptor
 *   has its index and its flags.
 */
import {
  AvailableFlag,
  DescriptorFlag,
  EtherType,
  GsoType,
  IpProtocol,
  NetHeaderFlag,
  PACKED_FLAGS_SHIFT,
  PackedFlag,
  PackedPosition,
  RingWord,
  usedEventAt,
} from '@virtnet/wire';
import {
  Control,
  type DriverThreadEnd,
  type DriverThreadStart,
  makeDriver,
  randomWords,
  type ThreadDriver,
} from './driver-thread.js';
import {
  ENTRY_BYTES,
  LENGTHS,
  mayBeEmpty,
  OFFSETS,
  type RaceMemory,
  RaceRegion,
  SLOT_BYTES,
  slotAddress,
  slotAt,
  slotRegion,
  TABLE_ENTRIES,
  tableAddress,
  tableAt,
} from './race-layout.js';

const { NEXT, WRITE, INDIRECT } = DescriptorFlag;
const ENTRY_WORDS = ENTRY_BYTES / 4;
/** Entries of a list of values. */
const CHOICES = 32;
const CHOICES_MASK = CHOICES - 1;
/** How often a turn rewrites a field, and how far it goes through the list each time. */
const PASSES = 12;
const STRIDE = 7;
/** Descriptors in a cache line. */
const LINE_ENTRIES = 4;
const TURNS_BETWEEN_LOOKS = 64;
/** Where the id of a packed descriptor has its index. */
export const ID_INDEX_SHIFT = 3;
export const ID_FLAGS_MASK = NEXT | WRITE | INDIRECT;

/** Values for each word of a descriptor; addresses in pairs. */
interface Menu {
  readonly low: Int32Array;
  readonly high: Int32Array;
  readonly length: Int32Array;
  readonly flags: Int32Array;
}

const lowOf = (address: number): number => (address % 2 ** 32) | 0;
const highOf = (address: number): number => Math.floor(address / 2 ** 32) | 0;

/** A list of CHOICES values, those given in turn. */
function list(...values: readonly (readonly [count: number, value: (i: number) => number])[]): Int32Array {
  const all = values.flatMap(([count, value]) => Array.from({ length: count }, (_, i) => value(i)));
  if (all.length !== CHOICES) throw new RangeError(`${all.length} values`);
  return Int32Array.from(all);
}

/** Addresses and lengths of buffers in a slot: most of them in there, the others out of memory. */
function bufferMenu(slot: number, tables: number): Pick<Menu, 'low' | 'high' | 'length'> {
  const region = RaceRegion[slotRegion(slot)];
  const end = region.iova + region.sizeBytes;
  const { tables: others } = RaceRegion;
  const tableEnd = others.iova + others.sizeBytes;
  /** One byte more than there is behind either. */
  const tooLong = 1 + Math.max(end - slotAddress(slot), tableEnd - tableAddress(slot));
  const inside = (i: number) => slotAddress(slot) + OFFSETS[i % OFFSETS.length]!;
  const addresses = (part: (address: number) => number, wrong: (address: number) => number) =>
    list(
      [26 - tables, (i) => part(inside(i))],
      [tables, () => part(tableAddress(slot))],
      [2, () => part(end - 8)],
      [1, () => part(end)],
      [1, () => part(region.iova - 64)],
      [2, (i) => wrong(inside(i))],
    );
  return {
    low: addresses(lowOf, lowOf),
    high: addresses(highOf, (address) => highOf(address) ^ 0x7000),
    length: list(
      [24, (i) => LENGTHS[i % LENGTHS.length]!],
      [2, () => tooLong],
      [1, () => 0x4000_0000],
      [2, () => 0x7fff_ffff],
      [1, () => -1],
      [2, (i) => (mayBeEmpty(slot) ? 0 : LENGTHS[i]!)],
    ),
  };
}

/** Descriptors that are a table most often: of a queue that sends, which has bursts of them. */
export const likesTables = (slot: number, own: number): boolean => own === 0 && slot % 4 < 2;

/** Descriptors of the ring. `own`: the flag of buffers in the queue's direction. */
function ringMenu(slot: number, size: number, packed: boolean, own: number): Menu {
  const linked = (flags: number, next: number) => (packed ? flags : flags | (next << 16));
  const tables = likesTables(slot, own) ? 16 : 6;
  const flags = list(
    [23 - tables, () => own],
    [2, () => own ^ WRITE],
    [3, (i) => linked(own | NEXT, (slot + 1 + i) % size)],
    [1, () => linked(own | NEXT, slot === 0 ? size : (slot + 1) % size)],
    [1, () => linked((own ^ WRITE) | NEXT, (slot + 1) % size)],
    [tables, () => INDIRECT],
    [1, () => linked(INDIRECT | NEXT, (slot + 1) % size)],
    [1, () => INDIRECT | WRITE],
  );
  return { ...bufferMenu(slot, tables), flags: packed ? flags.map((word) => packedWord(slot, word)) : flags };
}

/** Id and flags of a packed descriptor, not available. */
export const packedWord = (slot: number, flags: number): number =>
  (flags << PACKED_FLAGS_SHIFT) | (slot << ID_INDEX_SHIFT) | flags;

/** Entries of a descriptor's table. */
function tableMenu(slot: number, entry: number, packed: boolean, own: number): Menu {
  const last = entry === TABLE_ENTRIES - 1;
  const word = (flags: number, next: number) =>
    packed ? (flags << PACKED_FLAGS_SHIFT) | next : flags | (next << 16);
  return {
    ...bufferMenu(slot, 0),
    flags: list(
      [18, () => (last ? word(own, 0) : word(own | NEXT, entry + 1))],
      [7, () => word(own, 0)],
      [2, () => word(own ^ WRITE, 0)],
      [1, () => word(INDIRECT, 0)],
      [2, () => word(own | NEXT, (entry + 2) % TABLE_ENTRIES)],
      [2, () => word(own | NEXT, slot === 0 ? TABLE_ENTRIES : (entry + 1) % TABLE_ENTRIES)],
    ),
  };
}

/** Rewrites a whole descriptor: of its table with `flags` INDIRECT, else of a buffer with these flags. */
export function writeDescriptor(
  ring: Int32Array,
  slot: number,
  packed: boolean,
  flags: number,
  length: number,
  ready: number,
): void {
  const table = flags === INDIRECT;
  const address = table ? tableAddress(slot) : slotAddress(slot);
  const at = slot * ENTRY_WORDS;
  ring[at] = lowOf(address);
  ring[at + 1] = highOf(address);
  ring[at + 2] = table ? TABLE_ENTRIES * ENTRY_BYTES : length;
  Atomics.store(ring, at + 3, (packed ? packedWord(slot, flags) : flags) | ready);
}

/** One table in so many runs in a circle, in a split ring. */
const LOOPED = 32;

/** Rewrites a table so that it is in order, most often. */
export function writeTable(
  tables: Int32Array,
  slot: number,
  packed: boolean,
  own: number,
  choice: number,
): void {
  const address = slotAddress(slot);
  for (let entry = 0; entry < TABLE_ENTRIES; entry++) {
    const at = (tableAt(slot) >>> 2) + entry * ENTRY_WORDS;
    const last = entry === TABLE_ENTRIES - 1 && choice % LOOPED !== 0;
    tables[at] = lowOf(address);
    tables[at + 1] = highOf(address);
    tables[at + 2] = LENGTHS[(choice + entry) % LENGTHS.length]!;
    tables[at + 3] = packed
      ? own << PACKED_FLAGS_SHIFT
      : last
        ? own
        : own | NEXT | (((entry + 1) % TABLE_ENTRIES) << 16);
  }
}

/** The three words of a header. No first word is what the high word of an address is, nor a second one. */
const HEADER: readonly Int32Array[] = [
  list(
    [20, () => 0],
    [4, () => NetHeaderFlag.NEEDS_CSUM],
    [5, () => NetHeaderFlag.NEEDS_CSUM | (GsoType.TCPV4 << 8)],
    [1, () => GsoType.TCPV4 << 8],
    [1, () => NetHeaderFlag.NEEDS_CSUM | (0x7f << 8)],
    [1, () => 0x1234_0000],
  ),
  list(
    [20, () => (34 << 16) | 100],
    [4, () => 34 << 16],
    [4, () => 0xfff0 << 16],
    [2, () => 13 << 16],
    [2, () => (54 << 16) | 100],
  ),
  list([22, () => 16], [4, () => 2], [4, () => 0xfff0], [2, () => 40]),
];
/** Bytes of a frame that its header is judged by: where they are, and what they may be. */
const FRAME_BYTES: readonly { readonly at: number; readonly values: readonly number[] }[] = [
  { at: 12, values: [EtherType.IPV4 >>> 8, EtherType.IPV4 >>> 8, EtherType.VLAN >>> 8, 0x86] },
  { at: 13, values: [EtherType.IPV4 & 0xff, EtherType.VLAN & 0xff, EtherType.IPV4 & 0xff, 0xdd] },
  { at: 23, values: [IpProtocol.TCP, IpProtocol.TCP, IpProtocol.TCP, IpProtocol.UDP] },
  { at: 46, values: [0x50, 0x50, 0xf0, 0x00] },
];
const HEADER_WORDS = 3;
const HEADER_BYTES = HEADER_WORDS * 4;

/** How a rewritten descriptor becomes available, in either format. */
interface Format {
  /** What is added to the flags of descriptor `slot`; `wrong`: for the other side. */
  availability(slot: number, wrong: boolean): number;
  /** Rewrites what is beside the descriptors. */
  offer(slot: number, choice: number, wild: boolean): void;
}

export function rewrite(start: DriverThreadStart, control: Int32Array): DriverThreadEnd {
  const { queueSize: size, count, format } = start;
  const race = start.race!;
  const { memory } = race;
  const packed = format === 'packed';
  const own = race.receives ? WRITE : 0;
  const slots = Array.from({ length: size }, (_, slot) => slot);
  const menus = slots.map((slot) => ringMenu(slot, size, packed, own));
  const tableMenus = slots.map((slot) =>
    Array.from({ length: TABLE_ENTRIES }, (_, entry) => tableMenu(slot, entry, packed, own)),
  );
  const slotWords = slots.map((slot) => wordsOf(memory, slot));
  const slotBytes = slotWords.map(({ buffer, byteOffset, byteLength }) => {
    return new Uint8Array(buffer, byteOffset, byteLength);
  });
  const { tables } = memory;
  const tableWords = new Int32Array(tables.buffer, tables.byteOffset, tables.sizeBytes >>> 2);
  const driver = makeDriver(start);
  const ringAt = start.memory.byteOffset + driver.memory.at(driver.descriptorAddress);
  const ring = new Int32Array(start.memory.buffer, ringAt, size * ENTRY_WORDS);
  const { availability, offer } = packed ? packedFormat(start, driver, control) : splitFormat(start, driver);
  const available = new Int32Array(size);
  const random = randomWords(start.seed);
  // The driver that was made here has left descriptors that say nothing: the race begins behind this (Control.DONE).
  for (const slot of slots)
    writeDescriptor(ring, slot, packed, own, LENGTHS[slot % LENGTHS.length]!, availability(slot, false));

  for (let turn = 0; turn < count; turn++) {
    if (turn % TURNS_BETWEEN_LOOKS === 0) {
      Atomics.store(control, Control.DONE, turn);
      if (Atomics.load(control, Control.STOP) === 1) break;
    }
    const bits = random();
    const slot = ((bits >>> 16) * size) >>> 16;
    const choice = bits & CHOICES_MASK;
    const other = (bits >>> 5) & CHOICES_MASK;
    // The descriptors that share a cache line with this one, again and again.
    const first = slot - (slot % LINE_ENTRIES);
    const end = Math.min(first + LINE_ENTRIES, size);
    switch ((bits >>> 10) & 15) {
      case 0:
        for (let pass = 0; pass < PASSES; pass++)
          for (let i = first; i < end; i++) {
            const at = i * ENTRY_WORDS;
            const { low, high } = menus[i]!;
            const value = (choice + pass * STRIDE) & CHOICES_MASK;
            ring[at] = low[value]!;
            ring[at + 1] = high[value]!;
          }
        break;
      case 1:
      case 2:
        for (let pass = 0; pass < PASSES; pass++)
          for (let i = first; i < end; i++)
            ring[i * ENTRY_WORDS + 2] = menus[i]!.length[(choice + pass * STRIDE + i) & CHOICES_MASK]!;
        break;
      case 3:
      case 4: {
        for (let i = first; i < end; i++) available[i] = availability(i, other === 0);
        for (let pass = 0; pass < PASSES; pass++)
          for (let i = first; i < end; i++) {
            const flags = menus[i]!.flags[(choice + pass * STRIDE + i) & CHOICES_MASK]!;
            ring[i * ENTRY_WORDS + 3] = flags | available[i]!;
          }
        break;
      }
      case 5:
      case 6: {
        // A whole one that is in order, most often: a buffer, or a table.
        const table = other < (likesTables(slot, own) ? 24 : 8);
        const ready = availability(slot, false);
        if (table) writeTable(tableWords, slot, packed, own, choice);
        writeDescriptor(ring, slot, packed, table ? INDIRECT : own, menus[slot]!.length[choice]!, ready);
        break;
      }
      case 7:
      case 8:
      case 9:
      case 10: {
        // One entry, so that the others stay in order, of a table that is met often.
        const liked = own === 0 ? slot & ~2 : slot;
        const entry = (other >>> 2) & (TABLE_ENTRIES - 1);
        const { low, high, length, flags } = tableMenus[liked]![entry]!;
        const at = (tableAt(liked) >>> 2) + entry * ENTRY_WORDS;
        const field = other & 3;
        for (let pass = 0; pass < PASSES * LINE_ENTRIES; pass++) {
          const value = (choice + pass * STRIDE) & CHOICES_MASK;
          if (field === 0) {
            tableWords[at] = low[value]!;
            tableWords[at + 1] = high[value]!;
          } else if (field !== 3) tableWords[at + 2] = length[value]!;
          else tableWords[at + 3] = flags[value]!;
        }
        break;
      }
      case 11:
      case 12: {
        const words = slotWords[slot]!;
        const headerAt = OFFSETS[other % OFFSETS.length]! >>> 2;
        for (let pass = 0; pass < PASSES; pass++)
          for (let word = 0; word < HEADER_WORDS; word++)
            words[headerAt + word] = HEADER[word]![(choice + pass * STRIDE + word) & CHOICES_MASK]!;
        break;
      }
      case 13: {
        const { at: byteAt, values } = FRAME_BYTES[choice & 3]!;
        const at = OFFSETS[other % OFFSETS.length]! + HEADER_BYTES + byteAt;
        for (let pass = 0; pass < PASSES; pass++) slotBytes[slot]![at] = values[(choice + pass) & 3]!;
        break;
      }
      default:
        offer(slot, choice, other === 0 && choice < 4);
    }
  }
  return { complaint: null };
}

const wordsOf = (memory: RaceMemory, slot: number): Int32Array => {
  const { buffer, byteOffset } = memory[slotRegion(slot)];
  return new Int32Array(buffer, byteOffset + slotAt(slot), SLOT_BYTES >>> 2);
};

function splitFormat(start: DriverThreadStart, driver: ThreadDriver): Format {
  const { queueSize: size } = start;
  const words = (address: bigint, count: number) => {
    const at = start.memory.byteOffset + driver.memory.at(address);
    return new Uint16Array(start.memory.buffer, at, count);
  };
  const available = words(driver.driverAddress, usedEventAt(size) + 1);
  const used = words(driver.deviceAddress, RingWord.INDEX + 1);
  return {
    availability: () => 0,
    offer: (slot, choice, wild) => {
      switch (choice & 3) {
        case 0:
        case 1:
          for (let pass = 0; pass < PASSES; pass++)
            for (let i = 0; i < size; i++)
              available[RingWord.FIRST_ENTRY + i] = wild && i === slot ? size : (slot + i + pass) % size;
          break;
        case 2: {
          // As far ahead as it may be, so that the device has work.
          const ahead = wild ? 2 * size : size;
          Atomics.store(available, RingWord.INDEX, (Atomics.load(used, RingWord.INDEX) + ahead) & 0xffff);
          break;
        }
        default:
          available[RingWord.FLAGS] = choice & 4 ? AvailableFlag.NO_INTERRUPT : 0;
          available[usedEventAt(size)] = Atomics.load(used, RingWord.INDEX) + choice;
      }
    },
  };
}

function packedFormat(start: DriverThreadStart, driver: ThreadDriver, control: Int32Array): Format {
  const { AVAIL, USED } = PackedFlag;
  const at = start.memory.byteOffset + driver.memory.at(driver.driverAddress);
  const event = new Int32Array(start.memory.buffer, at, 1);
  return {
    availability: (slot, wrong) => {
      const place = Atomics.load(control, Control.PLACE);
      const wrap = (place & PackedPosition.WRAP) === 0 ? 0 : 1;
      const lap = slot >= (place & PackedPosition.INDEX_MASK) ? wrap : wrap ^ 1;
      return ((lap === 1) !== wrong ? AVAIL : USED) << PACKED_FLAGS_SHIFT;
    },
    offer: (slot, choice) => {
      Atomics.store(event, 0, ((choice & 3) << PACKED_FLAGS_SHIFT) | ((choice & 4) << 13) | slot);
    },
  };
}
