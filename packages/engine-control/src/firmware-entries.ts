/**
 * The firmware entries this adapter has: types, widths, ranges, defaults.
 *
 * Rows stand in the order in which the guide prints them. The defaults are the guide's; those of SRIOV_EN and
 * NUM_VF_MSIX follow from it, because its example sets them and does not mark them as changed.
 */
import { HOTPLUG_PFS_MAX, MSIX_VECTORS_MAX, MSIX_VECTORS_MIN, STATIC_PFS_MAX, VFS_MAX } from './limits.js';

/** Largest SF BAR whose logarithm the adapter takes, in powers of two of KB: 2^20 KB = 1 GiB. */
const SF_BAR_LOG_MAX = 20;

interface EntryShape {
  readonly type: 'bool' | 'number' | 'enum';
  /** Words for the values of an enum: the first is 0. */
  readonly words?: readonly string[];
  /** Bits of the value; a larger one is refused. */
  readonly widthBits: number;
  readonly default: number;
  /** Least and most a user may set. A default outside is kept until the user changes it. */
  readonly min: number;
  readonly max: number;
  /** Also permitted below `min`. */
  readonly zeroMeans?: string;
  /** What the entry decides. */
  readonly meaning: string;
  /** Kept and shown, without an effect on this adapter. */
  readonly storedOnly?: true;
}

const bool = (value: 0 | 1, meaning: string): EntryShape => ({
  type: 'bool',
  widthBits: 1,
  default: value,
  min: 0,
  max: 1,
  meaning,
});
const number = (widthBits: number, value: number, max: number, meaning: string, min = 0): EntryShape => ({
  type: 'number',
  widthBits,
  default: value,
  min,
  max,
  meaning,
});

const words = (list: readonly string[], value: number, meaning: string): EntryShape => ({
  type: 'enum',
  words: list,
  widthBits: 2,
  default: value,
  min: 0,
  max: list.length - 1,
  meaning,
});
const stored = (entry: EntryShape): EntryShape => ({ ...entry, storedOnly: true });
const OWNERS = ['ECPF', 'EXT_HOST_PF'];
const LAYOUTS = ['VIRTIO_1_X', 'VIRTIO_TRANSITIONAL'];
const VIRTIO_NET_SUBSYSTEM = 0x1041;
const VIRTIO_SUBSYSTEM_VENDOR = 0x1af4;

/** All entries by name. */
export const FIRMWARE_ENTRIES = {
  PER_PF_NUM_SF: bool(0, 'SFs are counted per PF, by PF_TOTAL_SF'),
  NUM_OF_VFS: stored(number(16, 16, 127, 'native VFs per PF')),
  PF_BAR2_ENABLE: bool(1, 'BAR2 of the native PFs; must be off for PER_PF_NUM_SF'),
  PCI_SWITCH_EMULATION_NUM_PORT: number(8, 0, HOTPLUG_PFS_MAX, 'ports of the emulated switch: hotplug PFs'),
  PCI_SWITCH_EMULATION_ENABLE: bool(0, 'the emulated switch exists'),
  VIRTIO_NET_EMULATION_ENABLE: bool(0, 'virtio-net functions exist'),
  VIRTIO_NET_EMULATION_NUM_VF: number(16, 0, VFS_MAX, 'VFs of each virtio-net PF'),
  VIRTIO_NET_EMULATION_NUM_PF: number(8, 0, STATIC_PFS_MAX, 'static virtio-net PFs'),
  VIRTIO_NET_EMULATION_NUM_MSIX: number(16, 2, MSIX_VECTORS_MAX, 'MSI-X vectors of a PF', MSIX_VECTORS_MIN),
  VIRTIO_NET_EMULATION_NUM_VF_MSIX: {
    ...number(12, 0, MSIX_VECTORS_MAX, 'MSI-X vectors of a VF', MSIX_VECTORS_MIN),
    zeroMeans: 'as VIRTIO_NET_EMULATION_NUM_MSIX',
  },
  PF_TOTAL_SF: number(16, 0, 0xffff, 'SFs of a PF: one for each virtio-net function'),
  PF_SF_BAR_SIZE: stored(number(8, 0, SF_BAR_LOG_MAX, "logarithm of one SF's BAR in KB")),
  SRIOV_EN: bool(1, 'PFs may have VFs'),
  NUM_VF_MSIX: number(
    16,
    0,
    MSIX_VECTORS_MAX,
    'bounds the MSI-X vectors of a virtio-net VF that has no number',
  ),
  EXP_ROM_VIRTIO_NET_PXE_ENABLE: stored(bool(1, 'expansion ROM with PXE')),
  EXP_ROM_VIRTIO_NET_UEFI_ARM_ENABLE: stored(bool(1, 'expansion ROM with UEFI for Arm')),
  EXP_ROM_VIRTIO_NET_UEFI_x86_ENABLE: stored(bool(1, 'expansion ROM with UEFI for x86')),
  INTERNAL_CPU_MODEL: words(['SEPARATED_HOST', 'EMBEDDED_CPU'], 1, 'virtio-net functions need EMBEDDED_CPU'),
  INTERNAL_CPU_OFFLOAD_ENGINE: words(['ENABLED', 'DISABLED'], 0, 'virtio-net functions need ENABLED'),
  INTERNAL_CPU_PAGE_SUPPLIER: stored(words(OWNERS, 0, 'who supplies memory')),
  INTERNAL_CPU_ESWITCH_MANAGER: stored(words(OWNERS, 0, 'who manages the switch')),
  NUM_OF_PF: stored(number(4, 2, 2, 'native PFs')),
  HIDE_PORT2_PF: stored(bool(0, 'the native PF of port 2 is hidden')),
  VIRTIO_NET_EMULATION_SUBSYSTEM_ID: number(16, VIRTIO_NET_SUBSYSTEM, 0xffff, 'PCI subsystem id'),
  VIRTIO_NET_EMU_SUBSYSTEM_VENDOR_ID: number(16, VIRTIO_SUBSYSTEM_VENDOR, 0xffff, 'PCI subsystem vendor'),
  VIRTIO_NET_EMULATION_PF_PCI_LAYOUT: { ...words(LAYOUTS, 0, 'transitional PFs do not exist here'), max: 0 },
  VIRTIO_NET_EMULATION_VF_PCI_LAYOUT: { ...words(LAYOUTS, 0, 'transitional VFs do not exist here'), max: 0 },
  VIRTIO_EMULATION_HOTPLUG_TRANS: { ...bool(0, 'transitional hotplug PFs do not exist here'), max: 0 },
  DYNAMIC_VF_MSIX_TABLE: stored(bool(0, 'MSI-X tables of native VFs can change')),
  VF_MIGRATION_MODE: stored(
    words(['DEVICE_DEFAULT', 'MIGRATION_DISABLED', 'MIGRATION_ENABLED'], 0, 'migration of native VFs'),
  ),
} as const satisfies Record<string, EntryShape>;

export type FirmwareEntryName = keyof typeof FIRMWARE_ENTRIES;
export type FirmwareEntry = EntryShape;
/** One value for every entry. */
export type FirmwareValues = Readonly<Record<FirmwareEntryName, number>>;

/** Entry names in the order in which they are printed. */
export const FIRMWARE_NAMES = Object.keys(FIRMWARE_ENTRIES) as readonly FirmwareEntryName[];

/** Whether a text names an entry; names are case-sensitive. */
export function isFirmwareName(text: string): text is FirmwareEntryName {
  return Object.hasOwn(FIRMWARE_ENTRIES, text);
}

/** The entry behind a name. */
export function firmwareEntry(name: FirmwareEntryName): FirmwareEntry {
  return FIRMWARE_ENTRIES[name];
}

/** The values the adapter leaves the factory with. */
export function factoryValues(): FirmwareValues {
  return Object.fromEntries(
    FIRMWARE_NAMES.map((name) => [name, FIRMWARE_ENTRIES[name].default]),
  ) as FirmwareValues;
}

/** The guide's configuration of 16 hotplug PFs, with which an adapter without a store starts. */
export function hotplugValues(): FirmwareValues {
  return {
    ...factoryValues(),
    VIRTIO_NET_EMULATION_ENABLE: 1,
    VIRTIO_NET_EMULATION_NUM_PF: 0,
    VIRTIO_NET_EMULATION_NUM_VF: 0,
    VIRTIO_NET_EMULATION_NUM_MSIX: 64,
    PCI_SWITCH_EMULATION_ENABLE: 1,
    PCI_SWITCH_EMULATION_NUM_PORT: 16,
    PER_PF_NUM_SF: 1,
    PF_TOTAL_SF: 64,
    PF_BAR2_ENABLE: 0,
    PF_SF_BAR_SIZE: 8,
    SRIOV_EN: 0,
  };
}
