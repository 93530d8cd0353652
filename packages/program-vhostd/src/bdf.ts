/** bdf.ts: PCI addresses as the command line takes them. */

const PATTERN = /^(?:([0-9a-f]{4}):)?([0-9a-f]{2}):([01][0-9a-f])\.([0-7])$/;

/** `domain:bus:slot.func` for that or `bus:slot.func`, in lower case; null for any other text. */
export function canonicalBdf(text: string): string | null {
  const match = PATTERN.exec(text.toLowerCase());
  if (match === null) return null;
  const [, domain = '0000', bus, slot, fn] = match;
  return `${domain}:${bus}:${slot}.${fn}`;
}

/** Domain and bus: what a PF shares with its VFs. */
export function busOf(bdf: string): string {
  return bdf.slice(0, bdf.lastIndexOf(':'));
}
