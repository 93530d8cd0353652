/** Pairs of busy functions that began on one worker: they end on two, and their guests notice nothing. */
import { readdirSync, readFileSync } from 'node:fs';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { DEFAULT_CONF } from '@virtnet/engine-control';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { EmulatorService, eventually, PATIENCE_MS } from './emulator-service.fixture.js';
import { Guest } from './guest.fixture.js';
import { namespaceObstacle } from './network.fixture.js';
import { NumberedStream, StreamEnd } from './numbered-stream.fixture.js';

const obstacle = namespaceObstacle();
const KILLS = 3;
const BRIDGE = 'br0';
/** Of each stream, after what it is to show. */
const MORE_FRAMES = 2_000;
const MOVE = 'queue pairs move to another worker';
const COUPLES = [
  [0, 1],
  [0, 2],
  [1, 2],
] as const;
/** Processor time, in ticks, by which it shows whether workers share the work. */
const TICKS = 10;

describe.skipIf(obstacle !== null)(`pairs spread by load${obstacle ? `: ${obstacle}` : ''}`, () => {
  let service: EmulatorService;
  const guests: Guest[] = [];
  let ends: StreamEnd[];
  /** From each guest to each other. */
  let streams: NumberedStream[];

  beforeAll(async () => {
    const conf = { ...DEFAULT_CONF, eth_vq_workers: 2 };
    service = await EmulatorService.start({ standby: false, workers: null, conf });
    service.network.ip(`link add ${BRIDGE} type bridge forward_delay 0 stp_state 0 mcast_snooping 0`);
    service.network.ip(`link set ${BRIDGE} up`);
    // The first and the third begin on one worker. The second has nothing to do.
    for (const end of ['93', '94', '95']) {
      const device = await service.hotplug({ mac: `0C:C4:7A:FF:22:${end}` });
      service.network.ip(`link set ${device.representor} master ${BRIDGE} up`);
      guests.push(await Guest.start(service, device, { events: 4 }));
    }
    await guests[0]!.kickByEvents(); // others' kicks go through registers
    ends = guests.map((guest) => new StreamEnd(guest));
    streams = ends.flatMap((from, i) => ends.map((to, j) => new NumberedStream(3 * i + j, from, to)));
  }, 90_000);
  afterAll(async () => {
    for (const guest of guests) guest.close();
    await service.end();
  });

  /** Those between which frames go, both ways; null while others need the processors. */
  let busy: readonly [number, number] | null = [0, 2];
  const stream = (from: number, to: number) => streams[3 * from + to]!;
  const busyStreams = () => (busy === null ? [] : [stream(busy[0], busy[1]), stream(busy[1], busy[0])]);

  /** Frames between the busy ones while `action` lasts; then what is under way arrives. */
  async function underTraffic(action: () => Promise<void>): Promise<void> {
    let going = true;
    const takeAll = () => Promise.all(ends.map((end) => end.take()));
    const pump = async () => {
      for (; going; await (busy === null ? sleep(1) : nextTurn())) {
        await takeAll();
        for (const each of busyStreams()) await each.send();
      }
    };
    const acting = action().finally(() => {
      going = false;
    });
    await Promise.all([pump(), acting]);
    const arrived = () => streams.reduce((sum, { arrived: { length } }) => sum + length, 0);
    for (let last = -1; last !== arrived(); ) {
      last = arrived();
      await sleep(200);
      await takeAll();
    }
  }

  /** Has the active emulator say what it moves, and calls `onMove` then. */
  async function watchMoves(onMove: (move: { from: number; to: number }) => void): Promise<void> {
    const { child, rpc } = service.active;
    let said = '';
    child.stderr?.on('data', (chunk) => {
      const lines = `${said}${chunk}`.split('\n');
      said = lines.pop()!;
      for (const line of lines) if (line.includes(MOVE)) onMove(JSON.parse(line));
    });
    await rpc.call('log.level', { level: 'debug' });
  }

  const moreFrames = async () => {
    const now = busyStreams();
    const before = now.map(({ arrived }) => arrived.length);
    await eventually('more frames', () =>
      now.every(({ arrived }, i) => arrived.length >= before[i]! + MORE_FRAMES),
    );
  };
  /** Whether both workers of process `pid` work for those who are busy now. */
  const shareWork = async (pid: number) => {
    const before = ticksOf(pid);
    const used = () => ticksOf(pid).map((ticks, i) => ticks - before[i]!);
    await eventually('work', () => Math.max(...used()) >= TICKS);
    return Math.min(...used()) >= TICKS / 2;
  };
  const isWell = async () => {
    for (const guest of guests) expect([guest.ends, await guest.needsReset()]).toEqual([[], false]);
  };

  it('two busy functions of one worker: one of them goes to the other, every frame arrives once and in order', async () => {
    const { pid } = service.active;
    const moves: { from: number; to: number }[] = [];
    await underTraffic(async () => {
      await watchMoves((move) => moves.push(move));
      expect(await shareWork(pid)).toBe(false);
      await eventually('a move', () => moves.length > 0, 2 * PATIENCE_MS);
      await moreFrames();
      expect(await shareWork(pid)).toBe(true);
    });
    expect(moves).toMatchObject([{ from: 0, to: 1 }]);
    for (const each of busyStreams()) expect(each.judge()).toEqual({ lost: 0, repeated: 0, disordered: 0 });
    await isWell();
  }, 180_000);

  it('killed when a pair moves: at most one frame a queue and kill is lost or repeated, none out of order', async () => {
    await underTraffic(async () => {
      for (let kill = 0; kill < KILLS; kill++) {
        busy = null;
        await service.startStandby();
        const { child, pid } = service.active;
        let moved = false;
        await watchMoves(() => {
          moved = child.kill('SIGKILL') || moved;
        });
        // A successor gives pairs to workers anew: of three some two have the same one.
        for (let couple = 0; !moved; couple++) {
          busy = COUPLES[couple % COUPLES.length]!;
          const apart = () =>
            shareWork(pid).catch((error) => {
              if (!moved) throw error; // it is dead
            });
          await eventually('a move', async () => moved || (await apart()) === true);
        }
        await service.killActive();
      }
      await moreFrames();
    });
    for (const each of streams) {
      const { lost, repeated, disordered } = each.judge();
      const text = `${KILLS} kills, ${each.sent} frames: ${lost} lost, ${repeated} repeated`;
      if (each.sent > 0) console.log(text);
      expect(lost + repeated, text).toBeLessThanOrEqual(2 * KILLS); // a stream goes through two queues
      expect(disordered).toBeLessThanOrEqual(repeated);
    }
    await isWell();
  }, 240_000);
});

/** Processor time that each datapath thread has had, in ticks. */
function ticksOf(pid: number): number[] {
  const directory = `/proc/${pid}/task`;
  const ticks: number[] = [];
  for (const thread of readdirSync(directory)) {
    const stat = readFileSync(`${directory}/${thread}/stat`, 'utf8');
    const index = /\(datapath-(\d+)\)/.exec(stat)?.[1];
    if (index === undefined) continue;
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    ticks[Number(index)] = Number(fields[11]) + Number(fields[12]);
  }
  return ticks;
}
