/** Completion in a real zsh: installed and loaded as README.md says, and asked at the prompt. */
import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { repository } from '../scripts/lib/paths.ts';
import type { Child } from './lib/processes.ts';
import type { Scene } from './lib/scene.ts';
import { useScene } from './lib/use-scene.ts';
import { until } from './lib/waiting.ts';

const PATIENCE_MS = 60_000;
const INSTALL = join(repository, 'scripts/install-completion');
/** In a user namespace the owner of /usr is not root, and compinit would ask whether that is meant to be so. */
const COMPINIT = statSync('/usr/share/zsh').uid === 0 ? 'compinit' : 'compinit -u';

const TAB = '\t';
/** Puts everything that is offered for the last word in its place. */
const ALL = '\x18';
/** Says the line, and empties it. */
const SAY = '\x07';
/** Keys for a test, which zsh does not have by itself. */
const KEYS = `
zle -C all-matches complete-word _generic
zstyle ':completion:all-matches:*' completer _all_matches _complete
zstyle ':completion:all-matches:*' insert yes
say() { print -r -- "$BUFFER" >> ~/said; BUFFER= }
zle -N say
bindkey '^X' all-matches
bindkey '^G' say
precmd() { : >> ~/said }
`;

/** A zsh on a terminal of its own. */
class Zsh {
  readonly #home: string;
  readonly #child: Child;

  private constructor(home: string, child: Child) {
    this.#home = home;
    this.#child = child;
  }

  /** @param setup lines of ~/.zshrc before those that every user of completion has */
  static async start(scene: Scene, home: string, setup: string): Promise<Zsh> {
    mkdirSync(home, { recursive: true });
    writeFileSync(join(home, '.zshrc'), `${setup}\nautoload -Uz compinit && ${COMPINIT}\n${KEYS}`);
    const child = scene.processes.start(scene.net.inside(['script', '-qec', 'zsh -i', '/dev/null']), {
      name: 'zsh',
      env: { HOME: home, TERM: 'xterm', ZDOTDIR: home },
      log: scene.path('zsh.log'),
      stdin: 'pipe',
    });
    const zsh = new Zsh(home, child);
    await until('a prompt', PATIENCE_MS, () => zsh.#said());
    return zsh;
  }

  #said(): string[] {
    return readFileSync(join(this.#home, 'said'), 'utf8').split('\n').slice(0, -1);
  }

  /** What the line is after `typed` and `key`. */
  async line(typed: string, key: string): Promise<string> {
    const before = this.#said().length;
    this.#child.write(`${typed}${key}${SAY}`);
    return until(`an answer to ${typed}`, PATIENCE_MS, () => this.#said()[before]);
  }

  /** What is offered for the last word, sorted. */
  async offered(typed: string): Promise<string[]> {
    const line = await this.line(typed, ALL);
    const words = line.slice(typed.lastIndexOf(' ') + 1).split(/ +/);
    return line === typed ? [] : words.filter((word) => word !== '').sort();
  }

  async end(): Promise<void> {
    this.#child.write('exit\r');
    expect((await this.#child.exited).code).toBe(0);
  }
}

const used = useScene(async (scene) => {
  const home = scene.path('home');
  const { code, stderr } = await scene.net.output([INSTALL, '--prefix', join(home, '.local')]);
  expect(code).toBe(0);
  const advice = / {2}(fpath=.*)$/m.exec(stderr)?.[1];
  return Zsh.start(scene, home, advice ?? '');
});

describe('zsh, installed for one user', () => {
  test.for([
    ['virtnet h', 'health hotplug'],
    ['virtnet mod', 'modify'],
    ['virtnet xyz', ''],
    ['virtnet hotplug --max', '--max_queue_pairs --max_queue_size --max_queues'],
    ['virtnet hotplug -q', '-qp'],
    ['virtnet hotplug -m ', ''],
    ['virtnet --json unplug --p', '--pf'],
    ['virtnet query -p 0 --v', '--vf --vuid'],
    ['virtnet log -l ', 'debug err info'],
    ['virtnet log --level d', 'debug'],
    ['virtnet health -p 0 s', 'show'],
    ['virtnet modify -p 0 -v 1 ', 'device queue'],
    ['virtnet modify -p 0 device --p', '--packet_counter'],
    ['virtnet modify -p 0 device -dc ', 'disable enable'],
    ['virtnet modify -p 0 device -m 0C:C4:7A:FF:22:93 -aar', '-aarfs'],
    ['virtnet modify -p 0 queue --', '--help --max_count --period --period_mode'],
    ['virtnet modify -p 0 queue -e ', 'cqe event'],
    ['virtnet modify --m', ''],
  ] as const)('%s offers: %s', async ([typed, offered]) => {
    expect(await used.value.offered(typed)).toEqual(offered.split(' ').filter((word) => word !== ''));
  });

  test('every command is offered', async () => {
    const { stdout } = await used.scene.net.output([join(repository, 'node_modules/.bin/virtnet'), '-h']);
    const [, list = ''] = stdout.split('\ncommands:\n');
    const commands = [...list.matchAll(/^ {2}([a-z]+) /gm)].map(([, name]) => name!);
    expect(commands).toContain('hotplug');
    expect(await used.value.offered('virtnet ')).toEqual(commands.sort());
  });

  test('a file is offered where a file is expected', async () => {
    const file = used.scene.path('one-that-is-there.conf');
    writeFileSync(file, '{}');
    expect(await used.value.line(`virtnet validate -f ${used.scene.path('one-t')}`, TAB)).toBe(
      `virtnet validate -f ${file} `,
    );
  });

  test.for([
    ['virtnet hotp', 'virtnet hotplug '],
    ['virtnet modify -p 0 dev', 'virtnet modify -p 0 device '],
    ['virtnet update --sta', 'virtnet update --sta'],
    ['virtnet update --star', 'virtnet update --start '],
  ] as const)('a tab makes %s into %s', async ([typed, line]) => {
    expect(await used.value.line(typed, TAB)).toBe(line);
  });
});

test('installed for everybody, zsh finds it without being told', async () => {
  const { scene } = used;
  await used.value.end();
  // /usr of the machine stays as it is: what is written is kept beside it, and seen in the scene only.
  const layer = scene.path('usr-share');
  mkdirSync(layer);
  const overlay = `lowerdir=/usr/share,upperdir=${layer}/upper,workdir=${layer}/work`;
  for (const command of [
    ['mount', '-t', 'tmpfs', 'tmpfs', layer],
    ['mkdir', `${layer}/upper`, `${layer}/work`],
    ['mount', '-t', 'overlay', 'overlay', '-o', overlay, '/usr/share'],
  ])
    expect(await scene.net.output(command)).toMatchObject({ code: 0, stderr: '' });
  expect(await scene.net.output([INSTALL])).toMatchObject({ code: 0, stderr: '' });
  const zsh = await Zsh.start(scene, scene.path('other-home'), '');
  expect(await zsh.offered('virtnet h')).toEqual(['health', 'hotplug']);
  await zsh.end();
});

test('nothing is left', async () => {
  expect(await used.scene.end()).toEqual([]);
});
