/** Bounds of one network device, each with its arithmetic. */

/**
 * Addresses kept of each table of MAC_TABLE_SET. A longer table switches to taking all frames of its kind, which the
 * specification allows (5.1.6.5.2). 64 is what QEMU keeps, and cheap to compare one by one.
 */
export const MAC_TABLE_ENTRIES_MAX = 64;

/**
 * Largest control command in bytes, header included: two MAC tables of 5,000 addresses, far more than any driver
 * sends. The caller reads no more than this from the driver's memory.
 */
export const CONTROL_REQUEST_BYTES_MAX = 64 * 1024;

/** Ethernet, two tags, IPv6 with room for extension headers, and the longest TCP header, of a frame that is segmented. */
export const SEGMENT_HEADER_BYTES_MAX = 512;

/**
 * Segments one frame may be cut into: 64 KiB at the smallest segment size TCP stacks use (48 bytes). Without a bound
 * one frame with gso_size 1 would cost as much as 65,535.
 */
export const SEGMENTS_MAX = 1366;
