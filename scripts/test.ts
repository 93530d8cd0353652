/** Runs everything that checks this repository. See --help. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { Processes } from '../test/lib/processes.ts';
import { buildCommand } from './lib/npm.ts';
import { pinnedNode, repository } from './lib/paths.ts';
import { type Part, setup } from './lib/setup.ts';
import { SetupError } from './lib/shell.ts';

const USAGE = `Usage: scripts/test [stage ...] [-- vitest arguments]

Sets up what is missing, then checks. Stages (all of them but the last when none is named):
  lint     biome over the whole tree
  build    tsc --build of the packages, type check of scripts/ and test/
  unit     lint, build, the quick tests beside the code, and the structure of the packages: less than a minute on two
           processors that nobody else uses; needs no root
  slow     build, and the tests beside the code that take seconds each (*.slow.test.ts): a crash at every step, many
           random cases; needs no root
  system   build, the tests beside the code that start whole processes (*.process.test.ts and their like), and the
           whole-system tests in test/: DPDK, Linux guests, zsh, kill -9; needs root, or Debian packages that are there
           already and a user namespace
  systemd  build, and package and service in a Debian system of its own that is booted in a container; needs root, and
           the first time some minutes to make that system

Property tests draw the same cases each time; VIRTNET_SEED=<number> draws others, VIRTNET_SEED=random new ones.
What takes long is drawn from, or done in part, unless the environment says otherwise: VIRTNET_DRILL=all (an update to
every broken version, and SIGKILL for everybody in each phase), VIRTNET_TEST_ALL_KILL_POINTS=1 (a kill at every point,
and after every byte of a message), VIRTNET_TEST_KILLS and VIRTNET_CLIENT_KILLS (how many), VIRTNET_TEST_JUMBO_MIB=1024
(each way through a guest), and VIRTNET_TEST_LOAD_S (for how long a busy machine is watched for false alarms).
Words after -- go to vitest, so  scripts/test system -- guest -t reboot  runs some of the system tests.
The last line is "<n> passed, <n> failed" over all stages. Exit code: 0 nothing failed, 1 something did, 2 wrong usage.
`;

const TYPE_CHECK = [pinnedNode, 'node_modules/typescript/bin/tsc', '-p', 'test/tsconfig.json'];

type Stage = 'lint' | 'build' | 'unit' | 'slow' | 'system' | 'systemd';
const STAGES: readonly Stage[] = ['lint', 'build', 'unit', 'slow', 'system', 'systemd'];
const DEFAULT_STAGES: readonly Stage[] = ['lint', 'build', 'unit', 'slow', 'system'];

/** Lines of a failure's message that are repeated at the end. */
const FAILURE_LINES = 12;

interface Tally {
  passed: number;
  failed: number;
}

const tally: Tally = { passed: 0, failed: 0 };
/** What failed, said once more at the end: thousands of lines may lie between. */
const failures: string[] = [];
const processes = new Processes();
const say = (line: string): void => void process.stdout.write(`${line}\n`);

/** Runs a program with its output shown; true when it succeeds. */
async function shown(command: readonly string[], env: Record<string, string> = {}): Promise<boolean> {
  const colour = process.stdout.isTTY ? { FORCE_COLOR: '1' } : {};
  const child = processes.start(command, {
    name: command.join(' '),
    cwd: repository,
    env: { ...colour, ...env },
  });
  child.onText((text) => process.stdout.write(text));
  const { code } = await child.exited;
  await child.drained;
  return code === 0;
}

/** A check that is one pass or one failure. */
async function check(name: string, ...commands: readonly (readonly string[])[]): Promise<boolean> {
  const started = performance.now();
  let good = true;
  for (const command of commands) good = good && (await shown(command));
  tally[good ? 'passed' : 'failed'] += 1;
  if (!good) failures.push(name);
  say(`${good ? 'ok' : 'FAILED'}: ${name} (${seconds(started)} s)`);
  return good;
}

function seconds(started: number): string {
  return ((performance.now() - started) / 1000).toFixed(1);
}

/** A run of vitest, counted from its own report. */
async function vitest(
  config: string,
  reporter: 'default' | 'verbose',
  filters: readonly string[],
): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'vn-test-'));
  const report = join(directory, 'report.json');
  try {
    const good = await shown([
      ...[pinnedNode, 'node_modules/vitest/vitest.mjs', 'run', '--config', config],
      ...[`--reporter=${reporter}`, '--reporter=json', `--outputFile.json=${report}`, ...filters],
    ]);
    const counted = readReport(report);
    tally.passed += counted.passed;
    // A run can fail without a failed test: a file that does not load, an error nobody waited for.
    tally.failed += counted.failed === 0 && !good ? 1 : counted.failed;
    if (counted.failures.length === 0 && !good) failures.push(`${config}: its run failed, no test did`);
    failures.push(...counted.failures);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

interface Report extends Tally {
  readonly failures: readonly string[];
}

/** What of vitest's report is of interest here. */
interface VitestReport {
  readonly numPassedTests: number;
  readonly numFailedTests: number;
  readonly testResults: readonly {
    readonly name: string;
    readonly status: string;
    readonly message: string;
    readonly assertionResults: readonly {
      readonly status: string;
      readonly fullName: string;
      readonly failureMessages: readonly string[];
    }[];
  }[];
}

function readReport(path: string): Report {
  try {
    const report = JSON.parse(readFileSync(path, 'utf8')) as VitestReport;
    return {
      passed: report.numPassedTests,
      failed: report.numFailedTests,
      failures: report.testResults.flatMap(({ name, status, message, assertionResults }) => {
        const failed = assertionResults.filter((result) => result.status === 'failed');
        const file = relative(repository, name);
        if (failed.length === 0 && status === 'failed') return [`${file}\n${message}`];
        return failed.map(({ fullName, failureMessages }) => `${file} > ${fullName}\n${failureMessages[0]}`);
      }),
    };
  } catch {
    return { passed: 0, failed: 1, failures: [`${path} is no report`] };
  }
}

async function run(stages: readonly Stage[], words: readonly string[]): Promise<void> {
  const has = (...names: Stage[]): boolean => names.some((name) => stages.includes(name));
  const parts: Part[] = ['npm'];
  if (has('system')) parts.push('guest', 'dpdk', 'shells');
  if (has('systemd')) parts.push('systemd');
  setup(parts, say);
  const lint = ['node_modules/.bin/biome', 'check', '--error-on-warnings', '.'];
  const [built] = await Promise.all([
    check('build', buildCommand(), TYPE_CHECK),
    has('lint', 'unit') ? check('lint', lint) : null,
  ]);
  if (!built) return;
  if (has('unit')) await vitest('vitest.config.ts', 'default', words);
  if (has('slow')) await vitest('vitest.slow.config.ts', 'default', words);
  if (has('system')) {
    if (words.length === 0) await vitest('vitest.process.config.ts', 'default', []);
    await vitest('test/vitest.config.ts', 'verbose', words);
  }
  if (has('systemd')) await vitest('test/vitest.systemd.config.ts', 'verbose', words);
}

const split = process.argv.indexOf('--');
const stages = process.argv.slice(2, split < 0 ? undefined : split);
const words = split < 0 ? [] : process.argv.slice(split + 1);

if (stages.includes('-h') || stages.includes('--help')) {
  process.stdout.write(USAGE);
} else if (!stages.every((stage): stage is Stage => (STAGES as readonly string[]).includes(stage))) {
  process.stderr.write(USAGE);
  process.exitCode = 2;
} else {
  const started = performance.now();
  try {
    await run(stages.length === 0 ? DEFAULT_STAGES : stages, words);
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    tally.failed += 1;
    failures.push(error.message);
  }
  for (const { pid, command } of await processes.endAll()) {
    tally.failed += 1;
    failures.push(`left running after the tests: ${pid} ${command}`);
  }
  for (const failure of failures) {
    const [what, ...why] = failure.split('\n');
    say([`FAILED: ${what}`, ...why.slice(0, FAILURE_LINES).map((line) => `    ${line}`)].join('\n'));
  }
  say(`${seconds(started)} s`);
  say(`${tally.passed} passed, ${tally.failed} failed`);
  process.exitCode = tally.failed === 0 && tally.passed > 0 ? 0 : 1;
}
