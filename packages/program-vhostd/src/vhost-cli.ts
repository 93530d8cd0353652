/** vfe-vhost-cli: asks vfe-vhostd, and prints what it answers. */
import { createInterface } from 'node:readline/promises';
import { RpcClient, RpcError, virtnetPaths } from '@virtnet/host-ipc';
import { close, connect } from '@virtnet/host-linux';
import { Errno } from '@virtnet/wire';
import { readArguments, splitWords } from './cli-arguments.js';
import { outcomeOf } from './errors.js';

const EXIT_FAILURE = 1;

/** One command; the exit code. */
async function run(words: readonly string[]): Promise<number> {
  const intent = readArguments(words);
  if (!('request' in intent)) {
    process.stdout.write(intent.out);
    process.stderr.write(intent.error);
    return intent.exitCode;
  }
  let path: string;
  try {
    path = virtnetPaths(undefined, { create: false }).vfeIpc;
  } catch (error) {
    return notReady(error instanceof Error ? error.message : String(error)); // VIRTNET_ROOT is unusable
  }
  // ZeroMQ would wait for a daemon that is not there.
  const probe = connect(path, 'stream');
  if (probe < 0) return notReady(outcomeOf(probe).errstr);
  close(probe);
  const client = new RpcClient(path);
  try {
    const { answer, exitCode } = await client.call('vhost.request', intent.request);
    process.stdout.write(`${JSON.stringify(answer, null, 2)}\n`);
    return exitCode;
  } catch (error) {
    if (!(error instanceof RpcError)) throw error;
    process.stderr.write(
      error.errno === -Errno.ETIMEDOUT ? 'ERR: response timeout\n' : `ERR: ${error.message}\n`,
    );
    return EXIT_FAILURE;
  } finally {
    client.close();
  }
}

function notReady(reason: string): number {
  process.stderr.write(
    `ERR: Can't connect to vhostd: ${reason}\n     VDPA is not ready to accept commands\n`,
  );
  return EXIT_FAILURE;
}

/** One command for each line of standard input. 0 when all succeeded. */
async function runLines(): Promise<number> {
  let exitCode = 0;
  for await (const line of createInterface({ input: process.stdin })) {
    const words = splitWords(line);
    if (words.length > 0) exitCode = Math.max(exitCode, await run(words));
  }
  return exitCode;
}

const words = process.argv.slice(2);
// No await at the top: this ends up in a module of the older kind, see scripts/bundle.ts.
void (words.length > 0 || process.stdin.isTTY ? run(words) : runLines()).then((code) => {
  process.exitCode = code;
});
