/**
 * uplink-taps.ts: the TAPs behind which the eswitch reaches the host, as the main thread holds them.
 *
 * Theory
 *   Each TAP is opened by every emulator. A standby's queue of it is detached, so that the kernel gives it no frame; it
 *   is there so that interface, index and carrier outlive the active emulator. Whoever becomes active attaches its
 *   queue and hands it to the worker of the domain. A TAP that somebody made before us (persistent, multi_queue, ours
 *   to use) is used as it is, also without any privilege.
 *
 * Limits  one queue each, for all its frames are moved by one worker.
 */
import { uplinksOf, type VirtnetConf } from '@virtnet/engine-control';
import { close, openTap, setOffload, setQueueAttached } from '@virtnet/host-linux';
import { TunOffload } from '@virtnet/wire';
import type { Datapath } from './datapath.js';

type Log = (level: 'info' | 'error', message: string, facts: Record<string, unknown>) => void;

const { CSUM, TSO4, TSO6, TSO_ECN, USO4, USO6 } = TunOffload;
const OFFLOADS = CSUM | TSO4 | TSO6 | TSO_ECN;

export class UplinkTaps {
  readonly #taps: { readonly domain: number; readonly name: string; readonly fd: number }[] = [];
  readonly #log: Log;

  constructor(log: Log) {
    this.#log = log;
  }

  /** Opens what the configuration names, detached. A TAP that can not be had is reported and left out. */
  open(conf: VirtnetConf): void {
    const names: Readonly<Record<string, string | null>> = conf.software.uplink_taps;
    for (const { ibDevice, port } of uplinksOf(conf)) {
      const name = names[ibDevice] ?? null;
      if (name === null) continue;
      const fds = openTap(name, { queues: 1 });
      if (typeof fds === 'number') {
        this.#log('error', 'the uplink of the eswitch cannot be opened', { name, errno: -fds });
        continue;
      }
      const fd = fds[0]!;
      setQueueAttached(fd, false);
      this.#taps.push({ domain: port, name, fd });
    }
  }

  /** This process is the active one: frames come in from now on. */
  serve(datapath: Pick<Datapath, 'uplink'>): void {
    for (const { domain, name, fd } of this.#taps) {
      const attached = setQueueAttached(fd, true);
      if (attached < 0) {
        this.#log('error', 'the uplink of the eswitch cannot be attached', { name, errno: -attached });
        continue;
      }
      // What a function does not take is cut or completed on its way there, so any offload is welcome.
      if (setOffload(fd, OFFLOADS | USO4 | USO6) < 0) setOffload(fd, OFFLOADS);
      datapath.uplink(domain, fd);
    }
  }

  /** Another process is the active one: the kernel gives us no frame any more. */
  release(): void {
    for (const { fd } of this.#taps) setQueueAttached(fd, false);
  }

  /** After the workers have ended. */
  close(): void {
    for (const { fd } of this.#taps.splice(0)) close(fd);
  }
}
