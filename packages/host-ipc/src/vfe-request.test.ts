import { describe, expect, test } from 'vitest';
import { readVfeRequest } from './vfe-request.js';

describe('vfe commands', () => {
  test('a command with its parameters > is read as it is', () => {
    const params = { add: true, vfdev: '0000:15:00.0', socket_file: '/x', uuid: 'u' };
    expect(readVfeRequest('vf', params)).toEqual({ command: 'vf', params });
    expect(readVfeRequest('version', {})).toEqual({ command: 'version', params: {} });
  });

  test('no such command, a parameter too many, of another type or too long > null', () => {
    expect(readVfeRequest('constructor', {})).toBeNull();
    expect(readVfeRequest('debug', {})).toBeNull();
    expect(readVfeRequest('version', { add: true })).toBeNull();
    expect(readVfeRequest('vf', { add: 1 })).toBeNull();
    expect(readVfeRequest('vf', { debug: true })).toBeNull();
    expect(readVfeRequest('mgmtpf', { dev: 'x'.repeat(65) })).toBeNull();
    expect(readVfeRequest('mgmtpf', null)).toBeNull();
  });
});
