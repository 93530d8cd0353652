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
  readonly type: 'bool' | 'number';
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

/** All entries by name. */
export const FIRMWARE_ENTRIES = {
  PER_PF_NUM_SF: bool(0, 'SFs are counted per PF, by PF_TOTAL_SF'),
  NUM_OF_VFS: number(16, 16, 127, 'native VFs per PF; stored only'),
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
  PF_SF_BAR_SIZE: number(8, 0, SF_BAR_LOG_MAX, "logarithm of one SF's BAR in KB; stored only"),
  SRIOV_EN: bool(1, 'PFs may have VFs'),
  NUM_VF_MSIX: number(16, 0, MSIX_VECTORS_MAX, 'MSI-X vectors of a native VF; stored only'),
  EXP_ROM_VIRTIO_NET_PXE_ENABLE: bool(1, 'expansion ROM with PXE; stored only'),
  EXP_ROM_VIRTIO_NET_UEFI_ARM_ENABLE: bool(1, 'expansion ROM with UEFI for Arm; stored only'),
  EXP_ROM_VIRTIO_NET_UEFI_x86_ENABLE: bool(1, 'expansion ROM with UEFI for x86; stored only'),
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
