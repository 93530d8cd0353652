/** operator.ts: somebody who types commands, and what has to be true after their answers. */
import { MTU_DEFAULT } from '@virtnet/engine-control';
import { ask, type SimController } from './controller.js';
import type { CommandAnswer, DeviceCommand } from './emulator.js';
import type { SimWorld } from './world.js';

const DEVICES_MAX = 3;
const FIRST_DEVICES = 2;

export interface OperatorSite {
  readonly controller: () => SimController | null;
  /** `vuid` is about to be removed. */
  unplugging(vuid: string): void;
}

/** What is known of a device from outside. */
interface Known {
  /** 'maybe': the one who would have answered died. */
  exists: 'yes' | 'no' | 'maybe';
  modifiedLeast: number;
  modifiedMost: number;
  /** What it was asked to be, in bytes: by the last command that was answered, and by the last one. */
  mtuLeast: number;
  mtuMost: number;
  /** A command about it is under way. */
  busy: boolean;
  /** It was asked to go. */
  going: boolean;
}

export class SimOperator {
  quiet = false;
  readonly #world: SimWorld;
  readonly #site: OperatorSite;
  readonly #known = new Map<string, Known>();
  #nextDevice = 0;
  #nextRequest = 0;
  #waiting = 0;

  constructor(world: SimWorld, site: OperatorSite) {
    this.#world = world;
    this.#site = site;
  }

  /** Commands without an answer. */
  get waiting(): number {
    return this.#waiting;
  }

  expected(): ReadonlyMap<string, Readonly<Known>> {
    return this.#known;
  }

  /** Nobody is left who would know that a function was removed as it was asked: who asks again may hear that there is none. */
  bereave(): void {
    for (const known of this.#known.values())
      if (known.going && known.busy && known.exists === 'yes') known.exists = 'maybe';
  }

  start(): void {
    for (let count = 0; count < FIRST_DEVICES; count++) this.#hotplug();
    this.#soon();
  }

  #soon(): void {
    this.#world.after(null, this.#world.between(3, 40), 'operator', () => {
      if (this.quiet) return;
      this.#act();
      this.#soon();
    });
  }

  #act(): void {
    const world = this.#world;
    const idle = [...this.#known].filter(([, { busy, exists, going }]) => !busy && exists !== 'no' && !going);
    if (idle.length < DEVICES_MAX && world.chance(300)) return this.#hotplug();
    if (idle.length === 0) return;
    const [vuid, known] = world.pick(idle);
    if (world.chance(250)) this.#unplug(vuid, known);
    else this.#modify(vuid, known);
  }

  #hotplug(): void {
    const vuid = `D${this.#nextDevice++}`;
    const known: Known = {
      ...{ exists: 'maybe', busy: false, going: false },
      ...{ modifiedLeast: 0, modifiedMost: 0, mtuLeast: MTU_DEFAULT, mtuMost: MTU_DEFAULT },
    };
    this.#known.set(vuid, known);
    this.#command('hotplug', vuid, known, (answer) => {
      if (answer === null) return;
      if (answer.errno !== 0) this.#world.fail(`hotplug of ${vuid}: ${answer.errno}`);
      known.exists = 'yes';
    });
  }

  #unplug(vuid: string, known: Known): void {
    known.going = true;
    this.#site.unplugging(vuid);
    this.#command('unplug', vuid, known, (answer) => {
      if (answer === null) {
        known.exists = 'maybe';
        return;
      }
      if (answer.errno !== 0 && known.exists === 'yes')
        this.#world.fail(`unplug of ${vuid}: ${answer.errno}`);
      known.exists = 'no';
    });
  }

  #modify(vuid: string, known: Known): void {
    known.modifiedMost++;
    const mtu = ++known.mtuMost;
    this.#command('modify', vuid, known, (answer) => {
      if (answer === null) return;
      if (answer.errno === 0) {
        known.modifiedLeast++;
        known.mtuLeast = mtu;
      } else if (known.exists === 'yes') this.#world.fail(`modify of ${vuid}: ${answer.errno}`);
      else known.modifiedMost--;
    });
  }

  /** `done` hears null when the controller died over it. */
  #command(
    verb: DeviceCommand['verb'],
    vuid: string,
    known: Known,
    done: (answer: CommandAnswer | null) => void,
  ): void {
    const controller = this.#site.controller();
    known.busy = true;
    this.#waiting++;
    if (controller === null) {
      this.#world.after(null, 2, 'operator tries again', () => {
        this.#waiting--;
        this.#command(verb, vuid, known, done);
      });
      return;
    }
    const command: DeviceCommand = { requestId: `r${this.#nextRequest++}`, verb, vuid, mtu: known.mtuMost };
    let answers = 0;
    ask<CommandAnswer>(
      this.#world,
      null,
      controller.process,
      `command ${verb} ${vuid}`,
      (reply) =>
        controller.command(command, (answer) => {
          if (++answers > 1) this.#world.fail(`${verb} of ${vuid} was answered twice`);
          reply(answer);
        }),
      (answer) => {
        this.#waiting--;
        known.busy = false;
        this.#world.count(answer === null ? 'commands without answer' : 'commands');
        done(answer);
      },
    );
  }
}
