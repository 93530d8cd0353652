import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  bitKey,
  bitObject,
  formatMac,
  hexLower,
  hexUpper,
  parseMac,
  pythonDict,
  pythonString,
} from './format.js';
import { anyText } from './text.fixture.js';

describe('parameters line', () => {
  it('shows numbers as quoted hexadecimal and strings as typed', () => {
    expect(pythonDict({ all: 0, pf: 17, level: 'info' })).toBe(
      "{'all': '0x0', 'pf': '0x11', 'level': 'info'}",
    );
  });

  it('shows a negative number as Python does', () => {
    expect(pythonDict({ id: -1 })).toBe("{'id': '-0x1'}");
  });

  // Right-hand sides are what CPython 3.11 prints for repr() of the left-hand sides.
  it.each([
    ["it's", `"it's"`],
    [`'"`, `'\\'"'`],
    ['a"b', `'a"b'`],
    ['\\', `'\\\\'`],
    ['\n\r\t', `'\\n\\r\\t'`],
    ['\x1b[31m', `'\\x1b[31m'`],
    ['\u00a0', `'\\xa0'`],
    ['\u2028', `'\\u2028'`],
    ['\u{e0001}', `'\\U000e0001'`],
    ['ä € 🙂', `'ä € 🙂'`],
    ['', `''`],
  ])('quotes %j', (text, shown) => {
    expect(pythonString(text)).toBe(shown);
  });

  it('never lets a control character through, whatever the text', () => {
    fc.assert(
      fc.property(anyText(), (text) => {
        expect(pythonString(text)).not.toMatch(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u);
      }),
    );
  });
});

describe('bit object', () => {
  it('pads bit numbers to width 5', () => {
    expect([0, 9, 10, 63].map(bitKey)).toEqual(['    0', '    9', '   10', '   63']);
  });

  it('lists a bit without a name, so that no bit is lost', () => {
    expect(bitObject(6, (bit) => (bit === 1 ? 'ONE' : undefined))).toEqual({
      value: '0x6',
      '    1': 'ONE',
      '    2': 'UNKNOWN',
    });
  });

  it('lists exactly the bits of the value, ascending', () => {
    fc.assert(
      fc.property(fc.bigInt(0n, 2n ** 64n - 1n), (mask) => {
        const { value, ...bits } = bitObject(mask, String);
        const listed = Object.keys(bits).map(Number);
        expect(BigInt(value!)).toBe(mask);
        expect(listed.reduce((sum, bit) => sum | (1n << BigInt(bit)), 0n)).toBe(mask);
        expect(listed).toEqual([...listed].sort((a, b) => a - b));
      }),
    );
  });
});

describe('hexadecimal text', () => {
  it('is lower-case for masks and addresses, upper-case for identifiers', () => {
    expect(hexLower(0x10cece000n)).toBe('0x10cece000');
    expect(hexUpper(0x18a42)).toBe('0x18A42');
    expect(hexUpper(0xffff)).toBe('0xFFFF');
  });
});

describe('MAC address', () => {
  it('survives parsing and formatting', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 6, maxLength: 6 }), (bytes) => {
        expect(parseMac(formatMac(bytes))).toEqual(bytes);
        expect(parseMac(formatMac(bytes).toLowerCase())).toEqual(bytes);
      }),
    );
  });

  it.each([
    '',
    '0C:C4:7A:FF:22',
    '0C:C4:7A:FF:22:93:00',
    '0C-C4-7A-FF-22-93',
    '0CC47AFF2293',
    ' 0C:C4:7A:FF:22:93',
    'xx:C4:7A:FF:22:93',
  ])('refuses %j', (text) => {
    expect(parseMac(text)).toBeNull();
  });

  it('refuses everything that is not six pairs of digits', () => {
    fc.assert(
      fc.property(fc.string(), (text) => {
        fc.pre(!/^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$/.test(text));
        expect(parseMac(text)).toBeNull();
      }),
    );
  });
});
