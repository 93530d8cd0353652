/**
 * guide-examples.ts: the example commands of the guide, and how each is typed on a live service.
 *
 * Theory
 *   guide-examples.json holds what scripts/guide-examples read from the guide: for every line behind a prompt its place,
 *   the side it is typed on, the command, and the form of what the guide shows after it; further the options of every
 *   usage line, the configuration files and the names of feature bits. Nothing of it is typed by hand.
 *
 *   A form is one line for each key in order, `path kind`. Kinds: N number; D decimal text; H hexadecimal text; M MAC
 *   address; T other text; O object; A array, whose first entry stands for all. The keys of single bits are left out.
 *   `partial`: the guide shows a part of the answer only.
 *
 *   A command is run by a shell in which `virtnet`, `mlxconfig`, `lspci` and so on are this project's programs. Only what
 *   names the guide's own host is replaced: addresses of functions, interfaces, files. Files of sysfs have
 *   counterparts in virtnet-host.
 *
 * Invariants
 *   I1  every example is either run or refused by exactly one reason of CANNOT_RUN.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { GuideExample, GuideFacts } from '../../scripts/lib/guide-text.ts';
import { program } from '../../scripts/lib/paths.ts';

export type { GuideExample };

export const GUIDE = JSON.parse(
  readFileSync(join(import.meta.dirname, 'guide-examples.json'), 'utf8'),
) as GuideFacts;

/** Examples that need what is not part of this product, or not of a scene. */
export const CANNOT_RUN: readonly { readonly command: RegExp; readonly reason: string }[] = [
  { command: /bfb-install|mlnx_fw_updater/, reason: 'there is no BlueField to install anything on' },
  {
    command: /^ip link show$/,
    reason: 'shows the native interfaces of the adapter, which does not exist',
  },
  { command: /^ovs-vsctl /, reason: 'Open vSwitch: whole-service.test.ts puts representors in a bridge' },
  { command: /^(systemctl|journalctl) /, reason: 'systemd runs in the container of test/systemd only' },
  { command: /^(virsh|virt-manager)/, reason: 'libvirt: guest.test.ts starts its machines itself' },
  {
    command: /^(git|apt-get|meson|ninja|mkdir bin|cd bin|\.\.\/configure|make) ?/,
    reason: 'builds other software',
  },
  { command: / bond0 /, reason: 'of an adapter in LAG mode: the scene has one uplink' },
  { command: /hugepages/, reason: 'huge pages of the machine: dpdk.test.ts says what it takes' },
  {
    command: /parameters\/enable_sriov|vfio-pci\/new_id/,
    reason: 'the modelled host’s vfio-pci knows virtio functions and SR-IOV from the beginning',
  },
  { command: /virtio_vfio_pci/, reason: 'live migration by the kernel’s driver is not built' },
  {
    command: /force_legacy|vf_bdf_in_vm/,
    reason: 'in a machine, with a transitional function: there is none',
  },
];

/** Why an example cannot be run; null: it can. */
export function whyNot({ command }: GuideExample): string | null {
  const reasons = CANNOT_RUN.filter((each) => each.command.test(command));
  if (reasons.length > 1) throw new Error(`${command}: ${reasons.map(({ reason }) => reason).join('; ')}`);
  return reasons[0]?.reason ?? null;
}

/** What the guide's names stand for in a scene. */
export interface GuideNames {
  readonly pf: string;
  readonly vfs: readonly [string, string];
  readonly pfMac: string;
  /** Interfaces of the static PF, the hotplug PF and the first VF. */
  readonly cards: { readonly pf: string; readonly plugged: string; readonly vf: string };
  readonly conf: string;
  readonly vhostSocket: string;
}

/** The address of a PCI function as typed in a path of sysfs, or the guide's placeholder for it. */
const FUNCTION = String.raw`[^/ ]*(?:bdf|\d\d\.\d)[^/ ]*`;
const SYSFS: readonly (readonly [RegExp, (words: readonly string[]) => string])[] = [
  [
    new RegExp(`^echo (\\S+) > /sys/bus/pci/(?:drivers/virtio-pci|devices)/(${FUNCTION})/sriov_numvfs$`),
    ([count, pf]) => `virtnet-host sriov ${pf} ${count}`,
  ],
  [
    new RegExp(`^echo ([01]) > /sys/bus/pci/drivers/virtio-pci/(${FUNCTION})/sriov_drivers_autoprobe$`),
    ([value, pf]) => `virtnet-host autoprobe ${pf} ${value}`,
  ],
  [
    /^echo (\S+) > \/sys\/bus\/pci\/drivers\/(virtio-pci|vfio-pci)\/(bind|unbind)$/,
    ([fn, driver, verb]) => `virtnet-host ${verb} ${fn} ${driver}`,
  ],
  [
    /^echo (\S+) > \/sys\/bus\/pci\/devices\/\S+\/driver\/unbind$/,
    ([fn]) => `virtnet-host unbind ${fn} virtio-pci`,
  ],
];
const PROGRAMS = /^(virtnet|mlxconfig|lspci|modprobe|dmesg|ethtool|ip|ifconfig|vfe-vhost-cli|virtnet-host) /;

/** The line for a shell; null for a command that is none of those known. */
export function shellLine({ command }: GuideExample, names: GuideNames): string | null {
  const [vf0, vf1] = names.vfs;
  const replaced: readonly (readonly [RegExp, string])[] = [
    [/"bdf of virtio-dev"|<(virtio_)?vf0?_bdf>/g, vf0],
    [/<vf1_bdf>/g, vf1],
    [/<(virtio_)?pf_bdf>|0000\\:14\\:00\.2/g, names.pf],
    [/<num_vfs>|<vf_num>/g, '2'],
    [/<PFID>|<VFID>|<pf_id>|<vf_id>/g, '0'],
    [/<vnet>/g, names.cards.vf],
    [/\bens2f0\b/g, names.cards.plugged],
    [/\b(ens2f2|eth0)\b/g, names.cards.pf],
    [/4A:82:E3:2E:96:AB/g, names.pfMac],
    [/\/opt\/mellanox\/mlnx_virtnet\/virtnet\.conf/g, names.conf],
    [/\/tmp\/vhost-net0/g, names.vhostSocket],
    [/^\/usr\/local\/bin\//g, ''],
    [/unplug -p 0/g, 'unplug -p 1'], // the first of a host without static PFs
    [/combined 31/g, 'combined 2'], // as many as the host’s driver has processors for
  ];
  const line = replaced.reduce((text, [from, to]) => text.replace(from, to), command);
  for (const [pattern, typed] of SYSFS) {
    const match = pattern.exec(line);
    if (match !== null) return typed(match.slice(1));
  }
  return PROGRAMS.test(line) ? line : null;
}

/** What a shell needs to know the guide's programs. */
export const SHELL_FUNCTIONS = [
  ...['virtnet', 'virtnet-host', 'vfe-vhost-cli'].map((name) => `${name}() { ${program(name)} "$@"; }`),
  `mlxconfig() { echo y | ${program('virtnet-mlxconfig')} "$@"; }`,
  ...['lspci', 'modprobe', 'dmesg', 'ethtool'].map((name) => `${name}() { virtnet-host ${name} "$@"; }`),
  'ifconfig() { ip link set dev "$1" "$2" "$3"; }',
].join('\n');
