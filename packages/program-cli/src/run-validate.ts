/** run-validate.ts: `virtnet validate`: the verdict on a configuration file that a start of the controller would give. */
import type { Io } from './io.js';

const EXIT_FAILURE = 1;

/**
 * Judges `file`, by default virtnet.conf in its place. The controller is not asked: it need not run, and does not with
 * a file that is wrong. A file that is not there is no fault when it is the default one, as at a start. Where this user may
 * not read what the file has to fit there is no verdict, which is a failure as well.
 */
export async function runValidate(file: string | null, json: boolean, io: Io): Promise<number> {
  const { readConf, virtnetPaths } = await import('@virtnet/host-ipc/configuration');
  let path = file ?? '';
  let problems: readonly string[] = [];
  let notes: readonly string[] = [];
  try {
    const paths = virtnetPaths(undefined, { create: false });
    path = file ?? paths.conf;
    const verdict = readConf(paths, path);
    if ('problems' in verdict) problems = verdict.problems;
    else if (verdict.unjudged !== null) problems = [verdict.unjudged];
    else notes = verdict.notes;
  } catch (error) {
    problems = [error instanceof Error ? error.message : String(error)];
  }
  const lines = problems.length === 0 ? [...notes, `${path} is valid`] : problems;
  if (json) io.out(`${JSON.stringify(lines.length === 1 ? lines[0] : lines, null, 2)}\n`);
  else for (const line of lines) io.out(`${line}\n`);
  return problems.length === 0 ? 0 : EXIT_FAILURE;
}
