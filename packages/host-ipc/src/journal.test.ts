import { fstatSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { bindDatagram, close, Receiver } from '@virtnet/host-linux';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { encodeEntry, Journal, journalFields, openJournal } from './journal.js';
import { createLogger } from './logging.js';

let directory: string;
let path: string;
let socket: number;
const receiver = new Receiver(128 * 1024);

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'virtnet-journal-'));
  path = join(directory, 'socket');
  socket = bindDatagram(path);
});
afterEach(() => {
  close(socket);
  rmSync(directory, { recursive: true });
});

/** The next entry that arrived. */
function entry(): Record<string, string> | null {
  const received = receiver.receive(socket);
  if (typeof received === 'number') return null;
  const bytes = Buffer.from(received.bytes);
  const fields: Record<string, string> = {};
  for (let at = 0; at < bytes.length; ) {
    const end = bytes.indexOf('\n', at);
    const line = bytes.toString('utf8', at, end);
    const equals = line.indexOf('=');
    if (equals >= 0) {
      fields[line.slice(0, equals)] = line.slice(equals + 1);
      at = end + 1;
    } else {
      const length = Number(bytes.readBigUInt64LE(end + 1));
      fields[line] = bytes.toString('utf8', end + 9, end + 9 + length);
      at = end + 9 + length + 1;
    }
  }
  return fields;
}

describe('journal', () => {
  it('is used only by a process whose standard error leads there', () => {
    const { dev, ino } = fstatSync(2, { bigint: true });
    expect(openJournal({}, path)).toBeNull();
    expect(openJournal({ JOURNAL_STREAM: `${dev}:${ino + 1n}` }, path)).toBeNull();
    expect(openJournal({ JOURNAL_STREAM: `${dev}:${ino}` }, path)).toBeInstanceOf(Journal);
  });

  it('a line arrives as `[LEVEL] file:line:function: message`, with every field as a field', () => {
    const journal = new Journal(path);
    const log = createLogger('virtio_net_controller', 'info', journal).child({ child: 'emu' });
    function sayThatItDied(): void {
      log.error({ childPid: 42, cause: 'killed', error: new Error('two\nlines') }, 'died');
    }
    sayThatItDied();
    const arrived = entry();
    expect(arrived?.MESSAGE).toMatch(
      /^\[ERR\] journal\.test\.ts:\d+:sayThatItDied: died \(.*childPid=42 cause=killed/,
    );
    expect(arrived).toMatchObject({
      PRIORITY: '3',
      SYSLOG_IDENTIFIER: 'virtio-net-controller',
      CODE_FILE: 'journal.test.ts',
      CODE_FUNC: 'sayThatItDied',
      CODE_LINE: expect.stringMatching(/^\d+$/),
      VIRTNET_CHILD: 'emu',
      VIRTNET_CHILD_PID: '42',
      VIRTNET_CAUSE: 'killed',
      VIRTNET_ERROR_MESSAGE: 'two\nlines',
      VIRTNET_ERROR_STACK: expect.stringContaining('sayThatItDied'),
    });
    log.info('alive');
    expect(entry()?.MESSAGE).toMatch(/^\[INFO\] .*: alive \(child=emu\)$/);
    journal.close();
  });

  it.each([
    ['debug', 'DEBUG', '7'],
    ['info', 'INFO', '6'],
    ['warn', 'WARN', '4'],
    ['error', 'ERR', '3'],
    ['fatal', 'ERR', '2'],
  ])('pino’s %s is [%s], priority %s', (level, word, priority) => {
    const fields = Object.fromEntries(
      journalFields({ level, msg: 'm', file: 'a.js', line: 1, function: 'f' }),
    );
    expect(fields).toMatchObject({ MESSAGE: `[${word}] a.js:1:f: m`, PRIORITY: priority });
  });

  it('nobody listens: writing goes on, and what is lost is counted', () => {
    const journal = new Journal(join(directory, 'nobody'));
    journal.write('{"level":"info","msg":"x"}');
    expect(journal.dropped).toBe(1);
  });

  it('a journal that was started anew is found again', () => {
    const journal = new Journal(path);
    journal.write('{"msg":"before"}');
    close(socket);
    rmSync(path);
    socket = bindDatagram(path);
    journal.write('{"msg":"after"}');
    expect(entry()?.MESSAGE).toMatch(/after$/);
    journal.close();
  });

  it('a journal that does not read for a while gets everything later, in order', async () => {
    const journal = new Journal(path);
    const count = 600; // more than any system queues
    for (let n = 0; n < count; n++) journal.write(`{"msg":"${n}"}`);
    const seen: (string | undefined)[] = [];
    await vi.waitUntil(
      () => {
        for (let next = entry(); next !== null; next = entry()) seen.push(next.MESSAGE?.split(' ').at(-1));
        return seen.length === count;
      },
      { timeout: 10_000 },
    );
    expect(seen).toEqual(Array.from({ length: count }, (_, n) => `${n}`));
    expect(journal.dropped).toBe(0);
    journal.close();
  });

  it('what is too long is cut, so that the entry arrives at all', () => {
    const long = 'x'.repeat(1024 * 1024);
    const fields = Array.from({ length: 100 }, (_, n): [string, string] => [`F${n}`, long]);
    expect(encodeEntry(fields).byteLength).toBeLessThanOrEqual(64 * 1024);
    const journal = new Journal(path);
    journal.write(JSON.stringify({ msg: 'm', long }));
    expect(entry()?.VIRTNET_LONG).toHaveLength(8 * 1024);
    journal.close();
  });
});
