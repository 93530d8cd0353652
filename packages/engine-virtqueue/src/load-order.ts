/** load-order.ts: keeps loads of memory that others write in the order they are written down in. */

/** Its processors do that by themselves, so that only the compiler has to be told. */
const IN_ORDER = process.arch === 'x64';
const word = new Int32Array(1);

/** No load behind it is done before a load in front of it. */
export function orderLoads(): void {
  if (IN_ORDER) Atomics.load(word, 0);
  else Atomics.exchange(word, 0, 0); // which no load passes in either direction
}
