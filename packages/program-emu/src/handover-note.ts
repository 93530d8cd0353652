/** handover-note.ts: what the lender of a device notes for its borrower, with the loan. */

/** `pausedMs`: when the lender stopped the rings, on the clock of the machine; left out when it is long ago. */
export function encodeNote(pausedMs?: number): Uint8Array {
  return new TextEncoder().encode(JSON.stringify({ pausedMs }));
}

/** When the lender stopped the rings; null when it noted nothing that makes sense. */
export function pausedAt(note: Uint8Array): number | null {
  try {
    const { pausedMs } = JSON.parse(new TextDecoder().decode(note)) as { pausedMs?: unknown };
    return typeof pausedMs === 'number' && Number.isFinite(pausedMs) ? pausedMs : null;
  } catch {
    return null; // another's words
  }
}
