import { PCI_CONFIG_BYTES, PciHeader } from '@virtnet/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { lspciLines, type PciRow, parsePciFilter } from './lspci.js';

const row = (bdf: string, extra: Partial<PciRow> = {}): PciRow => ({
  bdf,
  classCode: 0x20000,
  vendorId: 0x1af4,
  deviceId: 0x1041,
  revisionId: 1,
  ...extra,
});
const all = { numeric: false, filter: null };

describe('lspci', () => {
  it('prints the row of the guide', () => {
    expect(lspciLines([row('15:00.0')], all)).toEqual([
      '15:00.0 Ethernet controller: Red Hat, Inc. Virtio network device (rev 01)',
    ]);
  });

  it('-n prints class, vendor and device in numbers; revision 0 is not shown', () => {
    const rows = [row('15:00.0'), row('16:00.0', { deviceId: 0x1000, revisionId: 0 })];
    expect(lspciLines(rows, { numeric: true, filter: null })).toEqual([
      '15:00.0 0200: 1af4:1041 (rev 01)',
      '16:00.0 0200: 1af4:1000',
    ]);
  });

  it.each([
    [0x1af4, 0x1041, 'Red Hat, Inc. Device 1041', '1af4:1041'],
    [0x15b3, 0x42, 'Mellanox Technologies Device 0042', '15b3:0042'],
    [0xabcd, 0x1, 'Device abcd:0001', 'abcd:0001'],
  ])('-v names the subsystem %i:%i, with -n in numbers', (vendor, id, words, numbers) => {
    const config = new Uint8Array(PCI_CONFIG_BYTES);
    new DataView(config.buffer).setUint16(PciHeader.at.subsystemVendorId, vendor, true);
    new DataView(config.buffer).setUint16(PciHeader.at.subsystemId, id, true);
    const subsystem = (numeric: boolean) =>
      lspciLines([row('15:00.0', { config })], { numeric, filter: null, verbose: true })[1];
    expect([subsystem(false), subsystem(true)]).toEqual([`\tSubsystem: ${words}`, `\tSubsystem: ${numbers}`]);
  });

  it('orders rows by address and drops what has none', () => {
    const lines = lspciLines([row('16:00.0'), row('junk'), row('15:00.1'), row('15:00.0')], all);
    expect(lines.map((line) => line.split(' ')[0])).toEqual(['15:00.0', '15:00.1', '16:00.0']);
  });

  it('names an unknown class by its number', () => {
    expect(lspciLines([row('15:00.0', { classCode: 0x28000 })], all)[0]).toContain('Class 0x280:');
  });

  it.each([
    ['15:00.0', ['15:00.0']],
    ['0000:15:00.0', ['15:00.0']],
    [':15:00.0', ['15:00.0']],
    ['15:', ['15:00.0', '15:00.1']],
    ['.1', ['15:00.1']],
    ['00.0', ['15:00.0', '16:00.0']],
    ['*:*.0', ['15:00.0', '16:00.0']],
    ['0', ['15:00.0', '15:00.1', '16:00.0']],
    ['17:00.0', []],
  ])('-s %s', (text, expected) => {
    const filter = parsePciFilter(text);
    expect(filter).not.toBeNull();
    const lines = lspciLines([row('15:00.0'), row('15:00.1'), row('16:00.0')], { numeric: false, filter });
    expect(lines.map((line) => line.split(' ')[0])).toEqual(expected);
  });

  it.each(['', '1:15:00.0', '15:00.8', '15:20.0', '15-00', 'zz:00.0'])('-s %j is refused', (text) => {
    expect(parsePciFilter(text)).toBeNull();
  });

  it('a filter is a whole address in range or nothing, whatever the text', () => {
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom(...'0123456789abcdef:.*-') }), (text) => {
        const filter = parsePciFilter(text);
        if (filter === null) return;
        expect(filter.bus ?? 0).toBeLessThanOrEqual(0xff);
        expect(filter.device ?? 0).toBeLessThanOrEqual(0x1f);
        expect(filter.fn ?? 0).toBeLessThanOrEqual(7);
      }),
    );
  });
});
