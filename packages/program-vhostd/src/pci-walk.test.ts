import { walkFunction } from '@virtnet/driver-virtio-net';
import { PciCapability, PciHeader, VirtioPciCap, VirtioPciCapType, viewOf } from '@virtnet/wire';
import { describe, expect, test } from 'vitest';
import { testConfigSpace } from './test-support/test-config-space.js';

const lacks = (config: Uint8Array) => {
  const result = walkFunction(config);
  return 'lacks' in result ? result.lacks : null;
};

describe('walking a function', () => {
  test('a virtio-net function > its structures and vectors are found', () => {
    expect(walkFunction(testConfigSpace(6))).toEqual({
      common: { bar: 0, offset: 0, lengthBytes: 64 },
      device: { bar: 0, offset: 0x1000, lengthBytes: 28 },
      msixAt: 0x80,
      msixVectors: 6,
    });
  });

  test('§4.1.4 two structures of a type > the first counts', () => {
    const config = testConfigSpace(6);
    viewOf(config).setUint8(0x80 + 1, 0xa0);
    const second = {
      capId: PciCapability.VENDOR,
      next: 0,
      capLength: 16,
      type: VirtioPciCapType.COMMON,
      bar: 2,
      id: 0,
      reserved: 0,
      offset: 99,
      length: 64,
    };
    VirtioPciCap.encode(viewOf(config), 0xa0, second);
    expect(walkFunction(config)).toMatchObject({ common: { bar: 0, offset: 0 } });
  });

  test('a list that loops, or leaves its place > the walk ends and says so', () => {
    const loop = testConfigSpace(6);
    viewOf(loop).setUint8(0x50 + 1, 0x40);
    expect(lacks(loop)).toBe('MSI-X');
    const low = testConfigSpace(6);
    viewOf(low).setUint8(0x50 + 1, 0x10);
    expect(lacks(low)).toBe('a sound capability list');
  });

  test.each([
    ['another vendor', PciHeader.at.vendorId, 0x8086, 'the identity of a modern virtio network card'],
    ['a transitional id', PciHeader.at.deviceId, 0x1000, 'the identity of a modern virtio network card'],
    ['no capabilities', PciHeader.at.status, 0, 'capabilities'],
    ['a common configuration of 8 bytes', 0x40 + VirtioPciCap.at.length, 8, 'a common configuration'],
    ['a device configuration of 4 bytes', 0x50 + VirtioPciCap.at.length, 4, 'a device configuration'],
    ['a BAR that does not exist', 0x40 + VirtioPciCap.at.bar, 6, 'a common configuration'],
  ])('%s > says what is lacking', (_, at, value, expected) => {
    const config = testConfigSpace(6);
    viewOf(config).setUint16(at, value, true);
    expect(lacks(config)).toBe(expected);
  });
});
