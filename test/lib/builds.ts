/**
 * builds.ts: other "versions" of the product, for updates: copies of the built tree under another version number, some
 * of them with a fault.
 *
 * Theory
 *   A copy has the programs' own code; libraries and the Node runtime are links to this checkout's, so it is as large as
 *   the code that was built. A fault is a module that runs in front of a program's main module and breaks one thing in
 *   it, so the product has no test hooks. Such a program runs as the modules that it was put into one file from.
 */
import { execFileSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { repository } from '../../scripts/lib/paths.ts';
import type { Service } from './service.ts';

const emulator = (code: string) => ({
  program: 'program-emu',
  code: `import { Emulator } from './emulator.js'; const emulator = Emulator.prototype; const die = () => process.kill(process.pid, 'SIGKILL'); ${code}`,
});

/** What is wrong with a build, by who finds out when. */
export const faults = {
  /** Its controller cannot be loaded. */
  controllerLoads: { program: 'program-controller', code: 'process.exit(3);' },
  /** Its state keeper cannot be loaded. */
  keeperLoads: { program: 'program-ha', code: 'process.exit(3);' },
  /** Its emulator dies when it starts. */
  start: { program: 'program-emu', code: 'process.exit(3);' },
  /** It refuses the devices. */
  check: emulator("emulator.check = () => ['injected refusal'];"),
  /** It dies when it is asked whether it could take the devices over. */
  checkDies: emulator('emulator.check = die;'),
  /** It lives, and is never ready. */
  neverReady: emulator("Object.defineProperty(emulator, 'ready', { get: () => false });"),
  /** Taking over does not work in its rehearsal. */
  rehearsal: {
    program: 'program-emu',
    code:
      "import { DeviceHost } from './device-host.js'; " +
      "DeviceHost.prototype.adopt = () => Promise.reject(new Error('injected fault'));",
  },
  /** It knows fewer features than are offered. */
  features: {
    program: 'program-emu',
    code:
      "import { Commands } from './commands.js'; " +
      "Object.defineProperty(Commands.prototype, 'supportedFeatures', { get: () => 1n << 32n });",
  },
  /** It dies when the first device is announced to it. */
  firstDevice: emulator('emulator.borrow = die;'),
  /** It dies when it has one device and the second is announced. */
  secondDevice: emulator(
    'const { borrow } = emulator; let calls = 0; ' +
      'emulator.borrow = function (vuid) { if (++calls === 2) die(); return borrow.call(this, vuid); };',
  ),
  /** It dies when it has every device and is to take the lease. */
  promotion: emulator('emulator.promote = die;'),
  /** It dies a moment after it has become the only one. */
  confirm: emulator(
    'const { promote } = emulator; ' +
      'emulator.promote = async function (reason) { await promote.call(this, reason); setTimeout(die, 100); };',
  ),
  /** Its state keeper dies when it is to serve. */
  keeper: { program: 'program-ha', code: "if (!process.argv.includes('--check')) process.exit(3);" },
  /** Its second emulator, the standby, dies when it starts. */
  standby: {
    program: 'program-emu',
    code:
      "import { existsSync, writeFileSync } from 'node:fs'; const mark = new URL('./started', import.meta.url); " +
      "if (existsSync(mark)) process.exit(3); writeFileSync(mark, '');",
  },
  /** Its controller fails as soon as it has taken the former one's place. */
  controller: {
    program: 'program-controller',
    code:
      "import { Supervisor } from './supervisor.js'; " +
      "Supervisor.prototype.start = () => Promise.reject(new Error('injected fault'));",
  },
  /** Nothing, but it takes its time over the check and over each device, so that there is a middle of both. */
  slow: emulator(
    'const { check } = emulator; ' +
      'emulator.check = function (...known) { const end = performance.now() + 50; while (performance.now() < end); return check.apply(this, known); }; ' +
      'const { borrow } = emulator; ' +
      'emulator.borrow = async function (vuid) { await new Promise((go) => setTimeout(go, 150)); return borrow.call(this, vuid); };',
  ),
} as const satisfies Record<string, { readonly program: string; readonly code: string }>;
export type Fault = keyof typeof faults;

/** Makes a build of `version` below `directory`; returns its directory. */
export function makeBuild(directory: string, version: string, fault: Fault | null = null): string {
  const build = join(directory, `${version}-${fault ?? 'good'}`);
  rmSync(build, { recursive: true, force: true });
  execFileSync('cp', ['-al', template(directory), build]);
  for (const name of readdirSync(join(build, 'packages'))) {
    const file = join(build, 'packages', name, 'package.json');
    const manifest = JSON.parse(readFileSync(file, 'utf8')) as object;
    rmSync(file); // a hard link
    writeFileSync(file, JSON.stringify({ ...manifest, version }));
  }
  if (fault !== null) inject(build, fault);
  return build;
}

/** A copy of what is built here, once for each directory: builds are links to its files. */
function template(directory: string): string {
  const to = join(directory, 'build');
  if (existsSync(to)) return to;
  const packages = join(repository, 'packages');
  mkdirSync(join(to, 'node_modules/@virtnet'), { recursive: true });
  for (const name of readdirSync(packages)) {
    mkdirSync(join(to, 'packages', name), { recursive: true });
    for (const part of ['dist', 'bin', 'package.json'].filter((part) =>
      existsSync(join(packages, name, part)),
    ))
      cpSync(join(packages, name, part), join(to, 'packages', name, part), {
        recursive: true,
        filter: (path) => !/\.(d\.ts|map|tsbuildinfo)$/.test(path),
      });
    symlinkSync(`../../packages/${name}`, join(to, 'node_modules/@virtnet', name));
  }
  for (const name of readdirSync(join(repository, 'node_modules')))
    if (name !== '@virtnet' && !name.startsWith('.'))
      symlinkSync(join(repository, 'node_modules', name), join(to, 'node_modules', name));
  return to;
}

function inject(build: string, fault: Fault): void {
  const { program, code } = faults[fault];
  const dist = join(build, 'packages', program, 'dist');
  writeFileSync(join(dist, 'fault.js'), code);
  rmSync(join(dist, 'main.cjs')); // a hard link
  writeFileSync(join(dist, 'main.cjs'), "import('./fault.js').then(() => import('./main.js'));\n");
}

/** Makes `build` the destination of updates of `service`, as installing it does. */
export function install(service: Service, build: string): void {
  const opt = join(service.root, 'opt/mellanox/mlnx_virtnet');
  symlinkSync(build, join(opt, 'current.new'));
  renameSync(join(opt, 'current.new'), join(opt, 'current'));
}
