/**
 * commands-irq.ts: DEVICE_SET_IRQS.
 *
 * Theory
 *   A request names a type of interrupt, a range of vectors, an action and what comes with it. QEMU uses three forms
 *   for MSI-X: disable all (trigger, none, count 0), take one away (trigger, eventfd, no descriptor), and give up to
 *   max_msg_fds eventfds at a time. INTx is unmasked by the client after each interrupt.
 *
 * Invariants
 *   I1  the device sees ranges inside its vectors only, and as many values or descriptors as the range is long.
 *
 * Limits  MESSAGE_FDS_MAX eventfds in one message.
 */
import { Errno, VfioUserIrqSetFlags as Flags, VfioPciIrq, VfioUserIrqSet } from '@virtnet/wire';
import type { Command, CommandRequest } from './command.js';
import type { IrqAction, IrqInfo, IrqRequest } from './device.js';
import { MESSAGE_FDS_MAX } from './limits.js';

const actionOf: Partial<Record<number, IrqAction>> = {
  [Flags.ACTION_MASK]: 'mask',
  [Flags.ACTION_UNMASK]: 'unmask',
  [Flags.ACTION_TRIGGER]: 'trigger',
};
const dataOf: Partial<Record<number, IrqRequest['data']>> = {
  [Flags.DATA_NONE]: 'none',
  [Flags.DATA_BOOL]: 'bool',
  [Flags.DATA_EVENTFD]: 'eventfd',
};

export const deviceSetIrqs: Command = {
  bodyBytesMin: VfioUserIrqSet.sizeBytes,
  fdsMax: MESSAGE_FDS_MAX,
  changes: true,
  run({ device }, request) {
    const { argsz, flags, index, start, count } = VfioUserIrqSet.decode(request.view);
    const action = actionOf[flags & Flags.ACTIONS_MASK];
    const data = dataOf[flags & Flags.DATA_MASK];
    if (argsz < VfioUserIrqSet.sizeBytes || action === undefined || data === undefined) return -Errno.EINVAL;
    if ((flags & ~(Flags.ACTIONS_MASK | Flags.DATA_MASK)) !== 0) return -Errno.EINVAL;
    if (index >= device.deviceInfo.irqTypeCount) return -Errno.EINVAL;
    const asked: IrqRequest = { index, start, count, action, data };
    if (!isAllowed(asked, device.irqInfo(index))) return -Errno.EINVAL;
    const payload = readPayload(asked, request);
    return payload === null ? -Errno.EINVAL : device.setIrqs({ ...asked, ...payload });
  },
};

/** Sums are of 32-bit numbers as doubles: they cannot wrap. */
function isAllowed({ index, start, count, action, data }: IrqRequest, irq: IrqInfo): boolean {
  if (start + count > irq.count) return false;
  if (count === 0) return start === 0 && action === 'trigger' && data === 'none';
  if (action === 'trigger') return true;
  return data !== 'eventfd' && index !== VfioPciIrq.ERR && index !== VfioPciIrq.REQ;
}

/** What comes with the message must be exactly what it announces. */
function readPayload(
  { count, data }: IrqRequest,
  { body, fds }: CommandRequest,
): Pick<IrqRequest, 'values' | 'fds'> | null {
  const values = body.subarray(VfioUserIrqSet.sizeBytes);
  switch (data) {
    case 'none':
      return fds.length === 0 ? {} : null;
    case 'bool':
      return fds.length === 0 && values.length === count
        ? { values: Array.from(values, (v) => v !== 0) }
        : null;
    case 'eventfd':
      return fds.length === 0 || fds.length === count ? { fds: [...fds] } : null;
  }
}
