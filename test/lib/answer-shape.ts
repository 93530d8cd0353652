/** The form of an answer: each key in order with the kind of its value, as guide-examples.ts has them. */

/** `path kind` for every value; of an array the first entry stands for all. Keys of single bits are left out. */
export function shapeOf(value: unknown, path = ''): string[] {
  if (Array.isArray(value)) {
    if (path === '') return value.flatMap((entry, i) => shapeOf(entry, `[${i}]`));
    const [first] = value;
    const entries = typeof first === 'object' ? shapeOf(first, `${path}[]`) : [];
    return [`${path} A`, ...entries];
  }
  if (typeof value === 'object' && value !== null) {
    const own = path === '' || path.endsWith(']') ? [] : [`${path} O`];
    const entries = Object.entries(value).filter(([key]) => !/^ *\d+$/.test(key));
    return [
      ...own,
      ...entries.flatMap(([key, entry]) => shapeOf(entry, path === '' ? key : `${path}.${key}`)),
    ];
  }
  return [`${path} ${kindOf(value)}`.trim()];
}

function kindOf(value: unknown): string {
  if (typeof value === 'number') return 'N';
  const text = String(value);
  if (/^\d+$/.test(text)) return 'D';
  if (/^0x[0-9a-f]+$/i.test(text)) return 'H';
  return /^([0-9A-F]{2}:){5}[0-9A-F]{2}$/.test(text) ? 'M' : 'T';
}
