/**
 * schema.ts: one declaration gives both the JSON schema that ajv checks and the TypeScript type.
 *
 * @example
 *   const Params = object({ level: oneOf('info', 'err'), count: integer(0, 10) });
 *   type Params = Static<typeof Params>; // { level: 'info' | 'err'; count: number }
 */
export type JsonValue =
  | null
  | boolean
  | number
  | string
  | readonly JsonValue[]
  | { readonly [key: string]: JsonValue };
export type JsonObject = { readonly [key: string]: JsonValue };

/** A JSON schema that remembers the type it describes; `type` exists in the type system only. */
export interface Schema<T> {
  readonly json: JsonObject;
  readonly type?: T;
}
export type Static<S> = S extends Schema<infer T> ? T : never;

type Fields = Record<string, Schema<unknown>>;
type ObjectOf<F extends Fields> = { readonly [K in keyof F]: Static<F[K]> };
type ObjectWith<F extends Fields, O extends Fields> = ObjectOf<F> & {
  readonly [K in keyof O]?: Static<O[K]>;
};

export const boolean = (): Schema<boolean> => ({ json: { type: 'boolean' } });
export const integer = (
  minimum = Number.MIN_SAFE_INTEGER,
  maximum = Number.MAX_SAFE_INTEGER,
): Schema<number> => ({ json: { type: 'integer', minimum, maximum } });
export const number = (minimum = -Number.MAX_VALUE): Schema<number> => ({
  json: { type: 'number', minimum },
});
/** Text of at most `maxLength` UTF-16 units, optionally of one shape. */
export const text = (maxLength: number, pattern?: string): Schema<string> => ({
  json: { type: 'string', maxLength, ...(pattern === undefined ? {} : { pattern }) },
});
export const oneOf = <const T extends string>(...values: T[]): Schema<T> => ({ json: { enum: values } });
export const nullable = <T>(inner: Schema<T>): Schema<T | null> => ({
  json: { anyOf: [{ type: 'null' }, inner.json] },
});
export const array = <T>(items: Schema<T>, maxItems: number): Schema<readonly T[]> => ({
  json: { type: 'array', items: items.json, maxItems },
});
/** Exactly these fields, all present. */
export const object = <F extends Fields>(fields: F): Schema<ObjectOf<F>> => objectSchema(fields, false);
/** These fields, all present, and whatever else. */
export const openObject = <F extends Fields>(fields: F): Schema<ObjectOf<F> & JsonObject> =>
  objectSchema(fields, true);
/** These fields, all present; others may come with them and are not looked at. */
export const tolerant = <F extends Fields>(fields: F): Schema<ObjectOf<F>> => objectSchema(fields, true);
/** The same, with fields that others may leave out. */
export const tolerantWith = <F extends Fields, O extends Fields>(
  fields: F,
  optional: O,
): Schema<ObjectWith<F, O>> => objectSchema(fields, true, optional);
/** Fields that are all present plus fields that may be left out. */
export const objectWith = <F extends Fields, O extends Fields>(
  fields: F,
  optional: O,
): Schema<ObjectWith<F, O>> => objectSchema(fields, false, optional);
/** Any JSON. */
export const anyJson = (): Schema<JsonValue> => ({ json: {} });

function objectSchema<T>(fields: Fields, additionalProperties: boolean, optional: Fields = {}): Schema<T> {
  return {
    json: {
      type: 'object',
      properties: propertiesOf({ ...fields, ...optional }),
      required: Object.keys(fields),
      additionalProperties,
    },
  };
}

function propertiesOf(fields: Fields): JsonObject {
  return Object.fromEntries(Object.entries(fields).map(([name, schema]) => [name, schema.json]));
}
