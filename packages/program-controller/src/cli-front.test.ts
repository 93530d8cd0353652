import { RpcError } from '@virtnet/host-ipc';
import { Errno } from '@virtnet/wire';
import { describe, expect, it, vi } from 'vitest';
import type { Build } from './builds.js';
import { CliFront, type CliFrontOptions } from './cli-front.js';
import { Waiters } from './waiters.js';

const BUILD = { version: '0.1.0' } as Build;
const MOVING = { pf: 0, vf: 1, vuid: 'MT2151X03152VNETS0D0F2VF2' };

/** A front whose emulator answers everything with what it was asked, while one device is moved. */
function front(options: Partial<CliFrontOptions> = {}): CliFront {
  const active = { client: { call: async (name: string) => ({ asked: name }) } };
  const supervisor = { moving: MOVING, waitForActive: async () => active };
  const update = { record: null, ongoing: false, begin: () => true };
  return new CliFront({
    supervisor,
    update,
    running: BUILD,
    destination: () => BUILD,
    setLogLevel: () => {},
    ...options,
  } as unknown as CliFrontOptions);
}

function modify(selector: { pf: number | null; vf: number | null; vuid: string | null }) {
  return front().request({
    command: 'modify',
    params: { all: false, ...selector, device: { mtu: 1500 } },
  });
}

describe('commands', () => {
  it.each([
    { pf: 0, vf: 1, vuid: null },
    { pf: null, vf: null, vuid: MOVING.vuid },
  ])('a change of the device that is being moved (%o): -1042', async (selector) => {
    expect(await modify(selector)).toMatchObject({ answer: { errno: -1042 }, exitCode: 1 });
  });

  it.each([
    { pf: 0, vf: 0, vuid: null },
    { pf: 0, vf: null, vuid: null },
  ])('a change of another one (%o) is carried out meanwhile', async (selector) => {
    expect(await modify(selector)).toMatchObject({ answer: { asked: 'device.modify' }, exitCode: 0 });
  });

  it.each(['query', 'health', 'stats'] as const)(
    '%s of the device that is being moved only looks, and is answered',
    async (command) => {
      const { vuid } = MOVING;
      const params = {
        query: { all: false, pf: null, vf: null, vuid, brief: false, queue: null },
        health: { all: false, pf: null, vf: null, vuid },
        stats: { pf: null, vf: null, vuid, queue: null },
      }[command];
      expect(await front().request({ command, params })).toMatchObject({
        answer: { asked: `device.${command}` },
        exitCode: 0,
      });
    },
  );

  it('the connection to an emulator is lost that lives on > it is asked again, and the command answered', async () => {
    const call = vi
      .fn<(name: string) => Promise<object>>()
      .mockRejectedValueOnce(new RpcError(-Errno.ECONNRESET, 'the connection was lost'))
      .mockResolvedValueOnce({ devices: [] });
    const active = { client: { call } };
    const waiters = new Waiters();
    const supervisor = {
      moving: null,
      waitForActive: async () => active,
      waitUntilNotActive: (_: unknown, deadlineMs: number) => waiters.until(() => false, deadlineMs),
    } as unknown as CliFrontOptions['supervisor'];
    const reply = await front({ supervisor }).request({ command: 'list', params: {} });
    expect(reply).toMatchObject({ answer: { devices: [] }, exitCode: 0 });
    expect(call).toHaveBeenCalledTimes(2);
  });

  it('a destination link that leads to no version: version and update -s say -1057, restart needs none', async () => {
    const lost = front({
      destination: () => {
        throw new Error('no such file');
      },
    });
    const failed = { answer: { errno: -1057 }, exitCode: 1 };
    expect(await lost.request({ command: 'version', params: {} })).toMatchObject(failed);
    expect(await lost.request({ command: 'update', params: { start: true, status: false } })).toMatchObject(
      failed,
    );
    expect(await lost.request({ command: 'restart', params: {} })).toMatchObject({ exitCode: 0 });
  });
});
