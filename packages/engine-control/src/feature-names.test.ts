import { featureMask, NetFeature, VirtioFeature } from '@virtnet/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { featureName, featureObject, featureProblem, parseFeatures } from './feature-names.js';
import { FEATURE_MASKS, FEATURE_NAMES } from './guide-answers.fixture.js';

const mask64 = fc.bigInt(0n, 2n ** 64n - 1n);

function listedBits(object: Record<string, string>): number[] {
  return Object.keys(object)
    .filter((key) => key !== 'value')
    .map(Number);
}

describe('feature object', () => {
  it.each(FEATURE_MASKS)('mask %# of the guide lists the bits the guide lists', (mask, bits) => {
    const object = featureObject(mask);
    expect(listedBits(object)).toEqual(bits);
    expect(object.value).toBe(`0x${mask.toString(16)}`);
    expect(featureMask(listedBits(object))).toBe(mask);
  });

  it('bits of the value are exactly the keys listed, for any mask', () => {
    fc.assert(
      fc.property(mask64, (mask) => {
        const object = featureObject(mask);
        expect(featureMask(listedBits(object))).toBe(mask);
        expect(BigInt(object.value!)).toBe(mask);
      }),
    );
  });

  it('names bits as the original does', () => {
    for (const line of FEATURE_NAMES.trim().split('\n')) {
      const [bit, name] = line.split(' ');
      expect(featureName(Number(bit))).toBe(name);
    }
  });

  it('names every bit of the specification, each differently', () => {
    const bits = [...Object.values(NetFeature), ...Object.values(VirtioFeature)];
    expect(new Set(bits.map(featureName)).size).toBe(bits.length);
  });

  it('says so when a bit has no name', () => {
    expect(featureObject(1n << 42n)).toEqual({ value: '0x40000000000', '   42': 'UNKNOWN FEATURE BIT' });
  });
});

describe('feature dependencies (§5.1.3.1)', () => {
  it('hold in every mask of the guide', () => {
    for (const [mask] of FEATURE_MASKS) expect(featureProblem(mask)).toBeNull();
  });

  it.each([
    ['MQ without CTRL_VQ', [NetFeature.MQ], NetFeature.MQ],
    ['HOST_TSO4 without CSUM', [NetFeature.HOST_TSO4], NetFeature.HOST_TSO4],
    ['HOST_ECN with CSUM but no TSO', [NetFeature.CSUM, NetFeature.HOST_ECN], NetFeature.HOST_ECN],
    ['GUEST_USO6 without GUEST_CSUM', [NetFeature.GUEST_USO6], NetFeature.GUEST_USO6],
    ['RSS without CTRL_VQ', [NetFeature.RSS], NetFeature.RSS],
    ['HASH_REPORT without CTRL_VQ', [NetFeature.HASH_REPORT], NetFeature.HASH_REPORT],
    ['CTRL_GUEST_OFFLOADS without CTRL_VQ', [NetFeature.CTRL_GUEST_OFFLOADS], NetFeature.CTRL_GUEST_OFFLOADS],
    [
      'GUEST_ANNOUNCE without STATUS',
      [NetFeature.CTRL_VQ, NetFeature.GUEST_ANNOUNCE],
      NetFeature.GUEST_ANNOUNCE,
    ],
  ] as const)('%s is a problem', (_, bits, bit) => {
    expect(featureProblem(featureMask(bits))?.bit).toBe(bit);
  });

  it('one of several alternatives is enough', () => {
    const ecn = [NetFeature.GUEST_CSUM, NetFeature.GUEST_TSO6, NetFeature.GUEST_ECN];
    expect(featureProblem(featureMask(ecn))).toBeNull();
  });

  it('adding what a problem names removes that problem, until none is left', () => {
    fc.assert(
      fc.property(mask64, (start) => {
        let mask = start;
        for (let rounds = 0; rounds <= 64; rounds++) {
          const problem = featureProblem(mask);
          if (problem === null) return;
          mask |= 1n << BigInt(problem.needsOneOf[0]!);
        }
        expect.unreachable('more rounds than bits');
      }),
    );
  });
});

describe('feature text', () => {
  it.each([
    ['0x0', 0n],
    ['0x80000', 0x80000n],
    ['8900010300E7982F', 0x8900_0103_00e7_982fn],
    ['0Xff', 0xffn],
  ])('%j', (text, mask) => {
    expect(parseFeatures(text)).toBe(mask);
  });

  it.each(['', '0x', 'x1', '-1', '0x1 ', '1_0', '0x10000000000000000', '0xg'])('refuses %j', (text) => {
    expect(parseFeatures(text)).toBeNull();
  });

  it('reads back what is written', () => {
    fc.assert(
      fc.property(mask64, (mask) => {
        expect(parseFeatures(`0x${mask.toString(16)}`)).toBe(mask);
      }),
    );
  });
});
