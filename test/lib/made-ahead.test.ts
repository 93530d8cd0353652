/** What bundles have in place of modules does what the modules do. */
import { build } from 'esbuild';
import { beforeAll, describe, expect, it } from 'vitest';
import { confValidator } from '../../packages/engine-control/dist/conf-validator.js';
import { DEFAULT_CONF } from '../../packages/engine-control/dist/index.js';
import { windowModule } from '../../packages/engine-virtqueue/dist/window-module.js';
import { catalogue, messageNames } from '../../packages/host-ipc/dist/index.js';
import { allSchemas, validatorOf } from '../../packages/host-ipc/dist/validators.js';
import { madeAhead } from '../../scripts/lib/made-ahead.ts';
import { repository } from '../../scripts/lib/paths.ts';

interface Made {
  readonly validatorOf: typeof validatorOf;
  readonly confValidator: typeof confValidator;
  readonly windowModule: typeof windowModule;
  readonly text: string;
}

/** Values that fit hardly any schema, and some that fit many. */
const VALUES: readonly unknown[] = [null, 7, 'x', [], {}, { v: 1 }, { pf: 'x' }, { level: 'info' }];

async function bundled(): Promise<Made> {
  const from = (module: string) => `export * from './packages/${module}.js';`;
  const modules = ['host-ipc/dist/validators', 'engine-control/dist/conf-validator'];
  const { outputFiles } = await build({
    stdin: {
      contents: [...modules, 'engine-virtqueue/dist/window-module'].map(from).join('\n'),
      resolveDir: repository,
    },
    bundle: true,
    platform: 'node',
    format: 'cjs',
    plugins: [madeAhead],
    write: false,
  });
  const { text } = outputFiles[0]!;
  const module = { exports: {} as Made };
  new Function('module', 'require', text)(module, () => {
    throw new Error('it needs something else');
  });
  return { ...module.exports, text };
}

describe('made ahead', () => {
  let made: Made;
  beforeAll(async () => {
    made = await bundled();
  }, 60_000);

  const same = (left: ReturnType<typeof validatorOf>, right: typeof left, value: unknown) => {
    expect(left(value)).toBe(right(value));
    expect(left.errors).toEqual(right.errors);
    return right.errors === null;
  };

  it('brings no ajv along', () => {
    expect(made.text).not.toContain('class Ajv');
  });

  it('every message and command: the samples fit, and what does not fit has the same error', () => {
    for (const name of messageNames) {
      const { params, result } = catalogue[name].sample;
      for (const [half, value] of [['params', params] as const, ['result', result] as const]) {
        const key = `${name} ${half}`;
        expect(same(made.validatorOf(key), validatorOf(key), value), key).toBe(true);
      }
    }
    for (const name of allSchemas().keys())
      for (const value of VALUES) same(made.validatorOf(name), validatorOf(name), value);
  });

  it('virtnet.conf: the same verdict with all its errors', () => {
    expect(same(made.confValidator(), confValidator(), DEFAULT_CONF)).toBe(false); // null is for snapshots
    expect(same(made.confValidator(), confValidator(), {})).toBe(true);
    expect(same(made.confValidator(), confValidator(), { nonsense: 1, single_port: 'x' })).toBe(false);
  });

  it('the copying module is the same, in the usual size and in another', () => {
    for (const [pages, rooms] of [
      [2 ** 18, 2 ** 8],
      [2 ** 15, 2 ** 8],
    ] as const)
      expect(made.windowModule(pages, rooms)).toEqual(windowModule(pages, rooms));
  });
});
