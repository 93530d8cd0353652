/** A scene for the tests of one file, or of one `describe`. */
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { Scene } from './scene.ts';

const OPEN_TIMEOUT_MS = 240_000;

export interface Used<T> {
  readonly scene: Scene;
  readonly value: T;
}

/** Opens a scene before the tests that follow, and prepares it. */
export function useScene<T>(prepare: (scene: Scene) => Promise<T>, timeoutMs = OPEN_TIMEOUT_MS): Used<T> {
  let scene: Scene | null = null;
  let value: { prepared: T } | null = null;
  beforeAll(async () => {
    scene = await Scene.open();
    value = { prepared: await prepare(scene) };
  }, timeoutMs);
  beforeEach(({ onTestFailed }) => {
    onTestFailed(() => console.error(scene?.lastWords() ?? ''));
  });
  afterAll(async () => {
    if (value === null) console.error(scene?.lastWords() ?? '');
    await scene?.end();
  }, OPEN_TIMEOUT_MS);
  return {
    get scene(): Scene {
      if (scene === null) throw new Error('no scene yet');
      return scene;
    },
    get value(): T {
      if (value === null) throw new Error('the scene is not prepared');
      return value.prepared;
    },
  };
}

/** The last test of a scene: everything ends when asked, and nothing is left. */
export function endsCleanly(used: Used<unknown>): void {
  test('SIGTERM ends the service, and no process, socket, interface or shared memory is left', async () => {
    expect(await used.scene.end()).toEqual([]);
  });
}
