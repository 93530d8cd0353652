/** ask.fixture.ts: a session and what it answers, without sockets. */
import { Errno } from '@virtnet/wire';
import { parseReply, version } from './messages.fixture.js';
import type { Outcome } from './outcome.js';
import { RecordingDevice } from './recording-device.fixture.js';
import { ServerSession } from './session.js';

/** A session that has agreed on the version, and its device. */
export function negotiatedSession(capabilities?: object): {
  session: ServerSession;
  device: RecordingDevice;
} {
  const device = new RecordingDevice();
  const session = new ServerSession(device);
  session.handle(version(0, capabilities));
  return { session, device };
}

/** The errno of the reply as a word, 'ok', or 'no reply'. */
export async function verdict(answer: Outcome | Promise<Outcome>): Promise<string> {
  const { reply } = await answer;
  if (reply === null) return 'no reply';
  const { errno } = parseReply(reply);
  return errno === 0 ? 'ok' : (errnoName.get(errno) ?? `errno ${errno}`);
}

/** The body of a reply that is not an error. */
export async function bodyOf(answer: Outcome | Promise<Outcome>) {
  const { reply } = await answer;
  if (reply === null) throw new Error('no reply');
  const parsed = parseReply(reply);
  if (parsed.errno !== 0) throw new Error(`errno ${parsed.errno}`);
  return parsed;
}

const errnoName = new Map<number, string>(Object.entries(Errno).map(([name, errno]) => [errno, name]));
