/**
 * catalogue-vfe.ts: what `vfe-vhost-cli` may ask of vfe-vhostd, as `vhost.request` carries it.
 *
 * Theory
 *   `vhost.request` takes a command and its parameters and answers what the command line prints. Commands and
 *   parameters are those of the original's JSON-RPC methods. Which parameters belong together is decided where they
 *   are carried out, because a combination that makes no sense has an answer of its own there.
 *
 * Limits  text lengths below; requestBytesMax of `vhost.request`.
 */
import { boolean, object, objectWith, type Schema, type Static, text } from './schema.js';

const DEVICE_TEXT_MAX = 64;
const PATH_TEXT_MAX = 4096;
const UUID_TEXT_MAX = 64;

const device = text(DEVICE_TEXT_MAX);

/** Parameters of each command. */
export const vfeCommands = {
  version: object({}),
  mgmtpf: objectWith({}, { add: boolean(), remove: boolean(), list: boolean(), dev: device }),
  vf: objectWith(
    {},
    {
      add: boolean(),
      remove: boolean(),
      list: boolean(),
      info: boolean(),
      /** Address of the function. */
      vfdev: device,
      /** With list: address of its PF. */
      mgmtpf: device,
      socket_file: text(PATH_TEXT_MAX),
      uuid: text(UUID_TEXT_MAX),
    },
  ),
} as const satisfies Record<string, Schema<unknown>>;

export type VfeCommand = keyof typeof vfeCommands;
export type VfeParams<C extends VfeCommand> = Static<(typeof vfeCommands)[C]>;
