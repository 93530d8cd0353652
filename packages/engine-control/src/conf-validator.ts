/**
 * conf-validator.ts: whether a value fits the schema of virtnet.conf, with everything that is wrong with it.
 *
 * Theory
 *   As modules the schema is compiled when it is needed first. A program in one file has, in place of this module, what was
 *   compiled when it was built (scripts/lib/made-ahead.ts).
 */
import { Ajv, type ValidateFunction } from 'ajv';
import { confSchema } from './conf-keys.js';

/** Every problem is wanted, with the part of the schema and the value that it is about. */
export const CONF_AJV_OPTIONS = { allErrors: true, verbose: true } as const;

export const CONF_SCHEMA = confSchema();

let compiled: ValidateFunction | null = null;

export function confValidator(): ValidateFunction {
  compiled ??= new Ajv(CONF_AJV_OPTIONS).compile(CONF_SCHEMA);
  return compiled;
}
