/**
 * Puts the virtnet command line into one file: a command is a process of its own, and half of its time went into finding
 * and reading hundreds of modules. It is a CommonJS file, since importing `node:util` or `node:process` into an ES module
 * loads everything that they offer; and behind the cache of compiled code. Native modules stay where they are.
 */
import { spawnSync } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { build, type Plugin } from 'esbuild';

const dist = fileURLToPath(new URL('../packages/program-cli/dist/', import.meta.url));
const bundle = `${dist}bundle`;

/** Built-in modules that somebody imports and no command uses: loaded when they are used after all. */
const LATE = /^node:child_process$/;

const late: Plugin = {
  name: 'late',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: LATE }, ({ path, namespace }) =>
      namespace === 'late' ? { path, external: true } : { path, namespace: 'late' },
    );
    onLoad({ filter: LATE, namespace: 'late' }, ({ path }) => ({
      contents: `module.exports = new Proxy({}, { get: (_, name) => require(${JSON.stringify(path)})[name] });`,
      loader: 'js',
    }));
  },
};

rmSync(bundle, { recursive: true, force: true });
await build({
  entryPoints: [`${dist}virtnet.js`],
  outfile: `${bundle}/commands.cjs`,
  bundle: true,
  platform: 'node',
  format: 'cjs',
  target: 'node24',
  external: ['zeromq', 'koffi'],
  plugins: [late],
  define: { 'import.meta.url': 'ownUrl' },
  banner: { js: "const ownUrl = require('node:url').pathToFileURL(__filename).href;" },
  logLevel: 'warning',
});
writeFileSync(
  `${bundle}/virtnet.cjs`,
  [
    "require('node:module').enableCompileCache(__dirname + '/.compile-cache');",
    "require('./commands.cjs');",
    '',
  ].join('\n'),
);

// The first run leaves compiled code behind for all others; a root without a controller is enough for that.
spawnSync(
  process.execPath,
  [`${bundle}/virtnet.cjs`, ...'hotplug -i mlx5_0 -m 02:00:00:00:00:01 -t 1500 -n 3 -s 256'.split(' ')],
  {
    env: { ...process.env, VIRTNET_ROOT: bundle },
    stdio: 'ignore',
  },
);
