import { Ajv } from 'ajv';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  catalogue,
  cliCommands,
  MESSAGE_BYTES_MAX,
  type MessageName,
  messageNames,
  type Params,
  type Role,
} from './catalogue.js';
import { cliParamsProblem, mismatch } from './rpc-checks.js';
import { RpcClient } from './rpc-client.js';
import { type Handlers, RpcServer } from './rpc-server.js';
import { type TemporaryRoot, temporaryRoot } from './temporary-root.fixture.js';

const roles = ['controller', 'driver', 'emu', 'ha', 'vhostd'] as const satisfies readonly Role[];

describe('catalogue', () => {
  let root: TemporaryRoot;
  const servers: RpcServer[] = [];
  const seen = new Map<string, unknown>();

  beforeAll(async () => {
    root = temporaryRoot();
    for (const role of roles) {
      const answered = messageNames.filter((name) => catalogue[name].to.includes(role));
      const handlers = Object.fromEntries(
        answered.map((name) => [
          name,
          (params: unknown) => {
            seen.set(`${role} ${name}`, params);
            return catalogue[name].sample.result;
          },
        ]),
      );
      const all = handlers as unknown as Handlers<typeof role>; // built by name from the catalogue itself
      servers.push(await RpcServer.bind(role, root.file(role), all as Handlers<'controller'>));
    }
  });
  afterAll(async () => {
    await Promise.all(servers.map((server) => server.close()));
    root.remove();
  });

  const deliveries = messageNames.flatMap((name) => catalogue[name].to.map((role) => ({ name, role })));
  it.each(deliveries)(
    'the sample of $name reaches $role over a real socket, and its reply comes back',
    async ({ name, role }) => {
      const client = new RpcClient(root.file(role));
      const { sample } = catalogue[name];
      expect(await client.call(name, sample.params as Params<MessageName> as never)).toEqual(sample.result);
      expect(seen.get(`${role} ${name}`)).toEqual(sample.params);
      client.close();
    },
  );

  it.each(messageNames)('%s: the sample fits its schemas and its size limits', (name) => {
    const { sample, requestBytesMax, replyBytesMax } = catalogue[name];
    expect(mismatch(name, 'params', sample.params)).toBeNull();
    expect(mismatch(name, 'result', sample.result)).toBeNull();
    expect(JSON.stringify(sample.params).length).toBeLessThan(requestBytesMax);
    expect(JSON.stringify(sample.result).length).toBeLessThan(replyBytesMax);
    expect(replyBytesMax).toBeLessThanOrEqual(MESSAGE_BYTES_MAX);
  });

  it.each(messageNames)('%s: params of another shape do not fit', (name) => {
    for (const wrong of [null, 7, 'text', [], { ...catalogue[name].sample.params, 'no such field': 1 }])
      expect(mismatch(name, 'params', wrong)).not.toBeNull();
  });

  it('every schema is one', () => {
    const ajv = new Ajv({ strict: true, allowUnionTypes: true });
    const schemas = Object.values(catalogue).flatMap(({ paramsSchema, resultSchema }) => [
      paramsSchema,
      resultSchema,
    ]);
    const commands = Object.values(cliCommands).map(({ json }) => json);
    for (const schema of [...schemas, ...commands]) {
      ajv.validateSchema(schema);
      expect(ajv.errors ?? []).toEqual([]);
    }
    ajv.validateSchema({ type: 'nothing' });
    expect(ajv.errors).not.toEqual([]);
  });

  it('a command of the command line takes its own parameters and no others', () => {
    expect(cliParamsProblem('unplug', { pf: 70_000, vuid: null })).toBeNull(); // judged in words, later
    expect(cliParamsProblem('unplug', { pf: 'zero', vuid: null })).not.toBeNull();
    expect(cliParamsProblem('unplug', { pf: 0 })).not.toBeNull();
    expect(cliParamsProblem('log', { level: 'loud' })).not.toBeNull();
  });
});
