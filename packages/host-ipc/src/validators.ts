/**
 * validators.ts: a function for each schema of the catalogues, which says whether a value fits it.
 *
 * Theory
 *   To compile a schema takes milliseconds, to compile those of one program's messages takes up to a tenth of a second
 *   in which guests may wait for it. A program in one file has, in place of this module, the functions that were made
 *   when it was built (scripts/lib/made-ahead.ts); as modules they are made here when they are needed first.
 */
import { Ajv, type ValidateFunction } from 'ajv';
import { catalogue, cliCommands, messageNames } from './catalogue.js';
import { vfeCommands } from './catalogue-vfe.js';
import type { JsonObject } from './schema.js';

/** That the catalogue's own schemas are schemas is a test's to find out, not every process's (catalogue.test.ts). */
export const AJV_OPTIONS = {
  allErrors: false,
  strict: true,
  allowUnionTypes: true,
  meta: false,
  validateSchema: false,
} as const;

/** Every schema: `<message> params`, `<message> result`, `cli <command>`, `vhost <command>`. */
export function allSchemas(): Map<string, JsonObject> {
  const schemas = new Map<string, JsonObject>();
  for (const name of messageNames) {
    schemas.set(`${name} params`, catalogue[name].paramsSchema);
    schemas.set(`${name} result`, catalogue[name].resultSchema);
  }
  for (const [name, { json }] of Object.entries(cliCommands)) schemas.set(`cli ${name}`, json);
  for (const [name, { json }] of Object.entries(vfeCommands)) schemas.set(`vhost ${name}`, json);
  return schemas;
}

const ajv = new Ajv(AJV_OPTIONS);
const schemas = allSchemas();
const made = new Map<string, ValidateFunction>(); // bounded by the schemas

/** The function for the schema of that name. */
export function validatorOf(name: string): ValidateFunction {
  let validator = made.get(name);
  if (validator === undefined) {
    validator = ajv.compile(schemas.get(name)!);
    made.set(name, validator);
  }
  return validator;
}
