/** firmware-text.ts: the tables virtnet-mlxconfig prints, with the guide's columns. */
import type { FirmwareStore } from './firmware-config.js';
import { type FirmwareEntryName, type FirmwareValues, firmwareEntry } from './firmware-entries.js';
import { BOARD_SERIAL } from './identity.js';

/** Column widths, measured on the guide's rows. */
const MARK_COLUMN = 9;
const NAME_COLUMN = 44;
const VALUE_COLUMN = 16;
const FACT_COLUMN = 20;

/** Explains the mark without showing it: the guide filters the table by the asterisk. */
const LEGEND = 'Marked parameters: the next-boot value differs from the default or the current value.';

/** A value as shown: `True(1)`, `False(0)` or a decimal number. */
export function firmwareValueText(name: FirmwareEntryName, value: number): string {
  if (firmwareEntry(name).type === 'bool') return value === 1 ? 'True(1)' : 'False(0)';
  return String(value);
}

/** One row: the mark, the name, then a column for each value. No blanks at the end. */
function row(mark: string, name: string, values: readonly string[]): string {
  const columns = values.map((value) => value.padEnd(VALUE_COLUMN)).join('');
  return `${mark.padEnd(MARK_COLUMN)}${name.padEnd(NAME_COLUMN)}${columns}`.trimEnd();
}

function header(deviceName: string, titles: readonly string[]): string[] {
  const fact = (name: string, value: string) => `${name.padEnd(FACT_COLUMN)}${value}`;
  return [
    '',
    'Device #1:',
    '----------',
    '',
    fact('Device type:', 'virtnet (software)'),
    fact('Name:', BOARD_SERIAL),
    fact('Description:', 'Emulated virtio-net adapter'),
    fact('Device:', deviceName),
    '',
    `${'Configurations:'.padEnd(MARK_COLUMN + NAME_COLUMN)}${titles.map((t) => t.padEnd(VALUE_COLUMN)).join('')}`.trimEnd(),
  ];
}

/**
 * The table of a query. `verbose` adds the columns Default and Current, and an asterisk before each entry whose
 * next-boot value differs from its default or its current value.
 */
export function firmwareTable(
  store: FirmwareStore,
  names: readonly FirmwareEntryName[],
  { deviceName, verbose }: { readonly deviceName: string; readonly verbose: boolean },
): string {
  const rows = names.map((name) => {
    const next = store.nextBoot[name];
    const text = (value: number) => firmwareValueText(name, value);
    if (!verbose) return row('', name, [text(next)]);
    const entry = firmwareEntry(name);
    const changed = next !== entry.default || next !== store.current[name];
    return row(changed ? '*' : '', name, [text(entry.default), text(store.current[name]), text(next)]);
  });
  const titles = verbose ? ['Default', 'Current', 'Next Boot'] : ['Next Boot'];
  return [...header(deviceName, titles), ...rows, ...(verbose ? [LEGEND] : []), ''].join('\n');
}

/** The table a change is shown in before it is applied: what the next boot would have had, and what it will have. */
export function firmwareChangeTable(
  before: FirmwareValues,
  after: FirmwareValues,
  names: readonly FirmwareEntryName[],
  deviceName: string,
): string {
  const rows = names.map((name) =>
    row('', name, [firmwareValueText(name, before[name]), firmwareValueText(name, after[name])]),
  );
  return [...header(deviceName, ['Next Boot', 'New']), ...rows, ''].join('\n');
}
