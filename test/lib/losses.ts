/**
 * losses.ts: which processes may be lost together, and the test that shows what follows.
 *
 * Theory
 *   docs/architecture.md says in one table, under "Taking over", who goes on after each loss, from what, and what guests
 *   see of it. This is the same table for tests: rows with `killed` are carried out by losses.test.ts, under a guest's
 *   streams; the others name the test that does. structure.test.ts holds both against each other.
 */
import type { ProcessRole } from './service.ts';

export type Part = ProcessRole | 'vfe-vhostd' | 'vfe-vhostd-ha';

export interface Kills {
  /** In this order. */
  readonly killed: readonly Part[];
  /** Milliseconds from one kill to the next; one round for each. */
  readonly apartMs: readonly number[];
}

export interface Shown {
  /** Below test/. */
  readonly file: string;
  /** How the name of the test begins. */
  readonly title: string;
}

const AT_ONCE = [0];
const WITHIN_A_SECOND = [10, 100, 300, 900];

/** By what the document calls it. */
export const LOSSES: Readonly<Record<string, Kills | Shown>> = {
  emulator: { killed: ['emu'], apartMs: AT_ONCE },
  standby: { killed: ['emu-standby'], apartMs: AT_ONCE },
  keeper: { killed: ['ha'], apartMs: AT_ONCE },
  'emulator, then keeper within a second': { killed: ['emu', 'ha'], apartMs: WITHIN_A_SECOND },
  'keeper, then emulator within a second': { killed: ['ha', 'emu'], apartMs: WITHIN_A_SECOND },
  'emulator and keeper at once': { killed: ['emu', 'ha'], apartMs: AT_ONCE },
  'emulator and standby at once': { killed: ['emu-standby', 'emu'], apartMs: AT_ONCE },
  controller: { killed: ['controller'], apartMs: AT_ONCE },
  'controller, then emulator': { killed: ['controller', 'emu'], apartMs: [100] },
  'everything at once, under systemd': {
    file: 'whole-service.test.ts',
    title: 'under streams both ways > the client keeps its socket, the device goes on',
  },
  'emulator, standby and keeper at once, under systemd': {
    file: 'whole-service.test.ts',
    title:
      'emulators and keeper killed at once, controller alive > it asks for a new start; no device is lost',
  },
  'either of the last two, without systemd': {
    file: 'losses.test.ts',
    title: 'everything, and nobody keeps anything > the next start makes the same functions again',
  },
  '`vfe-vhostd`': { killed: ['vfe-vhostd'], apartMs: AT_ONCE },
  '`vfe-vhostd-ha`': { killed: ['vfe-vhostd-ha'], apartMs: AT_ONCE },
  '`vfe-vhostd` and `vfe-vhostd-ha` at once, under systemd': {
    file: 'guest.test.ts',
    title: 'the same under a service manager, and both restarted > the guest sees nothing',
  },
  'the same, without systemd': {
    file: 'guest.test.ts',
    title: 'vfe-vhostd and its keeper killed at once > the guest sees its link go down and up, and no more',
  },
  '`virtio_net_driver`': {
    file: 'host-driver.test.ts',
    title: 'kill -9 of the driver > the next command brings its interfaces back',
  },
};
