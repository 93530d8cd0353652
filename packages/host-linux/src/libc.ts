/**
 * libc.ts: the one door to the C library, and memory whose address the kernel may be told.
 *
 * Theory
 *   Every declaration elsewhere in this package is made with `declare`, next to a comment that says why the call is
 *   needed. Pointers are declared `uintptr_t` and travel as plain numbers: process addresses stay below 2^47, and
 *   a number costs 120 ns less per call than a typed array or a bigint behind a `void *`. Variadic C functions
 *   (ioctl, fcntl, syscall) are declared with fixed integer arguments, which the x86-64 and arm64 Linux calling
 *   conventions pass alike.
 *
 * Invariants
 *   I1  `negativeErrno()` is called in the very statement after the call that failed: anything between may change errno,
 *       also the engine, which takes locks when it compiles a function. So the two functions that read it ran before.
 *   I2  whoever hands `NativeBuffer.address` to the kernel holds the NativeBuffer itself (in a field, or in a module
 *       constant that the calling function names): the garbage collector does not see addresses.
 *
 * Limits  64-bit Linux with glibc 2.27 or newer.
 */
import koffi from 'koffi';

const library = koffi.load('libc.so.6');
const lastErrno = koffi.errno;

/** Types of parameters and results used in declarations. */
export type NativeType =
  | 'int'
  | 'uint32_t'
  | 'int64_t'
  | 'uint64_t'
  | 'uintptr_t'
  | 'size_t'
  | 'str'
  | 'void';

/** A C function as a JavaScript function; the caller states the signature it gave in `parameters`. */
export function declare<F extends (...parameters: never[]) => unknown>(
  name: string,
  result: NativeType,
  parameters: readonly NativeType[],
): F {
  return library.func(name, result, [...parameters]) as unknown as F;
}

/** The error of the call just made, negative. */
export function negativeErrno(): number {
  return -lastErrno();
}

/** `result` when it is not negative, else the error of the call just made. */
export function orErrno(result: number): number {
  return result < 0 ? -lastErrno() : result;
}

// I1: compiled before they are needed.
negativeErrno();
orErrno(-1);

/** An ArrayBuffer over `sizeBytes` bytes of this process at `address`; nothing is copied or kept alive. */
export function viewMemory(address: bigint, sizeBytes: number): ArrayBuffer {
  return koffi.view(address, sizeBytes);
}

/** The address of the first byte of `array`. Valid while `array` is reachable. */
export function addressOf(array: ArrayBuffer | Uint8Array): number {
  return Number(koffi.address(array));
}

/** Zeroed memory with a fixed address, seen through several views. See invariant I2. */
export class NativeBuffer {
  readonly sizeBytes: number;
  readonly address: number;
  readonly u8: Uint8Array;
  readonly u32: Uint32Array;
  readonly i32: Int32Array;
  readonly view: DataView;

  constructor(sizeBytes: number) {
    const buffer = new ArrayBuffer(Math.ceil(Math.max(sizeBytes, 8) / 8) * 8);
    this.sizeBytes = sizeBytes;
    this.address = addressOf(buffer);
    this.u8 = new Uint8Array(buffer);
    this.u32 = new Uint32Array(buffer);
    this.i32 = new Int32Array(buffer);
    this.view = new DataView(buffer);
  }
}

/** A pointer field of a structure. */
export function setPointer(view: DataView, offset: number, address: number): void {
  view.setUint32(offset, address % 2 ** 32, true);
  view.setUint32(offset + 4, Math.floor(address / 2 ** 32), true);
}
