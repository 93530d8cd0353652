import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it, onTestFinished } from 'vitest';
import { bashCompletion, zshCompletion } from './completion.js';
import { buildProgram } from './definition.js';

const program = buildProgram(() => undefined);
const file = (name: string) => fileURLToPath(new URL(`../completion/${name}`, import.meta.url));

/** What bash offers for the last of `words`. */
function offered(...words: string[]): string[] {
  const script =
    // biome-ignore lint/suspicious/noTemplateCurlyInString: it is bash that expands this, not JavaScript
    'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _virtnet; printf "%s\\n" "${COMPREPLY[@]}"';
  const out = execFileSync('bash', ['-c', script, 'bash', file('virtnet.bash'), 'virtnet', ...words], {
    encoding: 'utf8',
  });
  return out.split('\n').filter((line) => line !== '');
}

describe('completion files', () => {
  it.each([
    ['virtnet.bash', bashCompletion],
    ['_virtnet', zshCompletion],
  ])('%s is what the definition yields; else run dist/completion-write.js', (name, make) => {
    expect(readFileSync(file(name), 'utf8')).toBe(make(program));
  });

  it('zsh gets every command that does something, and every option of it', () => {
    const text = zshCompletion(program);
    for (const command of program.commands) {
      expect(text).toContain(`    ${command.name()})\n`);
      for (const { long } of command.options.filter((option) => option.long != null))
        expect(text).toContain(long);
    }
  });
});

describe('the installer', () => {
  const install = fileURLToPath(new URL('../../../scripts/install-completion', import.meta.url));

  it('puts the files where the shells look for them below a prefix, and bash finds them there by name', () => {
    const prefix = mkdtempSync(join(tmpdir(), 'virtnet-completion-'));
    onTestFinished(() => rmSync(prefix, { recursive: true }));
    const { stdout: said, stderr: advice } = spawnSync(install, ['--prefix', prefix], { encoding: 'utf8' });
    const bash = join(prefix, 'share/bash-completion/completions/virtnet');
    const zsh = join(prefix, 'share/zsh/site-functions/_virtnet');
    expect(said).toBe(`${zsh}\n${bash}\n`);
    expect(advice).toContain(`  fpath=(${dirname(zsh)} $fpath)\n`);
    expect(readFileSync(bash, 'utf8')).toBe(bashCompletion(program));
    expect(readFileSync(zsh, 'utf8')).toBe(zshCompletion(program));
  });

  it('says how it is used when it is used wrongly', () => {
    for (const words of [['--prefix'], ['--nonsense']]) {
      const { status, stderr } = spawnSync(install, words, { encoding: 'utf8' });
      expect([status, stderr]).toEqual([2, expect.stringContaining('usage: ')]);
    }
  });
});

describe('bash completion', () => {
  it('offers the commands that begin with the word', () => {
    expect(offered('h')).toEqual(['hotplug', 'health']);
    expect(offered('mod')).toEqual(['modify']);
    expect(offered('res')).toEqual(['restart']);
    expect(offered('xyz')).toEqual([]);
  });

  it('offers the options of the command', () => {
    expect(offered('hotplug', '--max')).toEqual(['--max_queues', '--max_queue_pairs', '--max_queue_size']);
    expect(offered('hotplug', '-q')).toEqual(['-qp']);
    expect(offered('--json', 'unplug', '--p')).toEqual(['--pf']);
  });

  it('offers the values of an option that has a list of them, and none elsewhere', () => {
    expect(offered('log', '-l', '')).toEqual(['info', 'err', 'debug']);
    expect(offered('hotplug', '-m', '')).toEqual([]);
    expect(offered('validate', '-f', '')).toEqual([]); // and bash itself then offers files
    expect(offered('health', '-p', '0', 's')).toEqual(['show']);
  });

  it('offers what belongs to the sub-command, once there is one', () => {
    expect(offered('modify', '-p', '0', '')).toEqual(expect.arrayContaining(['device', 'queue', '--vf']));
    expect(offered('modify', '--m')).toEqual([]);
    expect(offered('modify', '-p', '0', 'device', '--p')).toEqual(['--packet_counter']);
    expect(offered('modify', '-p', '0', 'device', '-dc', '')).toEqual(['enable', 'disable']);
    expect(offered('modify', '-p', '0', 'queue', '--p')).toEqual(['--period_mode', '--period']);
    expect(offered('modify', '-p', '0', 'queue', '-e', '')).toEqual(['event', 'cqe']);
  });
});
