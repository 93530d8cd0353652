import { Arena } from '@virtnet/host-linux';
import { featureMask, NetFeature } from '@virtnet/wire';
import { beforeEach, describe, expect, it } from 'vitest';
import type { DatapathPort, Place } from './datapath.js';
import type { QueueConfig } from './datapath-protocol.js';
import { DeviceMemory } from './device-memory.js';
import { DeviceQueues } from './device-queues.js';

const DEVICE = 7;
const arena = Arena.reserve(2 ** 24);

function config(queue: number, change: Partial<QueueConfig> = {}): QueueConfig {
  return {
    direction: queue % 2 === 0 ? 'receive' : 'transmit',
    queueSize: 64,
    descriptorAddress: 0n,
    driverAddress: 0n,
    deviceAddress: 0n,
    features: 0n,
    mtu: 1500,
    linkUp: true,
    queue,
    pageAddress: 0n,
    pageBytes: 0,
    burstAddress: 0,
    tapFd: 3,
    switched: null,
    kickFd: -1,
    interruptFd: -1,
    active: true,
    filter: null,
    countSizes: false,
    hash: null,
    rss: null,
    follows: false,
    moderation: null,
    signalAtOnce: false,
    ...change,
  };
}

/** Writes down what it is told; settles when the test says so. */
class RecordingDatapath implements DatapathPort {
  readonly told: string[] = [];
  readonly kicked: Place[] = [];
  readonly pairs: number[];
  readonly taken: Set<number>[];
  readonly #settling: (() => void)[] = [];
  /** Settle at once. */
  easy = true;
  slotsMax = 100;

  constructor(workers = 2) {
    this.pairs = new Array<number>(workers).fill(0);
    this.taken = this.pairs.map(() => new Set<number>());
  }

  choosePairWorker(_domain: number | null, beside?: number): number {
    const worker = beside ?? this.pairs.indexOf(Math.min(...this.pairs));
    this.pairs[worker]!++;
    return worker;
  }

  releasePairWorker(worker: number): void {
    this.pairs[worker]!--;
  }

  place(worker: number): Place | null {
    const slot = Array.from({ length: this.slotsMax }, (_, i) => i).find((i) => !this.taken[worker]!.has(i));
    if (slot === undefined) return null;
    this.taken[worker]!.add(slot);
    return { worker, slot };
  }

  vacate({ worker, slot }: Place): void {
    this.told.push(`vacate ${worker}/${slot}`);
    this.taken[worker]!.delete(slot);
  }

  configure(
    device: number,
    { worker, slot }: Place,
    entry: QueueConfig | null,
    ahead: boolean | undefined,
  ): void {
    expect(device).toBe(DEVICE);
    const how = ahead === true ? 'ahead = queue' : '= queue';
    const signal = entry?.signalAtOnce === true ? ', signalled' : '';
    this.told.push(`${worker}/${slot} ${entry === null ? 'detach' : `${how} ${entry.queue}${signal}`}`);
  }

  begin({ worker, slot }: Place): void {
    this.told.push(`${worker}/${slot} begin`);
  }

  memory(worker: number, device: number, regions: Parameters<DatapathPort['memory']>[2]): void {
    expect(device).toBe(DEVICE);
    this.told.push(`memory ${worker} ${regions === null ? 'gone' : regions.length}`);
  }

  kick(place: Place): void {
    this.kicked.push(place);
  }

  settle(): Promise<void> {
    this.told.push('settle');
    return this.easy ? Promise.resolve() : new Promise((resolve) => this.#settling.push(resolve));
  }

  settleNow(): Promise<void> {
    for (const resolve of this.#settling.splice(0)) resolve();
    return new Promise((resolve) => setImmediate(resolve));
  }

  ask(): Promise<null> {
    return Promise.resolve(null);
  }

  take(): string[] {
    return this.told.splice(0);
  }
}

describe('device queues', () => {
  let datapath: RecordingDatapath;
  let queues: DeviceQueues;
  const wanted = new Map<number, QueueConfig>();
  const attachedNow: number[] = [];
  const reconcile = (memoryChanged = false) =>
    queues.reconcile(
      4,
      (queue) => wanted.get(queue) ?? null,
      memoryChanged,
      (queue) => attachedNow.push(queue),
    );
  const want = (...list: number[]) => {
    wanted.clear();
    for (const queue of list) wanted.set(queue, config(queue));
  };

  beforeEach(() => {
    datapath = new RecordingDatapath();
    queues = new DeviceQueues(DEVICE, () => null, datapath, new DeviceMemory(arena), {
      onFault: () => {},
      onInterrupt: () => {},
    });
    wanted.clear();
    attachedNow.length = 0;
  });

  it('attaches what is wanted: memory first, each queue prepared right before, both of a pair on one worker', async () => {
    want(0, 1, 2, 3);
    await reconcile();
    expect(datapath.take()).toEqual([
      'memory 0 0',
      '0/0 = queue 0',
      '0/1 = queue 1',
      'memory 1 0',
      '1/0 = queue 2',
      '1/1 = queue 3',
      'settle',
      'settle',
    ]);
    expect(attachedNow).toEqual([0, 1, 2, 3]);
    expect(queues.busy).toBe(true);
  });

  it('all pairs of a function with a TAP whose driver may steer are on one worker', async () => {
    const features = featureMask([NetFeature.RSS]);
    for (const queue of [0, 1, 2, 3]) wanted.set(queue, config(queue, { features }));
    await reconcile();
    expect(datapath.pairs).toEqual([2, 0]);
    wanted.clear();
    await reconcile();
    expect(datapath.pairs).toEqual([0, 0]);
    for (const queue of [0, 1, 2, 3]) wanted.set(queue, config(queue, { features, tapFd: -1 }));
    await reconcile();
    expect(datapath.pairs, 'a switch has its own rule').toEqual([1, 1]);
  });

  it('what is wanted already is not told again, and not prepared again', async () => {
    want(0, 1);
    await reconcile();
    datapath.take();
    wanted.set(0, config(0, { signalAtOnce: true }));
    await reconcile();
    expect(datapath.take()).toEqual(['settle', 'settle']);
    expect(attachedNow).toEqual([0, 1]);
  });

  it.each<[string, Partial<QueueConfig>]>([
    ['interrupt', { interruptFd: 9 }],
    ['kick', { kickFd: 9 }],
    ['steering', { active: false }],
    ['features', { features: 1n }],
    ['filter', { filter: null, mtu: 9000 }],
    ['link', { linkUp: false }],
  ])('another %s: told to the same place, without being prepared', async (_, change) => {
    want(0, 1);
    await reconcile();
    datapath.take();
    wanted.set(0, config(0, change));
    await reconcile();
    expect(datapath.take()).toEqual(['0/0 = queue 0', 'settle', 'settle']);
    expect(attachedNow).toEqual([0, 1]);
  });

  it('memory changed: the new one is told to each worker before any queue of it is opened again', async () => {
    want(0, 1, 2);
    await reconcile();
    datapath.take();
    await reconcile(true);
    expect(datapath.take()).toEqual([
      'memory 0 0',
      'memory 1 0',
      '0/0 = queue 0',
      '0/1 = queue 1',
      '1/0 = queue 2',
      'settle',
      'settle',
    ]);
  });

  it('resolves only when the workers have settled', async () => {
    datapath.easy = false;
    want(0);
    let done = false;
    const turn = reconcile().then(() => {
      done = true;
    });
    await new Promise((resolve) => setImmediate(resolve));
    expect(done).toBe(false);
    await datapath.settleNow();
    expect(done).toBe(false); // the second settle, for what leaving queues leave behind
    await datapath.settleNow();
    await turn;
    expect(done).toBe(true);
  });

  it('a slot is given back only after its worker confirmed the detachment', async () => {
    want(0, 1);
    await reconcile();
    datapath.take();
    datapath.easy = false;
    want(1);
    const turn = reconcile();
    await new Promise((resolve) => setImmediate(resolve));
    expect(datapath.take()).toEqual(['0/0 detach', 'settle']);
    expect(datapath.taken[0]?.has(0)).toBe(true);
    await datapath.settleNow();
    expect(datapath.take()).toEqual(['vacate 0/0', 'settle']);
    await datapath.settleNow();
    await turn;
  });

  it('the last queue of a worker leaves: the worker forgets the memory and the pair counts no more', async () => {
    want(0, 1, 2);
    await reconcile();
    expect(datapath.pairs).toEqual([1, 1]);
    datapath.take();
    want(0, 1);
    await reconcile();
    expect(datapath.take()).toEqual(['1/0 detach', 'settle', 'vacate 1/0', 'memory 1 gone', 'settle']);
    want();
    await reconcile();
    expect(datapath.take()).toContain('memory 0 gone');
    expect([datapath.pairs, queues.busy]).toEqual([[0, 0], false]);
  });

  it('two pairs on one worker: its memory stays until both are gone', async () => {
    datapath = new RecordingDatapath(1);
    queues = new DeviceQueues(DEVICE, () => null, datapath, new DeviceMemory(arena), {
      onFault() {},
      onInterrupt() {},
    });
    want(0, 2);
    await reconcile();
    want(2);
    await reconcile();
    expect(datapath.take().filter((line) => line.startsWith('memory'))).toEqual(['memory 0 0']);
    want();
    await reconcile();
    expect(datapath.take()).toContain('memory 0 gone');
  });

  it('a call is carried out at once, others after it, each with what is wanted when its turn comes', async () => {
    const told = () => datapath.take().filter((line) => /queue|detach/.test(line));
    datapath.easy = false;
    want(0);
    const first = reconcile();
    expect(told()).toEqual(['0/0 = queue 0']);
    const second = reconcile();
    want(0, 1);
    await new Promise((resolve) => setImmediate(resolve));
    expect(told()).toEqual([]);
    for (let i = 0; i < 2; i++) await datapath.settleNow();
    await first;
    await new Promise((resolve) => setImmediate(resolve));
    expect(told()).toEqual(['0/1 = queue 1']);
    for (let i = 0; i < 2; i++) await datapath.settleNow();
    await second;
  });

  it('is busy until a queue that leaves has really left, so that its memory is not unmapped under it', async () => {
    want(0);
    await reconcile();
    datapath.easy = false;
    want();
    const turn = reconcile();
    await new Promise((resolve) => setImmediate(resolve));
    expect(queues.attached(0)).toBe(false);
    expect(queues.busy).toBe(true);
    for (let i = 0; i < 2; i++) await datapath.settleNow();
    await turn;
    expect(queues.busy).toBe(false);
  });

  it('no room on a worker: the queue is left out and costs nothing; with room again it is attached', async () => {
    datapath = new RecordingDatapath(1);
    datapath.slotsMax = 1;
    queues = new DeviceQueues(DEVICE, () => null, datapath, new DeviceMemory(arena), {
      onFault() {},
      onInterrupt() {},
    });
    want(0, 2);
    await reconcile();
    expect([queues.attached(0), queues.attached(2), datapath.pairs]).toEqual([true, false, [1]]);
    want(2);
    await reconcile();
    await reconcile();
    expect([queues.attached(0), queues.attached(2), datapath.pairs]).toEqual([false, true, [1]]);
  });

  it('what was told ahead is begun, unless it is another by then; a queue is prepared when it is begun', async () => {
    want(0, 1, 2, 3);
    for (let times = 0; times < 2; times++) await queues.goAhead(4, (queue) => wanted.get(queue) ?? null);
    const ahead = [0, 1].map((queue) => `0/${queue} ahead = queue ${queue}`);
    expect(datapath.take().slice(0, 3)).toEqual(['memory 0 0', ...ahead]);
    expect(attachedNow).toEqual([]);
    wanted.set(1, config(1, { active: false }));
    wanted.delete(3);
    await reconcile();
    expect(datapath.take().slice(0, 4)).toEqual(['0/0 begin', '0/1 = queue 1', '1/0 begin', '1/1 detach']);
    expect(attachedNow).toEqual([0, 1, 2]);
    await reconcile();
    expect(datapath.take()).toEqual(['settle', 'settle']);
  });

  it('all that was told ahead is begun at once; where there is more to say, or nothing, that is left to reconcile', async () => {
    expect(queues.begin()).toBeNull();
    want(0, 1);
    const told = queues.goAhead(2, (queue) => wanted.get(queue) ?? null);
    expect(queues.begin(), 'it is still being told').toBeNull();
    await told;
    datapath.take();
    await queues.begin();
    expect(datapath.take()).toEqual(['0/0 begin', '0/1 begin', 'settle']);
    expect(queues.begin(), 'it was begun').toBeNull();
    await reconcile();
    expect(datapath.take()).toEqual(['settle', 'settle']);
    want(0, 1, 2);
    await queues.goAhead(3, (queue) => wanted.get(queue) ?? null);
    expect(queues.begin(), 'one of them holds already').toBeNull();
  });

  it('memory changed since a queue was told ahead: it is told anew', async () => {
    want(0);
    await queues.goAhead(1, (queue) => wanted.get(queue) ?? null);
    datapath.take();
    await reconcile(true);
    expect(datapath.take().slice(0, 2)).toEqual(['memory 0 0', '0/0 = queue 0']);
  });

  it('what was told ahead is taken back: nothing is left at the workers', async () => {
    want(0, 1);
    await queues.goAhead(2, (queue) => wanted.get(queue) ?? null);
    await queues.goAhead(2, () => null);
    expect([datapath.pairs, datapath.taken[0]?.size, queues.busy]).toEqual([[0, 0], 0, false]);
    expect(datapath.take()).toContain('memory 0 gone');
  });

  it('kicks go to the queue’s place, and nowhere when it is not attached', async () => {
    want(0, 1);
    await reconcile();
    expect([queues.kick(1), queues.kick(2)]).toEqual([true, false]);
    expect(datapath.kicked).toEqual([{ worker: 0, slot: 1 }]);
  });

  describe('moved to another worker', () => {
    const wantedNow = (queue: number) => wanted.get(queue) ?? null;

    /** Queues 0 to 3, pair 0 on worker 0 and pair 1 on worker 1; from now on it settles when the test says so. */
    const begin = async (features = 0n) => {
      for (const queue of [0, 1, 2, 3]) wanted.set(queue, config(queue, { features }));
      await reconcile();
      datapath.take();
      datapath.easy = false;
    };

    it('let go of by its worker, which confirms that, then worked by the other, which signals it once; not prepared again', async () => {
      await begin();
      const moved = queues.move(0, 1, wantedNow);
      expect(datapath.take()).toEqual(['0/0 detach', '0/1 detach', 'settle']);
      expect(datapath.taken[0]).toEqual(new Set([0, 1]));
      await datapath.settleNow();
      expect(datapath.take()).toEqual([
        'vacate 0/0',
        '1/2 = queue 0, signalled',
        'vacate 0/1',
        '1/3 = queue 1, signalled',
        'memory 0 gone',
        'settle',
      ]);
      await datapath.settleNow();
      expect(await moved).toBe(true);
      expect([datapath.pairs, attachedNow]).toEqual([
        [0, 2],
        [0, 1, 2, 3],
      ]);
      datapath.easy = true;
      await reconcile();
      expect(datapath.take(), 'it is as it is wanted').toEqual(['settle', 'settle']);
      queues.kick(1);
      expect(datapath.kicked).toEqual([{ worker: 1, slot: 3 }]);
    });

    it('a worker that has nothing of the function is told its memory first; one that has another pair of it keeps it', async () => {
      datapath = new RecordingDatapath(3);
      queues = new DeviceQueues(DEVICE, () => null, datapath, new DeviceMemory(arena), {
        onFault() {},
        onInterrupt() {},
      });
      await queues.reconcile(
        8,
        (queue) => (queue === 6 ? config(6) : null),
        false,
        () => {},
      );
      want(0, 2, 6);
      await queues.reconcile(8, wantedNow, false, () => {});
      expect(queues.groups.map(({ pairs, worker }) => [...pairs, worker])).toEqual([
        [3, 0],
        [0, 1],
        [1, 2],
      ]);
      datapath.take();
      expect(await queues.move(3, 1, wantedNow)).toBe(true);
      expect(datapath.take().filter((line) => line.startsWith('memory'))).toEqual(['memory 0 gone']);
      expect(await queues.move(3, 0, wantedNow)).toBe(true);
      const told = datapath.take();
      expect(told.filter((line) => line.startsWith('memory'))).toEqual(['memory 0 0']);
      expect(told.indexOf('memory 0 0')).toBeLessThan(told.indexOf('0/0 = queue 6, signalled'));
      expect(datapath.pairs).toEqual([1, 1, 1]);
    });

    it('a queue that is not wanted any more by then is left out, and what is told is what is wanted by then', async () => {
      await begin();
      const moved = queues.move(0, 1, wantedNow);
      wanted.delete(1);
      wanted.set(0, config(0, { interruptFd: 9 }));
      const next = reconcile();
      await datapath.settleNow();
      expect(datapath.take().filter((line) => /queue|vacate/.test(line))).toEqual([
        'vacate 0/0',
        '1/2 = queue 0, signalled',
        'vacate 0/1',
        'vacate 1/3',
      ]);
      datapath.easy = true;
      await datapath.settleNow();
      await Promise.all([moved, next]);
      expect(datapath.take().filter((line) => /queue|detach/.test(line))).toEqual([]);
      expect([queues.attached(0), queues.attached(1), datapath.taken[1]]).toEqual([
        true,
        false,
        new Set([0, 1, 2]),
      ]);
    });

    it('nothing of it is wanted any more: nobody works it, and nobody keeps its memory for it', async () => {
      await begin();
      const moved = queues.move(0, 1, wantedNow);
      wanted.clear();
      const next = reconcile();
      datapath.easy = true;
      await datapath.settleNow();
      await Promise.all([moved, next]);
      expect([datapath.pairs, datapath.taken, queues.busy]).toEqual([[0, 0], [new Set(), new Set()], false]);
      expect(
        datapath
          .take()
          .filter((line) => line.endsWith('gone'))
          .sort(),
      ).toEqual(['memory 0 gone', 'memory 1 gone']);
    });

    it('a reset that waits for the move finds it done, and a move that waits for a reset finds nothing to move', async () => {
      await begin();
      const moved = queues.move(0, 1, wantedNow);
      wanted.clear();
      const reset = reconcile();
      const late = queues.move(1, 0, wantedNow);
      datapath.easy = true;
      await datapath.settleNow();
      await reset;
      expect(await Promise.all([moved, late])).toEqual([true, false]);
    });

    it('memory that changes meanwhile is told behind the move, to the worker that has the pair then', async () => {
      await begin();
      want(0, 1);
      datapath.easy = true;
      await reconcile();
      datapath.take();
      datapath.easy = false;
      const moved = queues.move(0, 1, wantedNow);
      expect(queues.busy).toBe(true);
      const changed = reconcile(true);
      datapath.easy = true;
      await datapath.settleNow();
      await Promise.all([moved, changed]);
      expect(datapath.take().slice(-5)).toEqual([
        'memory 1 0',
        '1/0 = queue 0',
        '1/1 = queue 1',
        'settle',
        'settle',
      ]);
    });

    it('pairs of a function whose driver may steer go together, as whichever of them is named', async () => {
      await begin(featureMask([NetFeature.RSS]));
      expect(queues.groups).toEqual([{ pairs: [0, 1], worker: 0, stay: false }]);
      datapath.easy = true;
      expect(await queues.move(1, 1, wantedNow)).toBe(true);
      expect([datapath.pairs, datapath.taken[0]]).toEqual([[0, 2], new Set()]);
      expect(datapath.take().filter((line) => line.includes('='))).toHaveLength(4);
      expect(queues.groups).toEqual([{ pairs: [0, 1], worker: 1, stay: false }]);
    });

    it('no room for all of it: everything stays, and the place for a part of it is given back', async () => {
      await begin();
      datapath.slotsMax = 3;
      expect(await queues.move(0, 1, wantedNow)).toBe(false);
      expect(datapath.take()).toEqual(['vacate 1/2']);
      expect([datapath.pairs, datapath.taken[1]?.size]).toEqual([[1, 1], 2]);
    });

    it('whose domain has its worker stays, and so does what is only told ahead, or on that worker already', async () => {
      await begin();
      expect(await queues.move(0, 0, wantedNow)).toBe(false);
      expect(await queues.move(7, 1, wantedNow)).toBe(false);
      datapath.easy = true;
      let domain: number | null = null;
      const make = () =>
        new DeviceQueues(DEVICE, () => domain, datapath, new DeviceMemory(arena), {
          onFault() {},
          onInterrupt() {},
        });
      const other = make();
      await other.goAhead(2, wantedNow);
      datapath.take();
      expect(await other.move(0, 1, wantedNow)).toBe(false);
      await other.reconcile(2, wantedNow, false, () => {});
      domain = 3;
      datapath.take();
      expect(await other.move(0, 1, wantedNow)).toBe(false);
      expect(other.groups).toEqual([{ pairs: [0], worker: 0, stay: true }]);
      expect(datapath.take()).toEqual([]);
      domain = null;
      expect(await other.move(0, 1, wantedNow)).toBe(true);
    });
  });
});
