import { Arena } from '@virtnet/host-linux';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

/** As built, for its workers: threads run JavaScript files. */
const built = new URL('../dist/datapath.js', import.meta.url).href;
type Built = typeof import('./datapath.js');

const PATIENCE_MS = 15_000;

describe('workers that are asked whether they turn', () => {
  let datapath: InstanceType<Built['Datapath']>;
  const faults: Error[] = [];

  beforeAll(async () => {
    const { Datapath } = (await import(built)) as Built;
    datapath = new Datapath(Arena.reserve(2 ** 30), { count: 2, processors: null }, (reason) =>
      faults.push(reason),
    );
    await datapath.ready;
  });
  afterAll(async () => {
    await datapath.stop();
    expect(faults).toEqual([]);
  });

  it('each answers in milliseconds, and several who ask at once share the answer', async () => {
    const first = datapath.ask(0, PATIENCE_MS);
    expect(datapath.ask(0, PATIENCE_MS)).toBe(first);
    for (const answer of [await first, await datapath.ask(1, PATIENCE_MS)]) {
      expect(answer).toBeGreaterThan(0);
      expect(answer).toBeLessThan(PATIENCE_MS);
    }
  });

  it('no answer in time: null, which ends nothing, and the next question has its own answer', async () => {
    const asked = datapath.ask(0, 0);
    const end = performance.now() + 3;
    while (performance.now() < end); // the answer cannot be heard before the time is over
    expect(await asked).toBeNull();
    expect(await datapath.ask(0, PATIENCE_MS)).toBeGreaterThan(0);
  });

  it('who sleeps gets on', async () => {
    await datapath.ask(0, PATIENCE_MS);
    expect(datapath.getsOn()).toBe(true);
  });
});
