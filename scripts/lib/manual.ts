/**
 * manual.ts: manual pages, made from what the programs say of themselves with -h, so that they cannot be out of date.
 */
import { join } from 'node:path';
import { pinnedNode, repository } from './paths.ts';
import { shell } from './shell.ts';

export interface ManualPage {
  readonly name: string;
  readonly section: 1 | 8;
  readonly text: string;
}

interface Program {
  readonly name: string;
  readonly section: 1 | 8;
  readonly main: string;
  readonly summary: string;
  readonly files: readonly (readonly [string, string])[];
}

const BASE = '/opt/mellanox/mlnx_virtnet';
const CONFIGURATION = [`${BASE}/virtnet.conf`, 'configuration, read when the service starts'] as const;
const FIRMWARE = [`${BASE}/fwconfig.json`, 'firmware configuration'] as const;

const PROGRAMS: readonly Program[] = [
  {
    name: 'virtnet',
    section: 1,
    main: 'program-cli/dist/virtnet.cjs',
    summary: 'command line of the virtio-net controller',
    files: [CONFIGURATION],
  },
  {
    name: 'virtnet-host',
    section: 1,
    main: 'program-cli/dist/virtnet-host.cjs',
    summary: 'what a host does with the PCI functions of the virtio-net controller',
    files: [],
  },
  {
    name: 'virtnet-mlxconfig',
    section: 1,
    main: 'program-cli/dist/virtnet-mlxconfig.cjs',
    summary: 'firmware configuration of the virtio-net controller',
    files: [FIRMWARE],
  },
  {
    name: 'vfe-vhost-cli',
    section: 1,
    main: 'program-vhostd/dist/vhost-cli.cjs',
    summary: 'command line of vfe-vhostd',
    files: [],
  },
  {
    name: 'virtio_net_controller',
    section: 8,
    main: 'program-controller/dist/main.cjs',
    summary: 'serves virtio-net devices',
    files: [
      CONFIGURATION,
      FIRMWARE,
      [`${BASE}/recovery/`, 'what brings devices back after a power cycle'],
      ['/run/virtnet/pci/', 'one vfio-user socket per PCI function'],
    ],
  },
  {
    name: 'vfe-vhostd',
    section: 8,
    main: 'program-vhostd/dist/main.cjs',
    summary: 'serves virtio-net functions over vhost-user',
    files: [
      ['/etc/default/vfe-vhostd', 'VFE_VHOSTD_OPTIONS of the service'],
      ['/run/vfe/', 'a place for the sockets of virtual machines'],
    ],
  },
  {
    name: 'vfe-vhostd-ha',
    section: 8,
    main: 'program-ha/dist/vfe-main.cjs',
    summary: 'keeps the connections of vfe-vhostd over its death',
    files: [['/run/vfe/', 'its sockets']],
  },
];

/** Commands in the help of a program. */
const COMMAND_LINE = /^ {2}([a-z][a-z0-9_-]*)(?:\|\S+)?(?: |$)/;

/** The pages of every program, as of `date`. The packages must be built. */
export function manualPages(version: string, date: Date): ManualPage[] {
  return PROGRAMS.map((program) => ({
    name: program.name,
    section: program.section,
    text: page(program, version, date),
  }));
}

/** What was asked already: each answer is a process. As many as there are commands. */
const known = new Map<string, string>();

function helpOf(program: Program, ...words: string[]): string {
  const command = [pinnedNode, join(repository, 'packages', program.main), ...words, '-h'];
  const help = known.get(command.join(' ')) ?? shell(command);
  known.set(command.join(' '), help);
  return help;
}

function commandsIn(help: string): string[] {
  const lines = help.split('\n');
  const from = lines.findIndex((line) => /^commands:/i.test(line));
  if (from < 0) return [];
  return lines
    .slice(from + 1)
    .flatMap((line) => COMMAND_LINE.exec(line)?.[1] ?? [])
    .filter((name) => name !== 'help');
}

function page(program: Program, version: string, date: Date): string {
  const { name, section, summary, files } = program;
  const help = helpOf(program);
  const day = date.toISOString().slice(0, 'YYYY-MM-DD'.length);
  const commands = commandsIn(help).map(
    (command) => `.SS ${roff(command)}\n${verbatim(helpOf(program, command))}`,
  );
  const others = PROGRAMS.filter((other) => other !== program).map(
    (other) => `${other.name}(${other.section})`,
  );
  return [
    `.TH ${name.toUpperCase()} ${section} ${day} "virtnet ${version}" virtnet`,
    `.SH NAME\n${roff(name)} \\- ${roff(summary)}`,
    `.SH SYNOPSIS\n${verbatim(help)}`,
    ...(commands.length === 0 ? [] : [`.SH COMMANDS\n${commands.join('\n')}`]),
    ...(files.length === 0
      ? []
      : [`.SH FILES\n${files.map(([path, what]) => `.TP\n${roff(path)}\n${roff(what)}`).join('\n')}`]),
    `.SH SEE ALSO\n${roff(others.join(', '))}`,
    '',
  ].join('\n');
}

function verbatim(text: string): string {
  return `.nf\n${text.trimEnd().split('\n').map(roff).join('\n')}\n.fi`;
}

/** Nothing in `line` is a request or an escape to the formatter. */
function roff(line: string): string {
  const text = line.replaceAll('\\', '\\e').replaceAll('-', '\\-');
  return /^[.']/.test(text) ? `\\&${text}` : text;
}
