/**
 * Puts the virtnet command line into one folder of few files: a command is a process of its own, and half of its time
 * went into finding and reading hundreds of modules. Native modules stay where they are.
 */
import { spawnSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const dist = fileURLToPath(new URL('../packages/program-cli/dist/', import.meta.url));
rmSync(`${dist}bundle`, { recursive: true, force: true });
await build({
  entryPoints: [`${dist}virtnet.js`],
  outdir: `${dist}bundle`,
  bundle: true,
  splitting: true,
  platform: 'node',
  format: 'esm',
  target: 'node24',
  external: ['zeromq', 'koffi'],
  // Packages of the CommonJS kind ask for `require` at run time.
  banner: {
    js: "import { createRequire as requireOf } from 'node:module'; const require = requireOf(import.meta.url);",
  },
  logLevel: 'warning',
});

// The first run leaves compiled code behind for all others; a root without a controller is enough for that.
spawnSync(
  process.execPath,
  [`${dist}bundle/virtnet.js`, ...'hotplug -i mlx5_0 -m 02:00:00:00:00:01 -t 1500 -n 3 -s 256'.split(' ')],
  {
    env: { ...process.env, VIRTNET_ROOT: `${dist}bundle` },
    stdio: 'ignore',
  },
);
