import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  addressOf,
  formatBdf,
  freeHotplugSf,
  freeVfSf,
  hotplugAddress,
  hotplugBusFirst,
  hotplugVuid,
  isHotplugBus,
  isVfAddress,
  isVuid,
  netdevName,
  parseBdf,
  pciVhcaId,
  rawBdf,
  representorName,
  sfCrossMkey,
  sfRdmaDevice,
  sfVhcaId,
  staticAddress,
  staticVuid,
  uplinkPort,
  vfAddressFirst,
  vfRdmaDevice,
  vfVhcaId,
  vfVuid,
} from './identity.js';
import {
  HOTPLUG_PFS_MAX,
  HOTPLUG_SF_FIRST,
  HOTPLUG_SF_LAST,
  PF_IDS,
  STATIC_SF_FIRST,
  VF_SF_LAST,
} from './limits.js';

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

it('an interface is named by its function, within what Linux allows', () => {
  expect(netdevName('14:00.2')).toBe('vnet14s00f2');
  expect(netdevName('ff:1f.7').length).toBeLessThanOrEqual(15);
});

const NONE = { staticPfs: 0, vfsPerPf: 0 };

describe('static PF and VF', () => {
  const bdf = (raw: number) => formatBdf(addressOf(raw));

  it('the first static PF is 14:00.2 and its first VF 14:00.4, as in the guide', () => {
    expect(formatBdf(staticAddress(0))).toBe('14:00.2');
    expect(bdf(vfAddressFirst({ staticPfs: 1, vfsPerPf: 16 }, 0))).toBe('14:00.4');
    expect(staticVuid(0)).toBe('MT2151X03152VNETS0D0F2');
    expect(vfVuid(0, 0)).toBe('MT2151X03152VNETS0D0F2VF1');
  });

  it.each([
    [1, 252],
    [2, 125],
  ])('%i PFs with %i VFs each fill one bus, the sums of the guide', (staticPfs, vfsPerPf) => {
    const layout = { staticPfs, vfsPerPf };
    expect((vfAddressFirst(layout, staticPfs - 1) + vfsPerPf - 1) >> 8).toBe(0x14);
    expect(hotplugBusFirst(layout)).toBe(0x15);
    expect((vfAddressFirst(layout, staticPfs - 1) + vfsPerPf + staticPfs) >> 8).toBe(0x15);
  });

  it('more than 256 functions go on over the next buses, and the switch lies behind them', () => {
    const layout = { staticPfs: 4, vfsPerPf: 252 };
    expect(bdf(vfAddressFirst(layout, 1))).toBe('15:00.3');
    expect(bdf(vfAddressFirst(layout, 3) + 251)).toBe('17:1e.6');
    expect(formatBdf(hotplugAddress(0, layout))).toBe('18:00.0');
  });

  it('no two functions of a configuration share an address or a VUID', () => {
    const layouts = fc
      .record({ staticPfs: fc.integer({ min: 0, max: 31 }), vfsPerPf: fc.nat(1008), ports: fc.nat(31) })
      .filter(({ staticPfs, vfsPerPf }) => staticPfs * vfsPerPf <= 1008);
    fc.assert(
      fc.property(layouts, ({ staticPfs, vfsPerPf, ports: portCount }) => {
        const layout = { staticPfs, vfsPerPf };
        const at: number[] = [];
        const names: string[] = [];
        for (let port = 0; port < portCount; port++) {
          at.push(rawBdf(hotplugAddress(port, layout)));
          names.push(hotplugVuid(port));
        }
        for (let pfId = 0; pfId < staticPfs; pfId++) {
          at.push(rawBdf(staticAddress(pfId)));
          names.push(staticVuid(pfId));
          for (let vfId = 0; vfId < vfsPerPf; vfId++) {
            at.push(vfAddressFirst(layout, pfId) + vfId);
            names.push(vfVuid(pfId, vfId));
            expect(isVfAddress(at.at(-1)!)).toBe(true);
          }
        }
        expect(new Set(at).size).toBe(at.length);
        expect(new Set(names).size).toBe(names.length);
        expect(names.every(isVuid)).toBe(true);
        expect(isHotplugBus(hotplugBusFirst(layout))).toBe(true);
      }),
      { numRuns: 30 },
    );
  });

  it('VF SFs begin at 3000 and those that were given back are used first', () => {
    expect(freeVfSf(new Set())).toBe(3000);
    expect(freeVfSf(new Set([3000, 3002]))).toBe(3001);
  });
});

describe('hotplug PF', () => {
  it('first is 15:00.0, second 16:00.0', () => {
    expect(ports.slice(0, 2).map((port) => formatBdf(hotplugAddress(port, NONE)))).toEqual([
      '15:00.0',
      '16:00.0',
    ]);
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
    const sfs = Array.from({ length: VF_SF_LAST - STATIC_SF_FIRST + 1 }, (_, i) => STATIC_SF_FIRST + i);
    const vfs = Array.from({ length: 1008 }, (_, i) => 0x1404 + i);
    const pfs = Array.from({ length: PF_IDS }, (_, i) => i);
    const ids = [...pfs.map(pciVhcaId), ...sfs.map(sfVhcaId), ...vfs.map(vfVhcaId)];
    const rdma = [...pfs.map(sfRdmaDevice), ...vfs.map(vfRdmaDevice)];
    expect(new Set(rdma).size).toBe(rdma.length);
    expect(new Set(ids).size).toBe(ids.length);
    expect(new Set(sfs.map(sfCrossMkey)).size).toBe(sfs.length);
  });
});
