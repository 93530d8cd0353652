/** interface-request.ts: struct ifreq, the argument of every ioctl on a network interface. */
import { Errno, IFREQ_BYTES, INTERFACE_NAME_BYTES } from '@virtnet/wire';
import { NativeBuffer } from './libc.js';

/** One per thread; filled and read within one call. */
export const interfaceRequest = new NativeBuffer(IFREQ_BYTES);

/** Whether the kernel would take `name` literally for an interface: 1 to 15 bytes, no '/', ':', '%' or blank. */
export function isInterfaceName(name: string): boolean {
  const lengthBytes = Buffer.byteLength(name);
  if (lengthBytes === 0 || lengthBytes >= INTERFACE_NAME_BYTES) return false;
  return name !== '.' && name !== '..' && !/[/:%\s\0]/.test(name);
}

/** Clears the request and names the interface in it. Returns 0 or -EINVAL. */
export function nameRequest(name: string): number {
  if (!isInterfaceName(name)) return -Errno.EINVAL;
  interfaceRequest.u8.fill(0);
  interfaceRequest.u8.set(Buffer.from(name));
  return 0;
}

/** The name the kernel left in the request. */
export function requestedName(): string {
  const bytes = interfaceRequest.u8.subarray(0, INTERFACE_NAME_BYTES);
  const end = bytes.indexOf(0);
  return Buffer.from(bytes.subarray(0, end < 0 ? INTERFACE_NAME_BYTES : end)).toString();
}
