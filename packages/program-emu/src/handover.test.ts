/** What the borrower of a device tells the keeper of it; devices, keeper and lender are only names here. */
import type { ShelfClient } from '@virtnet/host-ipc';
import { describe, expect, it } from 'vitest';
import { Handover } from './handover.js';
import { encodeNote } from './handover-note.js';
import type { DeviceMirror, Mirror } from './mirror.js';
import { Precedence } from './precedence.js';
import type { Device } from './served-device.js';
import { shelfNames } from './shelf-names.js';

const VUID = 'MT2151X03152VNETS1D0F0';
const PREFIX = shelfNames.device(VUID);

function stage() {
  const happened: string[] = [];
  const devices = new Map<string, Device>();
  const opening = Promise.withResolvers<void>();
  const device = {
    host: { upload: () => happened.push('device put') },
    endpoint: { upload: () => happened.push('sockets put') },
  } as unknown as Device;
  const serve = async () => {
    devices.set(VUID, device);
    await Promise.resolve();
    return async () => {
      await opening.promise;
      happened.push('opened');
    };
  };
  const mirror = { takeOne: () => ({}) as DeviceMirror } as unknown as Mirror;
  const handover = new Handover({} as ShelfClient, serve, devices, new Precedence());
  const lent = (note = encodeNote(1)) => handover.lent(PREFIX, note, mirror);
  return { handover, happened, lent, open: () => opening.resolve() };
}

describe('a borrower', () => {
  it('of a device that the keeper has puts nothing but its record', async () => {
    const { handover, happened, lent, open } = stage();
    lent();
    open();
    expect(await handover.borrow(VUID)).toBeGreaterThan(0);
    expect(happened).toEqual(['opened']);
  });

  it('puts a device that is here anew when it is lent again: the keeper is another', async () => {
    const { handover, happened, lent, open } = stage();
    lent();
    open();
    await handover.borrow(VUID);
    lent(encodeNote());
    expect(happened).toEqual(['opened', 'sockets put', 'device put']);
  });

  it('hears of a loan from the next keeper only: it puts the device with its sockets, once they are its own', async () => {
    const { handover, happened, lent, open } = stage();
    lent(encodeNote());
    open();
    expect(await handover.borrow(VUID)).toBe(0);
    expect(happened).toEqual(['opened', 'sockets put', 'device put']);
  });

  it('the keeper is replaced while it takes the device over: the same', async () => {
    const { handover, happened, lent, open } = stage();
    lent();
    await Promise.resolve();
    lent(encodeNote());
    expect(happened).toEqual([]);
    open();
    await handover.borrow(VUID);
    expect(happened).toEqual(['opened', 'sockets put', 'device put']);
  });
});
