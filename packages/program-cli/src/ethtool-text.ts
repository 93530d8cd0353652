/** ethtool-text.ts: what `ethtool` prints of an interface of the virtio-net driver. */

const numbers = (combined: number | undefined): string =>
  ['RX', 'TX', 'Other', 'Combined']
    .map((name) => `${`${name}:`.padEnd(16)}${name === 'Combined' ? (combined ?? 'n/a') : 'n/a'}\n`)
    .join('');

/** `ethtool -l`. */
export function channelsText(netdev: string, most: number | undefined, used: number | undefined): string {
  return (
    `Channel parameters for ${netdev}:\n` +
    `Pre-set maximums:\n${numbers(most)}Current hardware settings:\n${numbers(used)}`
  );
}

/** `ethtool -i`. */
export function driverText(bdf: string): string {
  return [
    'driver: virtio_net',
    'version: 1.0.0',
    'firmware-version: ',
    'expansion-rom-version: ',
    `bus-info: 0000:${bdf}`,
    'supports-statistics: no',
    'supports-test: no',
    'supports-eeprom-access: no',
    'supports-register-dump: no',
    'supports-priv-flags: no',
    '',
  ].join('\n');
}
