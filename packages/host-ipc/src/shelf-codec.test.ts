import type { ShelfOperation } from '@virtnet/engine-recovery';
import {
  Errno,
  SHELF_DESCRIPTORS_MAX,
  SHELF_MESSAGE_BYTES_MAX,
  SHELF_NAME_BYTES_MAX,
  SHELF_OPERATIONS_MAX,
  ShelfMessageHeader,
  ShelfMessageKind,
  ShelfOperationHeader,
  viewOf,
} from '@virtnet/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { decodeShelfMessage, encodeShelfMessage } from './shelf-codec.js';

const { TRANSACTION } = ShelfMessageKind;
const encode = (operations: ShelfOperation<number>[], kind: ShelfMessageKind = TRANSACTION, argument = 0) => {
  const message = encodeShelfMessage({ kind, argument, operations });
  if (typeof message === 'number') throw new RangeError(`errno ${-message}`);
  return message;
};
const put = (
  name: string,
  handle: number | null = null,
  blob = new Uint8Array(0),
): ShelfOperation<number> => ({
  kind: 'put',
  name,
  blob,
  handle,
  ttlWithoutHolderMs: 0,
});

const name = fc.string({ minLength: 1, maxLength: 30, unit: fc.constantFrom(...'abz/019._-') });
const operation: fc.Arbitrary<ShelfOperation<number>> = fc.oneof(
  fc.record({
    kind: fc.constant('put' as const),
    name,
    blob: fc.uint8Array({ maxLength: 50 }),
    handle: fc.option(fc.nat(1000)),
    ttlWithoutHolderMs: fc.nat(0xffff_ffff),
  }),
  fc.record({ kind: fc.constant('delete' as const), name }),
  fc.record({ kind: fc.constant('delete-prefix' as const), prefix: name }),
);

describe('shelf codec', () => {
  it('any message comes back as it was, its descriptors in order', () => {
    fc.assert(
      fc.property(
        fc.array(operation, { maxLength: 20 }),
        fc.integer({ min: -5000, max: 2 ** 31 - 1 }),
        (ops, arg) => {
          const { bytes, handles } = encode(ops, TRANSACTION, arg);
          expect(decodeShelfMessage(bytes, handles)).toEqual({
            kind: TRANSACTION,
            argument: arg,
            operations: ops,
          });
        },
      ),
    );
  });

  it('a blob is a copy: the receive buffer may be reused', () => {
    const { bytes } = encode([put('a', null, Uint8Array.of(1, 2))]);
    const message = decodeShelfMessage(bytes, []);
    bytes.fill(0);
    expect(message).toMatchObject({ operations: [{ blob: Uint8Array.of(1, 2) }] });
  });

  it('limits: what fits exactly is encoded, one more is refused by errno', () => {
    const overhead = ShelfMessageHeader.sizeBytes + ShelfOperationHeader.sizeBytes + 1;
    const room = SHELF_MESSAGE_BYTES_MAX - overhead;
    const tryPut = (bytes: number) =>
      encodeShelfMessage({
        kind: TRANSACTION,
        argument: 0,
        operations: [put('a', null, new Uint8Array(bytes))],
      });
    expect(tryPut(room)).toHaveProperty('bytes');
    expect(tryPut(room + 1)).toBe(-Errno.EMSGSIZE);
    const tryMany = (count: number, handle: number | null) =>
      encodeShelfMessage({
        kind: TRANSACTION,
        argument: 0,
        operations: Array.from({ length: count }, () => put('a', handle)),
      });
    expect(tryMany(SHELF_DESCRIPTORS_MAX, 1)).toHaveProperty('handles');
    expect(tryMany(SHELF_DESCRIPTORS_MAX + 1, 1)).toBe(-Errno.E2BIG);
    expect(tryMany(SHELF_OPERATIONS_MAX, null)).toHaveProperty('bytes');
    expect(tryMany(SHELF_OPERATIONS_MAX + 1, null)).toBe(-Errno.E2BIG);
    for (const bad of ['', 'n'.repeat(SHELF_NAME_BYTES_MAX + 1), 'ä'])
      expect(encodeShelfMessage({ kind: TRANSACTION, argument: 0, operations: [put(bad)] })).toBe(
        -Errno.EINVAL,
      );
  });

  it('a descriptor too many or too few makes the message wrong', () => {
    const { bytes } = encode([put('a', 5), put('b', 6)]);
    for (const fds of [[], [5], [5, 6, 7]])
      expect(decodeShelfMessage(bytes, fds)).toEqual(expect.any(String));
  });

  it('cut off at any byte, or with bytes behind its end, is refused', () => {
    const { bytes } = encode([put('a', null, new Uint8Array(9)), { kind: 'delete', name: 'b' }]);
    for (let length = 0; length < bytes.byteLength; length++) {
      const cut = bytes.slice(0, length);
      expect(decodeShelfMessage(cut, [])).toEqual(expect.any(String));
      if (length < ShelfMessageHeader.sizeBytes) continue;
      viewOf(cut).setUint32(ShelfMessageHeader.at.sizeBytes, length, true); // the length agrees: the operations do not
      expect(decodeShelfMessage(cut, [])).toEqual(expect.any(String));
    }
    const longer = new Uint8Array(bytes.byteLength + 1);
    longer.set(bytes);
    viewOf(longer).setUint32(ShelfMessageHeader.at.sizeBytes, longer.byteLength, true);
    expect(decodeShelfMessage(longer, [])).toEqual(expect.any(String));
  });

  it('any damage gives a message or text, never an exception', () => {
    const { bytes } = encode([
      put('dev/a/page', 1, new Uint8Array(20)),
      { kind: 'delete-prefix', prefix: 'dev/' },
    ]);
    const damage = fc.array(fc.tuple(fc.nat(bytes.byteLength - 1), fc.nat(255)), { maxLength: 6 });
    fc.assert(
      fc.property(damage, (changes) => {
        const damaged = bytes.slice();
        for (const [at, value] of changes) damaged[at] = value;
        const message = decodeShelfMessage(damaged, [1]);
        expect(['string', 'object']).toContain(typeof message);
      }),
    );
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 100 }), (noise) => {
        expect(decodeShelfMessage(noise, [])).toEqual(expect.any(String));
      }),
    );
  });
});
