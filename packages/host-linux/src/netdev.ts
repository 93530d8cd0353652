/** netdev.ts: network interfaces of this network namespace: index, MTU, state, MAC address, speed, drops. */
import { readFileSync } from 'node:fs';
import {
  ARPHRD_ETHER,
  Errno,
  ETHTOOL_GLINK,
  ETHTOOL_GLINKSETTINGS,
  ETHTOOL_MASK_WORDS_MAX,
  ETHTOOL_SPEED_UNKNOWN,
  EthtoolLinkSettings,
  EthtoolValue,
  HardwareAddress,
  IFREQ_UNION_AT,
  InterfaceFlag,
  NetdevIoctl,
} from '@virtnet/wire';
import { close } from './fd.js';
import { interfaceRequest, nameRequest } from './interface-request.js';
import { nativeIoctl } from './ioctl.js';
import { NativeBuffer, orErrno, setPointer } from './libc.js';
import { controlSocket } from './socket.js';

const MAC_BYTES = 6;
/** Of /proc/net/dev: counters behind the name, and which of them is `drop` of the sending side. */
const INTERFACE_COUNTERS = 16;
const TRANSMIT_DROP_AT = 11;
const MAC_AT = IFREQ_UNION_AT + HardwareAddress.at.byte0;
/** Three masks follow the settings. */
const LINK_MASKS = 3;
const settings = new NativeBuffer(EthtoolLinkSettings.sizeBytes + LINK_MASKS * ETHTOOL_MASK_WORDS_MAX * 4);

/** Runs `request` on `name`; `fill` writes the union first. Returns 0 or -errno; the answer is in interfaceRequest. */
function ask(name: string, request: number, fill?: () => void): number {
  const named = nameRequest(name);
  if (named < 0) return named;
  fill?.();
  const socket = controlSocket();
  if (socket < 0) return socket;
  const result = orErrno(nativeIoctl(socket, request, interfaceRequest.address));
  close(socket);
  return result;
}

/** An ioctl whose answer is one 32-bit integer. */
function askNumber(name: string, request: number): number {
  const error = ask(name, request);
  return error < 0 ? error : interfaceRequest.view.getInt32(IFREQ_UNION_AT, true);
}

/** Runs the ethtool command in `settings`, and leaves the answer there. Returns 0 or -errno. */
function askEthtool(name: string): number {
  return ask(name, NetdevIoctl.ETHTOOL, () =>
    setPointer(interfaceRequest.view, IFREQ_UNION_AT, settings.address),
  );
}

/** Index of interface `name`, or -ENODEV, or -EINVAL for an impossible name. */
export function ifIndex(name: string): number {
  return askNumber(name, NetdevIoctl.GIFINDEX);
}

/** Whether this network namespace has an interface `name`. */
export function interfaceExists(name: string): boolean {
  return ifIndex(name) > 0;
}

/** MTU in bytes, or -errno. */
export function getMtu(name: string): number {
  return askNumber(name, NetdevIoctl.GIFMTU);
}

/** Sets the MTU. Returns 0 or -errno (-EINVAL: the driver does not take that size). */
export function setMtu(name: string, mtu: number): number {
  if (!Number.isInteger(mtu) || mtu < 0 || mtu >= 2 ** 31) return -Errno.EINVAL;
  return ask(name, NetdevIoctl.SIFMTU, () => interfaceRequest.view.setInt32(IFREQ_UNION_AT, mtu, true));
}

/** InterfaceFlag bits (the low 16), or -errno. */
export function interfaceFlags(name: string): number {
  const error = ask(name, NetdevIoctl.GIFFLAGS);
  return error < 0 ? error : interfaceRequest.view.getUint16(IFREQ_UNION_AT, true);
}

/** Whether the interface exists and is administratively up. */
export function isUp(name: string): boolean {
  const flags = interfaceFlags(name);
  return flags >= 0 && (flags & InterfaceFlag.UP) !== 0;
}

/**
 * Whether the interface is up and has a carrier, at this moment; the RUNNING flag lags behind by up to a second.
 */
export function hasCarrier(name: string): boolean {
  settings.u8.fill(0);
  settings.view.setUint32(EthtoolValue.at.command, ETHTOOL_GLINK, true);
  return askEthtool(name) === 0 && settings.view.getUint32(EthtoolValue.at.value, true) !== 0;
}

/** Sets the interface up or down. Returns 0 or -errno. */
export function setUp(name: string, up: boolean): number {
  const flags = interfaceFlags(name);
  if (flags < 0) return flags;
  const wanted = up ? flags | InterfaceFlag.UP : flags & ~InterfaceFlag.UP;
  return ask(name, NetdevIoctl.SIFFLAGS, () => interfaceRequest.view.setUint16(IFREQ_UNION_AT, wanted, true));
}

/** The MAC address (6 bytes), or -errno. */
export function getMac(name: string): Uint8Array | number {
  const error = ask(name, NetdevIoctl.GIFHWADDR);
  return error < 0 ? error : interfaceRequest.u8.slice(MAC_AT, MAC_AT + MAC_BYTES);
}

/** Sets the MAC address (6 bytes). Returns 0 or -errno. */
export function setMac(name: string, mac: Uint8Array): number {
  if (mac.length !== MAC_BYTES) return -Errno.EINVAL;
  return ask(name, NetdevIoctl.SIFHWADDR, () => {
    interfaceRequest.view.setUint16(IFREQ_UNION_AT, ARPHRD_ETHER, true);
    interfaceRequest.u8.set(mac, MAC_AT);
  });
}

/** Frames the interface could not hand to whoever is behind it; null when it does not exist. */
export function transmitDropped(name: string): number | null {
  // Of this thread: another one may be in another network namespace.
  for (const line of readFileSync('/proc/thread-self/net/dev', 'utf8').split('\n')) {
    const colon = line.indexOf(':');
    if (colon < 0 || line.slice(0, colon).trim() !== name) continue;
    const counters = line
      .slice(colon + 1)
      .trim()
      .split(/\s+/);
    return counters.length < INTERFACE_COUNTERS ? null : Number(counters[TRANSMIT_DROP_AT]);
  }
  return null;
}

/** Link speed in Mb/s, or null when the interface does not exist, has no link or does not know. */
export function getSpeed(name: string): number | null {
  const at = EthtoolLinkSettings.at;
  const query = (maskWords: number): number => {
    settings.u8.fill(0);
    settings.view.setUint32(at.command, ETHTOOL_GLINKSETTINGS, true);
    settings.view.setInt8(at.maskWords, maskWords);
    return askEthtool(name);
  };
  if (query(0) < 0) return null;
  const maskWords = -settings.view.getInt8(at.maskWords);
  if (maskWords <= 0 || maskWords > ETHTOOL_MASK_WORDS_MAX || query(maskWords) < 0) return null;
  const speed = settings.view.getUint32(at.speed, true);
  return speed === 0 || speed === ETHTOOL_SPEED_UNKNOWN ? null : speed;
}
