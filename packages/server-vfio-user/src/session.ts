/**
 * session.ts: the server's end of one vfio-user connection, without the connection.
 *
 * Theory
 *   `handle` takes one whole message and answers what is to be sent back. It judges the message in this order:
 *   header, VERSION first, command known, body long enough, descriptors expected; then the command's own handler
 *   judges the rest and calls the device. Handlers live in commands-*.ts, grouped by what they are about.
 *
 * Parties
 *   connection  calls handle, one message at a time, and closes descriptors that were not taken over.
 *   device      is called with checked arguments (device.ts).
 *
 * States       new -> negotiated; a refused VERSION or anything before it ends the connection.
 *
 * Invariants
 *   I1  no message makes `handle` throw or reject; what the device throws passes through.
 *   I2  a request without NO_REPLY gets exactly one reply, one with it gets none, an error included.
 *   I3  descriptors of a refused message are never in takenFds.
 *   I4  a private command from a client that did not announce them is answered as an unknown command.
 *
 * Limits  limits.ts.
 * Saved   save(); the mapped ranges are not part of it, the device's owner has them and gives them to restore().
 * Not here  framing (message-reader.ts), sockets and order (server-connection.ts).
 * Spec    QEMU docs/interop/vfio-user.rst.
 */
import {
  Errno,
  VFIO_USER_PRIVATE_COMMANDS_FROM,
  VfioUserCommand,
  VfioUserFlags,
  VfioUserHeader,
  viewOf,
} from '@virtnet/wire';
import type { Command, CommandRequest } from './command.js';
import { dmaMap, dmaUnmap } from './commands-dma.js';
import {
  deviceGetInfo,
  deviceGetIrqInfo,
  deviceGetRegionInfo,
  deviceGetRegionIoFds,
} from './commands-info.js';
import { deviceSetIrqs } from './commands-irq.js';
import { queueBaseGet, queueBaseSet, queueEnable, queueKick } from './commands-private.js';
import { regionRead, regionWrite, regionWriteMulti } from './commands-region.js';
import type { DmaRange, VfioUserDevice } from './device.js';
import { DmaTable } from './dma-table.js';
import { type Answer, andThen, type Outcome, type RequestHeader, refusal, replyBytes } from './outcome.js';
import { type Negotiated, negotiate, parseNegotiated } from './version.js';

const deviceReset: Command = {
  bodyBytesMin: 0,
  bodyBytesMax: 0,
  fdsMax: 0,
  changes: true,
  run: ({ device }) => (device.deviceInfo.resettable ? device.reset() : -Errno.EOPNOTSUPP),
};

/** Commands of the protocol that are not built. */
const notSupported: Command = {
  bodyBytesMin: 0,
  fdsMax: 0,
  changes: false,
  run: () => -Errno.EOPNOTSUPP,
};

const commands = new Map<number, Command>([
  [VfioUserCommand.DMA_MAP, dmaMap],
  [VfioUserCommand.DMA_UNMAP, dmaUnmap],
  [VfioUserCommand.DEVICE_GET_INFO, deviceGetInfo],
  [VfioUserCommand.DEVICE_GET_REGION_INFO, deviceGetRegionInfo],
  [VfioUserCommand.DEVICE_GET_REGION_IO_FDS, deviceGetRegionIoFds],
  [VfioUserCommand.DEVICE_GET_IRQ_INFO, deviceGetIrqInfo],
  [VfioUserCommand.DEVICE_SET_IRQS, deviceSetIrqs],
  [VfioUserCommand.REGION_READ, regionRead],
  [VfioUserCommand.REGION_WRITE, regionWrite],
  [VfioUserCommand.REGION_WRITE_MULTI, regionWriteMulti],
  [VfioUserCommand.DEVICE_RESET, deviceReset],
  [VfioUserCommand.DIRTY_PAGES, notSupported],
  [VfioUserCommand.DEVICE_FEATURE, notSupported],
  [VfioUserCommand.MIG_DATA_READ, notSupported],
  [VfioUserCommand.MIG_DATA_WRITE, notSupported],
  [VfioUserCommand.QUEUE_KICK, queueKick],
  [VfioUserCommand.QUEUE_BASE_SET, queueBaseSet],
  [VfioUserCommand.QUEUE_BASE_GET, queueBaseGet],
  [VfioUserCommand.QUEUE_ENABLE, queueEnable],
]);

/** Plain JSON. */
export interface SessionState {
  readonly negotiated: Negotiated | null;
}

export class ServerSession {
  readonly #device: VfioUserDevice;
  readonly #dma = new DmaTable();
  #negotiated: Negotiated | null = null;

  constructor(device: VfioUserDevice) {
    this.#device = device;
  }

  /** What was agreed in VERSION; null before. */
  get negotiated(): Negotiated | null {
    return this.#negotiated;
  }

  /** The ranges mapped now, by address. */
  get dmaRanges(): readonly DmaRange[] {
    return this.#dma.ranges;
  }

  /** What a successor needs to go on; it changes with VERSION only. */
  save(): SessionState {
    return { negotiated: this.#negotiated };
  }

  /**
   * A session that goes on where another one stopped, or what is wrong with the state.
   * The device has `ranges` mapped already.
   */
  static restore(
    device: VfioUserDevice,
    state: unknown,
    ranges: Iterable<DmaRange>,
  ): ServerSession | { error: string } {
    const session = new ServerSession(device);
    if (typeof state !== 'object' || state === null || !('negotiated' in state)) {
      return { error: 'session state is not an object with "negotiated"' };
    }
    session.#negotiated = parseNegotiated(state.negotiated);
    if (session.#negotiated === null && state.negotiated !== null) {
      return { error: 'session state: "negotiated" is malformed' };
    }
    for (const range of ranges) {
      const errno = session.#dma.add(range);
      if (errno < 0)
        return { error: `DMA range 0x${range.iova.toString(16)} is not admitted: errno ${-errno}` };
    }
    return session;
  }

  /**
   * Works one message. `message` is whole: its length is what its header says. `fds` came with it.
   * Not to be called again before a returned promise is settled.
   */
  handle(message: Uint8Array, fds: readonly number[] = []): Outcome | Promise<Outcome> {
    if (message.length < VfioUserHeader.sizeBytes) {
      return refusal(
        { messageId: 0, command: 0, flags: VfioUserFlags.NO_REPLY },
        Errno.EINVAL,
        'header-malformed',
      );
    }
    const header = VfioUserHeader.decode(viewOf(message));
    if (header.sizeBytes !== message.length) return refusal(header, Errno.EINVAL, 'header-malformed');
    if ((header.flags & VfioUserFlags.TYPE_MASK) !== VfioUserFlags.TYPE_COMMAND) {
      return refusal(header, Errno.EINVAL); // nothing was asked of the client that this could reply to
    }
    const body = message.subarray(VfioUserHeader.sizeBytes);
    if (header.command === VfioUserCommand.VERSION) return this.#version(header, body, fds);
    if (this.#negotiated === null) return refusal(header, Errno.EINVAL, 'version-missing');
    const command = this.#command(header.command, this.#negotiated);
    const request = { body, view: viewOf(body), fds };
    if (command === undefined || !isAcceptable(command, request)) return refusal(header, Errno.EINVAL);
    const context = { device: this.#device, dma: this.#dma, negotiated: this.#negotiated };
    return andThen(command.run(context, request), (answer) => conclude(header, command, answer, fds));
  }

  #command(number: number, negotiated: Negotiated): Command | undefined {
    if (number >= VFIO_USER_PRIVATE_COMMANDS_FROM && !negotiated.privateCommands) return undefined;
    return commands.get(number);
  }

  #version(header: RequestHeader, body: Uint8Array, fds: readonly number[]): Outcome {
    if (this.#negotiated !== null) return refusal(header, Errno.EINVAL);
    const agreed = fds.length > 0 ? -Errno.EINVAL : negotiate(body);
    if (typeof agreed === 'number') return refusal(header, -agreed, 'version-refused');
    this.#negotiated = agreed.negotiated;
    const posted = (header.flags & VfioUserFlags.NO_REPLY) !== 0;
    const reply = posted ? null : replyBytes(header, 0, agreed.body);
    return { reply, replyFds: [], takenFds: [], errno: 0, changes: true, close: null };
  }
}

function isAcceptable(command: Command, { body, fds }: CommandRequest): boolean {
  const { bodyBytesMin, bodyBytesMax = Number.POSITIVE_INFINITY, fdsMax } = command;
  return body.length >= bodyBytesMin && body.length <= bodyBytesMax && fds.length <= fdsMax;
}

function conclude(header: RequestHeader, command: Command, answer: Answer, fds: readonly number[]): Outcome {
  const posted = (header.flags & VfioUserFlags.NO_REPLY) !== 0;
  if (typeof answer === 'number' && answer < 0)
    return { ...refusal(header, -answer), changes: command.changes };
  const { body = undefined, fds: replyFds = [] } = typeof answer === 'number' ? {} : answer;
  return {
    reply: posted ? null : replyBytes(header, 0, body),
    replyFds: posted ? [] : replyFds,
    takenFds: fds,
    errno: 0,
    changes: command.changes,
    close: null,
  };
}
