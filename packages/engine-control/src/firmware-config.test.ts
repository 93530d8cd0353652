import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  ASSIGNMENTS_MAX,
  assign,
  chooseEntries,
  FIRMWARE_STORE_BYTES_MAX,
  type FirmwareStore,
  firmwareLimits,
  initialFirmwareStore,
  parseFirmwareStore,
  powerCycledFirmwareStore,
  recoveryDeleted,
  resetFirmwareStore,
  serialiseFirmwareStore,
} from './firmware-config.js';
import {
  FIRMWARE_NAMES,
  type FirmwareEntryName,
  factoryValues,
  firmwareEntry,
  hotplugValues,
} from './firmware-entries.js';

const factory: FirmwareStore = { current: factoryValues(), nextBoot: factoryValues() };

function assigned(store: FirmwareStore, ...texts: string[]): FirmwareStore {
  const result = assign(store, texts);
  if ('problem' in result) throw new Error(result.problem);
  return result.store;
}
function problem(store: FirmwareStore, ...texts: string[]): string {
  const result = assign(store, texts);
  return 'problem' in result ? result.problem : 'no problem';
}

/** The guide's four configurations as it types them, from its lines 73 to 155. */
const HEADS = {
  'four static PFs': 'NUM_PF=4 NUM_VF=0 NUM_MSIX=64',
  '16 hotplug PFs': 'NUM_PF=0 NUM_VF=0 NUM_MSIX=64',
  '504 VFs': 'NUM_PF=4 NUM_VF=126 NUM_MSIX=64 NUM_VF_MSIX=64',
  '15 hotplug PFs with 200 VFs': 'NUM_PF=2 NUM_VF=100 NUM_MSIX=10 NUM_VF_MSIX=64',
};
const TAILS = {
  'four static PFs':
    'PCI_SWITCH_EMULATION_ENABLE=0 PCI_SWITCH_EMULATION_NUM_PORT=0 PF_TOTAL_SF=64 SRIOV_EN=0',
  '16 hotplug PFs':
    'PCI_SWITCH_EMULATION_ENABLE=1 PCI_SWITCH_EMULATION_NUM_PORT=16 PF_TOTAL_SF=64 SRIOV_EN=0',
  '504 VFs':
    'PCI_SWITCH_EMULATION_ENABLE=0 PCI_SWITCH_EMULATION_NUM_PORT=0 PF_TOTAL_SF=512 NUM_VF_MSIX=0 SRIOV_EN=1',
  '15 hotplug PFs with 200 VFs':
    'PCI_SWITCH_EMULATION_ENABLE=1 PCI_SWITCH_EMULATION_NUM_PORT=15 PF_TOTAL_SF=256 NUM_VF_MSIX=0 SRIOV_EN=1',
};
const COMMON = ['VIRTIO_NET_EMULATION_ENABLE=1', 'PER_PF_NUM_SF=1', 'PF_BAR2_ENABLE=0', 'PF_SF_BAR_SIZE=8'];
const canonical = (name: keyof typeof HEADS): string[] => [
  ...COMMON,
  ...HEADS[name].split(' ').map((text) => `VIRTIO_NET_EMULATION_${text}`),
  ...TAILS[name].split(' '),
];

const THE_15 = [
  ...['ENABLE', 'NUM_PF', 'NUM_VF', 'NUM_MSIX', 'NUM_VF_MSIX'].map((name) => `VIRTIO_NET_EMULATION_${name}`),
  ...['PCI_SWITCH_EMULATION_ENABLE', 'PCI_SWITCH_EMULATION_NUM_PORT', 'PER_PF_NUM_SF', 'PF_TOTAL_SF'],
  ...['PF_SF_BAR_SIZE', 'PF_BAR2_ENABLE', 'SRIOV_EN', 'EXP_ROM_VIRTIO_NET_PXE_ENABLE'],
  ...['EXP_ROM_VIRTIO_NET_UEFI_ARM_ENABLE', 'EXP_ROM_VIRTIO_NET_UEFI_x86_ENABLE'],
];

describe('firmware entries', () => {
  it('have defaults that fit their width', () => {
    for (const name of FIRMWARE_NAMES) {
      const { default: value, widthBits, max } = firmwareEntry(name);
      expect(value).toBeLessThan(2 ** widthBits);
      expect(max).toBeLessThan(2 ** widthBits);
    }
  });

  it('begin with those of the guide, in its order, and have each of its 15', () => {
    expect(FIRMWARE_NAMES.slice(0, 2)).toEqual(['PER_PF_NUM_SF', 'NUM_OF_VFS']);
    expect(FIRMWARE_NAMES).toEqual(expect.arrayContaining(THE_15));
  });
});

describe('canonical configurations', () => {
  it.each(Object.keys(HEADS) as (keyof typeof HEADS)[])(
    '%s can be set as typed, from the factory values',
    (name) => {
      const { nextBoot, current } = assigned(factory, ...canonical(name));
      expect(nextBoot.VIRTIO_NET_EMULATION_ENABLE).toBe(1);
      expect(nextBoot.PF_SF_BAR_SIZE).toBe(8);
      expect(current).toEqual(factory.current);
    },
  );

  it('an adapter without a store starts with the one of 16 hotplug PFs', () => {
    expect(assigned(factory, ...canonical('16 hotplug PFs')).nextBoot).toEqual(hotplugValues());
    expect(initialFirmwareStore()).toEqual({ current: hotplugValues(), nextBoot: hotplugValues() });
  });

  it('say how many devices there can be', () => {
    const limits = (name: keyof typeof HEADS) =>
      firmwareLimits(assigned(factory, ...canonical(name)).nextBoot);
    expect(limits('16 hotplug PFs')).toMatchObject({
      hotplugPorts: 16,
      devicesMax: 16,
      msixVectors: 64,
      sfsMax: 64,
    });
    expect(limits('504 VFs')).toMatchObject({
      staticPfs: 4,
      vfsPerPf: 126,
      devicesMax: 508,
      hotplugPorts: 0,
    });
    expect(limits('15 hotplug PFs with 200 VFs')).toMatchObject({
      devicesMax: 15 + 2 + 200,
      virtQueuesMax: 9,
    });
    expect(firmwareLimits(factoryValues())).toMatchObject({ devicesMax: 0, hotplugPorts: 0, sfsMax: null });
  });
});

describe('assignment', () => {
  it.each([
    ['no equals sign', 'SRIOV_EN', 'Invalid Configuration argument SRIOV_EN'],
    ['no name', '=1', 'Invalid Configuration argument =1'],
    ['unknown name', 'SRIOV=1', 'Unknown Parameter SRIOV'],
    ['name of an object property', 'constructor=1', 'Unknown Parameter constructor'],
    ['not a number', 'PF_TOTAL_SF=many', 'Unknown value many'],
    ['negative', 'PF_TOTAL_SF=-1', 'Unknown value -1'],
    ['empty value', 'PF_TOTAL_SF=', 'Unknown value '],
    [
      'wider than 12 bits',
      'VIRTIO_NET_EMULATION_NUM_VF_MSIX=4096',
      'The value 4096 is not valid,  as its size is 12 bits',
    ],
    ['wider than a BOOL', 'SRIOV_EN=2', 'The value 2 is not valid,  as its size is 1 bits'],
    ['below the minimum', 'VIRTIO_NET_EMULATION_NUM_MSIX=3', 'it must be 4 to 2048'],
    ['zero vectors for PFs', 'VIRTIO_NET_EMULATION_NUM_MSIX=0', 'it must be 4 to 2048'],
    ['too many static PFs', 'VIRTIO_NET_EMULATION_NUM_PF=32', 'it must be 0 to 31'],
    ['too many switch ports', 'PCI_SWITCH_EMULATION_NUM_PORT=32', 'it must be 0 to 31'],
  ])('%s is refused', (_, text, expected) => {
    expect(problem(initialFirmwareStore(), text)).toContain(expected);
  });

  it.each([
    ['SFs per PF with BAR2', ['PF_BAR2_ENABLE=1'], 'PF_BAR2_ENABLE must be 0'],
    ['SFs without PER_PF_NUM_SF', ['PER_PF_NUM_SF=0'], 'PER_PF_NUM_SF must be 1'],
    ['a BAR size without SFs', ['PF_TOTAL_SF=0'], 'PF_TOTAL_SF must not be 0'],
    ['1024 VFs', ['VIRTIO_NET_EMULATION_NUM_PF=4', 'VIRTIO_NET_EMULATION_NUM_VF=256'], '1008 VFs'],
    [
      '16 hotplug PFs with VFs',
      ['VIRTIO_NET_EMULATION_NUM_PF=1', 'VIRTIO_NET_EMULATION_NUM_VF=1'],
      'at most 15',
    ],
  ])('rule between entries: %s is refused', (_, texts, expected) => {
    expect(problem(initialFirmwareStore(), ...texts)).toContain(expected);
  });

  it('two entries that depend on one another can change together', () => {
    const { nextBoot } = assigned(
      initialFirmwareStore(),
      ...['PF_BAR2_ENABLE=1', 'PER_PF_NUM_SF=0', 'PF_TOTAL_SF=0', 'PF_SF_BAR_SIZE=0'],
    );
    expect(nextBoot).toMatchObject({ PF_BAR2_ENABLE: 1, PER_PF_NUM_SF: 0 });
  });

  it('the same entry twice is refused', () => {
    expect(problem(factory, 'SRIOV_EN=1', 'SRIOV_EN=0')).toBe('Duplicate parameter, SRIOV_EN.');
  });

  it('takes BOOL words in any case and hexadecimal numbers', () => {
    const { nextBoot } = assigned(initialFirmwareStore(), 'SRIOV_EN=TRUE', 'PF_TOTAL_SF=0x80');
    expect(nextBoot).toMatchObject({ SRIOV_EN: 1, PF_TOTAL_SF: 128 });
    expect(assigned(initialFirmwareStore(), 'SRIOV_EN=false').nextBoot.SRIOV_EN).toBe(0);
  });

  it('one bad assignment leaves the store as it was', () => {
    const store = initialFirmwareStore();
    expect(problem(store, 'PF_TOTAL_SF=100', 'NO=1')).toContain('Unknown Parameter');
    expect(store).toEqual(initialFirmwareStore());
  });

  it('a command with too many assignments is refused', () => {
    const texts = Array.from({ length: ASSIGNMENTS_MAX + 1 }, () => 'SRIOV_EN=1');
    expect(problem(factory, ...texts)).toContain('More than');
  });

  it('never throws, and changes only next-boot values, whatever the text', () => {
    const name = fc.oneof(fc.constantFrom(...FIRMWARE_NAMES), fc.string());
    const value = fc.oneof(fc.integer({ min: -5, max: 70_000 }).map(String), fc.string());
    fc.assert(
      fc.property(fc.array(fc.tuple(name, value), { maxLength: 6 }), (pairs) => {
        const store = initialFirmwareStore();
        const result = assign(
          store,
          pairs.map(([n, v]) => `${n}=${v}`),
        );
        if ('problem' in result) return;
        expect(result.store.current).toEqual(store.current);
        // What was accepted can be stored and read back.
        expect(parseFirmwareStore(serialiseFirmwareStore(result.store))).toEqual({ store: result.store });
      }),
    );
  });
});

describe('enums', () => {
  it('take a word in any case, or its number', () => {
    for (const written of ['DISABLED', 'disabled', '1'])
      expect(
        assigned(factory, `INTERNAL_CPU_OFFLOAD_ENGINE=${written}`).nextBoot.INTERNAL_CPU_OFFLOAD_ENGINE,
      ).toBe(1);
    expect(problem(factory, 'INTERNAL_CPU_OFFLOAD_ENGINE=OFF')).toBe('Unknown value OFF');
    expect(problem(factory, 'INTERNAL_CPU_OFFLOAD_ENGINE=2')).toContain('it must be 0 to 1');
  });

  it.each(['INTERNAL_CPU_MODEL=SEPARATED_HOST', 'INTERNAL_CPU_OFFLOAD_ENGINE=DISABLED'])(
    '%s: without DPU mode there are no virtio-net functions',
    (text) => {
      expect(firmwareLimits(assigned(initialFirmwareStore(), text).nextBoot)).toMatchObject({
        devicesMax: 0,
      });
    },
  );

  it.each(['VIRTIO_NET_EMULATION_PF_PCI_LAYOUT=VIRTIO_TRANSITIONAL', 'VIRTIO_EMULATION_HOTPLUG_TRANS=1'])(
    '%s: what does not exist here is refused',
    (text) => expect(problem(factory, text)).toMatch(/transitional .* do not exist here$/),
  );
});

describe('a power cycle', () => {
  it('makes next-boot values current, and recovery files obsolete until they are deleted', () => {
    const before = assigned(initialFirmwareStore(), 'PCI_SWITCH_EMULATION_NUM_PORT=8');
    const after = powerCycledFirmwareStore(before);
    expect(after).toEqual({ current: before.nextBoot, nextBoot: before.nextBoot, recoveryObsolete: true });
    expect(powerCycledFirmwareStore(after)).toEqual(after);
    expect(assigned(after, 'SRIOV_EN=1').recoveryObsolete).toBe(true);
    expect(resetFirmwareStore(after).recoveryObsolete).toBe(true);
    expect(parseFirmwareStore(serialiseFirmwareStore(after))).toEqual({ store: after });
    expect(recoveryDeleted(after)).toEqual({ current: before.nextBoot, nextBoot: before.nextBoot });
  });

  it.each([[], ['NUM_OF_VFS=0', 'EXP_ROM_VIRTIO_NET_PXE_ENABLE=0']])(
    'without a change that has an effect leaves recovery files alone (%s)',
    (...texts) => {
      const store = powerCycledFirmwareStore(assigned(initialFirmwareStore(), ...texts));
      expect(store.current).toEqual(store.nextBoot);
      expect(store.recoveryObsolete).toBeUndefined();
    },
  );

  it('a store whose mark is no truth value is refused', () => {
    const text = serialiseFirmwareStore(initialFirmwareStore()).replace('{', '{ "recovery_obsolete": 1,');
    expect(parseFirmwareStore(text)).toEqual({ problem: 'recovery_obsolete cannot be 1' });
  });
});

describe('store document', () => {
  it('reads back what was written', () => {
    const store = assigned(initialFirmwareStore(), 'PF_TOTAL_SF=100');
    expect(parseFirmwareStore(serialiseFirmwareStore(store))).toEqual({ store });
  });

  it('an entry that is missing has its default', () => {
    const text = JSON.stringify({ version: 1, current: {}, next_boot: { PF_TOTAL_SF: 7 } });
    const result = parseFirmwareStore(text);
    expect(result).toEqual({
      store: { current: factoryValues(), nextBoot: { ...factoryValues(), PF_TOTAL_SF: 7 } },
    });
  });

  it.each([
    ['empty', '', 'not JSON'],
    ['torn', '{"version":1,"current":{"SRIOV', 'not JSON'],
    ['an array', '[]', 'not a JSON object'],
    ['null', 'null', 'not a JSON object'],
    ['of another version', '{"version":2,"current":{},"next_boot":{}}', 'version 2'],
    ['without values', '{"version":1}', 'current: not a JSON object'],
    ['with an unknown entry', '{"version":1,"current":{"NO":1},"next_boot":{}}', 'unknown entry "NO"'],
    [
      'with a text value',
      '{"version":1,"current":{},"next_boot":{"SRIOV_EN":"1"}}',
      'SRIOV_EN cannot be "1"',
    ],
    [
      'with a fraction',
      '{"version":1,"current":{"PF_TOTAL_SF":1.5},"next_boot":{}}',
      'PF_TOTAL_SF cannot be 1.5',
    ],
    [
      'out of range',
      '{"version":1,"current":{"PCI_SWITCH_EMULATION_NUM_PORT":255},"next_boot":{}}',
      'cannot be 255',
    ],
    ['too large', ' '.repeat(FIRMWARE_STORE_BYTES_MAX + 1), 'larger than'],
  ])('that is %s is a problem, not an exception', (_, text, expected) => {
    const result = parseFirmwareStore(text);
    expect('problem' in result && result.problem).toContain(expected);
  });

  it('never throws, whatever the JSON', () => {
    fc.assert(
      fc.property(fc.json(), (text) => {
        expect(parseFirmwareStore(text)).toHaveProperty('problem');
      }),
    );
  });

  it('reset sets the next boot to the factory values and keeps the current ones', () => {
    expect(resetFirmwareStore(initialFirmwareStore())).toEqual({
      current: hotplugValues(),
      nextBoot: factoryValues(),
    });
  });
});

describe('entries a query asks for', () => {
  it('are all when it names none, and each once', () => {
    expect(chooseEntries([])).toEqual({ names: FIRMWARE_NAMES });
    const names: FirmwareEntryName[] = ['SRIOV_EN', 'PF_TOTAL_SF'];
    expect(chooseEntries(['SRIOV_EN', 'PF_TOTAL_SF', 'SRIOV_EN'])).toEqual({ names });
  });

  it('that do not exist are a problem', () => {
    expect(chooseEntries(['NOPE'])).toEqual({ problem: "The Device doesn't support NOPE parameter" });
  });
});
