import { QueueCounter } from '@virtnet/wire';
import { describe, expect, it } from 'vitest';
import { ReceiveFilter, type ReceiveFilterState, UNTAGGED } from './receive-filter.js';

const { DROP_FILTER_MAC, DROP_FILTER_VLAN } = QueueCounter;
const own = [0x0c, 0xc4, 0x7a, 0xff, 0x22, 0x93];
const listed = [0x02, 0x80, 0xff, 0x00, 0x00, 0x01];
const other = [0x02, 0x80, 0xff, 0x00, 0x00, 0x02];
const listedGroup = [0x33, 0x33, 0xff, 0xff, 0xff, 0xff];
const otherGroup = [0x01, 0x00, 0x5e, 0x00, 0x00, 0x01];
const broadcast = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff];

const plain: ReceiveFilterState = {
  promiscuous: false,
  allMulticast: false,
  allUnicast: false,
  noMulticast: false,
  noUnicast: false,
  noBroadcast: false,
  mac: own,
  unicast: listed,
  multicast: listedGroup,
  vlans: null,
};

const verdict = (fields: Partial<ReceiveFilterState>, mac: readonly number[], vlan = UNTAGGED): number =>
  new ReceiveFilter({ ...plain, ...fields }).accepts(Uint8Array.from(mac), vlan);

describe('receive filter', () => {
  it('CVQ-1 every combination of the six modes judges every kind of frame by the order of precedence', () => {
    const modes = [
      'promiscuous',
      'allMulticast',
      'allUnicast',
      'noMulticast',
      'noUnicast',
      'noBroadcast',
    ] as const;
    for (let bits = 0; bits < 1 << modes.length; bits++) {
      const on = Object.fromEntries(modes.map((mode, i) => [mode, (bits & (1 << i)) !== 0]));
      const state = on as Record<(typeof modes)[number], boolean>;
      const unicast = (known: boolean) => !state.noUnicast && (known || state.allUnicast);
      const multicast = (known: boolean) => !state.noMulticast && (known || state.allMulticast);
      const wanted: [readonly number[], boolean][] = [
        [own, unicast(true)],
        [listed, unicast(true)],
        [other, unicast(false)],
        [listedGroup, multicast(true)],
        [otherGroup, multicast(false)],
        [broadcast, !state.noBroadcast],
      ];
      for (const [mac, passes] of wanted) {
        const expected = state.promiscuous || passes ? 0 : DROP_FILTER_MAC;
        expect(verdict(state, mac), JSON.stringify({ ...state, mac })).toBe(expected);
      }
    }
  });

  it('CVQ-2 with empty tables only the own address and broadcast pass', () => {
    const empty = { unicast: [], multicast: [] };
    expect([own, broadcast].map((mac) => verdict(empty, mac))).toEqual([0, 0]);
    for (const mac of [listed, other, listedGroup, otherGroup])
      expect(verdict(empty, mac)).toBe(DROP_FILTER_MAC);
  });

  it('an address is told from one that differs in any single bit', () => {
    const filter = new ReceiveFilter({
      ...plain,
      unicast: [],
      multicast: own.map((b, i) => (i === 0 ? b | 1 : b)),
    });
    for (let bit = 1; bit < 48; bit++) {
      const near = Uint8Array.from(own);
      near[bit >> 3]! ^= 1 << (bit & 7);
      expect(filter.accepts(near, UNTAGGED), `bit ${bit}`).toBe(DROP_FILTER_MAC);
    }
  });

  it('only six bytes of ones are broadcast; a group that begins or ends like it is a group', () => {
    for (const mac of [
      [0xff, 0xff, 0xff, 0xff, 0xff, 0xfe],
      [0xff, 0xff, 0, 0, 0, 1],
      [0xfd, 0xff, 0xff, 0xff, 0xff, 0xff],
    ]) {
      expect(verdict({}, mac)).toBe(DROP_FILTER_MAC);
      expect(verdict({ allMulticast: true, noBroadcast: true }, mac)).toBe(0);
    }
  });

  it('CVQ-4 without CTRL_VLAN every tag passes; with it, those that were added, untagged and priority-tagged', () => {
    expect(verdict({}, own, 77)).toBe(0);
    const vlans = [1, 77, 4095];
    for (const id of [UNTAGGED, 0, ...vlans]) expect(verdict({ vlans }, own, id)).toBe(0);
    for (const id of [2, 76, 4094]) expect(verdict({ vlans }, own, id)).toBe(DROP_FILTER_VLAN);
    expect(verdict({ vlans: [] }, own, 1)).toBe(DROP_FILTER_VLAN);
    expect(verdict({ vlans: [] }, own)).toBe(0);
  });

  it('CVQ-4 a VLAN that passes does not let a foreign address pass, and promiscuous takes any VLAN', () => {
    expect(verdict({ vlans: [5] }, other, 5)).toBe(DROP_FILTER_MAC);
    expect(verdict({ vlans: [5], promiscuous: true }, other, 6)).toBe(0);
  });
});
