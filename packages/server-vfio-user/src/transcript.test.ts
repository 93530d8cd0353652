import { readdirSync, readFileSync } from 'node:fs';
import { closeAll, eventfd } from '@virtnet/host-linux';
import {
  VfioPciRegion,
  VfioUserCommand,
  VfioUserFlags,
  VfioUserHeader,
  VfioUserRegionAccess,
  VfioUserRegionInfo,
  viewOf,
} from '@virtnet/wire';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openDescriptors, type Serving, serve, until } from './harness.fixture.js';
import { parseReply, request } from './messages.fixture.js';
import { RecordingDevice } from './recording-device.fixture.js';
import { parseTranscript, type TranscriptMessage } from './transcript.fixture.js';

const DIRECTORY = new URL('../transcripts/', import.meta.url);
const MSIX_CAPABILITY_AT = 0x40;
const BAR4_BYTES = 4096;
/** QEMU's ids: from 0 for the first device, anywhere for a later one, wrapping. */
const FIRST_IDS = [0, 0xfff0];

/** The device that the transcripts describe. */
function transcriptDevice(): RecordingDevice {
  const device = new RecordingDevice();
  device.regions.set(VfioPciRegion.BAR4, new Uint8Array(BAR4_BYTES));
  const config = viewOf(device.regions.get(VfioPciRegion.CONFIG) as Uint8Array);
  config.setUint32(0x00, 0x1041_1af4, true);
  config.setUint32(0x10, 0x4, true); // 64-bit memory
  config.setUint32(0x20, 0x4, true);
  config.setUint8(0x34, MSIX_CAPABILITY_AT);
  config.setUint8(0x3d, 1); // INTA
  config.setUint16(MSIX_CAPABILITY_AT, 0x0011, true);
  config.setUint16(MSIX_CAPABILITY_AT + 2, 63, true);
  config.setUint32(MSIX_CAPABILITY_AT + 4, 0x4, true);
  config.setUint32(MSIX_CAPABILITY_AT + 8, 0x804, true);
  return device;
}

/** The buffer that QEMU reads the reply to `asked` into; a longer reply kills its connection. */
function replyRoom(asked: Uint8Array): number {
  const { command, sizeBytes } = VfioUserHeader.decode(viewOf(asked));
  const body = viewOf(asked.subarray(VfioUserHeader.sizeBytes));
  if (command === VfioUserCommand.DEVICE_GET_REGION_INFO) {
    return VfioUserHeader.sizeBytes + VfioUserRegionInfo.decode(body).argsz;
  }
  return command === VfioUserCommand.REGION_READ
    ? sizeBytes + VfioUserRegionAccess.decode(body).count
    : sizeBytes;
}

class Player {
  readonly #serving: Serving;
  readonly #device: RecordingDevice;
  readonly #firstId: number;
  /** Requests whose replies have not come, oldest first. */
  readonly #owed: Uint8Array[] = [];

  constructor(serving: Serving, device: RecordingDevice, firstId: number) {
    this.#serving = serving;
    this.#device = device;
    this.#firstId = firstId;
  }

  async play(text: string): Promise<void> {
    for (const step of parseTranscript(text)) {
      const where = `line ${step.line}: ${step.title}`;
      if (step.kind === 'device') expect(this.#device.calls.splice(0), where).toEqual(step.calls);
      else if (step.kind === 'client') await this.#send(step);
      else await this.#expect(step, where);
    }
    expect(this.#owed, 'replies that the transcript does not mention').toEqual([]);
  }

  #id(message: TranscriptMessage): number {
    return (this.#firstId + message.id) & 0xffff;
  }

  async #send(message: TranscriptMessage): Promise<void> {
    const body = Uint8Array.from(message.body, (byte) => byte ?? 0);
    const flags = message.posted ? VfioUserFlags.NO_REPLY : 0;
    const bytes = request(this.#id(message), message.command, body, { flags });
    const fds = Array.from({ length: message.fds }, () => eventfd());
    await this.#serving.client.send(bytes, fds);
    closeAll(fds);
    if (!message.posted) this.#owed.push(bytes);
  }

  async #expect(message: TranscriptMessage, where: string): Promise<void> {
    const reply = await this.#serving.client.receive();
    const asked = this.#owed.shift();
    if (reply === null || asked === undefined) throw new Error(`${where}: no reply`);
    const { messageId, command, errno, flags, body } = parseReply(reply.bytes);
    expect({ messageId, command, errno, flags }, where).toEqual({
      messageId: this.#id(message),
      command: message.command,
      errno: message.errno,
      flags: VfioUserFlags.TYPE_REPLY | (message.errno === 0 ? 0 : VfioUserFlags.ERROR),
    });
    const shown = Array.from(message.open ? body.subarray(0, message.body.length) : body);
    expect(
      shown.map((byte, i) => (message.body[i] === null ? null : byte)),
      where,
    ).toEqual(message.body);
    expect(reply.fds, where).toHaveLength(message.fds);
    expect(reply.bytes.length, `${where}: QEMU's buffer`).toBeLessThanOrEqual(replyRoom(asked));
    closeAll(reply.fds);
  }
}

const transcripts = readdirSync(DIRECTORY).filter((name) => name.endsWith('.md'));

describe.each(transcripts)('transcript %s', (name) => {
  let device: RecordingDevice;
  let serving: Serving;
  const text = readFileSync(new URL(name, DIRECTORY), 'utf8');
  const mapped = eventfd();

  beforeEach(() => {
    device = transcriptDevice();
    if (name.includes('mapped')) {
      device.mmap = { fd: mapped, fdOffset: 0x10000, areas: [{ offset: 0x2000, sizeBytes: 0x2000 }] };
    }
    serving = serve(device);
  });
  afterEach(() => serving.stop());

  it.each(FIRST_IDS)(
    'ids from %i › every message is answered as written, and the end leaves nothing open',
    async (id) => {
      const before = openDescriptors();
      await new Player(serving, device, id).play(text);
      serving.client.close();
      await until(() => serving.ends.length === 1, 'end');
      expect(serving.ends).toEqual([{ reason: 'peer-closed', errno: 0 }]);
      device.release();
      expect(openDescriptors()).toBe(before - 2);
    },
  );
});

describe('transcript files', () => {
  it.each([
    ['an unknown command', '```client\nNONSENSE 1\n```'],
    ['a word that is not understood', '```client\nDMA_MAP 1 fd=1\n```'],
    ['a byte that is none', '```client\nDMA_MAP 1\n0x20\n```'],
    ['a block without an end', '```client\nDMA_MAP 1'],
    ['a block of an unknown kind', '```json\n{}\n```'],
  ])('%s › an error with the line', (_, text) => {
    expect(() => parseTranscript(text)).toThrow(/line \d/);
  });
});
