/**
 * firmware-store.ts: the firmware store as a file. What is read is not trusted; engine-control checks it.
 *
 * Limits  FIRMWARE_STORE_BYTES_MAX.
 */
import {
  FIRMWARE_STORE_BYTES_MAX,
  type FirmwareProblem,
  type FirmwareStore,
  initialFirmwareStore,
  parseFirmwareStore,
  serialiseFirmwareStore,
} from '@virtnet/engine-control';
import { hasCode, messageOf } from './fault-text.js';
import { readText, replaceText } from './text-file.js';

/** Why a store was not read; `denied`: another user could. */
export interface FirmwareUnread extends FirmwareProblem {
  readonly denied?: true;
}

/** Reads the store at `path`; the initial one when there is no such file. Never throws. */
export function readFirmwareStore(path: string): { readonly store: FirmwareStore } | FirmwareUnread {
  try {
    const text = readText(path, FIRMWARE_STORE_BYTES_MAX);
    if (text === null) return { store: initialFirmwareStore() };
    const parsed = parseFirmwareStore(text);
    return 'problem' in parsed ? { problem: `${path}: ${parsed.problem}` } : parsed;
  } catch (error) {
    return { problem: messageOf(error), ...(hasCode(error, 'EACCES') ? { denied: true } : {}) };
  }
}

/** Replaces the store at `path`; null when the new one is safely there, else why it is not. Never throws. */
export function writeFirmwareStore(path: string, store: FirmwareStore): FirmwareProblem | null {
  try {
    replaceText(path, serialiseFirmwareStore(store));
    return null;
  } catch (error) {
    return { problem: messageOf(error) };
  }
}
