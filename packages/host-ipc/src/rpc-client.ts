/** rpc-client.ts: the asking end as every process of ours uses it: each reply is checked against the catalogue. */
import { RpcCaller } from './rpc-caller.js';
import { mismatch } from './rpc-checks.js';

export class RpcClient extends RpcCaller {
  /** Connects to the UNIX socket at `path`, which need not exist yet. */
  constructor(path: string) {
    super(path, mismatch);
  }
}
