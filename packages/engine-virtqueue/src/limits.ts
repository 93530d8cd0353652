/** Bounds of the ring engine, each with its arithmetic. */

/**
 * Bytes of guest memory behind one set of views: 2^30. Element indices then stay far below 2^31, past which V8 leaves
 * its fast path, and a piece cut at a multiple of its size never crosses a 4 GiB line, so that one comparison of the
 * high address word decides.
 */
export const PIECE_BYTES = 2 ** 30;

/** Segments one chain may have at most: IOV_MAX of Linux, so that a chain always fits one vectored system call. */
export const CHAIN_SEGMENTS_MAX = 1024;

/**
 * Entries of an indirect table: four times the segments a chain may have, of which a split ring's chain need not link all;
 * 64 KiB at most. How many are walked follows from the segments of a chain: entries without a byte count with them.
 */
export const INDIRECT_ENTRIES_MAX = 4096;

/**
 * Chains one scan() lays out: a poll's worth. What a burst costs beside its frames (fences, and what has to come from
 * another processor) is some 1 us; with half as many it would be a tenth of each frame more.
 */
export const PLAIN_CHAINS_MAX = 128;

/** Copies up to this many bytes run as a loop; longer ones as a block copy, which costs a view but runs at full speed. */
export const COPY_LOOP_BYTES_MAX = 32;
