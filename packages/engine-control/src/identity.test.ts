import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  formatBdf,
  freeHotplugSf,
  hotplugAddress,
  hotplugPortOf,
  hotplugVuid,
  isVuid,
  parseBdf,
  pciVhcaId,
  rawBdf,
  representorName,
  sfCrossMkey,
  sfVhcaId,
  uplinkPort,
} from './identity.js';
import { HOTPLUG_PFS_MAX, HOTPLUG_SF_FIRST, HOTPLUG_SF_LAST, PF_IDS, STATIC_SF_FIRST } from './limits.js';

const address = fc.record({ bus: fc.nat(0xff), device: fc.nat(0x1f), fn: fc.nat(7) });
const ports = Array.from({ length: HOTPLUG_PFS_MAX }, (_, port) => port);

describe('PCI address', () => {
  it('survives formatting and parsing, with and without the domain', () => {
    fc.assert(
      fc.property(address, (a) => {
        expect(parseBdf(formatBdf(a))).toEqual(a);
        expect(parseBdf(`0000:${formatBdf(a)}`)).toEqual(a);
      }),
    );
  });

  it.each(['', '15:00', '15:00.8', '15:20.0', '0001:15:00.0', '115:00.0', '15:00.0 ', '15.00.0'])(
    'refuses %j',
    (text) => {
      expect(parseBdf(text)).toBeNull();
    },
  );

  it('raw form is that of the guide: 57611 is e1:01.3 and 26624 is 68:00.0', () => {
    expect(rawBdf(parseBdf('e1:01.3')!)).toBe(57611);
    expect(rawBdf(parseBdf('68:00.0')!)).toBe(26624);
  });
});

describe('hotplug PF', () => {
  it('first is 15:00.0, second 16:00.0', () => {
    expect(ports.slice(0, 2).map((port) => formatBdf(hotplugAddress(port)))).toEqual(['15:00.0', '16:00.0']);
  });

  it('port follows from the address again, and an address not behind the switch has none', () => {
    for (const port of ports) expect(hotplugPortOf(hotplugAddress(port), HOTPLUG_PFS_MAX)).toBe(port);
    expect(hotplugPortOf({ bus: 0x15, device: 1, fn: 0 }, 31)).toBeNull();
    expect(hotplugPortOf({ bus: 0x14, device: 0, fn: 0 }, 31)).toBeNull();
    expect(hotplugPortOf({ bus: 0x17, device: 0, fn: 0 }, 2)).toBeNull();
  });

  it('VUIDs are the guide form, and all different', () => {
    expect(hotplugVuid(0)).toBe('MT2151X03152VNETS1D0F0');
    expect(new Set(ports.map(hotplugVuid)).size).toBe(HOTPLUG_PFS_MAX);
    for (const port of ports) expect(isVuid(hotplugVuid(port))).toBe(true);
  });

  it('SF number is that of the port, or the next free one', () => {
    expect(freeHotplugSf(1, new Set())).toBe(2001);
    expect(freeHotplugSf(1, new Set([2001, 2002]))).toBe(2003);
    const all = new Set(Array.from({ length: 1000 }, (_, i) => HOTPLUG_SF_FIRST + i));
    expect(freeHotplugSf(0, all)).toBeNull();
  });
});

describe('VUID', () => {
  it.each(['MT2151X03152VNETS0D0F2', 'MT2151X03152VNETS0D0F2VF1', 'MT2306XZ00BNVNETS0D0F2'])(
    '%s is one',
    (text) => {
      expect(isVuid(text)).toBe(true);
    },
  );
  it.each([
    '',
    'MT2151X03152',
    'mt2151x03152vnets1d0f0',
    'MT2151X03152VNETS2D0F0',
    'MT2151X03152VNETS1D0F0/../x',
  ])('%j is none', (text) => {
    expect(isVuid(text)).toBe(false);
  });
});

describe('names and numbers', () => {
  it('a representor is named after port and SF, and the name fits the kernel (15 bytes)', () => {
    expect(representorName(0, 2000)).toBe('en3f0pf0sf2000');
    expect(representorName(1, HOTPLUG_SF_LAST)).toBe('en3f1pf1sf2999');
    expect(representorName(1, HOTPLUG_SF_LAST).length).toBeLessThanOrEqual(15);
  });

  it('uplinks are known by their RDMA device names only', () => {
    expect(['mlx5_0', 'mlx5_1', 'mlx5_bond_0'].map(uplinkPort)).toEqual([0, 1, 0]);
    expect(['mlx5_2', '', '__proto__', 'constructor'].map(uplinkPort)).toEqual([null, null, null, null]);
  });

  it('VHCA ids and memory keys are different for different functions', () => {
    const sfs = Array.from({ length: HOTPLUG_SF_LAST - STATIC_SF_FIRST + 1 }, (_, i) => STATIC_SF_FIRST + i);
    const ids = [...Array.from({ length: PF_IDS }, (_, i) => pciVhcaId(i)), ...sfs.map(sfVhcaId)];
    expect(new Set(ids).size).toBe(ids.length);
    expect(new Set(sfs.map(sfCrossMkey)).size).toBe(sfs.length);
  });
});
