/**
 * made-ahead.ts: puts into the bundles what modules of ours would make of constants each time a program starts.
 *
 * Theory
 *   In place of a module below stands one with the same exports, as far as programs use them, that was made when the
 *   bundle was: the functions that ajv compiles of our schemas, so that no program brings ajv along, and the
 *   WebAssembly that copies in a window of the usual size. Schemas, options and sizes are those of the modules themselves.
 */
import { join } from 'node:path';
import { Ajv, type Options } from 'ajv';
import standalone from 'ajv/dist/standalone/index.js';
import type { Plugin } from 'esbuild';
import { repository } from './paths.ts';

/** Behind the path of a module that is wanted as it is. */
const AS_BUILT = '?as-built';

/** Code of an ES module with a table of the validating functions by name, `validators`. Equal schemas have one function. */
function compile(options: Options, schemas: ReadonlyMap<string, object>): string {
  const ajv = new Ajv({ ...options, code: { source: true, esm: true } });
  const exported = new Map<string, string>(); // by the text of the schema
  const table: string[] = [];
  for (const [name, schema] of schemas) {
    const text = JSON.stringify(schema);
    let symbol = exported.get(text);
    if (symbol === undefined) {
      symbol = `fits${exported.size}`;
      exported.set(text, symbol);
      ajv.addSchema(schema, symbol);
    }
    table.push(`${JSON.stringify(name)}: ${symbol}`);
  }
  const code = standalone.default(
    ajv,
    Object.fromEntries([...exported.values()].map((name) => [name, name])),
  );
  return `${code}\nconst validators = { ${table.join(', ')} };\n`;
}

async function validators(): Promise<string> {
  const { AJV_OPTIONS, allSchemas }: typeof import('../../packages/host-ipc/src/validators.ts') =
    await import(join(repository, 'packages/host-ipc/dist/validators.js'));
  return `${compile(AJV_OPTIONS, allSchemas())}export const validatorOf = (name) => validators[name];\n`;
}

async function confValidator(): Promise<string> {
  const {
    CONF_AJV_OPTIONS,
    CONF_SCHEMA,
  }: typeof import('../../packages/engine-control/src/conf-validator.ts') = await import(
    join(repository, 'packages/engine-control/dist/conf-validator.js')
  );
  const code = compile(CONF_AJV_OPTIONS, new Map([['conf', CONF_SCHEMA]]));
  return `${code}export const confValidator = () => validators.conf;\n`;
}

/** The window is nearly always as large as there may be; for another size the module is made when it is needed. */
async function copyModule(): Promise<string> {
  const at = join(repository, 'packages/engine-virtqueue/dist');
  const sizes: typeof import('../../packages/engine-virtqueue/src/copy-window.ts') = await import(
    join(at, 'copy-window.js')
  );
  const { windowModule }: typeof import('../../packages/engine-virtqueue/src/window-module.ts') =
    await import(join(at, 'window-module.js'));
  const { WINDOW_BYTES_MAX, ROOMS_BYTES, WINDOW_PAGE_BYTES } = sizes;
  const [pages, rooms] = [WINDOW_BYTES_MAX / WINDOW_PAGE_BYTES, ROOMS_BYTES / WINDOW_PAGE_BYTES] as const;
  const text = Buffer.from(windowModule(pages, rooms)).toString('base64');
  return [
    `import { windowModule as make } from ${JSON.stringify(join(at, `window-module.js${AS_BUILT}`))};`,
    `export const windowModule = (pages, rooms) =>`,
    `  pages === ${pages} && rooms === ${rooms} ? Uint8Array.fromBase64('${text}') : make(pages, rooms);`,
    '',
  ].join('\n');
}

const MODULES: Readonly<Record<string, () => Promise<string>>> = {
  'host-ipc/dist/validators.js': validators,
  'engine-control/dist/conf-validator.js': confValidator,
  'engine-virtqueue/dist/window-module.js': copyModule,
};

/** Made once for all bundles. */
const made = new Map<string, Promise<string>>();

export const madeAhead: Plugin = {
  name: 'made-ahead',
  setup({ onLoad }) {
    for (const [module, make] of Object.entries(MODULES))
      onLoad({ filter: new RegExp(`/${module.replaceAll('.', '\\.')}$`) }, async ({ suffix }) => {
        if (suffix === AS_BUILT) return undefined;
        let contents = made.get(module);
        if (contents === undefined) {
          contents = make();
          made.set(module, contents);
        }
        return { contents: await contents, loader: 'js', resolveDir: repository };
      });
  },
};
