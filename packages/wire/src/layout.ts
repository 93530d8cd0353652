/**
 * layout.ts: one declaration per wire structure.
 *
 * Theory
 *   `layout(name, sizeBytes, fields)` adds the fields up in the order they are written, refuses to load when they
 *   do not make `sizeBytes`, and yields the offsets (`at`), a decoder and an encoder. All scalars are little-endian,
 *   as virtio, PCI, vfio-user and vhost-user demand. Control paths decode; the datapath reads typed arrays at `at`.
 *
 * Invariants
 *   I1  offsets are consecutive: padding is declared, never implied.
 *   I2  a 64-bit address or mask is a bigint (`u64`); a 64-bit size is a number and refuses to pass 2^53 (`u64Size`).
 *
 * Limits
 *   Fixed-size structures only; variable tails are the business of the codec that owns the message.
 */

/** How one scalar field is read and written. */
export interface Scalar<T> {
  readonly sizeBytes: number;
  read(view: DataView, offset: number): T;
  write(view: DataView, offset: number, value: T): void;
}

export const u8: Scalar<number> = {
  sizeBytes: 1,
  read: (v, o) => v.getUint8(o),
  write: (v, o, x) => v.setUint8(o, x),
};
export const u16: Scalar<number> = {
  sizeBytes: 2,
  read: (v, o) => v.getUint16(o, true),
  write: (v, o, x) => v.setUint16(o, x, true),
};
export const u32: Scalar<number> = {
  sizeBytes: 4,
  read: (v, o) => v.getUint32(o, true),
  write: (v, o, x) => v.setUint32(o, x, true),
};
export const i32: Scalar<number> = {
  sizeBytes: 4,
  read: (v, o) => v.getInt32(o, true),
  write: (v, o, x) => v.setInt32(o, x, true),
};
/** 64 bits that are an address, a mask or a cookie. */
export const u64: Scalar<bigint> = {
  sizeBytes: 8,
  read: (v, o) => v.getBigUint64(o, true),
  write: (v, o, x) => v.setBigUint64(o, x, true),
};
/** 64 bits that are a size in bytes; a value past 2^53 is refused with a RangeError. */
export const u64Size: Scalar<number> = {
  sizeBytes: 8,
  read: (v, o) => {
    const x = v.getBigUint64(o, true);
    if (x > BigInt(Number.MAX_SAFE_INTEGER)) throw new RangeError(`size ${x} exceeds 2^53`);
    return Number(x);
  },
  write: (v, o, x) => v.setBigUint64(o, BigInt(x), true),
};

type Fields = Record<string, Scalar<number> | Scalar<bigint>>;
type ValueOf<S> = S extends Scalar<infer T> ? T : never;

export interface Layout<F extends Fields> {
  readonly name: string;
  readonly sizeBytes: number;
  /** Offset of each field in bytes. */
  readonly at: { readonly [K in keyof F]: number };
  /** Reads the structure at `offset`; throws RangeError when the view is too short. */
  decode(view: DataView, offset?: number): { [K in keyof F]: ValueOf<F[K]> };
  /** Writes the structure at `offset`; returns the number of bytes written. */
  encode(view: DataView, offset: number, value: { [K in keyof F]: ValueOf<F[K]> }): number;
  /** The structure as bytes of its own. */
  bytes(value: { [K in keyof F]: ValueOf<F[K]> }): Uint8Array;
}

/** The plain object a layout decodes to. */
export type Decoded<L> = L extends Layout<infer F> ? { [K in keyof F]: ValueOf<F[K]> } : never;

export function layout<F extends Fields>(name: string, sizeBytes: number, fields: F): Layout<F> {
  const entries = Object.entries(fields) as [keyof F & string, Scalar<unknown>][];
  const at = {} as { [K in keyof F]: number };
  let offset = 0;
  for (const [key, scalar] of entries) {
    if (/^\d/.test(key)) throw new TypeError(`${name}.${key}: field names must not look like integers`);
    at[key] = offset;
    offset += scalar.sizeBytes;
  }
  if (offset !== sizeBytes) throw new TypeError(`${name} is ${offset} bytes, declared ${sizeBytes}`);
  const encode: Layout<F>['encode'] = (view, start, value) => {
    for (const [key, scalar] of entries) scalar.write(view, start + at[key], value[key]);
    return sizeBytes;
  };
  return {
    name,
    sizeBytes,
    at,
    decode(view, start = 0) {
      const out = {} as { [K in keyof F]: ValueOf<F[K]> };
      for (const [key, scalar] of entries)
        out[key] = scalar.read(view, start + at[key]) as ValueOf<F[typeof key]>;
      return out;
    },
    encode,
    bytes(value) {
      const out = new Uint8Array(sizeBytes);
      encode(new DataView(out.buffer), 0, value);
      return out;
    },
  };
}

/** A DataView over exactly the bytes of `array`. */
export function viewOf(array: Uint8Array): DataView {
  return new DataView(array.buffer, array.byteOffset, array.byteLength);
}
