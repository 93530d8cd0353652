/** The programs as processes, with a controller of the test's own. They run from `dist`, so build first. */
import { spawn } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { RpcError, RpcServer, virtnetPaths } from '@virtnet/host-ipc';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

const DOWN_MS_MAX = 2_000;
let root: string;
let server: RpcServer | null = null;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'virtnet-cli-'));
});
afterEach(async () => {
  await server?.close();
  server = null;
  rmSync(root, { recursive: true, force: true });
});

interface Ended {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
  readonly tookMs: number;
}

const binaries = fileURLToPath(new URL('../bin', import.meta.url));

function run(program: string, ...argv: string[]): Promise<Ended> {
  return ended(join(binaries, program), argv);
}

/** Runs a line of bash that finds the programs by name. */
function runShell(line: string): Promise<Ended> {
  return ended('bash', ['-c', `PATH=${binaries}:$PATH; ${line}`]);
}

function ended(file: string, argv: readonly string[]): Promise<Ended> {
  const startedMs = performance.now();
  const child = spawn(file, argv, {
    env: { ...process.env, VIRTNET_ROOT: root },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let out = '';
  let err = '';
  child.stdout.on('data', (text) => {
    out += text;
  });
  child.stderr.on('data', (text) => {
    err += text;
  });
  return new Promise((resolve) => {
    child.on('close', (code) => resolve({ code, out, err, tookMs: performance.now() - startedMs }));
  });
}

type Answer = { readonly answer: object; readonly exitCode: number };
type Handler = (params: { command: string; params: object }) => Answer | Promise<Answer>;

async function serve(handler: Handler): Promise<void> {
  const handlers = { 'cli.request': handler } as unknown as Parameters<
    typeof RpcServer.bind<'controller'>
  >[2];
  server = await RpcServer.bind('controller', virtnetPaths(root).controllerIpc, handlers);
}

describe('virtnet, the process', () => {
  it('brings command and parameters to the controller and prints its answer', async () => {
    const seen: unknown[] = [];
    await serve((request) => {
      seen.push(request);
      return { answer: { errno: 0, errstr: 'Success' }, exitCode: 0 };
    });
    const unplugged = await run('virtnet', 'unplug', '-p', '0');
    expect(unplugged).toMatchObject({ code: 0, err: '' });
    expect(unplugged.out).toBe(`{'id': '0x0'}\n{\n  "errno": 0,\n  "errstr": "Success"\n}\n`);
    expect(seen).toEqual([{ command: 'unplug', params: { pf: 0, vuid: null } }]);
  });

  it('ends with the exit code the controller gives', async () => {
    await serve(() => ({ answer: { Error: "Device doesn't exist" }, exitCode: 1 }));
    expect(await run('virtnet', 'query', '-p', '9')).toMatchObject({ code: 1, err: '' });
  });

  it('shows the errno of a controller that refuses', async () => {
    await serve(() => {
      throw new RpcError(-16, 'busy');
    });
    const { code, out } = await run('virtnet', 'list');
    expect(JSON.parse(out)).toEqual({ errno: -16, errstr: 'busy' });
    expect(code).toBe(1);
  });

  it('prints an answer larger than a pipe holds, whole', async () => {
    const devices = Array.from({ length: 500 }, (_, pf_id) => ({ pf_id, text: 'x'.repeat(1000) }));
    await serve(() => ({ answer: { devices }, exitCode: 0 }));
    const { code, out } = await run('virtnet', 'list');
    expect(code).toBe(0);
    expect(JSON.parse(out)).toEqual({ devices });
  });

  it('a reader that goes away ends it without a word', async () => {
    const devices = Array.from({ length: 500 }, (_, pf_id) => ({ pf_id, text: 'x'.repeat(1000) }));
    await serve(() => ({ answer: { devices }, exitCode: 0 }));
    // biome-ignore lint/suspicious/noTemplateCurlyInString: bash expands it
    const { code, err } = await runShell('virtnet list | head -n 1; exit ${PIPESTATUS[0]}');
    expect([code, err]).toEqual([141, '']);
  });

  it('is not running: says so within 2 s', async () => {
    const { code, out, err, tookMs } = await run('virtnet', 'list');
    expect([code, out]).toEqual([1, '']);
    expect(err).toMatch(/^virtnet: the controller is not running \(.*controller\.ipc: no socket\)\n$/);
    expect(tookMs).toBeLessThan(DOWN_MS_MAX);
  });

  it('may not be asked by this user: says so, and not that it is not running', async () => {
    await serve(() => ({ answer: {}, exitCode: 0 }));
    const path = virtnetPaths(root).controllerIpc;
    const isRoot = process.getuid!() === 0; // who may look everywhere, but nobody else into root's directories
    const asOther = isRoot ? 'setpriv --reuid 65534 --regid 65534 --clear-groups ' : '';
    chmodSync(isRoot ? root : dirname(path), isRoot ? 0o711 : 0);
    const { code, err } = await runShell(`${asOther}virtnet list`);
    chmodSync(dirname(path), 0o700);
    expect([code, err]).toEqual([
      1,
      `virtnet: permission denied: ${path}; only root and the user of the service may ask the controller\n`,
    ]);
  });

  it('was killed and left its socket: says so within 2 s', async () => {
    const path = virtnetPaths(root).controllerIpc;
    await leaveSocketBehind(path);
    const { code, err, tookMs } = await run('virtnet', 'list');
    expect(code).toBe(1);
    expect(err).toContain('the controller is not running');
    expect(err).toContain('ECONNREFUSED');
    expect(tookMs).toBeLessThan(DOWN_MS_MAX);
  });

  it('a root that is too long for sockets is an error, not an exception', async () => {
    root = `/${'x'.repeat(200)}`;
    const { code, err } = await run('virtnet', 'list');
    expect(code).toBe(1);
    expect(err).toMatch(/^virtnet: VIRTNET_ROOT is too long.*\n$/);
  });
});

/** A socket file that nobody listens on, as a killed process leaves it. */
async function leaveSocketBehind(path: string): Promise<void> {
  const script = `require('node:net').createServer().listen(process.argv[1], () => process.kill(process.pid, 'SIGKILL'))`;
  const child = spawn(process.execPath, ['-e', script, path]);
  await new Promise((resolve) => child.once('exit', resolve));
}

describe('virtnet, a controller that does not answer at once', () => {
  it('is waited for', async () => {
    // Longer than the moment after which a refused connection would be reported.
    await serve(async () => {
      await new Promise((resolve) => setTimeout(resolve, 700));
      return { answer: { late: 1 }, exitCode: 0 };
    });
    const { code, out } = await run('virtnet', 'list');
    expect(JSON.parse(out)).toEqual({ late: 1 });
    expect(code).toBe(0);
  });

  it('and ends over the command is reported: the command may have been carried out', async () => {
    await serve(async () => {
      await server!.close();
      return { answer: {}, exitCode: 0 };
    });
    const { code, out, err, tookMs } = await run('virtnet', '--json', 'unplug', '-p', '0');
    expect([code, out]).toEqual([1, '']);
    expect(err).toContain('which may have been carried out');
    expect(tookMs).toBeLessThan(DOWN_MS_MAX);
  });
});

describe('virtnet-host and virtnet-mlxconfig, the processes', () => {
  it('virtnet-host lspci asks the controller', async () => {
    const ids = { vendorId: 0x1af4, deviceId: 0x1041, classCode: 0x020000, revisionId: 1 };
    await serve(() => ({ answer: { functions: [{ bdf: '15:00.0', ...ids, driver: '' }] }, exitCode: 0 }));
    const { code, out } = await run('virtnet-host', 'lspci');
    expect(out).toBe('15:00.0 Ethernet controller: Red Hat, Inc. Virtio network device (rev 01)\n');
    expect(code).toBe(0);
  });

  it('virtnet-mlxconfig keeps a change below VIRTNET_ROOT', async () => {
    expect((await run('virtnet-mlxconfig', '-y', '-d', '03:00.0', 's', 'PF_TOTAL_SF=77')).code).toBe(0);
    expect((await run('virtnet-mlxconfig', '-d', '03:00.0', 'q', 'PF_TOTAL_SF')).out).toMatch(
      /PF_TOTAL_SF +77$/m,
    );
  });

  it('virtnet-mlxconfig without input does not apply', async () => {
    expect((await run('virtnet-mlxconfig', '-d', '03:00.0', 's', 'PF_TOTAL_SF=78')).code).toBe(1);
  });
});
