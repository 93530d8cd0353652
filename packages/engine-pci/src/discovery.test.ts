import {
  EXPRESS_FLR,
  PCI_BAR_MEMORY_MASK,
  PCI_CONFIG_BYTES,
  PciCapability,
  PciExpress,
  PciHeader,
  PciMsix,
  PciPowerManagement,
  VIRTIO_PCI_CAP_EXTRA_AT,
  VirtioPciCap,
  VirtioPciCapType,
  viewOf,
} from '@virtnet/wire';
import { describe, expect, it } from 'vitest';
import { REGION_PAGE_BYTES } from './limits.js';
import { Bench, bytesOf, TestDevice } from './test-device.fixture.js';
import { VirtioPciFunction } from './virtio-function.js';

/** Walks the list as lspci does, with a bound. */
function capabilities(bench: Bench): { id: number; at: number; length: number }[] {
  const found: { id: number; at: number; length: number }[] = [];
  const space = bench.fn.readConfig(0, PCI_CONFIG_BYTES);
  for (let at = space[PciHeader.at.capabilities]!; at !== 0; at = space[at + 1]!) {
    if (found.length > 48) throw new Error('loop');
    const id = space[at]!;
    const lengths: Record<number, number> = {
      [PciCapability.POWER_MANAGEMENT]: PciPowerManagement.sizeBytes,
      [PciCapability.EXPRESS]: PciExpress.sizeBytes,
      [PciCapability.MSIX]: PciMsix.sizeBytes,
      [PciCapability.VENDOR]: space[at + 2]!,
    };
    found.push({ id, at, length: lengths[id]! });
  }
  return found;
}

function virtioCaps(bench: Bench) {
  return capabilities(bench)
    .filter(({ id }) => id === PciCapability.VENDOR)
    .map(({ at }) => ({
      at,
      ...VirtioPciCap.decode(viewOf(bench.fn.readConfig(at, VirtioPciCap.sizeBytes))),
    }));
}

describe('PCI function: discovery', () => {
  it('PCI-1 has the ids of a modern network function, revision 1, subsystem above 0x40', () => {
    const header = PciHeader.decode(viewOf(new Bench().fn.readConfig(0, PciHeader.sizeBytes)));
    expect(header).toMatchObject({
      vendorId: 0x1af4,
      deviceId: 0x1041,
      revision: 1,
      baseClass: 2,
      subclass: 0,
      programmingInterface: 0,
      headerType: 0,
      subsystemVendorId: 0x1af4,
      subsystemId: 0x1041,
      interruptPin: 1,
      expansionRom: 0,
    });
    expect(header.status & 0x10).toBe(0x10);
  });

  it('ids and revision can be given', () => {
    const { fn } = new Bench({ vendorId: 0x15b3, deviceId: 2, subsystemId: 3, revision: 9 });
    expect(PciHeader.decode(viewOf(fn.readConfig(0, 64)))).toMatchObject({
      vendorId: 0x15b3,
      deviceId: 2,
      subsystemVendorId: 0x15b3,
      subsystemId: 3,
      revision: 9,
    });
  });

  it.each([
    [4, 3],
    [0, 3],
    [2, 1],
    [0, 0],
    [2048, 65_535],
  ])(
    'PCI-2 with %i vectors and %i queues: capabilities are aligned, apart, below 0x100, without a loop',
    (msixVectors, queueCount) => {
      const bench = new Bench({ msixVectors, queueCount });
      const list = capabilities(bench).toSorted((a, b) => a.at - b.at);
      for (const [i, { at, length }] of list.entries()) {
        expect(at % 4).toBe(0);
        expect(at + length).toBeLessThanOrEqual(list[i + 1]?.at ?? 0x100);
      }
      expect(list.some(({ id }) => id === PciCapability.MSIX)).toBe(msixVectors > 0);
      expect(bench.config32(0x100)).toBe(0);
    },
  );

  it.each([0, 1, 3, 255, 65_535])(
    'PCI-2 with %i queues: each virtio structure is there once, in its BAR, on a page of its own',
    (queueCount) => {
      const bench = new Bench({ queueCount });
      const caps = virtioCaps(bench);
      expect(caps.map(({ type }) => type)).toEqual([
        VirtioPciCapType.COMMON,
        VirtioPciCapType.NOTIFY,
        VirtioPciCapType.ISR,
        VirtioPciCapType.DEVICE,
        VirtioPciCapType.PCI,
      ]);
      const ranges = caps.slice(0, 4).map(({ bar, offset, length }) => {
        expect(offset % REGION_PAGE_BYTES).toBe(0);
        expect(offset + length).toBeLessThanOrEqual(bench.fn.regionSize(bar));
        return [offset, offset + length] as const;
      });
      const sorted = ranges.toSorted((a, b) => a[0] - b[0]);
      for (const [i, [, end]] of sorted.entries())
        expect(end).toBeLessThanOrEqual(sorted[i + 1]?.[0] ?? Number.MAX_SAFE_INTEGER);
      expect(caps.map(({ capLength }) => capLength)).toEqual([16, 20, 16, 16, 20]);
    },
  );

  it('PCI-8 notify: multiplier 4, long enough for the last queue', () => {
    for (const queueCount of [1, 3, 1000, 65_535]) {
      const bench = new Bench({ queueCount });
      const notify = virtioCaps(bench).find(({ type }) => type === VirtioPciCapType.NOTIFY)!;
      expect(bench.config32(notify.at + VIRTIO_PCI_CAP_EXTRA_AT)).toBe(4);
      expect(notify.length).toBeGreaterThanOrEqual((queueCount - 1) * 4 + 4);
    }
  });

  it.each([2, 3, 64, 2048])(
    'PCI-10 G3 with %i vectors: table and pending bits are where the capability says',
    (msixVectors) => {
      const bench = new Bench({ msixVectors });
      const at = bench.fn.capabilities.msix!;
      const cap = PciMsix.decode(viewOf(bench.fn.readConfig(at, PciMsix.sizeBytes)));
      expect((cap.control & 0x7ff) + 1).toBe(msixVectors);
      const table = { bar: cap.table & 7, offset: cap.table & ~7 };
      const pending = { bar: cap.pending & 7, offset: cap.pending & ~7 };
      expect([table.offset % 4096, pending.offset % 4096]).toEqual([0, 0]);
      expect(table.offset + msixVectors * 16).toBeLessThanOrEqual(pending.offset);
      expect(pending.offset + Math.ceil(msixVectors / 64) * 8).toBeLessThanOrEqual(
        bench.fn.regionSize(pending.bar),
      );
      // The last entry answers at its place, unmasked after a write.
      bench.fn.writeRegion(table.bar, table.offset + (msixVectors - 1) * 16, bytesOf(0xfee0_1234, 4));
      expect(bench.fn.readRegion(table.bar, table.offset + (msixVectors - 1) * 16, 4)).toEqual(
        bytesOf(0xfee0_1234, 4),
      );
    },
  );

  it('refuses vector counts no MSI-X table should have, and queue sizes that are no power of two', () => {
    for (const msixVectors of [1, -1, 2049, Number.NaN])
      expect(() => new Bench({ msixVectors })).toThrow(RangeError);
    const device = Object.assign(new TestDevice(), { queueSizeMax: 255 });
    expect(() => new VirtioPciFunction({ device, classCode: 0, msixVectors: 0 })).toThrow(RangeError);
  });

  it('PCI Express: version 2 endpoint that can be reset alone; power management that keeps state', () => {
    const bench = new Bench();
    const { express, powerManagement } = bench.fn.capabilities;
    const cap = PciExpress.decode(viewOf(bench.fn.readConfig(express, PciExpress.sizeBytes)));
    expect(cap.flags).toBe(0x0002);
    expect(cap.deviceCapabilities & EXPRESS_FLR).toBe(EXPRESS_FLR);
    const pm = PciPowerManagement.decode(viewOf(bench.fn.readConfig(powerManagement, 8)));
    expect(pm).toMatchObject({ capabilities: 3, control: 8 });
    bench.fn.writeConfig(powerManagement + PciPowerManagement.at.control, bytesOf(3, 2));
    expect(bench.fn.readConfig(powerManagement + PciPowerManagement.at.control, 2)).toEqual(bytesOf(0xb, 2));
  });
});

describe('PCI function: BAR registers', () => {
  it('sizing by ones gives the size of each BAR, also across a 64-bit pair, and other BARs are not there', () => {
    const bench = new Bench({ queueCount: 1000 });
    for (let index = 0; index < 6; index++)
      bench.fn.writeConfig(PciHeader.at.bar0 + 4 * index, bytesOf(0xffff_ffff, 4));
    const values = [0, 1, 2, 3, 4, 5].map((index) => bench.config32(PciHeader.at.bar0 + 4 * index));
    const size = (mask: number): number => (~(mask & PCI_BAR_MEMORY_MASK) >>> 0) + 1;
    expect(values[0]! & 0xf).toBe(4);
    expect(size(values[0]!)).toBe(bench.fn.regionSize(0));
    expect(values[1]).toBe(0xffff_ffff);
    expect(values[2]).toBe(0);
    expect(values[3]).toBe(0);
    expect(values[4]! & 0xf).toBe(0);
    expect(size(values[4]!)).toBe(bench.fn.regionSize(4));
    expect(values[5]).toBe(0);
  });

  it('a written address reads back, written in one 8-byte access or byte by byte', () => {
    const bench = new Bench();
    const address = Uint8Array.of(0, 0, 0xc0, 0xfe, 0x12, 0x34, 0x56, 0x78);
    bench.fn.writeConfig(PciHeader.at.bar0, address);
    const once = bench.fn.readConfig(PciHeader.at.bar0, 8);
    const other = new Bench();
    for (const [i, byte] of address.entries())
      other.fn.writeConfig(PciHeader.at.bar0 + i, Uint8Array.of(byte));
    expect(other.fn.readConfig(PciHeader.at.bar0, 8)).toEqual(once);
    expect(once).toEqual(Uint8Array.of(4, ...address.slice(1)));
  });

  it('the ROM BAR reads 0 whatever is written, and so do ids and class', () => {
    const bench = new Bench();
    const before = bench.fn.readConfig(0, 64);
    bench.fn.writeConfig(PciHeader.at.expansionRom, bytesOf(0xffff_f800, 4));
    expect(bench.config32(PciHeader.at.expansionRom)).toBe(0);
    bench.fn.writeConfig(0, Uint8Array.of(1, 2, 3, 4));
    bench.fn.writeConfig(PciHeader.at.revision, bytesOf(0xffff_ffff, 4));
    expect(bench.fn.readConfig(0, 12)).toEqual(before.slice(0, 12));
  });

  it('bus mastering is reported when it changes', () => {
    const bench = new Bench();
    expect(bench.command(4)).toEqual([{ kind: 'bus-master', enabled: true }]);
    expect(bench.command(6)).toEqual([]);
    expect(bench.fn.busMaster).toBe(true);
    expect(bench.command(2)).toEqual([{ kind: 'bus-master', enabled: false }]);
  });
});

describe('PCI function: accesses outside', () => {
  it('read nothing and change nothing', () => {
    const { fn } = new Bench();
    const before = JSON.stringify(fn.save());
    for (const [offset, count] of [
      [4096, 1],
      [4095, 2],
      [-1, 4],
      [0, 0],
      [0.5, 1],
      [Number.NaN, 1],
      [0, Number.POSITIVE_INFINITY],
      [2 ** 53, 1],
      [0, 4097],
    ] as const) {
      expect(fn.readConfig(offset, count).length).toBe(0);
      expect(fn.writeConfig(offset, new Uint8Array(Math.min(8192, Math.max(count, 0))))).toEqual([]);
    }
    for (const bar of [1, 2, 3, 5, 6, 7, -1]) {
      expect(fn.readRegion(bar, 0, 4).length).toBe(0);
      expect(fn.writeRegion(bar, 0, bytesOf(1, 4))).toEqual([]);
    }
    expect(fn.readRegion(0, fn.regionSize(0), 1).length).toBe(0);
    expect(fn.readRegion(0, fn.regionSize(0) - 1, 2).length).toBe(0);
    expect(JSON.stringify(fn.save())).toBe(before);
  });
});
