/** virtnet-mlxconfig: the firmware configuration of the emulated adapter. */
import { createInterface } from 'node:readline/promises';
import { virtnetPaths } from '@virtnet/host-ipc';
import { type Io, processIo } from './io.js';
import { runMlxconfig } from './run-mlxconfig.js';

/** Asks on the terminal, or takes a line of whatever stdin is; an empty answer when stdin has ended. */
async function ask(question: string): Promise<string> {
  const lines = createInterface({ input: process.stdin, output: process.stdout });
  try {
    const ended = new Promise<string>((resolve) => lines.once('close', () => resolve('')));
    return await Promise.race([lines.question(question), ended]);
  } finally {
    lines.close();
  }
}

/** Where the store is; null, with a message, when VIRTNET_ROOT cannot be used. */
function storePath(io: Io): string | null {
  try {
    return virtnetPaths(undefined, { create: false }).fwconfig;
  } catch (error) {
    io.out(`-E- ${error instanceof Error ? error.message : String(error)}\n`);
    return null;
  }
}

const io = processIo();
const path = storePath(io);
if (path === null) process.exitCode = 1;
else {
  // No await at the top: this ends up in a module of the older kind, see scripts/bundle.ts.
  void runMlxconfig(process.argv.slice(2), { io, storePath: path, ask }).then((code) => {
    process.exitCode = code;
  });
}
