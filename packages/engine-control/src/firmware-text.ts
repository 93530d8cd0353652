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

/** A value as shown: `True(1)`, `False(0)`, `ENABLED(0)` or a decimal number. */
export function firmwareValueText(name: FirmwareEntryName, value: number): string {
  const { type, words } = firmwareEntry(name);
  if (type === 'bool') return value === 1 ? 'True(1)' : 'False(0)';
  const word = words?.[value];
  return word === undefined ? String(value) : `${word}(${value})`;
}

const ADAPTER_FACTS = {
  type: 'virtnet (software)',
  name: BOARD_SERIAL,
  description: 'Emulated virtio-net adapter',
};

/**
 * What a query writes as JSON. Keys are in alphabetical order and numbers are numbers, as mlxconfig's are; `verbose`
 * adds default and current values.
 */
export function firmwareJson(
  store: FirmwareStore,
  names: readonly FirmwareEntryName[],
  { deviceName, verbose }: { readonly deviceName: string; readonly verbose: boolean },
): object {
  const shown = (name: FirmwareEntryName, value: number) =>
    firmwareEntry(name).type === 'number' ? value : firmwareValueText(name, value);
  const entries = [...names].sort().map((name) => {
    const [fallback, current, next] = [
      firmwareEntry(name).default,
      store.current[name],
      store.nextBoot[name],
    ];
    const compared = {
      current_value: shown(name, current),
      default_value: shown(name, fallback),
      modified: next !== fallback || next !== current,
    };
    return [name, { ...(verbose ? compared : {}), next_value: shown(name, next), read_only: false }] as const;
  });
  return {
    'Device #1': {
      description: ADAPTER_FACTS.description,
      device: deviceName,
      device_type: ADAPTER_FACTS.type,
      name: ADAPTER_FACTS.name,
      tlv_configuration: Object.fromEntries(entries),
    },
  };
}

/** One row: the mark, the name, then a column for each value. No blanks at the end. */
function row(mark: string, name: string, values: readonly string[]): string {
  // A word that fills its column, or more, still stands apart from the next one.
  const columns = values.map((value) => `${value} `.padEnd(VALUE_COLUMN)).join('');
  return `${mark.padEnd(MARK_COLUMN)}${name.padEnd(NAME_COLUMN)}${columns}`.trimEnd();
}

function header(deviceName: string, titles: readonly string[]): string[] {
  const fact = (name: string, value: string) => `${name.padEnd(FACT_COLUMN)}${value}`;
  return [
    '',
    'Device #1:',
    '----------',
    '',
    fact('Device type:', ADAPTER_FACTS.type),
    fact('Name:', ADAPTER_FACTS.name),
    fact('Description:', ADAPTER_FACTS.description),
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
