/**
 * replacement.ts: this process becomes another build's controller, or the former one's again.
 *
 * Theory
 *   exec keeps the pid, so a service manager sees no change, and ends everything else of the process: emulators and
 *   state keeper live on and are adopted. Handed over are the command line, and, by variables that name this very pid,
 *   the files of the shelf's log (host-ipc's descriptor-store.ts) and the way back.
 *   Until the new controller serves, an end of its own making leads back to the former program. One that is killed
 *   from outside is the service manager's business.
 *
 * Invariants
 *   I1  no variable outlives the start that it was meant for: no child inherits it.
 *   I2  when exec fails everything is as before.
 */
import type { DescriptorStore, Logger } from '@virtnet/host-ipc';
import type { Build } from './builds.js';

const FORMER_VARIABLE = 'VIRTNET_FORMER_CONTROLLER';

type Environment = Record<string, string | undefined>;

interface Program {
  readonly file: string;
  /** The runtime's name first. */
  readonly argv: readonly string[];
}

/** Arguments of this controller as they are now, behind its main module. */
export function ownArguments(logLevel: string, emu: string | undefined): string[] {
  return ['--log-level', logLevel, ...(emu === undefined ? [] : ['--emu', emu])];
}

/** Becomes `build`'s controller. Throws when that is not possible. */
export function becomeController(
  build: Build,
  words: readonly string[],
  own: Build,
  store: DescriptorStore | null,
): never {
  const argvOf = ({ node, controllerMain }: Build) => [node, ...process.execArgv, controllerMain, ...words];
  const former: Program = { file: own.node, argv: argvOf(own) };
  process.env[FORMER_VARIABLE] = JSON.stringify({ pid: process.pid, ...former });
  store?.handOver(process.env);
  try {
    return execute({ file: build.node, argv: argvOf(build) });
  } catch (error) {
    delete process.env[FORMER_VARIABLE];
    store?.keep(process.env);
    throw error;
  }
}

function execute({ file, argv }: Program): never {
  process.execve?.(file, argv, process.env);
  throw new Error('this runtime cannot exec');
}

/** Goes back to the former controller should this one, which took its place, end before `served` is called. */
export function guardStart(
  environment: Environment,
  log: Pick<Logger, 'error'>,
): { readonly replaces: boolean; served(): void; handOver(store: DescriptorStore | null): void } {
  const former = readFormer(environment);
  delete environment[FORMER_VARIABLE];
  let store: DescriptorStore | null = null;
  const goBack = (code: number) => {
    if (former === null || code === 0) return;
    log.error({ code }, 'ending before it served: the former controller comes back');
    try {
      store?.handOver(environment);
      execute(former);
    } catch (error) {
      log.error({ error }, 'it does not come back');
    }
  };
  process.once('exit', goBack);
  return {
    replaces: former !== null,
    served: () => void process.removeListener('exit', goBack),
    handOver: (held) => {
      store = held;
    },
  };
}

/** Null when this process did not come about by an exec of ours. */
function readFormer(environment: Environment): Program | null {
  try {
    const { pid, file, argv } = JSON.parse(environment[FORMER_VARIABLE] ?? '') as Record<string, unknown>;
    if (pid !== process.pid || typeof file !== 'string' || !Array.isArray(argv)) return null;
    return { file, argv: argv.map(String) };
  } catch {
    return null;
  }
}
