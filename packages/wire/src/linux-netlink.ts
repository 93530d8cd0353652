/** linux-netlink.ts: the two rtnetlink messages we send (linux/netlink.h, linux/rtnetlink.h, linux/if_link.h). */
import { i32, layout, u8, u16, u32 } from './layout.js';

export const NETLINK_FAMILY = 16;
export const NETLINK_ROUTE = 0;

export const NetlinkHeader = layout('NetlinkHeader', 16, {
  /** Whole message, this header included. */
  sizeBytes: u32,
  type: u16,
  flags: u16,
  sequence: u32,
  portId: u32,
});
export const NetlinkFlag = { REQUEST: 1, ACK: 4 } as const;
export const NetlinkType = { ERROR: 2, DEL_LINK: 17, SET_LINK: 19 } as const;

/** ifinfomsg. Index 0: the attributes say which. */
export const NetlinkInterface = layout('NetlinkInterface', 16, {
  family: u8,
  padding: u8,
  kind: u16,
  index: i32,
  flags: u32,
  change: u32,
});
/** rtattr with a value of 32 bits. */
export const NetlinkWord = layout('NetlinkWord', 8, { sizeBytes: u16, type: u16, value: u32 });
/** IFLA_GROUP. */
export const NETLINK_GROUP = 27;
