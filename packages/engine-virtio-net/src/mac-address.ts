/** MAC addresses as bytes and as text: upper case, colons, as the `virtnet` command prints them. */
import { MAC_BYTES } from '@virtnet/wire';

const MAC_TEXT = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i;
/** Bit of the first byte: the address names a group. */
const GROUP_BIT = 1;

/** Six bytes, or null when the text is no MAC address. */
export function parseMac(text: string): Uint8Array | null {
  if (!MAC_TEXT.test(text)) return null;
  return Uint8Array.from(text.split(':'), (digits) => Number.parseInt(digits, 16));
}

export function formatMac(bytes: ArrayLike<number>): string {
  return Array.from({ length: MAC_BYTES }, (_, i) => bytes[i]!.toString(16).padStart(2, '0'))
    .join(':')
    .toUpperCase();
}

/** Whether an interface can have this address: not a group, not all zeros. */
export function isStationMac(bytes: Uint8Array): boolean {
  return bytes.length === MAC_BYTES && (bytes[0]! & GROUP_BIT) === 0 && bytes.some((byte) => byte !== 0);
}
