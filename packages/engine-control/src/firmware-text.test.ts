import { describe, expect, it } from 'vitest';
import { initialFirmwareStore } from './firmware-config.js';
import { FIRMWARE_NAMES, factoryValues } from './firmware-entries.js';
import { firmwareChangeTable, firmwareTable, firmwareValueText } from './firmware-text.js';
import { FIRMWARE_ROWS } from './guide-answers.fixture.js';

/** The values of the guide's example of columns. */
const example = {
  ...factoryValues(),
  PER_PF_NUM_SF: 1,
  NUM_OF_VFS: 0,
  PF_BAR2_ENABLE: 0,
  PCI_SWITCH_EMULATION_NUM_PORT: 8,
  PCI_SWITCH_EMULATION_ENABLE: 1,
  VIRTIO_NET_EMULATION_ENABLE: 1,
  VIRTIO_NET_EMULATION_NUM_VF: 126,
  VIRTIO_NET_EMULATION_NUM_PF: 1,
  VIRTIO_NET_EMULATION_NUM_MSIX: 64,
  VIRTIO_NET_EMULATION_NUM_VF_MSIX: 64,
  PF_TOTAL_SF: 508,
  PF_SF_BAR_SIZE: 8,
};
const options = { deviceName: '03:00.0', verbose: true };

describe('query table', () => {
  it('rows with an asterisk are those of the guide, column for column', () => {
    const table = firmwareTable({ current: example, nextBoot: example }, FIRMWARE_NAMES, options);
    const marked = table.split('\n').filter((line) => line.includes('*')); // the guide's `grep -i \*`
    expect(marked).toEqual(FIRMWARE_ROWS.trim().split('\n'));
  });

  it('marks a value that will change at the next boot, although it is the default', () => {
    const nextBoot = { ...example, PF_SF_BAR_SIZE: 0 };
    const table = firmwareTable({ current: example, nextBoot }, ['PF_SF_BAR_SIZE'], options);
    expect(table).toMatch(/^\* {8}PF_SF_BAR_SIZE +0 +8 +0$/m);
  });

  it('words that are longer than their column stand apart', () => {
    const table = firmwareTable({ current: example, nextBoot: example }, ['VF_MIGRATION_MODE'], options);
    expect(table).toMatch(/^ {9}VF_MIGRATION_MODE +(?:DEVICE_DEFAULT\(0\) ?){3}$/m);
    expect(table).not.toContain(')D');
  });

  it('does not mark a value that is and stays the default', () => {
    const table = firmwareTable({ current: example, nextBoot: example }, ['SRIOV_EN'], options);
    expect(table).toMatch(/^ {9}SRIOV_EN +True\(1\) +True\(1\) +True\(1\)$/m);
  });

  it('without -e has the next boot alone, and no marks', () => {
    const table = firmwareTable(initialFirmwareStore(), ['PF_TOTAL_SF'], { ...options, verbose: false });
    expect(table).toMatch(/^Configurations: +Next Boot$/m);
    expect(table).toMatch(/^ {9}PF_TOTAL_SF +64$/m);
    expect(table).not.toContain('*');
  });

  it('titles stand above their columns', () => {
    const lines = firmwareTable({ current: example, nextBoot: example }, ['PF_TOTAL_SF'], options).split(
      '\n',
    );
    const titles = lines.find((line) => line.startsWith('Configurations:'))!;
    const row = lines.find((line) => line.startsWith('*'))!;
    expect(titles.indexOf('Default')).toBe(row.indexOf('0 '));
    expect(titles.indexOf('Current')).toBe(row.indexOf('508'));
    expect(titles.indexOf('Next Boot')).toBe(row.lastIndexOf('508'));
  });
});

describe('change table', () => {
  it('shows what the next boot would have had and what it will have', () => {
    const table = firmwareChangeTable(example, { ...example, PF_TOTAL_SF: 64 }, ['PF_TOTAL_SF'], '03:00.0');
    expect(table).toMatch(/^Configurations: +Next Boot +New$/m);
    expect(table).toMatch(/^ {9}PF_TOTAL_SF +508 +64$/m);
  });
});

describe('value text', () => {
  it('is a word and the number for BOOL, a decimal number otherwise', () => {
    expect(firmwareValueText('SRIOV_EN', 0)).toBe('False(0)');
    expect(firmwareValueText('SRIOV_EN', 1)).toBe('True(1)');
    expect(firmwareValueText('PF_TOTAL_SF', 508)).toBe('508');
  });
});
