import { featureMask, NetFeature, VirtioFeature } from '@virtnet/wire';
import { describe, expect, it } from 'vitest';
import { FRAME_BYTES_MAX, headerBytes, ReceiveHeader, TransmitHeader, vlanOf } from './net-header.js';
import { UNTAGGED } from './receive-filter.js';

describe('net header', () => {
  it('§5.1.6.1 NET-13 F3 its size follows from the features, not from the driver’s buffers', () => {
    const { VERSION_1 } = VirtioFeature;
    const { MRG_RXBUF, HASH_REPORT } = NetFeature;
    expect(headerBytes(featureMask([]))).toBe(10);
    expect(headerBytes(featureMask([MRG_RXBUF]))).toBe(12);
    expect(headerBytes(featureMask([VERSION_1]))).toBe(12);
    expect(headerBytes(featureMask([VERSION_1, MRG_RXBUF]))).toBe(12);
    expect(headerBytes(featureMask([VERSION_1, HASH_REPORT]))).toBe(20);
  });

  it('§5.1.6.4 queues share the memory of a header, but for headers with a hash, which a queue without one would tell', () => {
    const { VERSION_1 } = VirtioFeature;
    const memoryOf = (features: readonly number[]) => {
      const [one, another] = [0, 1].map(() => new ReceiveHeader(featureMask(features), 1500).bytes.buffer);
      return { one, another };
    };
    const plain = memoryOf([VERSION_1]);
    expect(plain.one).toBe(plain.another);
    expect(new TransmitHeader(featureMask([VERSION_1]), 1500).bytes.buffer).not.toBe(plain.one);
    const hashed = memoryOf([VERSION_1, NetFeature.HASH_REPORT]);
    expect(hashed.one).not.toBe(hashed.another);
  });

  it('the largest frame has room for 64 KiB of IPv6 payload behind two tags', () => {
    expect(FRAME_BYTES_MAX).toBe(65_597);
  });

  it('CVQ-4 the VLAN id of a frame is the one of its outermost tag, without priority bits; of 802.1ad it is none', () => {
    const head = new Uint8Array(22);
    expect(vlanOf(head)).toBe(UNTAGGED);
    head.set([0x08, 0x00], 12);
    expect(vlanOf(head)).toBe(UNTAGGED);
    head.set([0x81, 0x00, 0xe1, 0x23], 12);
    expect(vlanOf(head)).toBe(0x123);
    head.set([0x81, 0x00, 0x0f, 0xff, 0x81, 0x00, 0x00, 0x05], 12);
    expect(vlanOf(head)).toBe(0xfff);
    head.set([0x88, 0xa8], 12);
    expect(vlanOf(head)).toBe(UNTAGGED);
  });
});
