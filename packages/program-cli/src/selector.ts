/** Options that choose devices: all, one PF, one VF of a PF, or one VUID. */
import type { DeviceSelector } from '@virtnet/engine-control';
import { type Command, Option } from 'commander';
import { integer } from './usage.js';

export interface SelectorOptions {
  all?: true;
  pf?: number;
  vf?: number;
  vuid?: string;
}

export function pfOption(): Option {
  return new Option('-p, --pf <PF>', 'number of the PF').argParser(integer);
}

export function vuidOption(): Option {
  return new Option('-u, --vuid <VUID>', 'VUID of the device');
}

/** One device: a PF, a VF of a PF, or a VUID. */
export function addOneDevice(command: Command): Command {
  return command
    .addOption(pfOption().conflicts('vuid'))
    .addOption(new Option('-v, --vf <VF>', 'number of the VF, with -p').argParser(integer).conflicts('vuid'))
    .addOption(vuidOption());
}

/** One device, or all. */
export function addSelector(command: Command): Command {
  return addOneDevice(
    command.addOption(new Option('-a, --all', 'all devices').conflicts(['pf', 'vf', 'vuid'])),
  );
}

export function selectorOf(command: Command, { all, pf, vf, vuid }: SelectorOptions): DeviceSelector {
  if (vf !== undefined && pf === undefined) command.error('-v, --vf needs -p, --pf');
  if (all === undefined && pf === undefined && vuid === undefined)
    command.error('one of -a, --all, -p, --pf and -u, --vuid is required');
  return { all: all === true, pf: pf ?? null, vf: vf ?? null, vuid: vuid ?? null };
}
