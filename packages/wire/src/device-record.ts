/** device-record.ts: the frame around a saved device record. The payload is the business of whoever saved it. */
import { layout, u32 } from './layout.js';

export const RECORD_MAGIC = 0x44_52_4e_56; // "VNRD"
/** Version of the frame itself; the payload has one of its own. */
export const RECORD_FRAME_VERSION = 1;
/** Frame and payload; leaves room for names and other entries in one shelf message. */
export const RECORD_BYTES_MAX = 160 * 1024;

export const RecordHeader = layout('RecordHeader', 20, {
  magic: u32,
  frameVersion: u32,
  /** Version of what the payload means. */
  payloadVersion: u32,
  payloadBytes: u32,
  /** CRC-32 (IEEE 802.3, reflected) of the payload. */
  checksum: u32,
});
