/** Bounds of one switch, each with its arithmetic. */

/** Ports: 1070 functions and an uplink fit twice over; a port number is a small integer in an array. */
export const PORTS_MAX = 2048;

/**
 * Stations (MAC address and VLAN) remembered: eight for each of 1024 functions. At 16 bytes a slot and two slots a
 * station 256 KiB, and a sweep over all of them takes some ten microseconds.
 */
export const STATIONS_MAX = 8192;

/**
 * Stations one port may have: a guest that makes addresses up fills an eighth of the table, and the others keep
 * theirs. Enough for a bridge of containers behind a function.
 */
export const STATIONS_PER_PORT_MAX = 1024;

/** Seconds without a frame after which a station is forgotten: what IEEE 802.1Q recommends. */
export const AGEING_SECONDS = 300;

/**
 * Flows remembered of a function that asks for it (aarfs): as many as the kernel remembers of a TAP. A power of two; 10
 * bytes each.
 */
export const FLOWS_MAX = 4096;

/** Seconds without a frame of the function after which a flow is no longer followed. */
export const FLOW_AGEING_SECONDS = 30;

/** Number of the port to the outside: the last. */
export const UPLINK_PORT = PORTS_MAX - 1;

/** Copies one burst of a transmit queue may cost: about 50 microseconds of 1500-byte frames. */
export const BURST_CREDIT = 256;

/**
 * Chains that hold no frame, given back for one receiver and burst. Drivers make none but by mistake; one that makes them
 * available again as fast as they come back loses its frames, and costs a burst as much as that many copies.
 */
export const REFUSALS_MAX = 16;
