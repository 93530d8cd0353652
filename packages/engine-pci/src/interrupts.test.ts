import { DeviceStatus, PciCommand, PciHeader, VirtioPciCommon } from '@virtnet/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Bench, bytesOf, kinds, UP_TO_DRIVER, UP_TO_READY } from './test-device.fixture.js';

const NONE = { kind: 'none' };
const INTX = { kind: 'intx' };
const msix = (vector: number) => ({ kind: 'msix', vector });

function ready(vectors = 4): Bench {
  const bench = new Bench({ msixVectors: vectors });
  if (vectors > 0) bench.msix(true);
  bench.ready();
  return bench;
}

const isr = (bench: Bench): number => bench.fn.readRegion(0, bench.fn.layout.isr.offset, 1)[0]!;
const pciStatus = (bench: Bench): number => bench.fn.readConfig(PciHeader.at.status, 1)[0]!;
const table = (bench: Bench, at: number, bytes: Uint8Array) =>
  bench.fn.writeRegion(4, bench.fn.layout.msix!.table.offset + at, bytes);
const mask = (bench: Bench, vector: number, masked: boolean) =>
  table(bench, vector * 16 + 12, bytesOf(masked ? 1 : 0, 4));
const pending = (bench: Bench): number => bench.fn.readRegion(4, bench.fn.layout.msix!.pending.offset, 1)[0]!;

describe('interrupts: INTx', () => {
  it.each([4, 0])(
    'PCI-9 with %i vectors and MSI-X off: ISR bits are set before, the PCI status bit is their OR, reading clears both',
    (vectors) => {
      const bench = new Bench({ msixVectors: vectors });
      bench.ready();
      expect(pciStatus(bench) & 8).toBe(0);
      expect(bench.fn.interruptFor(0)).toEqual(INTX);
      expect(pciStatus(bench) & 8).toBe(8);
      expect(bench.fn.interruptFor('config')).toEqual(INTX);
      expect(bench.fn.intxAsserted).toBe(true);
      expect(isr(bench)).toBe(3);
      expect(isr(bench)).toBe(0);
      expect(pciStatus(bench) & 8).toBe(0);
      expect(bench.fn.intxAsserted).toBe(false);
    },
  );

  it('PCI-9 with MSI-X on neither the queue bit of the ISR nor the PCI status bit is set', () => {
    const bench = ready();
    bench.fn.interruptFor(0);
    expect(pciStatus(bench) & 8).toBe(0);
    expect(isr(bench)).toBe(0);
    bench.fn.interruptFor('config');
    expect(pciStatus(bench) & 8).toBe(0);
    expect(isr(bench)).toBe(2);
  });

  it('while INTx is disabled nothing is sent; enabling it asserts what is pending', () => {
    const bench = ready(0);
    expect(kinds(bench.command(PciCommand.INTX_DISABLE))).toEqual(['vectors-changed']);
    expect(bench.fn.interruptFor(0)).toEqual(NONE);
    expect(pciStatus(bench) & 8).toBe(8);
    expect(kinds(bench.command(0))).toEqual(['vectors-changed', 'fire-intx']);
    expect(isr(bench)).toBe(1);
  });

  it('the ISR can live in a cell of the program', () => {
    let cell = 0;
    const isrPort = {
      get: () => cell,
      set: (value: number) => {
        cell = value;
      },
    };
    const bench = new Bench({ msixVectors: 0, isr: isrPort });
    bench.ready();
    bench.fn.interruptFor(0);
    expect(cell).toBe(1);
    cell = 2; // another thread reports a configuration change
    expect(bench.fn.intxAsserted).toBe(true);
    expect(isr(bench)).toBe(2);
    expect(cell).toBe(0);
    expect(bench.fn.save()).not.toHaveProperty('isr');
  });
});

describe('interrupts: MSI-X', () => {
  it('PCI-10 any event can have any vector, share one, and be unmapped', () => {
    const bench = ready();
    for (let vector = 0; vector < 4; vector++) {
      bench.write('configVector', vector);
      bench.write('queueSelect', 1);
      bench.write('queueVector', vector);
      expect(bench.fn.interruptFor('config')).toEqual(msix(vector));
      expect(bench.fn.interruptFor(1)).toEqual(msix(vector));
    }
    bench.write('queueVector', 0xffff);
    expect(bench.read('queueVector')).toBe(0xffff);
  });

  it('PCI-11 without a vector nothing is sent, for queue and configuration', () => {
    const bench = ready();
    bench.write('configVector', 0xffff);
    bench.write('queueSelect', 0);
    bench.write('queueVector', 0xffff);
    expect(bench.fn.interruptFor('config')).toEqual(NONE);
    expect(bench.fn.interruptFor(0)).toEqual(NONE);
    expect(pending(bench)).toBe(0);
    expect(bench.fn.interruptFor(1)).toEqual(msix(2));
    expect(bench.fn.interruptFor(17)).toEqual(NONE);
  });

  it('BF-1 BF-8 no queue interrupt before DRIVER_OK, none at all after a reset', () => {
    const bench = new Bench();
    bench.msix(true);
    bench.agree();
    bench.enable(0, 1);
    bench.write('configVector', 0);
    expect(bench.fn.interruptFor(0)).toEqual(NONE);
    expect(bench.fn.interruptFor('config')).toEqual(msix(0));
    bench.status(UP_TO_READY);
    expect(bench.fn.interruptFor(0)).toEqual(msix(1));
    bench.status(0);
    expect(bench.fn.interruptFor(0)).toEqual(NONE);
    expect(bench.fn.interruptFor('config')).toEqual(NONE);
    expect(isr(bench)).toBe(0);
  });

  it('G2 a masked vector is pended, and sent exactly once when unmasked', () => {
    const bench = ready();
    mask(bench, 1, true);
    expect(bench.fn.routeOf(0)).toEqual({ kind: 'masked', vector: 1 });
    expect(bench.fn.interruptFor(0)).toEqual(NONE);
    expect(bench.fn.interruptFor(0)).toEqual(NONE);
    expect(pending(bench)).toBe(0b10);
    expect(mask(bench, 2, true)).toEqual([{ kind: 'vectors-changed' }]);
    expect(mask(bench, 1, false)).toEqual([{ kind: 'fire', vector: 1 }, { kind: 'vectors-changed' }]);
    expect(pending(bench)).toBe(0);
    expect(mask(bench, 1, false)).toEqual([{ kind: 'vectors-changed' }]);
    expect(bench.fn.interruptFor(0)).toEqual(msix(1));
  });

  it('G2 the function mask pends every vector; clearing it sends each pending one once', () => {
    const bench = ready();
    bench.msix(true, true);
    for (const source of [0, 1, 'config'] as const) expect(bench.fn.interruptFor(source)).toEqual(NONE);
    mask(bench, 2, true);
    expect(pending(bench)).toBe(0b111);
    expect(bench.msix(true, false)).toEqual([
      { kind: 'fire', vector: 0 },
      { kind: 'fire', vector: 1 },
      { kind: 'vectors-changed' },
    ]);
    expect(pending(bench)).toBe(0b100);
    expect(mask(bench, 2, false)[0]).toEqual({ kind: 'fire', vector: 2 });
  });

  it('what is pending when MSI-X is switched off waits until it is on again', () => {
    const bench = ready();
    mask(bench, 1, true);
    bench.fn.interruptFor(0);
    bench.msix(false);
    expect(mask(bench, 1, false)).toEqual([{ kind: 'vectors-changed' }]);
    expect(bench.msix(true)).toEqual([{ kind: 'fire', vector: 1 }, { kind: 'vectors-changed' }]);
  });

  it('a table entry the client never wrote does not mask, though it reads masked', () => {
    const bench = ready();
    expect(bench.fn.readRegion(4, 12, 4)).toEqual(bytesOf(1, 4));
    expect(bench.fn.interruptFor(0)).toEqual(msix(1));
    table(bench, 16, bytesOf(0xfee0_0000, 4));
    expect(bench.fn.interruptFor(0)).toEqual(NONE);
  });

  it('G4 vectors remapped, device reset and vector unmasked in between: nothing stale is sent', () => {
    const bench = ready();
    for (let vector = 0; vector < 4; vector++) mask(bench, vector, true);
    bench.fn.interruptFor('config');
    bench.write('configVector', 3);
    bench.fn.interruptFor('config');
    expect(pending(bench)).toBe(0b1001);
    bench.status(0);
    expect(pending(bench)).toBe(0);
    for (let vector = 0; vector < 4; vector++)
      expect(mask(bench, vector, false)).toEqual([{ kind: 'vectors-changed' }]);
    expect(bench.fn.msixEnabled).toBe(true);
  });

  it('G1 the table takes accesses of any width at any offset, byte for byte, and none beyond its end', () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.record({
            at: fc.integer({ min: 0, max: 4095 }),
            bytes: fc.uint8Array({ minLength: 1, maxLength: 16 }),
          }),
          { maxLength: 20 },
        ),
        (writes) => {
          const bench = new Bench();
          const size = 4 * 16;
          const model = new Uint8Array(4096);
          for (let vector = 0; vector < 4; vector++) model[vector * 16 + 12] = 1;
          for (const { at, bytes } of writes) {
            table(bench, at, bytes);
            for (const [i, byte] of bytes.entries()) {
              const inEntry = (at + i) % 16;
              if (at + i >= size || inEntry > 12) continue;
              model[at + i] = inEntry === 12 ? byte & 1 : byte;
            }
          }
          expect(bench.fn.readRegion(4, 0, 4096)).toEqual(model);
        },
      ),
      { numRuns: 200 },
    );
  });

  it('the pending bits ignore writes', () => {
    const bench = ready();
    bench.fn.writeRegion(4, bench.fn.layout.msix!.pending.offset, bytesOf(0xff, 8));
    expect(pending(bench)).toBe(0);
  });

  it('a model of masks and pending bits: every raised vector is sent once, or is pending', () => {
    const step = fc.oneof(
      fc.record({ kind: fc.constant('raise' as const), vector: fc.integer({ min: 0, max: 3 }) }),
      fc.record({
        kind: fc.constant('mask' as const),
        vector: fc.integer({ min: 0, max: 3 }),
        on: fc.boolean(),
      }),
      fc.record({ kind: fc.constant('all' as const), on: fc.boolean() }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
        const bench = ready();
        for (let vector = 0; vector < 4; vector++) mask(bench, vector, false);
        const owed = new Set<number>();
        const masked = [false, false, false, false];
        let all = false;
        for (const s of steps) {
          if (s.kind === 'raise') {
            const source = s.vector === 0 ? 'config' : s.vector - 1;
            const sent = bench.fn.interruptFor(source).kind === 'msix';
            expect(sent).toBe(!all && !masked[s.vector]!);
            if (!sent) owed.add(s.vector);
            continue;
          }
          if (s.kind === 'mask') masked[s.vector] = s.on;
          else all = s.on;
          const effects = s.kind === 'mask' ? mask(bench, s.vector, s.on) : bench.msix(true, s.on);
          const due = [...owed].filter((vector) => !all && !masked[vector]!).toSorted();
          expect(effects.flatMap((e) => (e.kind === 'fire' ? [e.vector] : []))).toEqual(due);
          for (const vector of due) owed.delete(vector);
          expect(pending(bench)).toBe([...owed].reduce((bits, vector) => bits | (1 << vector), 0));
        }
      }),
      { numRuns: 300 },
    );
  });
});

describe('interrupts: configuration generation', () => {
  const generation = (bench: Bench): number => bench.read('configGeneration', 1);
  const device = (bench: Bench) => bench.fn.readRegion(0, bench.fn.layout.device.offset, 4);

  it('PCI-4 after a change it differs from what the driver read before, also after 256 changes unseen', () => {
    const bench = new Bench();
    const before = generation(bench);
    device(bench);
    for (let i = 0; i < 256; i++) bench.fn.configChanged();
    expect(generation(bench)).not.toBe(before);
  });

  it('G10 a change between two halves of a read is noticed by comparing generations', () => {
    const bench = new Bench();
    for (let i = 0; i < 300; i++) {
      const before = generation(bench);
      device(bench);
      bench.fn.configChanged();
      device(bench);
      expect(generation(bench)).not.toBe(before);
      expect(generation(bench)).toBe(generation(bench));
    }
  });

  it('PCI-4 a function that takes over a state does not know what its driver has seen: the next change counts', () => {
    const bench = new Bench();
    bench.fn.configChanged();
    const before = bench.fn.save().generation;
    expect(bench.fn.restore(bench.fn.save())).toEqual([]);
    bench.fn.configChanged();
    expect(bench.fn.save().generation).not.toBe(before);
  });

  it('a driver’s write that changes a value counts as a change', () => {
    const bench = new Bench();
    const before = generation(bench);
    bench.fn.writeRegion(0, bench.fn.layout.device.offset + 3, bytesOf(7, 1));
    expect(device(bench)[3]).toBe(7);
    expect(generation(bench)).not.toBe(before);
  });

  it('the device configuration ends where the device says; behind it reads 0', () => {
    const bench = new Bench();
    const { offset } = bench.fn.layout.device;
    expect([...bench.fn.readRegion(0, offset + 26, 4)]).toEqual([27, 28, 0, 0]);
    bench.fn.writeRegion(0, offset + 26, bytesOf(0xffff_ffff, 4));
    expect(bench.device.config.length).toBe(28);
  });
});

describe('function level reset', () => {
  it('INITIATE_FLR resets device, MSI-X and configuration space, and reads 0', () => {
    const bench = ready();
    bench.command(PciCommand.BUS_MASTER | PciCommand.MEMORY);
    bench.fn.writeConfig(PciHeader.at.bar0, bytesOf(0xfe00_0000, 4));
    mask(bench, 1, true);
    bench.fn.interruptFor(0);
    const fresh = new Bench().fn;
    const at = bench.fn.capabilities.express + 8;
    expect(kinds(bench.fn.writeConfig(at, bytesOf(0x8000 | 0x2810, 2)))).toEqual(['flr']);
    expect(bench.fn.readConfig(0, 4096)).toEqual(fresh.readConfig(0, 4096));
    expect(bench.fn.readRegion(4, 0, 4096)).toEqual(fresh.readRegion(4, 0, 4096));
    expect(bench.fn.status).toBe(0);
    expect(bench.device.resets).toBe(1);
  });

  it('other writes to device control do not reset', () => {
    const bench = ready();
    const at = bench.fn.capabilities.express + 8;
    expect(bench.fn.writeConfig(at, bytesOf(0x7fff, 2))).toEqual([]);
    expect(bench.fn.readConfig(at, 2)).toEqual(bytesOf(0x78ff, 2));
    expect(bench.fn.status & DeviceStatus.DRIVER_OK).toBe(DeviceStatus.DRIVER_OK);
  });

  it('a client’s device reset does the same', () => {
    const bench = ready();
    expect(bench.fn.reset()).toEqual([{ kind: 'flr' }]);
    expect(bench.fn.save()).toEqual(new Bench().fn.save());
  });
});

describe('configuration access window', () => {
  const aim = (bench: Bench, bar: number, offset: number, length: number): number => {
    const at = bench.fn.capabilities.window;
    bench.fn.writeConfig(at + 4, bytesOf(bar, 1));
    bench.fn.writeConfig(at + 8, bytesOf(offset, 4));
    bench.fn.writeConfig(at + 12, bytesOf(length, 4));
    return at + 16;
  };

  it('PCI-12 a read of the data reads the register, a write writes it, and effects come out', () => {
    const bench = new Bench();
    const data = aim(bench, 0, VirtioPciCommon.at.queueCount, 2);
    expect([...bench.fn.readConfig(data, 2)]).toEqual([3, 0]);
    const status = aim(bench, 0, VirtioPciCommon.at.deviceStatus, 1);
    expect(kinds(bench.fn.writeConfig(status, bytesOf(UP_TO_DRIVER, 1)))).toEqual(['status']);
    expect(bench.fn.status).toBe(UP_TO_DRIVER);
    expect(bench.fn.readConfig(status, 1)).toEqual(bytesOf(UP_TO_DRIVER, 1));
  });

  it('PCI-12 a notification goes through it', () => {
    const bench = new Bench();
    bench.ready();
    const data = aim(bench, 0, bench.fn.layout.notify.offset + 4, 2);
    expect(bench.fn.writeConfig(data, bytesOf(1, 2))).toEqual([{ kind: 'queue-notify', queue: 1 }]);
  });

  it('other lengths, other BARs and offsets outside do nothing', () => {
    const bench = new Bench();
    for (const [bar, offset, length] of [
      [0, VirtioPciCommon.at.deviceStatus, 0],
      [0, VirtioPciCommon.at.deviceStatus, 3],
      [0, VirtioPciCommon.at.deviceStatus, 8],
      [0, bench.fn.regionSize(0), 1],
      [0, bench.fn.regionSize(0) - 1, 2],
      [0, 0xffff_fffe, 4],
      [1, 0, 1],
      [5, 0, 4],
      [255, 0, 4],
    ] as const) {
      const data = aim(bench, bar, offset, length);
      expect(bench.fn.writeConfig(data, bytesOf(0x0101_0101, 4))).toEqual([]);
      expect(bench.fn.readConfig(data, 4)).toEqual(bytesOf(0x0101_0101, 4));
    }
    expect(bench.fn.status).toBe(0);
  });

  it('a client that copies configuration space does not clear the ISR through it', () => {
    const bench = ready(0);
    bench.fn.interruptFor(0);
    const data = aim(bench, 0, bench.fn.layout.isr.offset, 1);
    bench.fn.readConfig(0, 256);
    bench.fn.readConfig(0, 4096);
    expect([...bench.fn.readConfig(data, 1)]).toEqual([1]);
    expect([...bench.fn.readConfig(data, 1)]).toEqual([0]);
  });
});
