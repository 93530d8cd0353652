import { describe, expect, test } from 'vitest';
import { readArguments, splitWords } from './cli-arguments.js';

const requestOf = (line: string) => {
  const intent = readArguments(splitWords(line));
  return 'request' in intent ? intent.request : null;
};
const mistakeIn = (line: string) => {
  const intent = readArguments(splitWords(line));
  return 'request' in intent ? null : { error: intent.error.split('\n')[0], exitCode: intent.exitCode };
};

describe('vfe-vhost-cli arguments', () => {
  test.each([
    ['version', { command: 'version', params: {} }],
    ['mgmtpf -l', { command: 'mgmtpf', params: { list: true } }],
    ['mgmtpf -a 0000:15:00.0', { command: 'mgmtpf', params: { add: true, dev: '0000:15:00.0' } }],
    ['mgmtpf --remove 15:00.0', { command: 'mgmtpf', params: { remove: true, dev: '15:00.0' } }],
    ['vf -a 15:00.0', { command: 'vf', params: { add: true, vfdev: '15:00.0' } }],
    [
      'vf -a 15:00.0 -v "/a b/c.sock" -u 1-2',
      { command: 'vf', params: { add: true, vfdev: '15:00.0', socket_file: '/a b/c.sock', uuid: '1-2' } },
    ],
    [
      'vf -v /c.sock --add 15:00.0',
      { command: 'vf', params: { add: true, vfdev: '15:00.0', socket_file: '/c.sock' } },
    ],
    ['vf -r 15:00.0', { command: 'vf', params: { remove: true, vfdev: '15:00.0' } }],
    ['vf -i 15:00.0', { command: 'vf', params: { info: true, vfdev: '15:00.0' } }],
    ['vf -l 15:00.0', { command: 'vf', params: { list: true, mgmtpf: '15:00.0' } }],
  ])('%s > is understood', (line, request) => {
    expect(requestOf(line)).toEqual(request);
  });

  test.each([
    ['vf', 'Error: invalid action.'],
    ['vf 15:00.0', 'Error: invalid action.'],
    ['vf -a -r 15:00.0', 'Error: invalid action.'],
    ['mgmtpf', 'Error: invalid action.'],
    ['vf -a', 'Error: No vf device specified for add vf action.'],
    ['vf -r', 'Error: No vf device specified for remove vf action.'],
    ['vf -l', 'Error: No pf device specified for list vf action.'],
    ['mgmtpf -a', 'Error: No device specified for add/remove action.'],
    ['vf -d -o 1 15:00.0', 'Error: vf debug (-d, -o, -b) is not supported.'],
    ['vf -i -o 6 15:00.0', 'Error: vf debug (-d, -o, -b) is not supported.'],
    ['vf -i -b 2 15:00.0', 'Error: vf debug (-d, -o, -b) is not supported.'],
    ['vf -x', "error: unknown option '-x'"],
    [
      'vf -i 15:00.0 16:00.0',
      "error: too many arguments for 'vf'. Expected 1 argument but got 2: 15:00.0, 16:00.0.",
    ],
    ['reboot', "error: unknown command 'reboot'"],
  ])('%s > is a mistake, exit code 1', (line, error) => {
    expect(mistakeIn(line)).toEqual({ error, exitCode: 1 });
  });

  test('no words > the help, exit code 1; -h > the help, exit code 0', () => {
    const none = readArguments([]);
    const help = readArguments(['vf', '-h']);
    expect(none).toMatchObject({ exitCode: 1 });
    expect(help).toMatchObject({ exitCode: 0, out: expect.stringContaining('--vhost-socket') });
    expect('request' in none ? '' : none.out + none.error).toContain('mgmtpf');
  });
});
