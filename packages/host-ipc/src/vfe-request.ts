/** vfe-request.ts: reads requests of vfe-vhost-cli. */
import { type VfeCommand, type VfeParams, vfeCommands } from './catalogue-vfe.js';
import { validatorOf } from './validators.js';

/** One request, checked. */
export type VfeRequest = {
  readonly [C in VfeCommand]: { readonly command: C; readonly params: VfeParams<C> };
}[VfeCommand];

/** Checks what came in. Null when there is no such command or its parameters do not fit. */
export function readVfeRequest(command: string, params: unknown): VfeRequest | null {
  if (!Object.hasOwn(vfeCommands, command)) return null;
  const check = validatorOf(`vhost ${command}`);
  return check(params) ? ({ command, params } as VfeRequest) : null;
}
