/**
 * crash-server.fixture.ts: a server process that a test kills at any instant. Run as a child of crash.slow.test.ts.
 *
 * Its device is a counter: every write adds one, every read tells it. Descriptor 3 is the client's socket, 4 the page
 * that outlives the process (word 0: number of the finished request), 5 the channel to the keeper, here the test.
 * It waits for one line on standard input: the state its predecessor recorded last, as JSON, or an empty object.
 */
import { createInterface } from 'node:readline';
import { Poller, ReplyRing, send, sharedMapping } from '@virtnet/host-linux';
import { Errno } from '@virtnet/wire';
import {
  type AnsweredRequest,
  type JournalPorts,
  RequestJournal,
  ServerConnection,
  ServerSession,
  type SessionState,
} from './index.js';
import { RecordingDevice } from './recording-device.fixture.js';

/** What the keeper holds: the device, the session and the last answer, in one message. */
export interface Recorded {
  readonly counter: number;
  readonly session: SessionState;
  readonly answered: { readonly sequence: number; readonly digest: number; readonly reply: string | null };
}

const SOCKET_FD = 3;
const PAGE_FD = 4;
const KEEPER_FD = 5;
export const PAGE_BYTES = 4096;

function run(recorded: Recorded | null): void {
  const page = sharedMapping(PAGE_FD, PAGE_BYTES);
  if (typeof page === 'number') throw new Error(`page: errno ${-page}`);
  const words = new Uint32Array(page.buffer);
  const device = new RecordingDevice();
  let counter = recorded?.counter ?? 0;
  device.read = () => {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setUint32(0, counter, true);
    return bytes;
  };
  device.write = () => {
    counter++;
    return counter % 3 === 0 ? Promise.resolve(0) : 0;
  };
  const session =
    recorded === null ? new ServerSession(device) : ServerSession.restore(device, recorded.session, []);
  if (!(session instanceof ServerSession)) throw new Error(session.error);
  const ports: JournalPorts = {
    readFinished: () => words[0] ?? 0,
    writeFinished: (sequence) => {
      words[0] = sequence;
    },
    record(answered) {
      const { sequence, digest, reply } = answered;
      const text = reply === null ? null : Buffer.from(reply).toString('hex');
      const state: Recorded = {
        counter,
        session: session.save(),
        answered: { sequence, digest, reply: text },
      };
      const bytes = new TextEncoder().encode(JSON.stringify(state));
      while (send(KEEPER_FD, bytes) === -Errno.EAGAIN); // the test reads
    },
  };
  const poller = new Poller();
  poller.start();
  const connection = ServerConnection.open({
    fd: SOCKET_FD,
    poller,
    session,
    replyRing: ReplyRing.create(),
    journal: new RequestJournal(ports, lastAnswer(recorded)),
    adopted: true,
    onClose: () => process.exit(0),
  });
  if (typeof connection === 'number') throw new Error(`socket: errno ${-connection}`);
}

function lastAnswer(recorded: Recorded | null): AnsweredRequest | null {
  if (recorded === null) return null;
  const { sequence, digest, reply } = recorded.answered;
  return { sequence, digest, reply: reply === null ? null : Uint8Array.from(Buffer.from(reply, 'hex')) };
}

if (process.argv[2] === 'serve') {
  process.stdout.write('ready\n');
  createInterface({ input: process.stdin }).once('line', (line) => {
    const recorded = JSON.parse(line);
    run('counter' in recorded ? recorded : null);
  });
}
